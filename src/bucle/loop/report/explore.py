"""What `bucle explore` found as one self-contained HTML page, in Spanish and English."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

import bucle
from bucle.core.errors import BadInput
from bucle.loop.report.formats import LANGUAGES, LOCALES, Both, figure, number
from bucle.loop.report.render import environment, inlined
from bucle.loop.report.side_by_side import inert_json

__all__ = ["Finding", "findings", "render_explore"]

CATEGORIES = 11
"""Colours of the map; what is beyond them is `others`."""
_SUSPECTS_ASKED = 50


@dataclass(frozen=True)
class Finding:
    """Something to put right: how much it matters (`bad`, `warn`), where on the page it is, and what was found."""

    kind: str
    anchor: str
    text: Both


@cache
def _environment() -> Environment:
    env = environment(locales=[LOCALES / "explore"])
    env.filters.update(points_json=points_json, bars=bars)
    env.tests.update(mapping=lambda value: isinstance(value, Mapping))
    return env


def render_explore(found: Mapping[str, Any], *, language: str = "es") -> str:
    """`found` (see `bucle.loop.explore.explore`) as one HTML page in both languages, `language` shown first.

    It loads nothing; its content security policy names its one style sheet and one script by their hash and forbids
    the rest. Texts of the data are escaped where they stand in the page, and reach the map as inert JSON. Raises
    BadInput for another language.
    """
    if language not in LANGUAGES:
        raise BadInput(f"no report in language {language!r}", f"use one of: {', '.join(LANGUAGES)}")
    env = _environment()
    return env.get_template("explore.html").render(
        found=found,
        findings=findings(found, env.globals["t"]),
        language=language,
        version=bucle.__version__,
        **inlined(("tokens.css", "report.css", "explore.css"), ("page.js", "explore.js")),
    )


def findings(found: Mapping[str, Any], t: Any) -> list[tuple[str, list[Finding]]]:
    """Per task (and `` for the documents) what to put right, what spoils a measurement first."""
    listed = []
    for at, (name, task) in enumerate(found["tasks"].items()):
        leakage = task.get("leakage") or {}
        leaks = max(leakage.get("across_exact", 0), leakage.get("across_near", 0))
        suspects = len(task["suspects"])
        over = [
            Finding("warn", f"tokens-{at}", t("explore.find.over", n=figure(one["over_share"]), model=one["name"]))
            for one in task["tokens"]
            if one.get("over")
        ]
        personal = [
            Finding("warn", f"personal-{at}", t("explore.find.personal", n=number(n), kind=_kind(kind, t)))
            for kind, n in task["personal_left"].items()
        ]
        counted = (
            ("bad", "leakage", leaks),
            ("bad", "conflicts", task["conflicts"]["groups"] if task["labels"] else 0),
            ("bad", "suspects", suspects),
            ("bad", "unknown", len(task.get("unknown_documents", ()))),
            ("warn", "problems", task["problems"]),
            ("warn", "rare", len(task["rare"])),
        )
        some = [
            Finding(
                level,
                {"problems": f"size-{at}", "unknown": f"size-{at}", "rare": f"labels-{at}"}.get(kind, f"{kind}-{at}"),
                t(f"explore.find.{kind}{'.top' if kind == 'suspects' and n >= _SUSPECTS_ASKED else ''}", n=number(n)),
            )
            for level, kind, n in counted
            if n
        ]
        listed.append((name, [*some, *over, *personal]))
    if documents := found["documents"]:
        n = documents["quarantined"]["count"]
        listed.append(("", [Finding("warn", "quarantine-d", t("explore.find.quarantine", n=number(n)))] if n else []))
    return listed


def _kind(kind: str, t: Any) -> Both:
    both: Both = t(f"personal.{kind}", default=t(f"explore.personal.{kind}", default=kind))
    return both


def bars(histogram: Mapping[str, Any], window: int | None = None) -> list[dict[str, Any]]:
    """A histogram's bars for a drawing 240 wide and 60 high: `x`, `y`, `width`, `height`, and whether a bar is `over`
    the window."""
    counts = histogram["counts"]
    highest = max(counts, default=0)
    wide = 240 / max(1, len(counts))
    made = []
    for place, count in enumerate(counts):
        high = max(1.5, 58 * count / highest) if count else 0
        made.append(
            {
                "x": round(place * wide + 0.5, 2), "y": round(60 - high, 2), "width": round(max(0.5, wide - 1), 2),
                "height": round(high, 2), "over": window is not None and place * histogram["width"] >= window,
            }
        )
    return made


def points_json(topics: Mapping[str, Any], t: Any, formats: bool = False) -> Markup:
    """The map's points as JSON that no HTML parser takes for markup: `points` are [x, y, topic, label, side, text,
    source], the middle three as indices into the lists of names beside them."""
    points = topics["points"]
    labels = _by_frequency([point["label"] for point in points])
    sides = _by_frequency([point["side"] for point in points])
    data = {
        "topics": [[topic["name"] or str(place + 1)] * 2 for place, topic in enumerate(topics["topics"])],
        "labels": [[label] * 2 for label in labels],
        "sides": [_both(t(f"explore.{side}", default=side)) for side in sides],
        "other": _both(t("explore.map.other")),
        "pinned": _both(t("explore.map.pinned")),
        "names": [_both(t(f"explore.{key}")) for key in
                  ("topic", "formats" if formats else "label", "side", "source")],
        "colours": CATEGORIES,
        "points": [
            [p["x"], p["y"], p["topic"], labels[p["label"]], sides[p["side"]], p["text"], p["source"]] for p in points
        ],
    }
    return inert_json(data)


def _by_frequency(names: Sequence[str]) -> dict[str, int]:
    from collections import Counter

    ordered = sorted(Counter(names).items(), key=lambda pair: (-pair[1], pair[0]))
    return {name: place for place, (name, _) in enumerate(ordered)}


def _both(text: Both) -> list[str]:
    return [text.es, text.en]
