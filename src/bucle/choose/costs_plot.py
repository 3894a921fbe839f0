"""Monthly cost against volume, for each candidate, with the break-even marked; a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bucle.choose.costs import Hosting, replicas

__all__ = ["Line", "plot"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5B5B5B")  # Okabe and Ito's
MOST_LINES = 7


@dataclass(frozen=True)
class Line:
    """A candidate: dollars a thousand requests to providers, dollars a month of training, and its machine, if any; the
    volume from which it breaks even, and up to which, before its next machine costs more again (None: for good)."""

    name: str
    usd_per_1k: float
    hosting: Hosting | None = None
    training_usd_per_month: float = 0.0
    break_even: int | None = None
    until: int | None = None

    def usd(self, requests: float) -> float:
        """US dollars a month at that many requests."""
        machines = 0.0
        if self.hosting is not None:
            machines = replicas(requests, self.hosting) * self.hosting.usd_per_month
        return requests * self.usd_per_1k / 1000 + machines + self.training_usd_per_month


def plot(lines: Sequence[Line], path: Path, *, title: str, traffic: float) -> None:
    """Draw up to seven lines into `path` (PNG), both axes logarithmic; `traffic` is marked, and each break-even."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    marks = [line.break_even for line in lines if line.break_even]
    low = max(1.0, min([traffic or 1000.0, *marks]) / 100)
    high = max([traffic or 1000.0, *marks]) * 100
    volume = np.geomspace(low, high, 800)
    figure = Figure(figsize=(8.4, 5.0), dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    told: set[int] = set()
    # Costs often lie on each other: each line is thinner than the one below it, so that all are seen.
    for i, (line, colour) in enumerate(zip(lines[:MOST_LINES], COLOURS, strict=False)):
        costs = np.array([line.usd(float(n)) for n in volume])
        style = "-" if line.hosting is None else (0, (6, 2))
        kind = "hosted" if line.hosting is not None else "per token"
        axes.plot(volume, costs, color=colour, lw=4.2 - 0.45 * i, ls=style, label=f"{line.name} ({kind})")
        if line.break_even:
            at = line.usd(float(line.break_even))
            axes.plot([line.break_even], [at], "o", color=colour, ms=7, mec="white", zorder=5)
            if line.break_even not in told:
                end = f" to {line.until:,}" if line.until else ""
                axes.annotate(f"from {line.break_even:,}{end}", (line.break_even, at), textcoords="offset points",
                              xytext=(8, -14), fontsize=8, color=colour)
            told.add(line.break_even)
    if traffic:
        axes.axvline(traffic, color="#888888", lw=1, ls=":")
        axes.annotate(f" stated: {traffic:,.0f}", (traffic, 1.0), xycoords=("data", "axes fraction"), va="top",
                      fontsize=8, color="#555555", xytext=(0, -4), textcoords="offset points")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _number(x)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: _number(y)))
    axes.set_xlabel("requests a month")
    axes.set_ylabel("US dollars a month")
    axes.set_title(title, fontsize=11, loc="left")
    axes.grid(True, which="major", color="#e4e4e4", lw=0.7)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(0.0, 0.94))
    figure.tight_layout()
    figure.savefig(path, format="png")


def _number(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"
