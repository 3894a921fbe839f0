"""Intervals and tests for scores of the same examples. Everything random comes from `seed`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bucle.core.errors import BadInput
from bucle.core.records import Interval

__all__ = [
    "bootstrap_mean", "holm", "interval", "mcnemar", "minimum_detectable_difference", "non_inferior",
    "paired_difference", "paired_p",
]

_CELLS = 2_000_000  # numbers drawn at once: bounds the memory of a bootstrap to some 32 MB


def interval(scores: Sequence[float], *, clusters: Sequence[str] | None = None, seed: int = 0,
             draws: int = 10_000, level: float = 0.95) -> Interval:
    """The mean of `scores` (each in [0, 1]) with its confidence interval.

    Rows that are all 0 or 1 and not clustered: Wilson (1927). Otherwise a bootstrap over `clusters` (one
    name a row: several questions about one document are not independent), percentiles expanded for few
    clusters (Hesterberg 2015, section 3.2.2). Where a bootstrap knows nothing, because the scores are all 0
    or all 1 or there is one cluster, it is Wilson with clusters counted as rows. Raises BadInput for no
    rows or scores outside [0, 1].
    """
    import numpy as np

    values = _array(scores)
    if values.min() < 0 or values.max() > 1:
        raise BadInput("scores must lie between 0 and 1")
    mean, rows = float(values.mean()), len(values)
    independent = _independent(clusters, rows)
    if independent and np.isin(values, (0.0, 1.0)).all():
        low, high = _wilson(mean, rows, level)
        return Interval(value=mean, low=low, high=high, n=rows, level=level)
    sums, counts = _by_cluster(values, clusters)
    if len(sums) < 2 or np.ptp(values) == 0:
        low, high = _wilson(mean, len(sums), level)
    else:
        low, high = _bootstrap(sums, counts, seed, draws, level)
    return Interval(value=mean, low=low, high=high, n=rows, level=level)


def paired_difference(a: Sequence[float], b: Sequence[float], *, clusters: Sequence[str] | None = None,
                      seed: int = 0, draws: int = 10_000, level: float = 0.95) -> Interval:
    """Mean of `a - b` over the same rows, each score in [0, 1], with its confidence interval.

    0/1 rows that are not clustered: Tango's score interval for paired proportions (Statistics in Medicine
    1998), which stays honest with few rows or no disagreement. Otherwise the bootstrap of `interval` on the
    differences; where all differences are equal or there is one cluster, Tango with clusters counted as
    rows. Raises BadInput.
    """
    import numpy as np

    first, second = _array(a), _array(b)
    if len(first) != len(second):
        raise BadInput(f"a paired comparison needs the same rows, not {len(first)} and {len(second)}")
    if min(first.min(), second.min()) < 0 or max(first.max(), second.max()) > 1:
        raise BadInput("scores must lie between 0 and 1")
    change = first - second
    mean, rows = float(change.mean()), len(change)
    if _independent(clusters, rows) and np.isin(change, (-1.0, 0.0, 1.0)).all():
        low, high = _tango(int((change > 0).sum()), int((change < 0).sum()), rows, level)
        return Interval(value=mean, low=low, high=high, n=rows, level=level)
    sums, counts = _by_cluster(change, clusters)
    if len(sums) < 2 or np.ptp(change) == 0:
        up, down = max(mean, 0.0) * len(sums), max(-mean, 0.0) * len(sums)
        low, high = _tango(up, down, len(sums), level)
    else:
        low, high = _bootstrap(sums, counts, seed, draws, level)
    return Interval(value=mean, low=low, high=high, n=rows, level=level)


def bootstrap_mean(values: Sequence[float], *, seed: int = 0, draws: int = 10_000,
                   level: float = 0.95) -> Interval:
    """Mean of unbounded independent values with the bootstrap interval of `interval`. At least two values."""
    array = _array(values)
    if len(array) < 2:
        raise BadInput("an interval needs at least two values", "measure on more documents")
    low, high = _bootstrap(*_by_cluster(array, None), seed, draws, level)
    return Interval(value=float(array.mean()), low=low, high=high, n=len(array), level=level)


def mcnemar(a: Sequence[float], b: Sequence[float]) -> float:
    """Exact two-sided McNemar p for 0/1 scores of the same rows (McNemar 1947): 1.0 where they never
    disagree."""
    from scipy.stats import binomtest

    first, second = _array(a), _array(b)
    if len(first) != len(second):
        raise BadInput("a paired test needs the same rows on both sides")
    up, down = int((first > second).sum()), int((first < second).sum())
    return float(binomtest(up, up + down).pvalue) if up + down else 1.0


def paired_p(a: Sequence[float], b: Sequence[float], *, clusters: Sequence[str] | None = None, seed: int = 0,
             draws: int = 10_000) -> float:
    """Two-sided p of no difference: McNemar for independent 0/1 rows, else random sign flips of the cluster
    sums (Fisher's randomisation test for pairs; smallest possible p is 1 / (draws + 1))."""
    import numpy as np

    change = _array(a) - _array(b)
    if _independent(clusters, len(change)) and np.isin(change, (-1.0, 0.0, 1.0)).all():
        return mcnemar(a, b)
    sums, _ = _by_cluster(change, clusters)
    seen, rng, beyond = abs(sums.sum()) - 1e-12, np.random.default_rng(seed), 0
    for size in _batches(draws, len(sums)):
        signs = rng.integers(0, 2, (size, len(sums)), dtype=np.int8) * 2.0 - 1.0
        beyond += int((np.abs(signs @ sums) >= seen).sum())
    return (beyond + 1) / (draws + 1)


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


def _batches(draws: int, width: int) -> list[int]:
    size = max(1, min(draws, _CELLS // max(width, 1)))
    return [min(size, draws - start) for start in range(0, draws, size)]


def _bootstrap(sums: Any, counts: Any, seed: int, draws: int, level: float) -> tuple[float, float]:
    import numpy as np
    from scipy.stats import norm, t

    rng, many = np.random.default_rng(seed), len(sums)
    means = []
    for size in _batches(draws, many):
        picked = rng.integers(0, many, (size, many), dtype=np.int32)
        means.append(sums[picked].sum(axis=1) / counts[picked].sum(axis=1))
    tail = norm.cdf((many / (many - 1)) ** 0.5 * t.ppf((1 - level) / 2, many - 1))
    low, high = np.quantile(np.concatenate(means), (tail, 1 - tail))
    return float(low), float(high)


def _wilson(share: float, rows: int, level: float) -> tuple[float, float]:
    from scipy.stats import norm

    z2 = norm.ppf(0.5 + level / 2) ** 2
    centre = (share + z2 / (2 * rows)) / (1 + z2 / rows)
    half = (z2 * (share * (1 - share) / rows + z2 / (4 * rows * rows))) ** 0.5 / (1 + z2 / rows)
    low, high = float(centre - half), float(centre + half)
    return (0.0 if share == 0 else max(0.0, low)), (1.0 if share == 1 else min(1.0, high))


def _tango(up: float, down: float, rows: int, level: float) -> tuple[float, float]:
    """Score interval for (up - down) / rows: `up` and `down` count the rows that disagree each way."""
    from scipy.optimize import brentq
    from scipy.stats import norm

    z, seen = float(norm.ppf(0.5 + level / 2)), (up - down) / rows

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
