"""A canary's gate on live figures: each new target against the first one, and the end of one that is worse."""

from __future__ import annotations

import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from bucle.core.serving import Canary
from bucle.evaluate.sequential import Share, Shares, Times, later_quantile
from bucle.serve.routing.facts import RollBack

__all__ = ["Gate", "RollBacks"]

GATES = 3
"""Errors, p95 and ratings share the level between them (Bonferroni)."""
EVERY = 8
"""Requests of the new one between two looks at its times (each costs 0.1 ms)."""
RATERS = 100_000
"""Users whose rating is remembered as counted."""
_LOG = logging.getLogger(__name__)


class _Pair:
    """A new target and the first one, counted over the same time."""

    def __init__(self, rule: Canary) -> None:
        self.errors, self.ratings = Shares(rule.errors), Shares(rule.bad_ratings)
        self.new, self.old = Times(), Times()

    def figures(self) -> dict[str, dict[str, Any]]:
        return {side: {"requests": errors.n, "errors": errors.bad, "p95_ms": round(times.quantile(0.95), 2),
                       "ratings": ratings.n, "bad_ratings": ratings.bad}
                for side, errors, ratings, times in (("new", self.errors.new, self.ratings.new, self.new),
                                                     ("old", self.errors.old, self.ratings.old, self.old))}


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
        if self._tell is None:
            _LOG.warning("route %s: %s is rolled back: %s", self.route, target, why)
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
        self.pairs = {name: _Pair(rule) for name in others}
        self._raters: OrderedDict[str, None] = OrderedDict()
        later_quantile(_warm(), _warm(), 0.95, 1.0, 0.01)  # the libraries are loaded before anybody waits for them

    def outcome(self, target: str, ok: bool, ms: float) -> None:
        """What came of a request that `target` was chosen for."""
        for name, pair in self._concerned(target):
            new = target == name
            decidable = pair.errors.add(new, not ok)
            if ok:
                (pair.new if new else pair.old).add(ms)
            if decidable:
                self._decide(name, pair, times=pair.errors.new.n % EVERY == 0)

    def rated(self, target: str, rating: int, rater: str) -> bool:
        """Count a rating of an answer of `target`; whether it counts."""
        concerned = self._concerned(target)
        if rater in self._raters or not concerned:
            return False
        self._raters[rater] = None
        if len(self._raters) > RATERS:
            self._raters.popitem(last=False)
        for name, pair in concerned:
            if pair.ratings.add(target == name, rating < 0):
                self._decide(name, pair)
        return True

    def begin_again(self, target: str) -> None:
        """Both counts of `target`'s comparison from nothing."""
        self.pairs[target] = _Pair(self.rule)

    def figures(self) -> dict[str, Any]:
        """What each comparison stands at; `evidence` is of errors and of ratings, decided at 1."""
        needed = math.log(1 / self._level)
        return {name: {**pair.figures(), "evidence": {
            "errors": round(pair.errors.log_evidence / needed, 3),
            "bad_ratings": round(pair.ratings.log_evidence / needed, 3)}} for name, pair in self.pairs.items()}

    def _concerned(self, target: str) -> list[tuple[str, _Pair]]:
        """The comparisons that are still open and that an outcome of `target` counts in."""
        return [(name, pair) for name, pair in self.pairs.items()
                if name not in self.stopped and target in (name, self.first)]

    def _decide(self, target: str, pair: _Pair, times: bool = False) -> None:
        rule, errors, ratings = self.rule, pair.errors, pair.ratings
        if min(errors.new.n, errors.old.n) < rule.min_requests:
            return
        needed = math.log(1 / self._level)
        if errors.log_evidence >= needed:
            self._stop(target, "errors", f"its share of errors is {_share(errors.new)}, against {_share(errors.old)}"
                       f" of {self.first}: more than {rule.errors:.1%} worse")
        elif ratings.log_evidence >= needed:
            self._stop(target, "bad_ratings", f"its share of bad ratings is {_share(ratings.new)}, against "
                       f"{_share(ratings.old)} of {self.first}: more than {rule.bad_ratings:.1%} worse")
        elif times and later_quantile(pair.new, pair.old, 0.95, rule.p95_ratio, self._level):
            self._stop(target, "p95", f"its p95 is {pair.new.quantile(0.95):.0f} ms of {pair.new.n} requests,"
                       f" against {pair.old.quantile(0.95):.0f} ms of {self.first}: more than {rule.p95_ratio:g} times")

    def _stop(self, target: str, gate: str, why: str) -> None:
        self._rollbacks.stop(target, gate, why, self.pairs[target].figures())


def _warm() -> Times:
    times = Times()
    times.add(1.0)
    return times


def _share(of: Share) -> str:
    return f"{of.bad / of.n:.1%} of {of.n}" if of.n else "none"
