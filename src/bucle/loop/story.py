"""The story of a run: what each step found, in the one shape that the report and the studio show."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import bucle
from bucle.core.config import RemoteModel
from bucle.core.errors import NotFound
from bucle.execute import StepRecord
from bucle.ledger import Ledger
from bucle.loop.chain import chain
from bucle.loop.choice_story import checked, comparison_told, with_outputs
from bucle.loop.sentences import alert_text, say
from bucle.loop.workspace import Workspace
from bucle.release import PRODUCTION, releases

__all__ = ["REPORT", "build_story", "latest_records", "recommendation", "save_report"]

REPORT = "report.html"


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
    """Everything the steps found, JSON-ready; see `bucle.loop.report.model` for its shape.

    Sentences that the loop makes stand in the project's language, and beside each in both, as `said`.
    """
    by_name = {r.name: r for r in records}

    def named(prefix: str) -> list[StepRecord]:
        return [r for r in records if r.name.startswith(prefix)]

    language = ws.config.language
    comparisons = [comparison_told(_in_its_unit(r.figures), language) for r in named("compare ")]
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
                "stage": "customise" if r.name.startswith("fit ") else r.stage,
                "status": "cached" if r.cached else "done",
                "seconds": r.seconds,
                "key": r.key[:12],
                "outputs": list(r.outputs.values()),
            }
            for r in records
        ],
        "data": _data(ws, by_name),
        "models": [_model(ws, r.figures) for r in records if r.stage == "models" and r.figures.get("kind")],
        "comparisons": comparisons,
        "forgetting": [r.figures for r in named("forgetting ")],
        **checked(named),
        "gates": [_gate(r.figures) for r in named("gate ")],
        "releases": _releases(ws),
        "alias_history": [
            {"alias": h["alias"], "release": h["node"], "at": h["at"], "by": h["by"], "reason": h["reason"]}
            for h in ws.ledger.alias_history(PRODUCTION)
        ],
    }
    if watched:
        alerts = [{**a, "said": alert_text(a)} for a in watched[-1].figures["alerts"]]
        story["monitor"] = {"alerts": alerts, "windows": watched[-1].figures["windows"]}
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
        if trace := _telling_trace(ws):
            found = ws.traces.trace(trace)
            story["why"] = {
                "trace": {"id": trace, "input": found.input, "output": found.output},
                "chain": chain(ws, trace),
            }
    told = recommendation(story)
    story["recommendation"] = {
        "text": told.get(language, told["en"]),
        "said": told,
        "report_path": str(ws.ledger.folder / REPORT),
        "command_serve": f"bucle serve {ws.root}",
        "command_studio": f"bucle studio {ws.root}",
    }
    return story


def recommendation(story: Mapping[str, Any]) -> dict[str, str]:
    """One sentence a task, and what the loop gained, in both languages; a line each."""
    lines = [
        {k: say("for", {"task": c["task"], "why": c["said"].get(k, c["why"])})[k] for k in ("es", "en")}
        for c in story.get("comparisons", [])
    ]
    gain = story.get("gain")
    if gain and gain.get("n"):
        d = gain["diff"]
        figures = {"a": gain["v1"]["value"], "b": gain["v2"]["value"], "n": gain["n"]}
        figures |= {"d": 100 * d["value"], "low": 100 * d["low"], "high": 100 * d["high"]}
        lines.append(say("gain" if d["low"] > 0 or d["high"] < 0 else "gain.open", figures))
    return {k: "\n".join(line[k] for line in lines) for k in ("es", "en")}


def _in_its_unit(comparison: Mapping[str, Any]) -> dict[str, Any]:
    """A comparison whose messages know its metric, so that their sentences give scores in its unit."""
    metric = comparison["metric"]

    def told(message: Mapping[str, Any]) -> dict[str, Any]:
        return {**message, "figures": {**message["figures"], "metric": metric}}

    found = {**comparison, "why": told(comparison["why"])}
    found["flips"] = [told(one) for one in comparison.get("flips", ())]
    if comparison.get("detectable"):
        found["detectable"] = told(comparison["detectable"])
    found["not_climbed"] = [{**one, "why": told(one["why"])} for one in comparison.get("not_climbed", ())]
    return found


def _gate(figures: Mapping[str, Any]) -> dict[str, Any]:
    def check(one: Mapping[str, Any]) -> dict[str, Any]:
        found = one.get("say") or {}
        return {**one, "said": say(f"gate.{found.get('key')}", found.get("figures"))}

    return {**figures, "checks": [check(one) for one in figures["checks"]]}


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
        page = render_report(with_outputs(ws, story, records), language=ws.config.language)
        scratch.write_text(page, encoding="utf-8")
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
                        "text": s["input"],
                        "label": s["given"],
                        "proposed": s["proposed"],
                        "p": s["confidence"],
                    }
                    for s in (seen.figures.get("suspects", []) if seen else [])
                ][:20],
            }
        )
    if "preferences" in by_name:
        data["preferences"] = by_name["preferences"].figures
    return data


def _model(ws: Workspace, figures: Mapping[str, Any]) -> dict[str, Any]:
    settings = ws.config.models.get(figures["name"])
    served = settings if isinstance(settings, RemoteModel) else None
    return {
        "model": served.model if served else "",
        "host": urlsplit(served.base_url).netloc.rpartition("@")[2] if served else "",
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


def _telling_trace(ws: Workspace) -> str:
    """The trace whose chain is shown: of an answer task if there is one, late, not suspicious, and rated good if any
    was. Empty without traffic."""
    good = {f.trace for f in ws.traces.feedback() if f.rating == 1}
    answers = [n for n, t in ws.config.tasks.items() if t.kind == "answer"]
    for route in [*answers, *ws.config.tasks]:
        late = ws.traces.traces(route=route, newest_first=True, limit=200)
        found = [t for t in late if t.output and t.status < 400 and not t.guard.get("flagged")]
        if found:
            return next((t.id for t in found if t.id in good), found[0].id)
    return ""
