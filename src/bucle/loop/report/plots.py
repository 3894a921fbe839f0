"""The figures of the report. Each takes parts of the story and gives an SVG element, or None where there is
nothing to draw; the template sets a caption and a table beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from markupsafe import Markup

from bucle.loop.report.formats import LEAST_MS, NBSP, Both, axis_score, ms, number, points
from bucle.loop.report.model import Candidate, Comparison, Confusion, Gain, LabelChange, ModelCard
from bucle.loop.report.svg import draw, words

__all__ = ["confusion_plot", "cost_plot", "forest_plot", "gain_plot", "labels_plot", "loss_plot"]

WIDTH = 440
ROW = 26
MAX_ROWS = 30
MAX_LABELS = 26
MATERIAL_USD = 0.01
"""Below a cent per thousand requests cost decides nothing."""
_FREE = 8.0
"""How many times left of the cheapest that costs anything the ones that cost nothing stand."""


def _text_axis(axis: Any, form: Callable[[float], Both]) -> None:
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: words(form(value))))


def _bars(value: float, low: float | None, high: float | None) -> tuple[float, float]:
    return (value if low is None else min(low, value), value if high is None else max(high, value))


def _rows(axes: Any, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), [words(name, 24) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.spines["left"].set_visible(False)


def forest_plot(name: str, comparison: Comparison, label: Both) -> Markup | None:
    """Every candidate's value with its interval, best first, against the best baseline (dashed)."""
    rows = [c for c in comparison.ranked if c.value is not None][:MAX_ROWS]
    if not rows:
        return None
    baseline = comparison.reference

    def paint(canvas: Any, ink: dict[str, str]) -> None:
        axes = canvas.subplots()
        canvas.subplots_adjust(left=0.37, right=0.97, top=1 - 8 / height, bottom=46 / height)
        for y, row in enumerate(rows):
            value = row.value or 0.0
            low, high = _bars(value, row.low, row.high)
            best = row.name == comparison.recommended
            colour = ink["accent"] if best else ink["muted"] if row.baseline else _verdict_ink(row, ink)
            axes.plot(
                [low, high],
                [y, y],
                color=colour,
                linewidth=4 if best else 2,
                solid_capstyle="round",
                alpha=0.55,
            )
            axes.plot(
                [value],
                [y],
                marker="D" if row.baseline else "o",
                markersize=8 if best else 6.5,
                color=colour,
                markerfacecolor=colour if best or row.verdict == "beats" else ink["surface"],
                markeredgewidth=1.6,
            )
        if baseline is not None:
            axes.axvline(baseline.value, color=ink["muted"], linewidth=1.2, linestyle=(0, (4, 3)), zorder=0)
        _rows(axes, [f"{i}. {row.name}" for i, row in enumerate(rows, 1)])
        axes.grid(axis="x", color=ink["grid"], linewidth=0.6)
        axes.set_axisbelow(True)
        left, right = axes.get_xlim()
        axes.set_xlim(max(left, -0.03), min(right, 1.03))
        _text_axis(axes.xaxis, lambda v: axis_score(v, comparison.metric))
        axes.locator_params(axis="x", nbins=6)
        axes.set_xlabel(words(label))

    height = 54 + ROW * len(rows)
    return draw(name, WIDTH, height, paint)


def _verdict_ink(row: Candidate, ink: dict[str, str]) -> str:
    return {"beats": ink["good"], "loses": ink["bad"], "ruled_out": ink["bad"]}.get(
        row.verdict, ink["series-2"]
    )


def cost_plot(name: str, comparison: Comparison, by: str, x_label: Both, y_label: Both,
              titles: Mapping[str, Both] = MappingProxyType({})) -> Markup | None:
    """Value with its interval against `by` (`ms_p95` or `usd_per_1k`); numbers are the ranks of the table.

    The stepped line is the front: nobody is better for no more. Filled dots are on the front of quality, dollars and
    latency together, hollow ones are not, dotted ones are ruled out. What costs nothing stands left of a dashed line.
    Those at less than half of the best are named at the foot, where they would press the others together. `titles` are
    hover texts by candidate. One whose price is not known has no place on the dollars' plot. None where nothing
    differs, or where the dearest candidate costs less than a cent per thousand requests.
    """
    ranked = list(enumerate(comparison.ranked[:MAX_ROWS], 1))
    told = [(float(x), c.value, rank, c) for rank, c in ranked
            if c.value is not None and (x := getattr(c, by)) is not None and x >= 0
            and (c.priced or by != "usd_per_1k")]
    paid = [x for x, *_ in told if x > 0]
    if not paid or len({x for x, *_ in told}) < 2 or (by == "usd_per_1k" and max(paid) < MATERIAL_USD):
        return None
    nothing, free = min(paid) / _FREE, len(paid) < len(told)
    foot = max(value for _, value, _, _ in told) / 2
    dots = [(x or nothing, value, rank, c) for x, value, rank, c in told if value >= foot]
    low = [rank for _, value, rank, _ in told if value < foot]

    def paint(canvas: Any, ink: dict[str, str]) -> None:
        from matplotlib.ticker import MaxNLocator

        axes = canvas.subplots()
        canvas.subplots_adjust(left=0.115, right=0.97, top=0.92, bottom=0.155)
        axes.set_xscale("log")
        axes.grid(axis="y", color=ink["grid"], linewidth=0.6)
        axes.set_axisbelow(True)
        xs = [x for x, *_ in dots]
        left, right = min(xs) / 1.9, max(xs) * 1.9
        axes.set_xlim(left, right)
        corners = _corners([(x, y) for x, y, _, c in dots if c.verdict != "ruled_out"], right)
        if corners:
            axes.plot(*zip(*corners, strict=True), color=ink["accent"], linewidth=1.4, alpha=0.55, zorder=1)
        if free:
            axes.axvline(nothing * _FREE**0.5, color=ink["muted"], linewidth=1, linestyle=(0, (2, 3)), zorder=0)
        for x, y, rank, row in dots:
            _dot(axes, x, y, row, comparison, ink, f"{name}-{rank}")
        axes.margins(y=0.12)
        axes.yaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))  # no 2.5%, which would be told as 2%
        _text_axis(axes.yaxis, lambda v: axis_score(v, comparison.metric))
        shown = [x for x in xs if not free or x > nothing] or paid
        _log_ticks(axes, min(shown), max(shown), _ms_tick if by == "ms_p95" else _plain, nothing if free else None)
        axes.set_xlabel(words(x_label))
        _y_title(axes, y_label, ink)
        _ranks(axes, [(x, y, rank) for x, y, rank, _ in dots], ink)
        if low:
            below = ", ".join(map(str, low[:8])) + ("…" if len(low) > 8 else "")
            axes.text(0.99, 0.03, words(Both(f"↓ más abajo: {below}", f"↓ below: {below}")), transform=axes.transAxes,
                      ha="right", fontsize=10.5, color=ink["muted"])

    said = {f"{name}-{rank}": titles[c.name] for *_, rank, c in dots if c.name in titles}
    return draw(name, WIDTH, 310, paint, said)


def _dot(axes: Any, x: float, y: float, row: Candidate, comparison: Comparison, ink: dict[str, str], gid: str) -> None:
    best, out = row.name == comparison.recommended, row.verdict == "ruled_out"
    on_front = row.name in comparison.pareto and not out
    colour = ink["bad"] if out else ink["accent"] if best or on_front else ink["muted"]
    low, high = _bars(y, row.low, row.high)
    axes.plot([x, x], [low, high], color=colour, linewidth=1.6, alpha=0.4, solid_capstyle="round", zorder=2)
    axes.scatter(
        [x], [y], s=110 if best else 46, color=colour if on_front or best else ink["surface"], edgecolors=colour,
        linewidths=1.6, linestyles=(0, (1.2, 1.2)) if out else "solid", marker="D" if row.baseline else "o", zorder=3,
        gid=gid,
    )


def _corners(dots: Sequence[tuple[float, float]], right: float) -> list[tuple[float, float]]:
    """The stepped line over the dots that nothing to their left equals or betters."""
    corners: list[tuple[float, float]] = []
    for x, y in sorted(dots, key=lambda dot: (dot[0], -dot[1])):
        if not corners or y > corners[-1][1]:
            corners += [(x, last) for _, last in corners[-1:]] + [(x, y)]
    return [*corners, (right, corners[-1][1])] if corners else []


def _plain(value: float) -> Both:
    return number(value, max(0, -math.floor(math.log10(value))) if value > 0 else 0)


def _ms_tick(value: float) -> Both:
    """A power of ten below what `ms` tells apart keeps its own digits: ticks must differ."""
    return _plain(value) + f"{NBSP}ms" if value < LEAST_MS else ms(value)


def _y_title(axes: Any, label: Both, ink: dict[str, str]) -> None:
    """The y axis's name lies flat above it: easier to read, and it needs no room beside two languages of ticks."""
    axes.set_title(words(label), fontsize=11, fontweight="normal", color=ink["muted"], pad=7)


def _ranks(axes: Any, dots: Sequence[tuple[float, float, int]], ink: dict[str, str]) -> None:
    """Each dot's number at the first place around it that covers no dot and no other number."""
    scale = 72 / axes.figure.dpi  # pixels to points, in which the offsets are
    at = {rank: axes.transData.transform((x, y)) * scale for x, y, rank in dots}
    taken = [tuple(place) for place in at.values()]
    for x, y, rank in dots:
        px, py = at[rank]
        spots = [(11, 0), (0, 11), (0, -11), (-11, 0), (10, 9), (10, -9), (-10, 9), (-10, -9)]
        free = [
            s for s in spots if all(abs(px + s[0] - tx) > 9 or abs(py + s[1] - ty) > 9 for tx, ty in taken)
        ]
        dx, dy = free[0] if free else spots[0]
        taken.append((px + dx, py + dy))
        axes.annotate(
            str(rank),
            (x, y),
            xytext=(dx, dy),
            textcoords="offset points",
            ha="center",
            va="center_baseline",
            fontsize=10.5,
            color=ink["ink"],
            zorder=4,
        )


def _log_ticks(axes: Any, low: float, high: float, form: Callable[[float], Both], zero: float | None = None) -> None:
    """Ticks at powers of ten, and at `zero` where what costs nothing stands."""
    from matplotlib.ticker import FixedLocator, NullLocator

    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1,) if len(decades) > 3 else (1, 3) if len(decades) > 2 else (1, 2, 5)
    inside = [step * 10.0**d for d in decades for step in steps if low / 1.9 <= step * 10.0**d <= high * 1.9]
    every = max(1, math.ceil(len(inside) / 6))
    places = inside[::every] or [low]
    if zero is not None:
        places = [zero, *(place for place in places if place > zero * _FREE**0.6)]
    axes.xaxis.set_major_locator(FixedLocator(places))
    axes.xaxis.set_minor_locator(NullLocator())
    _text_axis(axes.xaxis, lambda value: number(0) if value == zero else form(value))


def loss_plot(name: str, model: ModelCard, x_label: Both, y_label: Both) -> Markup | None:
    """Training loss by step."""
    dots = [(step, loss) for step, loss in model.loss_curve if loss is not None]
    if len(dots) < 2:
        return None

    def paint(canvas: Any, ink: dict[str, str]) -> None:
        axes = canvas.subplots()
        canvas.subplots_adjust(left=0.115, right=0.97, top=0.89, bottom=0.2)
        axes.plot(*zip(*dots, strict=True), color=ink["accent"], linewidth=1.8)
        axes.grid(axis="y", color=ink["grid"], linewidth=0.6)
        axes.set_xlabel(words(x_label))
        _y_title(axes, y_label, ink)
        axes.locator_params(nbins=6)
        _text_axis(axes.xaxis, number)
        _text_axis(axes.yaxis, lambda v: number(v, 1))

    return draw(name, WIDTH, 230, paint)


def confusion_plot(name: str, confusion: Confusion, x_label: Both) -> Markup | None:
    """Counts by true label (rows) and predicted label (columns); the darker, the larger the share of its row."""
    labels = confusion.labels[:MAX_LABELS]
    n = len(labels)
    if n < 2 or len(confusion.matrix) < n or any(len(row) < n for row in confusion.matrix[:n]):
        return None

    def paint(canvas: Any, ink: dict[str, str]) -> None:
        from matplotlib.patches import Rectangle

        axes = canvas.subplots()
        canvas.subplots_adjust(left=0.33, right=0.99, top=1 - 8 / height, bottom=118 / height)
        for i in range(n):
            row = [max(value or 0.0, 0.0) for value in confusion.matrix[i][:n]]
            total = sum(row)
            for j, count in enumerate(row):
                if not count:
                    continue
                share = count / total
                colour = ink["accent"] if i == j else ink["bad"]
                axes.add_patch(
                    Rectangle(
                        (j - 0.47, i - 0.47),
                        0.94,
                        0.94,
                        facecolor=colour,
                        linewidth=0,
                        alpha=round(0.12 + 0.88 * share, 2),
                    )
                )
                axes.text(
                    j,
                    i,
                    f"{count:g}",
                    ha="center",
                    va="center_baseline",
                    fontsize=10 if n <= 14 else 8,
                    color=ink["surface"] if share > 0.6 else ink["ink"],
                )
        axes.set_xlim(-0.5, n - 0.5)
        axes.set_ylim(n - 0.5, -0.5)
        axes.set_yticks(range(n), [words(label, 20) for label in labels])
        axes.set_xticks(
            range(n), [words(label, 16) for label in labels], rotation=50, ha="right", rotation_mode="anchor"
        )
        axes.set_xlabel(words(x_label))
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
        axes.tick_params(length=0)

    height = 126 + 25 * n
    return draw(name, WIDTH, height, paint)


def labels_plot(name: str, labels: dict[str, LabelChange], names: tuple[Both, Both]) -> Markup | None:
    """Rows per label in version 1 and version 2 of the data set."""
    rows = sorted(labels.items(), key=lambda item: -(item[1].v2 or item[1].v1 or 0))[:MAX_ROWS]
    if not rows:
        return None

    def paint(canvas: Any, ink: dict[str, str]) -> None:
        axes = canvas.subplots()
        canvas.subplots_adjust(left=0.37, right=0.92, top=1 - 30 / height, bottom=30 / height)
        for y, (_, change) in enumerate(rows):
            new = not change.v1
            axes.barh(
                y - 0.18,
                change.v1 or 0,
                0.32,
                color=ink["muted"],
                alpha=0.55,
                label=words(names[0]) if not y else None,
            )
            axes.barh(
                y + 0.18,
                change.v2 or 0,
                0.32,
                color=ink["good"] if new else ink["accent"],
                label=words(names[1]) if not y else None,
            )
            more = (change.v2 or 0) - (change.v1 or 0)
            if more:
                axes.annotate(
                    words(number(more, sign=True)),
                    (max(change.v2 or 0, change.v1 or 0), y),
                    xytext=(5, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=10,
                    color=ink["muted"],
                )
        _rows(axes, [label for label, _ in rows])
        axes.legend(
            loc="lower right",
            bbox_to_anchor=(1.0, 1.0),
            ncols=2,
            frameon=False,
            fontsize=10.5,
            handlelength=1,
            borderaxespad=0.2,
        )
        axes.grid(axis="x", color=ink["grid"], linewidth=0.6)
        axes.set_axisbelow(True)
        _text_axis(axes.xaxis, number)

    height = 66 + ROW * len(rows)
    return draw(name, WIDTH, height, paint)


def gain_plot(
    name: str, gain: Gain, overall: Both, label: Both, names: Mapping[str, Both] = MappingProxyType({})
) -> Markup | None:
    """Version 2 minus version 1, overall and by slice (`names` for people), with intervals; right of zero is better."""
    rows: list[tuple[Both | str, float, float | None, float | None]] = []
    if gain.diff is not None and gain.diff.value is not None:
        rows.append((overall, gain.diff.value, gain.diff.low, gain.diff.high))
    rows += [(names.get(s.name, s.name), s.diff, s.low, s.high) for s in gain.slices if s.diff is not None][:MAX_ROWS]
    if not rows:
        return None

    def paint(canvas: Any, ink: dict[str, str]) -> None:
        axes = canvas.subplots()
        canvas.subplots_adjust(left=0.37, right=0.96, top=1 - 8 / height, bottom=46 / height)
        for y, (_, value, low, high) in enumerate(rows):
            left, right = _bars(value, low, high)
            colour = ink["good"] if left > 0 else ink["bad"] if right < 0 else ink["muted"]
            axes.plot(
                [left, right],
                [y, y],
                color=colour,
                linewidth=4 if not y else 2,
                alpha=0.55,
                solid_capstyle="round",
            )
            axes.plot(
                [value],
                [y],
                marker="o",
                markersize=8 if not y else 6.5,
                color=colour,
                markeredgewidth=1.6,
                markerfacecolor=colour if left > 0 or right < 0 else ink["surface"],
            )
        axes.axvline(0, color=ink["muted"], linewidth=1.2, linestyle=(0, (4, 3)), zorder=0)
        axes.set_yticks(range(len(rows)), [words(row[0], 26) for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", color=ink["grid"], linewidth=0.6)
        axes.set_axisbelow(True)
        _text_axis(axes.xaxis, lambda v: points(v, digits=0))
        axes.locator_params(axis="x", nbins=6)
        axes.set_xlabel(words(label))

    height = 54 + ROW * len(rows)
    return draw(name, WIDTH, height, paint)
