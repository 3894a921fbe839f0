"""A canary's gate on live figures: each new target against the first one, and the end of one that is worse."""

from __future__ import annotations

import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bucle.core.serving import Canary
from bucle.evaluate.sequential import Share, Times, later_quantile, log_evidence
from bucle.serve.routing.facts import RollBack

__all__ = ["Gate", "RollBacks"]

GATES = 3
"""Errors, p95 and ratings share the level between them (Bonferroni)."""
EVERY = 8
"""Requests of the new one between two looks at its times (each costs 0.1 ms)."""
RATERS = 100_000
"""Users whose rating is remembered as counted."""
_LOG = logging.getLogger(__name__)


@dataclass
class _Arm:
    errors: Share = field(default_factory=Share)
    times: Times = field(default_factory=Times)
    ratings: Share = field(default_factory=Share)

    def add(self, ok: bool, ms: float) -> None:
        self.errors.add(not ok)
        if ok:
            self.times.add(ms)

    def figures(self) -> dict[str, Any]:
        return {"requests": self.errors.n, "errors": self.errors.bad, "p95_ms": round(self.times.quantile(0.95), 2),
                "ratings": self.ratings.n, "bad_ratings": self.ratings.bad}


@dataclass
class _Pair:
    """A new target and the first one, counted over the same time."""

    new: _Arm = field(default_factory=_Arm)
    old: _Arm = field(default_factory=_Arm)


class RollBacks:
    """Which targets of a route get no traffic, and why. `tell(route, target, why)` hears of each once."""

    def __init__(self, route: str, stopped: Iterable[str], tell: Callable[[str, str, str], None] | None,
                 now: Callable[[], float] = time.time) -> None:
        self.route, self._tell, self._now = route, tell, now
        self.stopped, self.history = set(stopped), list[RollBack]()

    def stop(self, target: str, gate: str, why: str, figures: Mapping[str, Any]) -> None:
        """Give `target` no more traffic and say so; nothing where that is so already."""
        if target in self.stopped:
            return
        self.stopped.add(target)
        self.history.append(RollBack(self.route, target, gate, why, self._now(), figures=figures))
        _LOG.warning("route %s: %s is rolled back: %s", self.route, target, why)
        if self._tell is None:
            return
        try:
            self._tell(self.route, target, why)
        except Exception:
            _LOG.exception("the roll-back of %s could not be told", target)

    def restore(self, target: str) -> bool:
        """Take it back; whether there was anything to take back."""
        if target not in self.stopped:
            return False
        self.stopped.discard(target)
        self.history.append(RollBack(self.route, target, "hand", "restored", self._now(), restored=True))
        return True


class Gate:
    """Counts what came of each request, and asks after each whether a new target is worse than the first.

    It stops a target where evaluate.sequential decides that its share of errors is higher by more than `errors`, its
    share of bad ratings by more than `bad_ratings`, or its p95 by more than `p95_ratio` times: at a false-alarm rate of
    `level` over all gates and the whole run. A user's first rating counts and no other: many of one person are no
    independent evidence.
    """

    def __init__(self, rule: Canary, first: str, others: Iterable[str], rollbacks: RollBacks) -> None:
        self.rule, self.first, self._rollbacks, self.stopped = rule, first, rollbacks, rollbacks.stopped
        self._level = rule.level / GATES
        self.pairs = {name: _Pair() for name in others}
        self._raters: OrderedDict[str, None] = OrderedDict()

    def outcome(self, target: str, ok: bool, ms: float) -> None:
        """What came of a request that `target` was chosen for."""
        if target == self.first:
            for pair in self.pairs.values():
                pair.old.add(ok, ms)
        elif (found := self.pairs.get(target)) is not None and target not in self.stopped:
            found.new.add(ok, ms)
            self._decide(target, found, errors=not ok or found.new.errors.n == self.rule.min_requests,
                         times=found.new.errors.n % EVERY == 0)

    def rated(self, target: str, rating: int, rater: str) -> bool:
        """Count a rating of an answer of `target`; whether it counts."""
        if rater in self._raters or (target != self.first and target not in self.pairs) or target in self.stopped:
            return False
        self._raters[rater] = None
        if len(self._raters) > RATERS:
            self._raters.popitem(last=False)
        if target == self.first:
            for pair in self.pairs.values():
                pair.old.ratings.add(rating < 0)
        else:
            self.pairs[target].new.ratings.add(rating < 0)
            self._decide(target, self.pairs[target], ratings=True)
        return True

    def begin_again(self, target: str) -> None:
        """Both counts of `target`'s comparison from nothing."""
        self.pairs[target] = _Pair()

    def figures(self) -> dict[str, Any]:
        """What each comparison stands at; `evidence` is of errors and of ratings, decided at 1."""
        needed = math.log(1 / self._level)
        return {name: {"new": pair.new.figures(), "old": pair.old.figures(), "evidence": {
            "errors": round(_of(pair.new.errors, pair.old.errors, self.rule.errors) / needed, 3),
            "bad_ratings": round(_of(pair.new.ratings, pair.old.ratings, self.rule.bad_ratings) / needed, 3)}}
            for name, pair in self.pairs.items()}

    def _decide(self, target: str, pair: _Pair, errors: bool = False, times: bool = False,
                ratings: bool = False) -> None:
        new, old, rule = pair.new, pair.old, self.rule
        if min(new.errors.n, old.errors.n) < rule.min_requests:
            return
        needed = math.log(1 / self._level)
        if errors and _of(new.errors, old.errors, rule.errors) >= needed:
            self._stop(target, "errors", f"its share of errors is {_share(new.errors)}, against {_share(old.errors)}"
                      f" of {self.first}: more than {rule.errors:.1%} worse")
        elif ratings and _of(new.ratings, old.ratings, rule.bad_ratings) >= needed:
            self._stop(target, "bad_ratings", f"its share of bad ratings is {_share(new.ratings)}, against "
                      f"{_share(old.ratings)} of {self.first}: more than {rule.bad_ratings:.1%} worse")
        elif times and later_quantile(new.times, old.times, 0.95, rule.p95_ratio, self._level):
            self._stop(target, "p95", f"its p95 is {new.times.quantile(0.95):.0f} ms of {new.times.n} requests,"
                      f" against {old.times.quantile(0.95):.0f} ms of {self.first}: more than {rule.p95_ratio:g} times")

    def _stop(self, target: str, gate: str, why: str) -> None:
        pair = self.pairs[target]
        self._rollbacks.stop(target, gate, why, {"new": pair.new.figures(), "old": pair.old.figures()})


def _of(new: Share, old: Share, margin: float) -> float:
    return float(log_evidence(new.bad, new.n, old.bad, old.n, margin))


def _share(of: Share) -> str:
    return f"{of.bad / of.n:.1%} of {of.n}" if of.n else "none"
