"""A trial of a search for a better prompt, and what can be said of those that were not finished."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bucle.core.prompting import PromptSpec

__all__ = ["HALVED_OUT", "SHARE_SPENT", "Trial", "leading", "unfinished", "verdict"]

HALVED_OUT, SHARE_SPENT = "halved", "search share spent"
"""How `Trial.out` begins where a trial ended without a proof: dropped for lying behind, or the budget ended."""


@dataclass
class Trial:
    """A prompt that was tried on `rows` choosing rows: `spec` None is the prompt in force. `scores` by place in
    them."""

    name: str
    spec: PromptSpec | None
    instruction: str
    demos: str
    round: int
    pair: tuple[int, int]
    rows: int
    scores: dict[int, float] = field(default_factory=dict)
    tokens: int = 0
    usd: float = 0.0
    asked: int = 0
    out: str = ""
    spent_when_done: float = 0.0

    @property
    def mean(self) -> float:
        return sum(self.scores.values()) / max(1, len(self.scores))

    @property
    def finished(self) -> bool:
        """Whether it was measured on every choosing row."""
        return len(self.scores) == self.rows

    @property
    def row_tokens(self) -> float:
        return self.tokens / max(1, self.asked)

    def ahead_of(self, other: Trial) -> float:
        """How much better its mean is than the other's, on the rows that both have seen; 0 where there are none."""
        both = self.scores.keys() & other.scores.keys()
        return sum(self.scores[row] - other.scores[row] for row in both) / max(1, len(both))


def unfinished(trials: Sequence[Trial]) -> list[Trial]:
    """Trials that were dropped for lying behind, or ended with the budget: nothing is proven of them."""
    return [t for t in trials if t.out.startswith((HALVED_OUT, SHARE_SPENT)) and not t.finished]


def leading(trials: Sequence[Trial], best: Trial) -> dict[str, Any] | None:
    """The unfinished trial that lies the furthest before the best, on the rows that it saw: `{trial, rows, by}`; None
    where none does."""
    ahead = [t for t in unfinished(trials) if t.scores and t.ahead_of(best) > 1e-9]
    if not ahead:
        return None
    first = max(ahead, key=lambda t: t.ahead_of(best))
    return {"trial": first.name, "rows": len(first.scores), "by": first.ahead_of(best)}


def verdict(trials: Sequence[Trial], best: Trial) -> str:
    """How many trials were measured on every row, or proven worse, and who led without being finished."""
    new, left = trials[1:], unfinished(trials)
    settled = f"{len(new) - len(left)} of {len(new)} trials were finished"
    if best is not trials[0]:
        said = settled
    elif left or not new:
        said = f"no finished trial was better than the prompt in force on the choosing rows: {settled}"
    else:
        said = (f"no trial was better than the prompt in force on the choosing rows: all {len(new)} were finished, or "
                "proven worse before that")
    if lead := leading(trials, best):
        said += (f", and {lead['trial']} led by {100 * lead['by']:.1f} points on the {lead['rows']} rows that it had "
                 "seen (a larger budget would finish it)")
    return said
