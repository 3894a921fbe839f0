"""Whether to climb to the next rung of the ladder: its expected gain, priced by the team, against what it costs.

The gain of a rung that nobody has tried is not known; this is a forecast and says so. A rung is expected to take away a
share of the error that the best one so far leaves: the mean of the shares that the rungs already climbed took, started
off with `PRIOR_RUNGS` rungs that took `PRIOR_SHARE` each, so that a first disappointment does not end the climb.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bucle.core.choosing import Budget, Costs

__all__ = ["Climb", "Decision", "Expected"]

PRIOR_SHARE = 0.25
PRIOR_RUNGS = 2.0
POINT = 0.01
"""`usd_per_point` prices this much quality."""


@dataclass(frozen=True)
class Expected:
    """What a rung is expected to take: US dollars to fit and to try it, minutes for both, and US dollars a month to
    serve it at the team's traffic."""

    usd_once: float = 0.0
    minutes: float = 0.0
    usd_month: float = 0.0


@dataclass(frozen=True)
class Decision:
    """Whether a rung is climbed, with a message key and its figures: `climbed`, `free`, `does_not_pay`, `over_usd`,
    `over_minutes`, or what `leave` was told."""

    name: str
    climbed: bool
    key: str
    figures: Mapping[str, Any] = field(default_factory=dict)


class Climb:
    """One climb, from the cheapest rung up: `decide` before a rung, `saw` after it."""

    def __init__(self, costs: Costs, budget: Budget) -> None:
        self._costs, self._budget = costs, budget
        self._best, self._best_month = 0.0, 0.0
        self._shares: list[float] = []
        self._usd = self._minutes = 0.0
        self.decisions: list[Decision] = []

    @property
    def share(self) -> float:
        """The share of the error left that the next rung is expected to take away."""
        return (PRIOR_SHARE * PRIOR_RUNGS + sum(self._shares)) / (PRIOR_RUNGS + len(self._shares))

    @property
    def spent(self) -> tuple[float, float]:
        """US dollars and minutes so far."""
        return self._usd, self._minutes

    def pay(self, usd: float, minutes: float) -> None:
        """What was spent beside the rungs themselves: on canaries."""
        self._usd += usd
        self._minutes += minutes

    def leave(self, name: str, key: str, **figures: Any) -> None:
        """A rung left out for another reason than what `decide` weighs."""
        self.decisions.append(Decision(name, False, key, figures))

    def decide(self, name: str, expected: Expected) -> Decision:
        """Whether the rung called `name` is worth trying now."""
        made = self._decide(name, expected)
        self.decisions.append(made)
        return made

    def _decide(self, name: str, expected: Expected) -> Decision:
        limits = (
            ("over_usd", self._budget.usd, self._usd, expected.usd_once),
            ("over_minutes", self._budget.minutes, self._minutes, expected.minutes),
        )
        for key, limit, spent, more in limits:
            if limit is not None and more > 0 and spent + more > limit:
                return Decision(name, False, key, {"limit": limit, "spent": spent, "expected": more})
        price = self._costs.usd_per_point
        if price is None:
            return Decision(name, True, "climbed")
        cost = max(0.0, expected.usd_month - self._best_month) + expected.usd_once / self._costs.months
        if cost <= 0:
            return Decision(name, True, "free")
        gain = self.share * (1.0 - self._best)
        worth = gain / POINT * price
        figures = {
            "gain": gain, "worth": worth, "cost": cost, "best": self._best, "most": (1.0 - self._best) / POINT * price,
        }
        return Decision(name, worth > cost, "climbed" if worth > cost else "does_not_pay", figures)

    def saw(self, quality: float, *, usd_month: float = 0.0, usd: float = 0.0, minutes: float = 0.0,
            free: bool = False) -> None:
        """What the rung just climbed showed: quality in [0, 1] on the first rows, what it costs a month to serve, and
        what trying it took. `free` rungs (baselines) set the mark and say nothing about what climbing gains."""
        self._usd += usd
        self._minutes += minutes
        left = 1.0 - self._best
        if not free and left > 0:
            self._shares.append(max(0.0, quality - self._best) / left)
        price = self._costs.usd_per_point or 0.0
        if (quality - self._best) / POINT * price >= usd_month - self._best_month and quality >= self._best:
            self._best, self._best_month = quality, usd_month
