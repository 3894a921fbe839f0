"""The story of a run: what each step found, in the one shape that the report and the studio show."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import bucle
from bucle.core.errors import NotFound
from bucle.execute import StepRecord
from bucle.ledger import Ledger
from bucle.loop.why import why
from bucle.loop.workspace import Workspace
from bucle.release import PRODUCTION, releases

__all__ = ["REPORT", "build_story", "latest_records", "recommendation", "save_report"]

REPORT = "report.html"


@cache
def _sentences() -> dict[str, dict[str, str]]:
    text = resources.files("bucle.loop").joinpath("sentences.json").read_text("utf-8")
    found: dict[str, dict[str, str]] = json.loads(text)
    return found


def why_text(found: Mapping[str, Any], language: str) -> str:
    """The reason of a comparison in words."""
    return _sentences()[language][found["key"]].format(**found["figures"])


def latest_records(ledger: Ledger) -> list[StepRecord]:
    """The steps of the newest finished run. Raises NotFound before the first."""
    runs = ledger.rows("SELECT steps FROM runs WHERE finished_at IS NOT NULL ORDER BY seq DESC LIMIT 1")
    if not runs:
        raise NotFound("No run has finished here yet.", "bucle run")
    records = []
    for step in json.loads(runs[0][0]):
        rows = ledger.rows("SELECT outputs, figures, seconds FROM steps WHERE key = ?", (step["key"],))
        if rows:
            outputs, figures, seconds = rows[0]
            records.append(
                StepRecord(
                    step["key"],
                    step["name"],
                    step["stage"],
                    json.loads(outputs),
                    json.loads(figures),
                    seconds,
                    step["cached"],
                )
            )
    return records


def build_story(ws: Workspace, records: Sequence[StepRecord]) -> dict[str, Any]:
    """Everything the steps found, JSON-ready; see `bucle.loop.report.model` for its shape."""
    by_name = {r.name: r for r in records}

    def named(prefix: str) -> list[StepRecord]:
        return [r for r in records if r.name.startswith(prefix)]

    language = ws.config.language
    comparisons = [{**r.figures, "why": why_text(r.figures["why"], language)} for r in named("compare ")]
    watched = named("watch ")
    learned = next((r for r in records if r.name.startswith("dataset ")), None)
    story: dict[str, Any] = {
        "project": {
            "name": ws.config.project,
            "language": language,
            "bucle_version": bucle.__version__,
            "seed": ws.config.seed,
            "created": _created(ws),
            "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        },
        "steps": [
            {
                "name": r.name,
                "stage": r.stage,
                "status": "cached" if r.cached else "done",
                "seconds": r.seconds,
                "key": r.key[:12],
                "outputs": list(r.outputs.values()),
            }
            for r in records
        ],
        "data": _data(ws, by_name),
        "models": [_model(r.figures) for r in records if r.stage == "models"],
        "comparisons": comparisons,
        "forgetting": [r.figures for r in named("forgetting ")],
        "gates": [r.figures for r in named("gate ")],
        "releases": _releases(ws),
        "alias_history": [
            {"alias": h["alias"], "release": h["node"], "at": h["at"], "by": h["by"], "reason": h["reason"]}
            for h in ws.ledger.alias_history()
        ],
    }
    if watched:
        story["monitor"] = {"alerts": watched[-1].figures["alerts"], "windows": watched[-1].figures["windows"]}
        routes = watched[-1].figures["by_route"]
        story["serve"] = {
            "by_route": routes,
            "requests": sum(r["requests"] for r in routes),
            "errors": sum(r["errors"] for r in routes),
        }
    if learned:
        story["feedback"] = learned.figures
    if "gain" in by_name:
        story["gain"] = by_name["gain"].figures
        if trace := _telling_trace(ws, by_name):
            found = ws.traces.trace(trace)
            story["why"] = {
                "trace": {"id": trace, "input": found.input, "output": found.output},
                "chain": why(ws, trace),
            }
    story["recommendation"] = {
        "text": recommendation(story, language),
        "report_path": str(ws.ledger.folder / REPORT),
        "command_serve": f"bucle serve {ws.root}",
        "command_studio": f"bucle studio {ws.root}",
    }
    return story


def recommendation(story: Mapping[str, Any], language: str) -> str:
    """One sentence a task, and what the loop gained."""
    parts = [f"{c['task']}: {c['why']}" for c in story.get("comparisons", [])]
    gain = story.get("gain")
    if gain and gain.get("n"):
        d = gain["diff"]
        text = _sentences()[language]["gain"]
        parts.append(
            text.format(
                a=gain["v1"]["value"], b=gain["v2"]["value"], n=gain["n"], d=d["value"], low=d["low"], high=d["high"]
            )
        )
    return "\n".join(parts)


def save_report(ws: Workspace, records: Sequence[StepRecord]) -> tuple[dict[str, Any], Path]:
    """The story and the path of its HTML report, which is rendered again only when the story has changed."""
    from bucle.core.ids import canonical_json, sha256_hex

    story = build_story(ws, records)
    path, mark = ws.ledger.folder / REPORT, ws.ledger.folder / "report.sha256"
    told = {**story, "steps": [{**step, "status": ""} for step in story["steps"]]}  # a reused step changes no figure
    digest = sha256_hex(canonical_json(_json_safe(told)) + bucle.__version__)
    if not (path.exists() and mark.exists() and mark.read_text() == digest):
        from bucle.loop.report import render_report

        scratch = path.with_suffix(".new")
        scratch.write_text(render_report(story, language=ws.config.language), encoding="utf-8")
        scratch.replace(path)
        mark.write_text(digest)
    return story, path


def _json_safe(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str).replace("NaN", "null").replace("Infinity", "null"))


def _data(ws: Workspace, by_name: Mapping[str, StepRecord]) -> dict[str, Any]:
    data: dict[str, Any] = dict(by_name["documents"].figures) if "documents" in by_name else {}
    data["tasks"] = []
    for name, task in ws.config.tasks.items():
        if f"examples {name}" not in by_name:
            continue
        rows, split, seen = (by_name.get(f"{step} {name}") for step in ("examples", "split", "explore"))
        figures = {**(rows.figures if rows else {}), **(split.figures if split else {})}
        data["tasks"].append(
            {
                "name": name,
                "kind": task.kind,
                **{k: figures.get(k) for k in ("rows", "problems", "train", "validation", "test", "leaks_prevented")},
                "labels": figures.get("labels", {}) if task.kind == "classify" else {},
                "suspects": [
                    {
                        "text": s.get("input", s.get("text")),
                        "label": s.get("label"),
                        "proposed": s.get("proposed"),
                        "p": s.get("p"),
                    }
                    for s in (seen.figures.get("suspects", []) if seen else [])
                ][:20],
            }
        )
    if "preferences" in by_name:
        data["preferences"] = by_name["preferences"].figures
    return data


def _model(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{
            k: figures.get(k)
            for k in ("name", "kind", "parameters", "context", "bits_per_byte_before", "bits_per_byte_after", "seconds")
        },
        "tokens_per_s": figures.get("tokens_per_second"),
        "loss_curve": figures.get("losses", []),
    }


def _created(ws: Workspace) -> str:
    return str(ws.ledger.rows("SELECT min(started_at) FROM runs")[0][0] or "")


def _releases(ws: Workspace) -> list[dict[str, Any]]:
    current = ws.ledger.alias(PRODUCTION)
    return [
        {
            "id": n.id,
            "version": n.attrs["version"],
            "created": n.created_at,
            "aliases": [PRODUCTION] if n.id == current else [],
            "tasks": {t: str(ws.ledger.get(c).attrs["name"]) for t, c in n.attrs["tasks"].items()},
        }
        for n in releases(ws.ledger)
    ]


def _telling_trace(ws: Workspace, by_name: Mapping[str, StepRecord]) -> str:
    """A late trace of the answer task if one quoted, else any late trace: the one whose chain is shown."""
    answers = [n for n, t in ws.config.tasks.items() if t.kind == "answer"]
    for route in [*answers, *ws.config.tasks]:
        found = [t for t in ws.traces.traces(route=route, newest_first=True, limit=40) if t.output and t.status < 400]
        if found:
            return found[0].id
    return ""
