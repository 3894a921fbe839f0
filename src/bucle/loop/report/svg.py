"""matplotlib figures as inline SVG that follows the page: its fonts, its colours in light and dark, its language.

The SVG carries no style attribute, no script and no identifier of its own making, so the strictest content
security policy holds, and the same figures give the same bytes.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any

from markupsafe import Markup, escape

from bucle.loop.report.formats import Both, same

__all__ = ["INKS", "draw", "words"]

# Figures are drawn in these stand-in colours; each becomes the CSS variable of its name (static/tokens.css).
INKS = {
    name: f"#0102{index:02x}"
    for index, name in enumerate(
        (
            "ink",
            "muted",
            "grid",
            "surface",
            "accent",
            "good",
            "bad",
            "warn",
            "series-1",
            "series-2",
            "series-3",
            "series-4",
        ),
        start=16,
    )
}

_BETWEEN = "~|~"
_DRAWING = Lock()  # matplotlib's settings belong to the process, and the studio answers from several threads
_DECLARATION = re.compile(r' style="([^"]*)"')
_TEXT = re.compile(r"(<text[^>]*>)([^<]*)</text>")
_COLOUR = re.compile("|".join(INKS.values()))
_NAMES = {colour: f"var(--{name})" for name, colour in INKS.items()}


def words(text: Both | str, limit: int = 60) -> str:
    """`text` as a figure's label, in both languages; `draw` tells them apart again."""
    both = same(text)
    es, en = (" ".join(part.replace(_BETWEEN, " ").split()) for part in (both.es, both.en))
    es, en = (part if len(part) <= limit else part[: limit - 1] + "…" for part in (es, en))
    return es if es == en else f"{es}{_BETWEEN}{en}"


def _attributes(match: re.Match[str]) -> str:
    kept = []
    for declaration in match[1].split(";"):
        name, _, value = declaration.partition(":")
        if name.strip() and name.strip() not in {"font-family", "stroke-linejoin", "font"}:
            kept.append(f' {name.strip()}="{value.strip()}"')
    return "".join(kept)


def _languages(match: re.Match[str]) -> str:
    es, between, en = match[2].partition(_BETWEEN)
    if not between:
        return match[0]
    return f'{match[1]}<tspan lang="es">{es}</tspan><tspan lang="en">{en}</tspan></text>'


def _group(match: re.Match[str], titles: Mapping[str, Both]) -> str:
    """A group without its identifier, and with the hover text that its artist's gid asked for."""
    said = titles.get(match[1])
    if said is None:
        return f"<g{match[2]}>"
    return f'<g{match[2]}><title data-es="{escape(said.es)}" data-en="{escape(said.en)}">{escape(said.es)}</title>'


def draw(name: str, width: int, height: int, paint: Callable[[Any, dict[str, str]], None],
         titles: Mapping[str, Both] | None = None) -> Markup:
    """`paint(figure, INKS)` on a figure of `width` by `height` CSS pixels, as an SVG element.

    It is hidden from assistive technology: the caption and the table beside it say the same. `name` must be
    unique on the page. `titles` are hover texts by the gid that `paint` gave an artist.
    """
    import matplotlib
    from matplotlib.figure import Figure

    settings: dict[str, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "text.parse_math": False,
        "font.size": 11.5,
        "axes.edgecolor": INKS["grid"],
        "axes.labelcolor": INKS["muted"],
        "axes.titlecolor": INKS["ink"],
        "axes.titlesize": 11.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.labelsize": 11,
        "xtick.color": INKS["grid"],
        "ytick.color": INKS["grid"],
        "xtick.labelcolor": INKS["muted"],
        "ytick.labelcolor": INKS["ink"],
        "text.color": INKS["ink"],
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.facecolor": "none",
        "figure.facecolor": "none",
        "xtick.labelsize": 11,
        "ytick.labelsize": 11,
        "axes.unicode_minus": True,
        "ytick.major.size": 0,
        "xtick.major.size": 3,
        "xtick.minor.size": 0,
        "ytick.minor.size": 0,
    }
    out = io.StringIO()
    with _DRAWING, warnings.catch_warnings(), matplotlib.rc_context(settings):
        warnings.simplefilter("ignore")  # a user's emoji that matplotlib's own font lacks: the browser has it
        figure = Figure(figsize=(width / 72, height / 72))
        paint(figure, INKS)
        figure.savefig(
            out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r'<g id="([^"]*)"([^>]*)>', lambda match: _group(match, titles or {}), text)
    text = re.sub(
        r"<svg[^>]*>", f'<svg viewBox="0 0 {width} {height}" class="plot" aria-hidden="true">', text, count=1
    )
    text = text.replace("xlink:href", "href")
    text = _DECLARATION.sub(_attributes, text)
    text = _TEXT.sub(_languages, text)
    text = _COLOUR.sub(lambda match: _NAMES[match[0]], text)
    return Markup(re.sub(r"\s*\n\s*", " ", text))  # noqa: S704  (matplotlib escaped every label)
