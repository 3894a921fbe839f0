"""Traffic cut into windows by the time of the event, and the figures of one window."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from bucle.core.errors import BadInput
from bucle.core.records import Feedback, Trace

__all__ = ["Window", "event_time", "is_error", "midnight", "summary", "windows"]


@dataclass(frozen=True)
class Window:
    """The traces of one route with `start <= at < end`, in order of time."""

    route: str
    start: datetime
    end: datetime
    traces: Sequence[Trace]


def event_time(trace: Trace) -> datetime:
    """When the event happened, in UTC; a time without offset is taken as UTC. Raises BadInput for no date."""
    try:
        at = datetime.fromisoformat(trace.at)
        return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise BadInput(f"trace {trace.id[:80]} has no ISO 8601 time: {trace.at[:40]!r}") from None


def midnight(at: datetime) -> datetime:
    return at.replace(hour=0, minute=0, second=0, microsecond=0)


def is_error(trace: Trace) -> bool:
    """Whether the service failed: status 500 or more, an error without a status, or a candidate that failed on its
    input whatever the caller was told (a provider's 429, an answer in no usable form). A refused caller is none, nor an
    input that is too long."""
    if trace.status >= 500 or (bool(trace.error) and trace.status < 400):
        return True
    return any(span.get("name") == "engine" and span.get("error_kind", "") not in ("", "ContextOverflow")
               for span in trace.spans)


def windows(traces: Iterable[Trace], *, length: timedelta, start: datetime | None = None) -> list[Window]:
    """Consecutive windows of `length` by event time for each route, ordered by start and route; empty ones
    left out.

    They are counted from `start`, by default the midnight (UTC) before the first event of all routes; events
    before `start` are left out. Raises BadInput when `length` is not positive or a trace has no date.
    """
    if length <= timedelta(0):
        raise BadInput("a window must be longer than nothing")
    timed = sorted(((event_time(trace), trace.id, trace) for trace in traces), key=lambda item: item[:2])
    if not timed:
        return []
    first = start if start is not None else midnight(timed[0][0])
    cut: dict[tuple[int, str], list[Trace]] = {}
    for at, _, trace in timed:
        if at >= first:
            cut.setdefault(((at - first) // length, trace.route), []).append(trace)
    return [Window(route, first + place * length, first + (place + 1) * length, tuple(inside))
            for (place, route), inside in sorted(cut.items(), key=lambda item: item[0])]


def summary(window: Window, feedback: Iterable[Feedback] = ()) -> dict[str, Any]:
    """The window's figures, ready for JSON: `requests`, `errors`, `p50_ms`, `p95_ms`, `tokens` and `usd`
    (totals), `mean_score` (None without scores), `abstentions` (served without an output), `users`,
    `corrections`, and `ratings`: how many, the share that is positive (None without any) and its 95% Wilson
    interval.
    """
    import numpy as np
    from scipy.stats import binomtest

    ids = {trace.id for trace in window.traces}
    given = [one for one in feedback if one.trace in ids]
    ratings = [one.rating for one in given if one.rating is not None]
    ms = [trace.ms for trace in window.traces] or [0.0]
    scores = [trace.score for trace in window.traces if trace.score is not None]
    rated: dict[str, Any] = {"count": len(ratings), "positive": None, "low": None, "high": None}
    if ratings:
        bounds = binomtest(ratings.count(1), len(ratings)).proportion_ci(method="wilson")
        rated |= {"positive": ratings.count(1) / len(ratings)}
        rated |= {"low": float(bounds.low), "high": float(bounds.high)}
    return {
        "route": window.route, "start": window.start.isoformat(), "end": window.end.isoformat(),
        "requests": len(window.traces), "users": len({trace.user for trace in window.traces if trace.user}),
        "errors": sum(map(is_error, window.traces)),
        "p50_ms": float(np.percentile(ms, 50)), "p95_ms": float(np.percentile(ms, 95)),
        "tokens": sum(trace.usage.tokens_in + trace.usage.tokens_out for trace in window.traces),
        "usd": float(sum(trace.usage.usd for trace in window.traces)),
        "mean_score": float(np.mean(scores)) if scores else None,
        "abstentions": sum(trace.status < 400 and not trace.error and not trace.output.strip()
                           for trace in window.traces),
        "corrections": sum(one.correction is not None for one in given), "ratings": rated,
    }
