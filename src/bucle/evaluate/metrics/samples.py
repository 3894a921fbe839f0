"""What a metric sees of one row, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from bucle.core.records import Interval

__all__ = ["Measured", "Metric", "Sample", "Statistics"]


@dataclass(frozen=True)
class Sample:
    """One row as metrics see it; each metric says in `needs` which of these it reads.

    `references` are the accepted answers (the best one counts); `correct` (0 or 1) and `confidence` in [0, 1];
    `logprobs` the natural logarithm of each token's probability; `passed` one flag for each time the code was written;
    `ranking` ids in the order retrieved, `relevant` id -> gain above 0, `citations` the ids that the answer cites;
    `sources` the texts that must bear out the output; `checks` what it must keep, as JSON; `schema` a JSON Schema;
    `wanted` the right label, where the output is one of a fixed set; `decided` (0 or 1) whether it was right to
    answer, or not to.
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
    sources: Sequence[str] = ()
    checks: str = ""
    schema: Mapping[str, Any] | None = None
    wanted: str | None = None
    decided: float | None = None


@dataclass(frozen=True)
class Statistics:
    """A metric's sufficient statistics.

    `table` is `[rows, k]`, and `combine` turns sums of its rows, `[..., k]`, into scores, `[...]`, the same for sums
    twice as large. So the score of any resample of the rows is exact without scoring a text again. `by_row` does it
    for single rows where their score differs from a corpus of one (BLEU); `gradient`, where it is known, turns sums
    into the score's slope by each of them, `[..., k]`. `signature` is what to publish with a score so that others can
    repeat it. `interval` is the score's own way to an interval, where a resample of the rows does not show what they
    leave open: of a table, or of its difference to another's of the same rows (else None), the rows' clusters and the
    level."""

    table: Any
    combine: Callable[[Any], Any]
    by_row: Callable[[Any], Any] | None = None
    signature: str = ""
    gradient: Callable[[Any], Any] | None = None
    interval: Callable[[Any, Any | None, Sequence[str] | None, float], Interval] | None = None


@dataclass(frozen=True)
class Metric:
    """A metric by name. `better` says which way is up; `top` is the score that cannot be passed (1, 100, or None where
    there is none); `mean` whether the score is the mean of its rows'; `rows` whether a single row has a score at all;
    `says` one line for people."""

    name: str
    says: str
    needs: tuple[str, ...]
    statistics: Callable[[Sequence[Sample]], Statistics]
    better: Literal[">=", "<="] = ">="
    top: float | None = 1.0
    mean: bool = True
    rows: bool = True

    @property
    def decides(self) -> bool:
        """Whether a comparison can stand on it: more is better, up to a known top, row by row."""
        return self.better == ">=" and self.top is not None and self.rows


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
