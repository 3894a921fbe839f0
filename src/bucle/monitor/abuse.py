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

@dataclass(frozen=True)
class Abuse:
    """What one user did in one window. `suspicious` of `requests` requests were; `burst` is the most in a
    minute; `reasons` counts each kind; `traces` are the ids of the suspicious requests, worst first."""

    user: str
    suspicious: int
    requests: int
    burst: int
    flagged: bool
    reasons: dict[str, int]
    traces: tuple[str, ...]


def abusers(traces: Sequence[Trace], *, min_suspicious: int = 5, min_share: float = 0.3, min_burst: int = 60,
            min_repeats: int = 10) -> list[Abuse]:
    """What each named user with anything suspicious did in `traces` (one window), the worst first.

    A request is suspicious when its text is (`suspicion`) or it repeats, beyond `min_repeats` times, one
    text of the same user. A user is `flagged` with both `min_suspicious` suspicious requests and
    `min_share` of all their requests, or with `min_burst` requests inside one minute. Requests without a
    user are nobody's and left out.
    """
    by_user: dict[str, list[Trace]] = {}
    for trace in traces:
        if trace.user:
            by_user.setdefault(trace.user, []).append(trace)
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
        flagged = bursting or (len(scored) >= min_suspicious and len(scored) >= min_share * len(own))
        if scored or bursting:
            ids = [name for _, name in sorted(scored)] or [trace.id for trace in own]
            counts = dict(sorted(reasons.items()))
            found.append(Abuse(user, len(scored), len(own), burst, flagged, counts, tuple(ids)))
    return sorted(found, key=lambda one: (not one.flagged, -one.suspicious, one.user))


def _burst(traces: Sequence[Trace]) -> int:
    """The most requests within any 60 seconds."""
    times = sorted(event_time(trace) for trace in traces)
    most = first = 0
    for last, at in enumerate(times):
        while at - times[first] >= timedelta(minutes=1):
            first += 1
        most = max(most, last - first + 1)
    return most
