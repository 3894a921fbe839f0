"""Wall-clock time of predictions: a batch's time shared by its rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from bucle.core.records import Prediction

__all__ = ["timed"]


def timed(inputs: Sequence[str], function: Callable[[Sequence[str]], list[Prediction]]) -> list[Prediction]:
    """`function(inputs)` with each prediction's `ms` set to the batch's milliseconds over its rows, where unset."""
    began = time.perf_counter()
    predictions = function(inputs)
    each = (time.perf_counter() - began) * 1000 / max(1, len(inputs))
    return [p if p.ms else p.model_copy(update={"ms": each}) for p in predictions]
