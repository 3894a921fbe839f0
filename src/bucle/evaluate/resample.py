"""Intervals of scores that are no mean of rows (BLEU, chrF, perplexity, calibration error): a clustered bootstrap of
the corpus score itself, exact and fast because only sums of statistics are resampled. Everything random comes from
`seed`. A score that brings its own way to an interval (macro-F1) goes that way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bucle.core.errors import BadInput
from bucle.core.records import Interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bucle.evaluate.metrics.samples import Measured

__all__ = ["bootstrap", "score_differences", "score_intervals"]

Combine = Callable[[Any], Any]
Table = tuple[Any, Combine] | tuple[Any, Combine, Combine | None]
"""Statistics `[rows, k]`, what makes a score of their sums and, where known, its gradient, as in
`metrics.Statistics`."""

_CELLS = 2_000_000  # numbers drawn at once: bounds the memory of a bootstrap to some 100 MB
_WIDE = 40  # statistics a row from which their products, one for every two, are no longer the cheaper way
_STEP = 1e-4  # of a sum: how far it is moved to see what the score does
_ROUNDING = 1e-12  # of the squares that cancel: what is left below that is no variance


def score_intervals(measured: Mapping[str, Measured], *, clusters: Sequence[str] | None = None, seed: int = 0,
                    draws: int = 10_000, level: float = 0.95) -> dict[str, Interval]:
    """Each score of the same rows with its interval, all from the same resamples. Raises BadInput."""
    own: dict[str, Interval] = {}
    tables: dict[str, Table] = {}
    for name, one in measured.items():
        if (way := one.statistics.interval) is not None:
            _check_clusters(len(one.statistics.table), clusters)
            own[name] = way(one.statistics.table, None, clusters, level)
        else:
            tables[name] = (one.statistics.table, one.statistics.combine, one.statistics.gradient)
    tables, clusters = _with_part(tables, clusters)
    found = bootstrap(tables, clusters=clusters, seed=seed, draws=draws, level=level)
    drawn = {name: _within(one, 0.0, measured[name].metric.top, clusters) for name, one in found.items()}
    return {name: own[name] if name in own else drawn[name] for name in measured}


def score_differences(a: Mapping[str, Measured], b: Mapping[str, Measured], *, clusters: Sequence[str] | None = None,
                      seed: int = 0, draws: int = 10_000, level: float = 0.95) -> dict[str, Interval]:
    """`a - b` of every score that both have, on the same rows: the paired bootstrap of corpus scores (Koehn 2004),
    studentised. Raises BadInput."""
    import numpy as np

    own: dict[str, Interval] = {}
    tables: dict[str, Table] = {}
    for name in a:
        if name not in b:
            continue
        one, other = a[name].statistics, b[name].statistics
        if len(one.table) != len(other.table):
            raise BadInput(f"a paired comparison needs the same rows, not {len(one.table)} and {len(other.table)}")
        if one.interval is not None:
            _check_clusters(len(one.table), clusters)
            own[name] = one.interval(one.table, other.table, clusters, level)
            continue
        width = one.table.shape[1]
        tables[name] = (np.hstack([one.table, other.table]), _minus(one.combine, other.combine, width),
                        _beside(one.gradient, other.gradient, width))
    tables, clusters = _with_part(tables, clusters)
    found = bootstrap(tables, clusters=clusters, seed=seed, draws=draws, level=level)
    tops = {name: a[name].metric.top for name in found}
    return own | {name: _within(one, None if top is None else -top, top, clusters)
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
    sums, rows = _sums({name: table[0] for name, table in tables.items()}, clusters)
    many = len(next(iter(sums.values())))
    moments = {name: _with_products(table) if table.shape[1] <= _WIDE else table for name, table in sums.items()}
    edges = np.cumsum([0, *(table.shape[1] for table in moments.values())])
    joined = np.hstack(list(moments.values()))

    def studied(counts: NDArray[Any]) -> dict[str, tuple[Any, Any]]:
        totals = counts @ joined
        found = {}
        for i, (name, table) in enumerate(tables.items()):
            width, part = sums[name].shape[1], totals[:, edges[i]:edges[i + 1]]
            gradient = _gradient(part[:, :width], table)
            squares = (_by_products(gradient, part[:, width:]) if width <= _WIDE
                       else (counts * (gradient @ sums[name].T) ** 2).sum(axis=1))
            floor = _ROUNDING * np.abs(gradient * part[:, :width]).max(axis=1) ** 2 / many
            error = np.sqrt(np.where(squares > floor, squares, 0.0) * many / (many - 1))
            found[name] = (table[1](part[:, :width]), error)
        return found

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


def _gradient(sums: NDArray[Any], table: Table) -> NDArray[Any]:
    """Of the score by each statistic, `[draws, k]`; by differences where it is not known."""
    import numpy as np

    if len(table) == 3 and table[2] is not None:
        return np.asarray(table[2](sums))
    combine, gradient = table[1], np.zeros_like(sums)
    for column in range(sums.shape[1]):
        step = _STEP * np.abs(sums[:, column])
        moved = sums.copy()
        moved[:, column] += step
        above = combine(moved)
        moved[:, column] -= 2 * step
        # a statistic that is 0 throughout a resample cannot spread it
        gradient[:, column] = np.divide(above - combine(moved), 2 * step, out=np.zeros_like(step), where=step > 0)
    return gradient


def _by_products(gradient: NDArray[Any], products: NDArray[Any]) -> NDArray[Any]:
    """The square of gradient times statistics, summed over the clusters drawn, from the sums of the statistics'
    products."""
    import numpy as np

    left, right = np.triu_indices(gradient.shape[1])
    found: NDArray[Any] = (gradient[:, left] * gradient[:, right] * products * np.where(left == right, 1.0, 2.0)).sum(
        axis=1)
    return found


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
    _check_clusters(rows, clusters)
    if clusters is None:
        return dict(tables), rows
    names, place = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    found = {}
    for name, table in tables.items():
        found[name] = np.zeros((len(names), table.shape[1]))
        np.add.at(found[name], place, table)
    return found, rows


def _with_part(tables: dict[str, Table], clusters: Sequence[str] | None
               ) -> tuple[dict[str, Table], Sequence[str] | None]:
    """Without the rows that have no part in any score: all their statistics are 0."""
    import numpy as np

    rows = {len(table[0]) for table in tables.values()} | ({len(clusters)} if clusters is not None else set())
    if len(rows) != 1 or not tables:
        return tables, clusters
    part = np.logical_or.reduce([np.asarray(table[0]).any(axis=1) for table in tables.values()])
    if part.all() or not part.any():
        return tables, clusters
    kept = {name: (table[0][part], *table[1:]) for name, table in tables.items()}
    return kept, None if clusters is None else [one for one, has in zip(clusters, part, strict=True) if has]


def _check_clusters(rows: int, clusters: Sequence[str] | None) -> None:
    if clusters is not None and len(clusters) != rows:
        raise BadInput(f"{len(clusters)} cluster names for {rows} rows")
    if (rows if clusters is None else len(set(clusters))) < 2:
        raise BadInput("an interval needs rows from at least two sources", "evaluate on more documents or rows")


def _minus(one: Callable[[Any], Any], other: Callable[[Any], Any], width: int) -> Callable[[Any], Any]:
    return lambda sums: one(sums[..., :width]) - other(sums[..., width:])


def _beside(one: Combine | None, other: Combine | None, width: int) -> Combine | None:
    """The gradient of a difference, from those of its sides."""
    import numpy as np

    if one is None or other is None:
        return None
    return lambda sums: np.concatenate([one(sums[..., :width]), -other(sums[..., width:])], axis=-1)


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
