"""What the report tells of a choice beyond its figures: sentences, outputs side by side, and what was checked apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bucle.execute import StepRecord
from bucle.loop.candidates import documents_of_chunks, predictions, scores
from bucle.loop.sentences import say
from bucle.loop.workspace import Workspace

__all__ = ["checked", "comparison_told", "with_outputs"]

STATES = {"first": "first", "equal": "same", "renamed": "same", "changed": "changed"}


def comparison_told(figures: Mapping[str, Any], language: str) -> dict[str, Any]:
    """A comparison's figures with its sentences in both languages, as `said` beside each message."""
    said = say(figures["why"]["key"], figures["why"]["figures"])

    def told(message: Mapping[str, Any], room: str) -> dict[str, Any]:
        return {**message, "said": say(f"{room}.{message['key']}", message["figures"])}

    return {
        **figures,
        "why": said.get(language, figures["why"]["key"]),
        "said": said,
        "flips": [told(one, "flip") for one in figures.get("flips", ())],
        "detectable": told(figures["detectable"], "flip") if figures.get("detectable") else None,
        "not_climbed": [{**one, "why": told(one["why"], "climb")} for one in figures.get("not_climbed", ())],
    }


def checked(named: Callable[[str], Sequence[StepRecord]]) -> dict[str, Any]:
    """The story's parts on red team, forgetting suite, judges and canaries, of the records that `named(prefix)` gives;
    only those that a run has."""
    found = {
        "redteam": [r.figures for r in named("redteam ")],
        "forgetting_suite": [_suite(r.figures) for r in named("forgetting ") if r.figures.get("suite")],
        "judges": [_judge(r.figures) for r in named("judge ")],
        "canaries": [_canary(r.figures) for r in named("canary ")],
    }
    return {key: value for key, value in found.items() if value}


def with_outputs(ws: Workspace, story: Mapping[str, Any], records: Sequence[StepRecord]) -> dict[str, Any]:
    """The story with each comparison's outputs side by side: the recommended candidate, the best baseline, the
    runner-up and the next best. They are read for the report alone: a story is asked for more often than a page."""
    nodes = {r.figures["task"]: r["comparison"] for r in records if r.name.startswith("compare ")}
    comparisons = [
        {**one, "outputs": _outputs(ws, nodes[one["task"]], one)} if one["task"] in nodes else one
        for one in story["comparisons"]
    ]
    return {**story, "comparisons": comparisons}


def _outputs(ws: Workspace, comparison: str, figures: Mapping[str, Any]) -> dict[str, Any]:
    from bucle.evaluate.slices import find_slices
    from bucle.loop.report.side_by_side import MOST_CANDIDATES, side_by_side

    evaluations = {
        e.role.removeprefix("evaluation "): e.parent
        for e in ws.ledger.parents(comparison)
        if e.role.startswith("evaluation ")
    }
    best = [c["name"] for c in sorted(figures["candidates"], key=lambda c: -c["value"])]
    first = [figures["recommended"], figures["best_baseline"], figures["runner_up"], *best]
    names = [name for name in dict.fromkeys(first) if name in evaluations][:MOST_CANDIDATES]
    some = evaluations[names[0]]
    roles = {e.role: e.parent for e in ws.ledger.parents(some)}
    candidate = {e.role: e.parent for e in ws.ledger.parents(roles["candidate"])}
    rows = {row.id: row for row in ws.examples(candidate["dataset"])}
    ids, _ = scores(ws, some)
    examples = [rows[i] for i in ids]
    said = {n: (predictions(ws, evaluations[n]), scores(ws, evaluations[n])[1][figures["metric"]]) for n in names}
    of = figures["slices"]["candidate"]
    slices = find_slices(examples, said[of][1]) if of in said else []
    index = next(
        (e.parent for n in names for c in ws.ledger.parents(evaluations[n]) if c.role == "candidate"
         for e in ws.ledger.parents(c.parent) if e.role == "index"),
        "",
    )
    return side_by_side(examples, said, slices=slices, passages=documents_of_chunks(ws, index), seed=ws.config.seed)


def _suite(figures: Mapping[str, Any]) -> dict[str, Any]:
    suite = figures["suite"]
    return {
        "task": figures["task"],
        "candidate": figures["candidate"],
        "base": suite["base"],
        **{k: suite[k] for k in ("value", "low", "high")},
        "parts": [
            {"name": f"{one['part']} ({one['language']})", "n": one["n"], "before": one["before"],
             "after": one["after"], "value": one["value"], "low": one["low"], "high": one["high"]}
            for one in suite["parts"]
        ],
    }


def _judge(figures: Mapping[str, Any]) -> dict[str, Any]:
    usage = figures.get("usage") or {}
    return {
        "name": figures["judge"],
        **{k: figures.get(k) for k in ("model", "kappa", "n", "min_kappa", "may_gate")},
        "usd": usage.get("usd"),
    }


def _canary(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "model": figures["model"],
        "state": STATES.get(figures["verdict"], figures["verdict"]),
        "n": figures["prompts"],
        "changed": len(figures["changes"]),
        "since": figures["since"],
        "checked": figures["at"],
        "note": figures["said"] if figures["verdict"] in ("changed", "renamed") else "",
    }
