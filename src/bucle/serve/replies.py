"""What a task's answer reads like: its text, then where it stands."""

from __future__ import annotations

import math

from bucle.core.records import Prediction
from bucle.serve.dialects.base import clean

__all__ = ["clean", "content_of", "finite"]


def content_of(prediction: Prediction) -> str:
    """What the client reads: the label or answer, then its citations, numbered, one a line."""
    if not prediction.citations:
        return clean(prediction.output)
    lines = [f"[{number}] {place}" for number, place in enumerate(prediction.citations, start=1)]
    return clean(prediction.output + "\n\n" + "\n".join(lines))


def finite(value: float | None) -> float | None:
    """`value`, or None where it is no finite number."""
    return value if value is not None and math.isfinite(value) else None
