"""The course of a search for a better prompt: score against tokens spent; a PNG."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["plot"]

TRIAL, BEST, FORCE = "#56B4E9", "#D55E00", "#5B5B5B"  # Okabe and Ito's


def plot(found: Mapping[str, Any], path: Path) -> None:
    """Each trial's mean on the choosing rows where it stopped being asked; a trial that saw only some rows is hollow.
    The line is the best so far of those that saw every row. Raises Infrastructure where `path` cannot be written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    from bucle.core.errors import Infrastructure

    trials = [t for t in found["trials"] if t["mean"] is not None]
    every = max((t["rows"] for t in trials), default=0)
    figure = Figure(figsize=(8.0, 4.6), dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    whole = sorted((t for t in trials if t["rows"] == every), key=lambda t: float(t["spent"]))
    steps, best = [], 0.0
    for t in whole:
        best = max(best, t["mean"])
        steps.append((t["spent"], best))
    axes.step([x for x, _ in steps], [y for _, y in steps], where="post", color=BEST, lw=1.6, label="best so far")
    for t in trials:
        colour = FORCE if t["trial"] == "t0" else TRIAL
        axes.plot([t["spent"]], [t["mean"]], "o", color=colour, mfc=colour if t["rows"] == every else "white", ms=6)
    for name, colour, text in (("t0", FORCE, "in force"), (found["chosen"]["trial"], BEST, "")):
        one = next((t for t in trials if t["trial"] == name), None)
        if one is not None and (text or name != "t0"):
            told = text or f"{one['instruction']}; examples: {one['demos']}"
            axes.annotate(told, (one["spent"], one["mean"]), textcoords="offset points", xytext=(6, -12), fontsize=8,
                          color=colour)
    axes.set_xlabel("tokens spent")
    axes.set_ylabel(f"{found['metric']} on {every} choosing rows")
    axes.set_title(f"{found['task']}: {found['technique']} with {found['model']}", fontsize=11, loc="left")
    axes.grid(True, color="#e4e4e4", lw=0.7)
    axes.margins(x=0.12, y=0.15)
    axes.set_ylim(max(-0.02, axes.get_ylim()[0]), min(1.02, axes.get_ylim()[1]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    figure.tight_layout()
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise Infrastructure(f"{path} cannot be written ({error.strerror}).", "Give --plot another file.") from error
