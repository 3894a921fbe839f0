"""Callers who probe: suspicious texts, repetition and bursts, judged by user."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from bucle.core.records import Trace
from bucle.monitor.injection import SUSPICIOUS, suspicion
from bucle.monitor.windows import event_time

__all__ = ["Abuse", "abusers"]

SURGE_REQUESTS = 10
SURGE_RATIO = 5


@dataclass(frozen=True)
class Abuse:
    """What one user did in one window. `suspicious` of `requests` requests were; `burst` is the most in a
    minute; `surging` whether their busiest hour stands far above everybody else's; `reasons` counts each kind;
    `traces` are the ids of the suspicious requests, worst first."""

    user: str
    suspicious: int
    requests: int
    burst: int
    flagged: bool
    surging: bool
    reasons: dict[str, int]
    traces: tuple[str, ...]


def abusers(traces: Sequence[Trace], *, min_suspicious: int = 5, min_share: float = 0.3, min_burst: int = 60,
            min_repeats: int = 10) -> list[Abuse]:
    """What each named user with anything suspicious did in `traces` (one window), the worst first.

    A request is suspicious when its text is (`suspicion`) or it repeats, beyond `min_repeats` times, one
    text of the same user. A user is `flagged` with both `min_suspicious` suspicious requests and
    `min_share` of all their requests, or with `min_burst` requests inside one minute. Of a user who surges
    (at least `SURGE_REQUESTS` requests in an hour and `SURGE_RATIO` times the busiest hour of 19 in 20 others) a third
    of `min_share` is enough: known phrasings miss most new attacks, and two kinds of evidence agree. Requests
    without a user are nobody's and left out.
    """
    by_user: dict[str, list[Trace]] = {}
    for trace in traces:
        if trace.user:
            by_user.setdefault(trace.user, []).append(trace)
    busiest = {user: _burst(own, timedelta(hours=1)) for user, own in by_user.items()}
    found = []
    for user, own in sorted(by_user.items()):
        reasons: Counter[str] = Counter()
        scored: list[tuple[float, str]] = []
        said: Counter[str] = Counter()
        for trace in own:
            score, kinds = suspicion(trace.input)
            text = " ".join(trace.input[:8000].casefold().split())
            said[text] += 1
            if score < SUSPICIOUS and said[text] > min_repeats:
                score, kinds = SUSPICIOUS, ("repetition",)
            if score >= SUSPICIOUS:
                reasons.update(kinds)
                scored.append((-score, trace.id))
        burst = _burst(own)
        bursting = burst >= min_burst
        if bursting:
            reasons["burst"] = burst
        surging = busiest[user] >= SURGE_REQUESTS and busiest[user] >= SURGE_RATIO * _usual(busiest, user)
        share = min_share / 3 if surging else min_share
        flagged = bursting or (len(scored) >= min_suspicious and len(scored) >= share * len(own))
        if scored or bursting:
            ids = [name for _, name in sorted(scored)] or [trace.id for trace in own]
            counts = dict(sorted(reasons.items()))
            found.append(Abuse(user, len(scored), len(own), burst, flagged, surging, counts, tuple(ids)))
    return sorted(found, key=lambda one: (not one.flagged, -one.suspicious, one.user))


def _usual(busiest: dict[str, int], user: str) -> int:
    """The busiest hour of 19 in 20 users other than `user`; 1 where there is nobody else."""
    others = sorted(count for name, count in busiest.items() if name != user)
    return others[min(len(others) - 1, len(others) * 19 // 20)] if others else 1


def _burst(traces: Sequence[Trace], length: timedelta = timedelta(minutes=1)) -> int:
    """The most requests within any `length` of time."""
    times = sorted(event_time(trace) for trace in traces)
    most = first = 0
    for last, at in enumerate(times):
        while at - times[first] >= length:
            first += 1
        most = max(most, last - first + 1)
    return most
