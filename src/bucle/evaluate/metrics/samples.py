"""What a metric sees of one row, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Measured", "Metric", "Sample", "Statistics"]


@dataclass(frozen=True)
class Sample:
    """One row as metrics see it; each metric says in `needs` which of these it reads.

    `references` are the accepted answers (the best one counts); `correct` (0 or 1) and `confidence` in [0, 1];
    `logprobs` the natural logarithm of each token's probability; `passed` one flag for each time the code was written;
    `ranking` ids in the order retrieved, `relevant` id -> gain above 0, `citations` the ids that the answer cites.
    """

    output: str = ""
    references: Sequence[str] = ()
    correct: float | None = None
    confidence: float | None = None
    logprobs: Sequence[float] = ()
    passed: Sequence[bool] = ()
    ranking: Sequence[str] = ()
    relevant: Mapping[str, float] = field(default_factory=dict)
    citations: Sequence[str] = ()


@dataclass(frozen=True)
class Statistics:
    """A metric's sufficient statistics.

    `table` is `[rows, k]`, and `combine` turns sums of its rows, `[..., k]`, into scores, `[...]`, the same for sums
    twice as large. So the score of any resample of the rows is exact without scoring a text again. `by_row` does it
    for single rows where their score differs from a corpus of one (BLEU). `signature` is what to publish with a score
    so that others can repeat it."""

    table: Any
    combine: Callable[[Any], Any]
    by_row: Callable[[Any], Any] | None = None
    signature: str = ""


@dataclass(frozen=True)
class Metric:
    """A metric by name. `better` says which way is up; `top` is the score that cannot be passed (1, 100, or None where
    there is none); `mean` whether the score is the mean of its rows'; `says` one line for people."""

    name: str
    says: str
    needs: tuple[str, ...]
    statistics: Callable[[Sequence[Sample]], Statistics]
    better: Literal[">=", "<="] = ">="
    top: float | None = 1.0
    mean: bool = True


@dataclass(frozen=True)
class Measured:
    """A metric's outcome on some rows: `value` of them all, `per_row` in their order, both in the metric's own unit."""

    metric: Metric
    value: float
    per_row: Sequence[float]
    statistics: Statistics

    @property
    def signature(self) -> str:
        """What to publish beside the value so that others can repeat it."""
        return self.statistics.signature
