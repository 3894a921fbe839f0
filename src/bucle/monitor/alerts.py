"""The watch: every rule over consecutive windows of every route, and one alert for each thing that goes
on."""

from __future__ import annotations

import shlex
from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from bucle.core.config import MonitorRules
from bucle.core.ids import content_id, short
from bucle.core.ports import Embedder, Report
from bucle.core.records import Alert, Feedback, Trace
from bucle.monitor import service
from bucle.monitor.abuse import abusers
from bucle.monitor.drift import drift
from bucle.monitor.windows import Window, event_time, midnight, summary, windows

__all__ = ["MonitorRules", "watch"]

EVERY_ROUTE = "*"
Rule = Literal["drift", "abuse", "latency", "errors", "cost"]


@dataclass(frozen=True)
class _Found:
    """What one rule found in one window; `user` only for abuse. `badness` orders the windows of one alert."""

    kind: Rule
    window: Window
    value: float
    threshold: float
    badness: float
    message: str
    traces: Sequence[str]
    detail: Mapping[str, Any]
    next: str
    user: str = ""


@dataclass
class _Running:
    """Alerts while they go on. A finding opens or extends one; an evaluated window without a finding closes
    it."""

    going: dict[tuple[str, str, str], list[_Found]] = field(default_factory=dict)
    closed: list[list[_Found]] = field(default_factory=list)

    def found(self, one: _Found) -> None:
        self.going.setdefault((one.kind, one.window.route, one.user), []).append(one)

    def clean(self, kind: Rule, route: str, user: str = "") -> None:
        if run := self.going.pop((kind, route, user), None):
            self.closed.append(run)

    def since(self, kind: Rule, route: str) -> datetime | None:
        run = self.going.get((kind, route, ""))
        return run[0].window.start if run else None

    def past(self, kind: Rule, route: str) -> list[tuple[datetime, datetime]]:
        """From when to when each closed alert of the kind went on."""
        return [(run[0].window.start, run[-1].window.end) for run in self.closed
                if (run[0].kind, run[0].window.route) == (kind, route)]


class _History:
    """The traces of each route in order of time, to look back from a moment."""

    def __init__(self, traces: Sequence[Trace], days: int) -> None:
        self.days = timedelta(days=days)
        self.routes: dict[str, tuple[list[datetime], list[Trace]]] = {}
        for trace in sorted(traces, key=lambda one: (event_time(one), one.id)):
            times, own = self.routes.setdefault(trace.route, ([], []))
            times.append(event_time(trace))
            own.append(trace)

    def before(self, window: Window, kind: Rule, running: _Running) -> list[Trace]:
        """What is usual for the rule: the `days` before the window, or before its alert opened while that is younger
        than this, without the stretches of earlier alerts that passed."""
        opened = running.since(kind, window.route)
        until = opened if opened is not None and window.start - opened < self.days else window.start
        passed = [span for span in running.past(kind, window.route) if span[1] - span[0] < self.days]
        times, own = self.routes[window.route]
        first, last = bisect_left(times, until - self.days), bisect_left(times, until)
        return [trace for at, trace in zip(times[first:last], own[first:last], strict=True)
                if not any(start <= at < end for start, end in passed)]


def watch(traces: Iterable[Trace], feedback: Iterable[Feedback] = (), rules: MonitorRules | None = None, *,
          seed: int = 0, embed: Embedder | None = None, report: Report | None = None,
          tasks: Collection[str] = ()) -> list[Alert]:
    """Every alert over the whole of `traces`, ordered by start, route and kind; equal input gives equal
    alerts.

    One alert stands for one thing that goes on (a rule, a route and, for abuse, a user): opened by the
    first window that shows it, extended while windows go on showing it, closed by the first that could and
    does not. What is usual is the `reference_days` before it opened; what lasts longer than that becomes
    the new usual.

    `value` and `threshold` are milliseconds, shares, US dollars or suspicious requests of the worst window;
    for drift the p value, which alarms from below. `detail` holds `open` (going on where the traces end),
    that window's figures and its `summary` with the ratings of `feedback`. Drift leaves out callers flagged for abuse
    and compares the same weekdays. `detail["say"]` is the key and the figures of `message`, for other languages;
    `next` is a command that shows more, and for drift on one of `tasks` what its feedback would teach.
    Raises BadInput for a trace without a date.
    """
    rules = rules or MonitorRules()
    every, said = list(traces), list(feedback)
    if not every:
        return []
    start = midnight(min(map(event_time, every)))
    short = windows(every, length=rules.window, start=start)
    long = windows(every, length=rules.long_window, start=start)
    history, running, waiting = _History(every, rules.reference_days), _Running(), dict[str, Window]()
    hostile: set[str] = set()
    everywhere = [trace.model_copy(update={"route": EVERY_ROUTE}) for trace in every]  # a caller is one on all routes
    for window in windows(everywhere, length=rules.long_window, start=start):
        hostile |= _watch_abuse(window, running, rules)
    for done, window in enumerate(short, 1):
        _watch_service(window, history, running, rules, waiting)
        if report is not None:
            report(done, len(short) + len(long), window.route)
    alarm_rate = rules.alarm_rate / len(history.routes)
    for done, window in enumerate(long, len(short) + 1):
        _watch_drift(window, history, hostile, running, rules, alarm_rate, seed, embed, tasks)
        if report is not None:
            report(done, len(short) + len(long), window.route)
    if rules.budget_usd_per_day is not None:
        _watch_cost(short, running, rules.budget_usd_per_day)
    alerts = [_alert(run, False, said) for run in running.closed]
    alerts += [_alert(run, True, said) for run in running.going.values()]
    return sorted(alerts, key=lambda one: (one.start, one.route, one.kind, one.id))


def _watch_service(window: Window, history: _History, running: _Running, rules: MonitorRules,
                   waiting: dict[str, Window]) -> None:
    """Latency and errors. A window with too few requests waits and is judged together with the next."""
    held = waiting.pop(window.route, None)
    if held is not None:
        window = Window(window.route, held.start, window.end, (*held.traces, *window.traces))
    if len(window.traces) < rules.min_latency_requests:
        waiting[window.route] = window
        return
    ratio = rules.latency_ratio
    if running.since("latency", window.route) is not None:  # half way back, so that one lucky day closes nothing
        ratio = 1 + (ratio - 1) / 2
    slow = service.latency(
        window.traces, history.before(window, "latency", running), p95_ms=rules.p95_ms,
        ratio=ratio, min_count=rules.min_latency_requests, alarm_rate=rules.alarm_rate,
        min_rise_ms=rules.min_latency_rise_ms)
    failing = service.errors(
        window.traces, history.before(window, "errors", running),
        max_rate=rules.max_error_rate, min_errors=rules.min_errors, alarm_rate=rules.alarm_rate)
    _service_found("latency", window, slow, running)
    _service_found("errors", window, failing, running)


def _service_found(kind: Rule, window: Window, found: service.Finding | None, running: _Running) -> None:
    if found is None:
        running.clean(kind, window.route)
        return
    running.found(_Found(kind, window, found.value, found.threshold, found.value / max(found.threshold, 1e-9),
                         found.message, found.traces, {"p": found.p, "say": found.say}, _why(found.traces[0])))


def _watch_cost(short: Sequence[Window], running: _Running, budget_usd_per_day: float) -> None:
    days: dict[datetime, list[Window]] = {}
    for window in short:
        days.setdefault(window.start, []).append(window)
    for start, same in sorted(days.items()):
        traces = tuple(trace for window in same for trace in window.traces)
        whole = Window(EVERY_ROUTE, start, same[0].end, traces)
        budget = budget_usd_per_day * ((whole.end - start) / timedelta(days=1))
        _service_found("cost", whole, service.cost(traces, budget_usd=budget), running)


def _watch_abuse(window: Window, running: _Running, rules: MonitorRules) -> set[str]:
    """The users flagged in this window."""
    judged = abusers(window.traces, min_suspicious=rules.min_suspicious, min_share=rules.min_suspicious_share,
                     min_burst=rules.min_burst, min_repeats=rules.min_repeats)
    for one in judged:
        if one.flagged:
            value, threshold, what = float(one.suspicious), float(rules.min_suspicious), "suspicious"
            if one.burst >= rules.min_burst:
                value, threshold, what = float(one.burst), float(rules.min_burst), "within a minute"
            said = {"key": "burst" if what == "within a minute" else "suspicious",
                    "figures": {"user": one.user, "value": value, "requests": one.requests}}
            running.found(_Found(
                "abuse", window, value, threshold, value / threshold,
                f"{one.user}: {value:.0f} of {one.requests} requests {what}", one.traces[:5],
                asdict(one) | {"traces": list(one.traces), "say": said},
                f"bucle monitor --traces --user {shlex.quote(one.user)}", one.user))
    suspected = {one.user for one in judged}
    for user in {trace.user for trace in window.traces} - suspected:
        running.clean("abuse", window.route, user)
    return {one.user for one in judged if one.flagged}


def _watch_drift(window: Window, history: _History, hostile: set[str], running: _Running,
                 rules: MonitorRules, alarm_rate: float, seed: int, embed: Embedder | None,
                 tasks: Collection[str]) -> None:
    days = {event_time(trace).weekday() for trace in window.traces}
    before = [trace for trace in history.before(window, "drift", running)
              if event_time(trace).weekday() in days and trace.user not in hostile]
    now = [trace for trace in window.traces if trace.user not in hostile]
    if min(len(before), len(now)) < rules.min_drift_requests:
        return
    found = drift(before, now, alarm_rate=alarm_rate, seed=seed, embed=embed)
    if not found.alarm:
        running.clean("drift", window.route)
        return
    about = "; ".join(", ".join(one["terms"][:3]) for one in found.clusters[:2])
    message = f"{found.score:.0%} of {found.n_window} messages are unlike the {found.n_reference} before"
    ids = [name for one in found.clusters for name in one["traces"]][:5] or [trace.id for trace in now[:5]]
    said = {"key": "drift_new" if about else "drift",
            "figures": {"score": found.score, "n_window": found.n_window, "n_reference": found.n_reference,
                        "terms": about, "test": found.kind}}
    name = shlex.quote(window.route)
    following = f"bucle feedback preview {name}" if window.route in tasks else f"bucle monitor --traces --route {name}"
    running.found(_Found("drift", window, found.p, alarm_rate, found.score,
                         f"{message}; new: {about}" if about else f"{message} ({found.kind})", ids,
                         found.to_dict() | {"say": said}, following))


def _why(trace: str) -> str:
    return f"bucle why {shlex.quote(short(trace))}"


def _alert(run: Sequence[_Found], going: bool, feedback: Sequence[Feedback]) -> Alert:
    worst = max(run, key=lambda one: one.badness)
    first, route = run[0].window.start.isoformat(), worst.window.route
    named = {"kind": worst.kind, "route": route, "user": worst.user, "start": first}
    detail = {"open": going, "windows": len(run), "user": worst.user, **worst.detail,
              "summary": summary(worst.window, feedback)}
    return Alert(
        id=content_id("alert", named), rule=worst.kind, kind=worst.kind, route=route, start=first,
        end=run[-1].window.end.isoformat(), value=worst.value, threshold=worst.threshold,
        message=worst.message, examples=tuple(worst.traces), detail=detail, next=worst.next,
    )
