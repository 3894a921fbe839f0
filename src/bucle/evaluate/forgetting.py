"""What a customised model lost: bits per byte on general text before and after."""

from __future__ import annotations

from collections.abc import Sequence

from bucle.core.errors import BadInput
from bucle.core.records import Interval
from bucle.evaluate.statistics import bootstrap_mean

__all__ = ["forgetting"]


def forgetting(base_bits: Sequence[float], tuned_bits: Sequence[float], *, seed: int = 0) -> Interval:
    """Mean rise in bits per byte (tuned minus base) over the same documents; positive means forgotten.

    One value a document on both sides, in the same order; 95% interval by a bootstrap over documents. Raises
    BadInput when the lengths differ, fewer than two documents are given or a value is not finite.
    """
    if len(base_bits) != len(tuned_bits):
        raise BadInput(f"{len(base_bits)} documents before, {len(tuned_bits)} after", "measure the same ones")
    rises = [after - before for before, after in zip(base_bits, tuned_bits, strict=True)]
    return bootstrap_mean(rises, seed=seed)
