"""Rows unlike any other: the distance to the k-th nearest one.

Ramaswamy, Rastogi and Shim, "Efficient algorithms for mining outliers from large data sets" (SIGMOD 2000).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Outlier", "find_outliers"]

NEIGHBOURS = 5
_BLOCK = 1_000


@dataclass(frozen=True)
class Outlier:
    """`index` of a row, the `distance` (1 - cosine, in [0, 2]) to its fifth nearest, how many times the usual (median)
    distance that is, and its `nearest` row with their `similarity` (cosine)."""

    index: int
    distance: float
    times: float
    nearest: int
    similarity: float


def find_outliers(vectors: Any, *, top: int = 20) -> list[Outlier]:
    """The rows of `vectors` ([rows, dimensions]) farthest from their fifth nearest row, farthest first, at most `top`.

    Only rows beyond the upper quartile by one and a half times the spread of the quartiles (Tukey's fence) are named:
    where none stands out, the list is empty. Empty too for fewer than 20 rows. Distances are to every other row, in
    blocks, so memory grows with the rows and not with their square.
    """
    import numpy as np

    matrix = np.asarray(vectors, dtype=np.float32)
    rows = len(matrix)
    if rows < 4 * NEIGHBOURS:
        return []
    matrix = np.nan_to_num(matrix / np.linalg.norm(matrix, axis=1, keepdims=True).clip(1e-12))
    far = np.empty(rows, dtype=np.float32)
    nearest = np.empty(rows, dtype=int)
    for at in range(0, rows, _BLOCK):
        some = np.arange(at, min(rows, at + _BLOCK))
        alike = matrix[some] @ matrix.T
        alike[np.arange(len(some)), some] = -np.inf
        nearest[some] = alike.argmax(axis=1)
        far[some] = 1 - np.partition(alike, -NEIGHBOURS, axis=1)[:, -NEIGHBOURS]
    low, middle, high = (float(value) for value in np.percentile(far, [25, 50, 75]))
    fence = high + 1.5 * (high - low)
    order = [int(index) for index in np.argsort(-far, kind="stable") if far[index] > max(fence, 1e-6)][:top]
    return [
        Outlier(
            index,
            round(float(far[index]), 4),
            round(float(far[index]) / max(middle, 1e-6), 2),
            int(nearest[index]),
            round(float(matrix[index] @ matrix[nearest[index]]), 4),
        )
        for index in order
    ]
