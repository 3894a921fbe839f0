"""Labels said and labels wanted: macro-F1 as a corpus score, and the table of a classification by label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bucle.evaluate.macro import macro_interval
from bucle.evaluate.metrics.samples import Sample, Statistics

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["by_label", "macro_f1"]

OTHER = "(other)"


def macro_f1(samples: Sequence[Sample]) -> Statistics:
    """Mean F1 in [0, 1] of the labels that are right somewhere, each counting the same (scikit-learn's `macro` over
    those labels). The table is `[rows, 3 labels]`: right, said, wanted."""
    import numpy as np

    names = {name: place for place, name in enumerate(sorted({one.wanted or "" for one in samples}))}
    table = np.zeros((len(samples), 3, len(names)))
    for row, one in enumerate(samples):
        said, wanted = names.get(one.output), names[one.wanted or ""]
        table[row, 2, wanted] = 1
        if said is not None:
            table[row, 1, said] = 1
            table[row, 0, wanted] = said == wanted
    return Statistics(table.reshape(len(samples), -1), _mean_f1, signature="macro_f1|labels:occurring",
                      gradient=_slope, interval=macro_interval)


def _parts(sums: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Right, said and wanted, each `[..., labels]`."""
    parts = sums.reshape(*sums.shape[:-1], 3, -1)
    return parts[..., 0, :], parts[..., 1, :], parts[..., 2, :]


def _mean_f1(sums: NDArray[Any]) -> NDArray[Any]:
    """`[..., 3 labels]` to `[...]`; a label that is wanted nowhere (in a resample) does not count."""
    import numpy as np

    right, said, wanted = _parts(sums)
    there = wanted > 0
    f1 = np.where(there, 2 * right / np.maximum(said + wanted, 1e-300), 0.0)
    return f1.sum(axis=-1) / np.maximum(there.sum(axis=-1), 1)


def _slope(sums: NDArray[Any]) -> NDArray[Any]:
    """The gradient of `_mean_f1`: 2 / n by what is right, -2 right / n² by what is said and by what is wanted, n their
    sum."""
    import numpy as np

    right, said, wanted = _parts(sums)
    there = wanted > 0
    both = np.maximum(said + wanted, 1e-300)
    share = there / np.maximum(there.sum(axis=-1, keepdims=True), 1)
    up, down = share * 2 / both, share * -2 * right / both / both
    return np.concatenate([up, down, down], axis=-1)


def by_label(said: Sequence[str | None], wanted: Sequence[str]) -> dict[str, Any]:
    """`per_label` (precision, recall, F1, rows) and `confusion` (rows are true labels; the last column counts what is
    no such label: None, or a text that is right nowhere), ready for JSON."""
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    labels = sorted(set(wanted))
    known = set(labels)
    columns = [*labels, OTHER] if OTHER not in known else labels
    spoken = [one if one is not None and one in known else OTHER for one in said]
    precision, recall, f1, support = precision_recall_fscore_support(list(wanted), spoken, labels=labels,
                                                                     zero_division=0)
    matrix = confusion_matrix(list(wanted), spoken, labels=columns)[:len(labels)]
    return {
        "per_label": [
            {"label": label, "precision": float(precision[i]), "recall": float(recall[i]), "f1": float(f1[i]),
             "rows": int(support[i])} for i, label in enumerate(labels)
        ],
        "confusion": {"labels": labels, "columns": columns, "matrix": matrix.tolist()},
    }
