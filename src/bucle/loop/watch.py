"""Watching: alerts over the stored traces, and the figures of their windows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from bucle.core.records import Alert, Trace
from bucle.execute import Outcome, Runner, StepContext, StepRecord
from bucle.loop.workspace import Workspace

__all__ = ["abusers", "alerts_now", "replayed", "watch_step", "windows_of"]


def watch_step(
    ws: Workspace, runner: Runner, *, until_day: float, start: datetime, releases: Sequence[str], inputs: dict[str, str]
) -> StepRecord:
    """Alerts over the replayed traces of these releases up to `until_day` days after `start`, stored as nodes. What an
    earlier run replayed through other releases, and live traffic, are no part of it."""
    rules = ws.config.monitor

    def work(ctx: StepContext) -> Outcome:
        traces = replayed(ws, releases, since=start, until=start + timedelta(days=until_day))
        found = alerts_now(ws, traces, ctx.report)
        for alert in found:
            ctx.ledger.put("alert", alert.model_dump(mode="json"))
        figures = {
            "alerts": [a.model_dump(mode="json") for a in found],
            "windows": windows_of(ws, traces),
            "by_route": _routes(traces),
        }
        return Outcome({}, figures, ", ".join(f"{a.kind} ({a.route})" for a in found) or "no alert")

    return runner.step(
        f"watch until day {until_day:g}",
        work,
        stage="monitor",
        inputs={"releases": list(releases), **inputs},
        params={"rules": rules.model_dump(mode="json"), "until": until_day, "seed": ws.config.seed},
    )


def replayed(
    ws: Workspace, releases: Sequence[str], *, since: datetime, until: datetime, route: str = ""
) -> list[Trace]:
    """The traces of these releases with `since <= at < until`, in order of time."""
    found = [
        t
        for release in releases
        for t in ws.traces.traces(route=route, release=release, since=since.timestamp(), before=until.timestamp())
    ]
    return sorted(found, key=lambda t: (datetime.fromisoformat(t.at), t.id))


def alerts_now(ws: Workspace, traces: list[Trace], report: Any = None) -> list[Alert]:
    """The alerts that the project's rules raise over `traces`."""
    from bucle.monitor.alerts import watch

    return watch(
        traces, ws.traces.feedback(), ws.config.monitor, seed=ws.config.seed, report=report, tasks=ws.config.tasks
    )


def abusers(alerts: list[dict[str, Any]]) -> set[str]:
    """Users that an abuse alert names."""
    return {str(a["detail"].get("user")) for a in alerts if a["kind"] == "abuse"} - {"None"}


def windows_of(ws: Workspace, traces: list[Trace]) -> list[dict[str, Any]]:
    """Figures of each window of each route, for the report's timelines."""
    from bucle.monitor.windows import summary, windows

    feedback = ws.traces.feedback()
    rows = []
    for route in sorted({t.route for t in traces}):
        own = [t for t in traces if t.route == route]
        for window in windows(own, length=ws.config.monitor.window):
            figures = summary(window, feedback)
            positive = figures["ratings"]["positive"]
            rows.append(
                {
                    "start": window.start.isoformat(),
                    "end": window.end.isoformat(),
                    "route": route,
                    "requests": figures["requests"],
                    "p50_ms": figures["p50_ms"],
                    "p95_ms": figures["p95_ms"],
                    "mean_rating": None if positive is None else 2 * positive - 1,
                    "abstained": figures["abstentions"],
                    "score": figures["mean_score"],
                }
            )
    return rows


def _routes(traces: list[Trace]) -> list[dict[str, Any]]:
    import numpy as np

    rows = []
    for route in sorted({t.route for t in traces}):
        own = [t for t in traces if t.route == route]
        ms = [t.ms for t in own if t.status < 400] or [0.0]
        rows.append(
            {
                "route": route,
                "requests": len(own),
                "errors": sum(t.status >= 400 for t in own),
                "p50_ms": float(np.percentile(ms, 50)),
                "p95_ms": float(np.percentile(ms, 95)),
                "usd": sum(t.usage.usd for t in own),
            }
        )
    return rows
