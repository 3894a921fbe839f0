"""Intervals of scores that are no mean of rows (BLEU, chrF, perplexity, calibration error): a clustered bootstrap of
the corpus score itself, exact and fast because only sums of statistics are resampled. Everything random comes from
`seed`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bucle.core.errors import BadInput
from bucle.core.records import Interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bucle.evaluate.metrics.samples import Measured

__all__ = ["bootstrap", "score_differences", "score_intervals"]

Table = tuple[Any, Callable[[Any], Any]]
"""Statistics `[rows, k]` and what makes a score of their sums, as in `metrics.Statistics`."""

_CELLS = 2_000_000  # numbers drawn at once: bounds the memory of a bootstrap to some 100 MB
_STEP = 1e-4  # of a sum: how far it is moved to see what the score does
_ROUNDING = 1e-12  # of the squares that cancel: what is left below that is no variance


def score_intervals(measured: Mapping[str, Measured], *, clusters: Sequence[str] | None = None, seed: int = 0,
                    draws: int = 10_000, level: float = 0.95) -> dict[str, Interval]:
    """Each score of the same rows with its interval, all from the same resamples. Raises BadInput."""
    found = bootstrap({name: (one.statistics.table, one.statistics.combine) for name, one in measured.items()},
                      clusters=clusters, seed=seed, draws=draws, level=level)
    return {name: _within(one, 0.0, measured[name].metric.top, clusters) for name, one in found.items()}


def score_differences(a: Mapping[str, Measured], b: Mapping[str, Measured], *, clusters: Sequence[str] | None = None,
                      seed: int = 0, draws: int = 10_000, level: float = 0.95) -> dict[str, Interval]:
    """`a - b` of every score that both have, on the same rows: the paired bootstrap of corpus scores (Koehn 2004),
    studentised. Raises BadInput."""
    import numpy as np

    tables: dict[str, Table] = {}
    for name in a:
        if name not in b:
            continue
        one, other = a[name].statistics, b[name].statistics
        if len(one.table) != len(other.table):
            raise BadInput(f"a paired comparison needs the same rows, not {len(one.table)} and {len(other.table)}")
        tables[name] = (np.hstack([one.table, other.table]),
                        _minus(one.combine, other.combine, one.table.shape[1]))
    found = bootstrap(tables, clusters=clusters, seed=seed, draws=draws, level=level)
    tops = {name: a[name].metric.top for name in found}
    return {name: _within(one, None if top is None else -top, top, clusters)
            for (name, one), top in zip(found.items(), tops.values(), strict=True)}


def bootstrap(tables: Mapping[str, Table], *, clusters: Sequence[str] | None = None, seed: int = 0,
              draws: int = 10_000, level: float = 0.95) -> dict[str, Interval]:
    """The score of each table with a symmetric bootstrap-t interval (Hall 1988; Efron and Tibshirani 1993, section
    12.5) over `clusters`, one name a row: all rows of a cluster are drawn together.

    The standard error of the sample is the jackknife's, that of every resample is by linearisation: the gradient of the
    score times the statistics of each cluster. The bootstrap of the score alone is too narrow for skewed scores and few
    clusters (design/LOG.md). Where the clusters do not differ, the interval is the point; the two above know more.
    Raises BadInput for fewer than two clusters.
    """
    import numpy as np

    if not tables:
        return {}
    sums, rows = _sums({name: table for name, (table, _) in tables.items()}, clusters)
    many = len(next(iter(sums.values())))
    if many < 2:
        raise BadInput("an interval needs rows from at least two sources", "evaluate on more documents or rows")
    moments = {name: _with_products(table) for name, table in sums.items()}
    edges = np.cumsum([0, *(table.shape[1] for table in moments.values())])
    joined = np.hstack(list(moments.values()))

    def studied(counts: NDArray[Any]) -> dict[str, tuple[Any, Any]]:
        totals = counts @ joined
        return {name: _studied(totals[:, edges[i]:edges[i + 1]], sums[name].shape[1], many, tables[name][1])
                for i, name in enumerate(tables)}

    points = studied(np.ones((1, many)))
    far: dict[str, list[NDArray[Any]]] = {name: [] for name in tables}
    for counts in _resamples(many, draws, seed):
        for name, (score, error) in studied(counts).items():
            with np.errstate(divide="ignore", invalid="ignore"):
                far[name].append(np.abs(score - points[name][0]) / error)
    found = {}
    for name, (point, error) in points.items():
        value = float(point[0])
        spread = _jackknife(sums[name], tables[name][1]) if error[0] > 0 else 0.0
        distance = np.concatenate(far[name])
        half = spread * float(np.quantile(np.nan_to_num(distance, nan=0.0), level)) if spread > 0 else 0.0
        found[name] = Interval(value=value, low=value - half, high=value + half, n=rows, level=level)
    return found


def _resamples(many: int, draws: int, seed: int) -> Iterator[NDArray[Any]]:
    """How often each of `many` clusters is drawn, `[some draws, many]` at a time."""
    import numpy as np

    rng, size = np.random.default_rng(seed), max(1, min(draws, _CELLS // many))
    for start in range(0, draws, size):
        some = min(size, draws - start)
        picked = rng.integers(0, many, (some, many), dtype=np.int32)
        picked += (np.arange(some, dtype=np.int32) * many)[:, None]
        yield np.bincount(picked.ravel(), minlength=some * many).reshape(some, many).astype(float)


def _with_products(sums: NDArray[Any]) -> NDArray[Any]:
    """The statistics of each cluster and, after them, the products of every two, `[clusters, k + k (k + 1) / 2]`."""
    import numpy as np

    left, right = np.triu_indices(sums.shape[1])
    return np.hstack([sums, sums[:, left] * sums[:, right]])


def _studied(totals: NDArray[Any], width: int, many: int, combine: Callable[[Any], Any]) -> tuple[Any, Any]:
    """Score and standard error of each resample, both `[draws]`, from its sums of statistics and of their products:
    the square of gradient times statistics, summed over the clusters drawn."""
    import numpy as np

    sums, products = totals[:, :width], totals[:, width:]
    score, gradient = combine(sums), np.zeros_like(sums)
    for column in range(width):
        step = _STEP * np.abs(sums[:, column])
        moved = sums.copy()
        moved[:, column] += step
        above = combine(moved)
        moved[:, column] -= 2 * step
        # a statistic that is 0 throughout a resample cannot spread it
        gradient[:, column] = np.divide(above - combine(moved), 2 * step, out=np.zeros_like(step), where=step > 0)
    left, right = np.triu_indices(width)
    squares = (gradient[:, left] * gradient[:, right] * products * np.where(left == right, 1.0, 2.0)).sum(axis=1)
    floor = _ROUNDING * np.abs(gradient * sums).max(axis=1) ** 2 / many
    return score, np.sqrt(np.where(squares > floor, squares, 0.0) * many / (many - 1))


def _jackknife(sums: NDArray[Any], combine: Callable[[Any], Any]) -> float:
    """Standard error by leaving out one cluster at a time; larger than the linear one where sizes are uneven."""
    many, total = len(sums), sums.sum(axis=0)
    without = combine(total - sums)
    return float(((many - 1) / many * ((without - combine(total)) ** 2).sum()) ** 0.5)


def _sums(tables: Mapping[str, Any], clusters: Sequence[str] | None) -> tuple[dict[str, Any], int]:
    """Each table summed by cluster, `[clusters, k]`, and the number of rows."""
    import numpy as np

    rows = len(next(iter(tables.values())))
    if any(len(table) != rows for table in tables.values()):
        raise BadInput("the scores are of different rows", "measure them on the same")
    if clusters is None:
        return dict(tables), rows
    if len(clusters) != rows:
        raise BadInput(f"{len(clusters)} cluster names for {rows} rows")
    names, place = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    found = {}
    for name, table in tables.items():
        found[name] = np.zeros((len(names), table.shape[1]))
        np.add.at(found[name], place, table)
    return found, rows


def _minus(one: Callable[[Any], Any], other: Callable[[Any], Any], width: int) -> Callable[[Any], Any]:
    return lambda sums: one(sums[..., :width]) - other(sums[..., width:])


def _within(one: Interval, low: float | None, high: float | None, clusters: Sequence[str] | None) -> Interval:
    """`one` cut to the scores there can be. Where every cluster scored the same, what Wilson's interval (Tango's, of a
    difference) knows after so many of them."""
    from bucle.evaluate.statistics import paired_difference, wilson

    if one.low == one.high and high is not None:
        many, share = len(set(clusters)) if clusters else one.n, min(max(one.value / high, -1.0), 1.0)
        if low == 0.0:
            edges = wilson(share, many, one.level)
        else:
            gap = paired_difference([max(share, 0.0)] * many, [max(-share, 0.0)] * many, level=one.level)
            edges = (gap.low, gap.high)
        return one.model_copy(update={"low": edges[0] * high, "high": edges[1] * high})
    floor = one.low if low is None else max(one.low, low)
    return one.model_copy(update={"low": floor, "high": one.high if high is None else min(one.high, high)})
