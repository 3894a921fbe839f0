"""The report: one HTML file that needs nothing else, in Spanish and English, for a manager to read."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from bucle.core.errors import BadInput
from bucle.loop.report import formats, plots, view
from bucle.loop.report.formats import LANGUAGES, LOCALES, Both, translator
from bucle.loop.report.model import STAGES, Said, Story, read_story
from bucle.loop.report.parts import Message, Outputs, Slices
from bucle.loop.report.side_by_side import outputs_json
from bucle.loop.report.timeline import timeline_plot
from bucle.loop.sentences import say

__all__ = ["STATIC", "environment", "figures", "inlined", "render_report", "story_context"]

HERE = Path(__file__).parent
STATIC = HERE / "static"
SAMPLES = 12
"""Samples, suspects and files shown in full; the rest are counted."""


def environment(templates: Sequence[Path] = (), locales: Sequence[Path] = ()) -> Environment:
    """A Jinja environment that escapes everything, with `t`, the formats and this room's macros."""
    loader = ChoiceLoader([FileSystemLoader(folder) for folder in (*templates, HERE / "templates")])
    env = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    t = translator(LOCALES, *locales)
    env.globals.update(t=t, STAGES=STAGES, LIMIT=SAMPLES)
    env.filters.update(
        number=formats.number,
        figure=formats.figure,
        points=formats.points,
        ms=formats.ms,
        usd=formats.usd,
        duration=formats.duration,
        date=formats.date,
        mistakes=view.mistakes,
        measured=measured,
        spoken=spoken,
        told=told,
        place=formats.place,
        score=formats.score,
        message=message,
    )
    env.filters["deciding"] = lambda metric: view.deciding(metric, t)
    env.filters["chips"] = lambda row: view.chips(row, t)
    env.filters["slice"] = lambda where: view.slice_name(where, t)
    env.filters["outputs_json"] = lambda outputs, slices, kind: rows_json(outputs, slices, kind, t)
    return env


def message(one: Message, room: str, metric: str = "") -> Both:
    """The sentence of `room` that a message names, in both languages, its scores in the unit of `metric`; its key where
    its figures do not fill it."""
    told = say(f"{room}.{one.key}", {**one.figures, "metric": metric})
    return Both(told["es"], told["en"]) if told else formats.same(one.key)


def rows_json(outputs: Outputs, slices: Slices | None, kind: str, t: Any) -> Markup:
    """`outputs` for the page's script; rows of a classify task can be filtered by label."""
    names = [view.slice_name(one.where, t) for one in slices.found] if slices else []
    return outputs_json(outputs, names, kind == "classify", lambda error: view.error_said(error, t))


def measured(value: float | str | None) -> Both:
    """A gate's measured or needed value: text as it is, numbers to four digits at most."""
    if isinstance(value, float):
        return formats.number(value, 0 if value == int(value) and abs(value) > 1 else 1 if abs(value) >= 10 else 3)
    return formats.same(value if value is not None else formats.DASH)


def told(said: Said, stored: str) -> Both:
    """A sentence of the loop in both languages; as it was stored where it was stored in one only."""
    return Both(said.es, said.en) if said.es and said.en else formats.same(stored)


def spoken(text: Both) -> str:
    """Both languages in one attribute that a switch cannot reach."""
    return text.es if text.es == text.en else f"{text.es} / {text.en}"


@cache
def _environment() -> Environment:
    return environment()


def figures(story: Story, t: Any) -> dict[str, Markup | None]:
    """Every figure of the story by name: `forest-0`, `latency-0`, `cost-0`, `confusion-0` for the first comparison,
    `loss-0` for the first model, `timeline`, `labels` and `gain`; None where there is nothing to draw."""
    found: dict[str, Markup | None] = {}
    for i, comparison in enumerate(story.comparisons):
        metric = view.deciding(comparison.metric, t)
        axis = t("plot.forest_axis", metric=metric)
        found[f"forest-{i}"] = plots.forest_plot(f"forest-{i}", comparison, axis)
        hover = {c.name: view.in_short(c, comparison, t) for c in comparison.candidates}
        for kind, by in (("cost", "usd_per_1k"), ("latency", "ms_p95")):
            found[f"{kind}-{i}"] = plots.cost_plot(
                f"{kind}-{i}", comparison, by, t(f"plot.{kind}_axis"), metric, hover
            )
        if comparison.confusion is not None:
            found[f"confusion-{i}"] = plots.confusion_plot(
                f"confusion-{i}", comparison.confusion, t("plot.predicted")
            )
    for i, model in enumerate(story.models):
        found[f"loss-{i}"] = plots.loss_plot(f"loss-{i}", model, t("plot.step"), t("plot.loss"))
    if story.monitor is not None:
        titles = {name: t(f"plot.{name}") for name in ("requests", "p95_ms", "mean_rating", "score")}
        found["timeline"] = timeline_plot("timeline", story.monitor, titles)
    if story.feedback is not None and story.feedback.dataset is not None:
        found["labels"] = plots.labels_plot(
            "labels", story.feedback.dataset.by_label, (t("version.1"), t("version.2"))
        )
    if story.gain is not None:
        names = {s.name: t(f"slice.{s.name}", default=s.name) for s in story.gain.slices}
        found["gain"] = plots.gain_plot("gain", story.gain, t("gain.overall"), t("plot.gain_axis"), names)
    return found


def story_context(story: Story, t: Any) -> dict[str, Any]:
    """What the templates need besides the story itself; the studio's pages use the same."""
    return {
        "story": story,
        "stages": view.stages(story, t),
        "answers": view.answers(story, t),
        "headline": view.headline(story, t),
        "gates": view.current_gates(story),
        "release": view.in_production(story),
    }


def inlined(styles: Sequence[str], scripts: Sequence[str]) -> dict[str, str]:
    """The page's `style` and `script`, put together from our own files, and the `policy` that allows these two by their
    hash and nothing from elsewhere."""
    style = "".join((STATIC / name).read_text(encoding="utf-8") for name in styles)
    script = "".join((STATIC / name).read_text(encoding="utf-8") for name in scripts)
    policy = (
        f"default-src 'none'; style-src '{_sha256(style)}'; script-src '{_sha256(script)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return {"policy": policy, "style": Markup(style), "script": Markup(script)}  # noqa: S704  (our own files)


def _sha256(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def render_report(story: Mapping[str, Any], *, language: str = "es") -> str:
    """`story` as one self-contained HTML page, in both languages, `language` (`es` or `en`) shown first.

    The page loads nothing, from the network or the disk, and its content security policy forbids it to; its one
    style sheet and one script are named there by their hash. The same story gives the same bytes. Raises BadInput
    for another language or a story whose shape cannot be meant.
    """
    if language not in LANGUAGES:
        raise BadInput(f"no report in language {language!r}", f"use one of: {', '.join(LANGUAGES)}")
    env = _environment()
    t = env.globals["t"]
    read = read_story(story)
    return env.get_template("report.html").render(
        **story_context(read, t),
        figures=figures(read, t),
        language=language,
        **inlined(("tokens.css", "report.css"), ("page.js", "outputs.js")),
    )
