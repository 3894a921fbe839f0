"""Intervals of macro-F1, where a label may have one row. No resample of the rows shows what such a label's next rows
would do: it is right or wrong in all of them, or missing. So each label counts with some rows more, as Agresti and
Coull's (1998) and Agresti and Min's (2005) intervals have it. What is covered is the mean of the true F1 of the labels
that occur in the rows (tests/unit/test_macro_simulated.py; what failed stands in design/LOG.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bucle.core.records import Interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["macro_interval"]

_NOTHING = 1e-15  # a variance that is rounding


def macro_interval(table: NDArray[Any], minus: NDArray[Any] | None, clusters: Sequence[str] | None,
                   level: float) -> Interval:
    """The macro-F1 of `table` (`[rows, 3 labels]`: right, said, wanted), or its difference to that of `minus`, another
    candidate's table of the same rows.

    F1 is 2J / (1 + J) of the share J of the rows said or wanted to be a label that are both (Lam et al. 2023,
    arXiv:2309.14621), so each label has the variance of a share, with one right and one wrong row more, through the
    slope; of a difference that of its rows' influences, with half a row more in each of the four cells. Rows of one
    cluster count as fewer by their correlation, pooled over the labels; labels correlate as their influences by
    cluster. The score's interval is Wilson's for the rows that would vary as much, with t for the normal, as in
    `statistics.interval`; a difference's is symmetric. Nothing is drawn at random.
    """
    import numpy as np
    from scipy.stats import t

    from bucle.evaluate.statistics import paired_difference, wilson

    rows = len(table)
    place = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)[1] if clusters is not None else None
    sizes = np.bincount(place) if place is not None else np.ones(rows)
    z = float(t.ppf(0.5 + level / 2, max(rows**2 / float((sizes**2).sum()) - 1, 1)))
    mine = _labels(table, place)
    if minus is None:
        value, guess = float(mine.f1.mean()), float(mine.smooth.mean())
        low, high = wilson(value, guess * (1 - guess) / _variance(mine.influence, mine.variance), level, z)
        return Interval(value=value, low=low, high=high, n=rows, level=level)
    theirs = _labels(minus, place)
    value, influence = float((mine.f1 - theirs.f1).mean()), mine.influence - theirs.influence
    n = (mine.rows + theirs.rows) / 2
    half = z * _variance(influence, (n * (influence**2).sum(axis=0) + mine.slope * theirs.slope / n) / (n + 2)) ** 0.5
    if np.array_equal(table, minus):  # no row differs: Tango's interval after so many clusters
        half = max(half, paired_difference([0.0] * len(sizes), [0.0] * len(sizes), level=level).high)
    return Interval(value=value, low=max(value - half, -1.0), high=min(value + half, 1.0), n=rows, level=level)


@dataclass(frozen=True)
class _Labels:
    """Of each label: its F1, the same with the rows more (`smooth`), the slope of F1 by its share, the independent rows
    it is worth, the variance of its F1; `influence` is that of each cluster on each F1, `[clusters, labels]`."""

    f1: NDArray[Any]
    smooth: NDArray[Any]
    slope: NDArray[Any]
    rows: NDArray[Any]
    variance: NDArray[Any]
    influence: NDArray[Any]


def _labels(table: NDArray[Any], place: NDArray[Any] | None) -> _Labels:
    import numpy as np

    right, said, wanted = np.moveaxis(table.reshape(len(table), 3, -1), 1, 0)
    either = said + wanted - right
    many = either.sum(axis=0)
    share = right.sum(axis=0) / many
    influence, rows = (right - share * either) / many, many
    if place is not None:
        together, sizes = _by_cluster(influence, place), _by_cluster(either, place)
        alone = (influence**2).sum(axis=0)
        mates = (sizes**2).sum(axis=0) / many - 1  # rows of the same cluster and label that a row stands beside
        shared = float((alone * mates).sum())
        alike = float(((together**2).sum(axis=0) - alone).sum()) / shared if shared > _NOTHING else 1.0
        influence, rows = together, many / (1 + mates * min(max(alike, 0.0), 1.0))
    guess = (share * rows + 1) / (rows + 2)
    slope = 2 / (1 + guess) ** 2
    return _Labels(2 * share / (1 + share), 2 * guess / (1 + guess), slope, rows,
                   slope**2 * guess * (1 - guess) / rows, slope * influence)


def _by_cluster(values: NDArray[Any], place: NDArray[Any]) -> NDArray[Any]:
    import numpy as np

    found = np.zeros((int(place.max()) + 1, values.shape[1]))
    np.add.at(found, place, values)
    return found


def _variance(influence: NDArray[Any], variances: NDArray[Any]) -> float:
    """Of the labels' mean: their own variances, correlated as their influences are (not, where one has none)."""
    import numpy as np

    size = np.sqrt((influence**2).sum(axis=0))
    unit = np.divide(influence, size, out=np.zeros_like(influence), where=size > 0)
    spread = np.sqrt(variances)
    whole = float(((unit @ spread) ** 2).sum() + variances[size == 0].sum())
    return max(whole, _NOTHING) / len(variances) ** 2
