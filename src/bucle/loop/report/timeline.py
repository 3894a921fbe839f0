"""The figure of production over time: requests, latency and quality by window, with alerts shaded."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from markupsafe import Markup

from bucle.loop.report.formats import Both, day, figure, ms, number, parse_time
from bucle.loop.report.model import Monitor, Window
from bucle.loop.report.svg import draw, words

__all__ = ["Panel", "timeline_plot"]

Panel = tuple[Both, Callable[[Window], float | None], Callable[[float], Both]]
PANEL_HEIGHT = 128
WIDTH = 1000
MAX_ROUTES = 4


def _at(text: str) -> float | None:
    time = parse_time(text)
    if time is None:
        return None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def panels(monitor: Monitor, titles: dict[str, Both]) -> list[Panel]:
    """The panels that have anything to show: requests, 95th percentile latency, then rating and score."""
    wanted: list[tuple[str, Callable[[float], Both]]] = [
        ("requests", number),
        ("p95_ms", ms),
        ("mean_rating", lambda v: number(v, 1, sign=True)),
        ("score", lambda v: figure(v, 0)),
    ]
    found: list[Panel] = []
    for field, form in wanted:
        if any(getattr(w, field) is not None for w in monitor.windows):
            found.append((titles[field], lambda w, field=field: getattr(w, field), form))  # type: ignore[misc]
    return found


def timeline_plot(name: str, monitor: Monitor, titles: dict[str, Both]) -> Markup | None:
    """One panel a measure, one line a route (the busiest four), spans of alerts shaded in the panel of their kind.

    `titles` names `requests`, `p95_ms`, `mean_rating` and `score`. None with fewer than two windows.
    """
    shown = panels(monitor, titles)
    spans = [
        (a.kind, start, end)
        for a in monitor.alerts
        if (start := _at(a.start)) is not None and (end := _at(a.end)) is not None and end >= start
    ]
    busy: dict[str, int] = {}
    for window in monitor.windows:
        busy[window.route] = busy.get(window.route, 0) + (window.requests or 0)
    routes = sorted(busy, key=lambda route: -busy[route])[:MAX_ROUTES]
    times = sorted({t for w in monitor.windows if (t := _at(w.start)) is not None})
    if not shown or len(times) < 2:
        return None
    where = {"latency": "p95_ms", "abuse": "requests", "quality": "mean_rating", "drift": "score"}

    def paint(canvas: Any, ink: dict[str, str]) -> None:
        grid = canvas.subplots(len(shown), 1, sharex=True, squeeze=False)
        canvas.subplots_adjust(left=0.065, right=0.985, top=1 - 26 / height, bottom=28 / height, hspace=0.42)
        for axes, (title, value, form) in zip(grid[:, 0], shown, strict=True):
            for index, route in enumerate(routes):
                dots = sorted(
                    (t, v)
                    for w in monitor.windows
                    if w.route == route and (t := _at(w.start)) is not None and (v := value(w)) is not None
                )
                if dots:
                    axes.plot(
                        *zip(*dots, strict=True),
                        color=ink[f"series-{index + 1}"],
                        linewidth=1.7,
                        marker="o",
                        markersize=2.6,
                        label=words(route, 30),
                    )
            for kind, start, end in spans:
                own = titles.get(where.get(kind, "")) == title
                axes.axvspan(
                    start, max(end, start + 1), color=ink["warn"], alpha=0.26 if own else 0.08, linewidth=0
                )
            axes.set_title(words(title), pad=5)
            axes.grid(axis="y", color=ink["grid"], linewidth=0.6)
            axes.locator_params(axis="y", nbins=4)
            axes.margins(x=0.01)
            _format(axes.yaxis, form)
        if len(routes) > 1:
            grid[0, 0].legend(
                loc="lower right",
                bbox_to_anchor=(1.0, 1.0),
                ncols=len(routes),
                frameon=False,
                fontsize=10.5,
                handlelength=1.2,
                borderaxespad=0.1,
            )
        _days(grid[-1, 0], times[0], times[-1])

    height = 30 + PANEL_HEIGHT * len(shown)
    return draw(name, WIDTH, height, paint)


def _format(axis: Any, form: Callable[[float], Both]) -> None:
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda v, _: words(form(v))))


def _days(axes: Any, first: float, last: float) -> None:
    """A tick at midnight of at most nine days."""
    start = datetime.fromtimestamp(first, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    total = max(1, int((last - first) // 86400) + 1)
    step = max(1, -(-total // 9))
    days = [start + timedelta(days=n) for n in range(0, min(total + 2, 4000), step)]
    kept = [d for d in days if first <= d.timestamp() <= last] or [start]
    axes.set_xticks([d.timestamp() for d in kept], [words(day(d)) for d in kept])
