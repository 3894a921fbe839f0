"""Intervals and tests for scores of the same examples, held to their promise by simulation
(tests/unit/test_statistics_simulated.py; what failed it stands in design/LOG.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bucle.core.errors import BadInput
from bucle.core.records import Interval

__all__ = [
    "benjamini_hochberg", "bootstrap_mean", "design_effect", "holm", "interval", "mcnemar",
    "minimum_detectable_difference", "non_inferior", "paired_difference", "paired_p", "wilson",
]

_FEW = 10  # rows below which no approximation is asked of McNemar's test
_NOTHING = 1e-15  # a variance that is rounding


def interval(scores: Sequence[float], *, clusters: Sequence[str] | None = None, level: float = 0.95) -> Interval:
    """The mean of `scores` (each in [0, 1]) with its confidence interval.

    Wilson's (1927) where the rows are all 0 or 1 and not clustered. Otherwise Wilson's for the number of independent
    0/1 rows that would vary as much (Franco et al. 2019, Journal of Survey Statistics and Methodology 7): the variance
    is the jackknife's over `clusters`, one name a row (several questions about one document are not independent), and
    t takes the place of the normal, with the degrees of freedom of as many clusters of equal size (Carter et al. 2017).
    Where the rows do not differ, or there is one cluster, each cluster counts as one row. Nothing is drawn at random.
    Raises BadInput for no rows or scores outside [0, 1].
    """
    import numpy as np
    from scipy.stats import t

    values = _array(scores)
    if values.min() < 0 or values.max() > 1:
        raise BadInput("scores must lie between 0 and 1")
    mean, rows = float(values.mean()), len(values)
    if _independent(clusters, rows) and np.isin(values, (0.0, 1.0)).all():
        low, high = wilson(mean, rows, level)
        return Interval(value=mean, low=low, high=high, n=rows, level=level)
    sums, counts = _by_cluster(values, clusters)
    variance = _jackknife(sums, counts) if len(sums) > 1 and np.ptp(values) > 0 else 0.0
    if variance <= _NOTHING:
        low, high = wilson(mean, len(sums), level)
    else:
        like_equal = rows**2 / float((counts**2).sum())
        z = float(t.ppf(0.5 + level / 2, max(like_equal - 1, 1)))
        low, high = wilson(mean, mean * (1 - mean) / variance, level, z)
    return Interval(value=mean, low=low, high=high, n=rows, level=level)


def paired_difference(a: Sequence[float], b: Sequence[float], *, clusters: Sequence[str] | None = None,
                      level: float = 0.95) -> Interval:
    """Mean of `a - b` over the same rows, each score in [0, 1], with its confidence interval.

    Tango's score interval for paired proportions (Statistics in Medicine 1998), which stays honest with few rows or no
    disagreement. Rows that are graded or clustered count as the number of independent 0/1 pairs that would vary as
    much: their gains and losses, over the design effect, which is the jackknife's variance over clusters against that
    of independent pairs; t with one less than the clusters takes the place of the normal. Where all differences are
    equal or there is one cluster, each cluster counts as one row. `paired_p` is below 1 - `level` exactly when 0 lies
    outside (from ten rows on). Nothing is drawn at random. Raises BadInput.
    """
    pairs = _pairs(a, b, clusters)
    low, high = _tango(pairs.up, pairs.down, pairs.rows, pairs.z(level))
    return Interval(value=pairs.mean, low=low, high=high, n=len(a), level=level)


def bootstrap_mean(values: Sequence[float], *, seed: int = 0, draws: int = 10_000,
                   level: float = 0.95) -> Interval:
    """Mean of unbounded independent values with its bootstrap-t interval (`resample.bootstrap`). At least two
    values."""
    import numpy as np

    from bucle.evaluate.resample import bootstrap

    array = _array(values)
    if len(array) < 2:
        raise BadInput("an interval needs at least two values", "measure on more documents")
    table = np.column_stack([array, np.ones(len(array))])
    return bootstrap({"": (table, lambda sums: sums[..., 0] / sums[..., 1])}, seed=seed, draws=draws, level=level)[""]


def mcnemar(a: Sequence[float], b: Sequence[float]) -> float:
    """Two-sided p of McNemar's (1947) score test, without correction, for 0/1 scores of the same rows: 1.0 where they
    never disagree. Below ten rows the exact binomial test. The score test keeps its 5% from four expected
    disagreements on, where the exact one has 0.5% to 3% (design/LOG.md; Fagerland et al. 2013, BMC Medical Research
    Methodology 13:91)."""
    from scipy.stats import binomtest, norm

    first, second = _array(a), _array(b)
    if len(first) != len(second):
        raise BadInput("a paired test needs the same rows on both sides")
    up, down = int((first > second).sum()), int((first < second).sum())
    if up + down == 0:
        return 1.0
    if len(first) < _FEW:
        return float(binomtest(up, up + down).pvalue)
    return float(2 * norm.sf(abs(up - down) / (up + down) ** 0.5))


def paired_p(a: Sequence[float], b: Sequence[float], *, clusters: Sequence[str] | None = None) -> float:
    """Two-sided p of no difference: McNemar for independent 0/1 rows, else the same score test with the design effect
    and the t distribution of `paired_difference`. Nothing is drawn at random."""
    from scipy.stats import norm, t

    pairs = _pairs(a, b, clusters)
    if pairs.freedom is None and len(a) < _FEW:
        return mcnemar(a, b)
    if pairs.up + pairs.down == 0:
        return 1.0
    distance = abs(pairs.up - pairs.down) / (pairs.up + pairs.down) ** 0.5
    return float(2 * (norm.sf(distance) if pairs.freedom is None else t.sf(distance, pairs.freedom)))


def design_effect(scores: Sequence[float], clusters: Sequence[str]) -> float:
    """How many times the variance of the mean is what it would be if the rows were independent (Kish 1965): divide the
    rows by it before asking `minimum_detectable_difference`. 1.0 where nothing varies. Raises BadInput."""
    values = _array(scores)
    _independent(clusters, len(values))
    sums, counts = _by_cluster(values, clusters)
    spread = float(values.var(ddof=1)) / len(values) if len(values) > 1 else 0.0
    return _jackknife(sums, counts) / spread if spread > 0 and len(sums) > 1 else 1.0


def benjamini_hochberg(pvalues: Sequence[float]) -> list[float]:
    """Benjamini and Hochberg's (1995) adjusted p values, in the order given: of those called below 0.05, at most 5%
    are wrong on average (independent or positively dependent tests). For looking through many slices; a decision takes
    `holm`."""
    adjusted, least, many = [0.0] * len(pvalues), 1.0, len(pvalues)
    order = sorted(range(many), key=lambda place: pvalues[place], reverse=True)
    for rank, index in zip(range(many, 0, -1), order, strict=True):
        least = min(least, pvalues[index] * many / rank)
        adjusted[index] = least
    return adjusted


def holm(pvalues: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p values, in the order given: the family-wise error rate holds whatever the
    dependence."""
    adjusted, worst = [0.0] * len(pvalues), 0.0
    for rank, index in enumerate(sorted(range(len(pvalues)), key=lambda place: pvalues[place])):
        worst = max(worst, min(1.0, pvalues[index] * (len(pvalues) - rank)))
        adjusted[index] = worst
    return adjusted


def minimum_detectable_difference(n: int, discordance: float, power: float = 0.8,
                                  level: float = 0.95) -> float | None:
    """The smallest difference of two accuracies that McNemar's test on `n` rows finds with `power`.

    `discordance` is the share of rows on which the two disagree in being right (Connor 1987, Biometrics
    43). None when even a difference as large as the discordance would be missed.
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    if n < 1 or not 0 < discordance <= 1:
        raise BadInput("n must be at least 1 and discordance in (0, 1]")
    alpha, beta = norm.ppf(0.5 + level / 2), norm.ppf(power)

    def missing(size: float) -> float:
        spread = alpha * discordance ** 0.5 + beta * max(discordance - size * size, 0.0) ** 0.5
        return float(size * n ** 0.5 - spread)

    return None if missing(discordance) < 0 else float(brentq(missing, 0.0, discordance))


def non_inferior(difference: Interval, margin: float) -> bool:
    """Whether the whole interval of `candidate - reference` lies above `-margin`."""
    return difference.low > -margin


def _array(scores: Sequence[float]) -> Any:
    import numpy as np

    values = np.asarray(scores, dtype=float)
    if values.ndim != 1 or not len(values):
        raise BadInput("there are no rows to compute an interval from", "evaluate on at least one row")
    if not np.isfinite(values).all():
        raise BadInput("a score is not a number")
    return values


def _independent(clusters: Sequence[str] | None, rows: int) -> bool:
    if clusters is not None and len(clusters) != rows:
        raise BadInput(f"{len(clusters)} cluster names for {rows} rows")
    return clusters is None or len(set(clusters)) == rows


def _by_cluster(values: Any, clusters: Sequence[str] | None) -> tuple[Any, Any]:
    """Sum and number of rows of each cluster, both `[clusters]`."""
    import numpy as np

    if clusters is None:
        return values, np.ones(len(values))
    _, place = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    return np.bincount(place, values), np.bincount(place).astype(float)


def _jackknife(sums: Any, counts: Any) -> float:
    """Variance of the mean of all rows, leaving out one cluster at a time."""
    many, total, rows = len(sums), sums.sum(), counts.sum()
    without = (total - sums) / (rows - counts)
    return float((many - 1) / many * ((without - total / rows) ** 2).sum())


@dataclass(frozen=True)
class _Pairs:
    """Gains, losses and rows as independent 0/1 pairs; `freedom` None: they are just that."""

    up: float
    down: float
    rows: float
    mean: float
    freedom: int | None = None

    def z(self, level: float) -> float:
        from scipy.stats import norm, t

        tail = 0.5 + level / 2
        return float(norm.ppf(tail) if self.freedom is None else t.ppf(tail, self.freedom))


def _pairs(a: Sequence[float], b: Sequence[float], clusters: Sequence[str] | None) -> _Pairs:
    import numpy as np

    first, second = _array(a), _array(b)
    if len(first) != len(second):
        raise BadInput(f"a paired comparison needs the same rows, not {len(first)} and {len(second)}")
    if min(first.min(), second.min()) < 0 or max(first.max(), second.max()) > 1:
        raise BadInput("scores must lie between 0 and 1")
    change, rows = first - second, len(first)
    mean, up, down = float(change.mean()), float(change.clip(0).sum()), float((-change).clip(0).sum())
    if _independent(clusters, rows) and np.isin(change, (-1.0, 0.0, 1.0)).all():
        return _Pairs(up, down, rows, mean)
    sums, counts = _by_cluster(change, clusters)
    many = len(sums)
    variance = _jackknife(sums, counts) if many > 1 and np.ptp(change) > 0 else 0.0
    alone = ((up + down) / rows - mean**2) / rows
    effect = variance / alone if variance > _NOTHING and alone > _NOTHING else rows / many
    return _Pairs(up / effect, down / effect, rows / effect, mean, many - 1 if many > 1 else None)


def wilson(share: float, rows: float, level: float, z: float | None = None) -> tuple[float, float]:
    """Wilson's interval for a share of `rows` rows, which need not be whole; `z` in place of the normal's quantile."""
    from scipy.stats import norm

    z2 = (float(norm.ppf(0.5 + level / 2)) if z is None else z) ** 2
    centre = (share + z2 / (2 * rows)) / (1 + z2 / rows)
    half = (z2 * (share * (1 - share) / rows + z2 / (4 * rows * rows))) ** 0.5 / (1 + z2 / rows)
    low, high = float(centre - half), float(centre + half)
    return (0.0 if share == 0 else max(0.0, low)), (1.0 if share == 1 else min(1.0, high))


def _tango(up: float, down: float, rows: float, z: float) -> tuple[float, float]:
    """Score interval for (up - down) / rows: `up` and `down` count the rows that disagree each way."""
    from scipy.optimize import brentq

    seen = (up - down) / rows

    def statistic(delta: float) -> float:
        b = -up - down + (2 * rows - up + down) * delta
        c = -down * delta * (1 - delta)
        share = (max(b * b - 8 * rows * c, 0.0) ** 0.5 - b) / (4 * rows)
        spread = (rows * max(2 * share + delta * (1 - delta), 1e-15)) ** 0.5
        return (up - down - rows * delta) / spread

    edge = 1 - 1e-9
    low = -1.0 if statistic(-edge) < z else float(brentq(lambda d: statistic(d) - z, -edge, min(seen, edge)))
    high = 1.0 if statistic(edge) > -z else float(brentq(lambda d: statistic(d) + z, max(seen, -edge), edge))
    return low, high
