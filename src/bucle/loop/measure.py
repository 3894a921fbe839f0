"""Measuring a release on fresh rows, beside the honest baseline fitted on the same training rows."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bucle.choose import Rung
from bucle.core.config import REMOTE
from bucle.core.errors import BadInput
from bucle.core.ports import Predictor, Report
from bucle.core.records import Candidate, Example, Node, Prediction
from bucle.customise.registry import technique
from bucle.loop.baselines import stored_baseline, tfidf
from bucle.loop.candidates import TaskData
from bucle.loop.gating import licences_of, numbers
from bucle.loop.judging import agreed, latest_agreement, open_judge
from bucle.loop.opening import open_candidate, remembered_replies
from bucle.loop.overlap import MOST_NEAR, alike, overlap
from bucle.loop.row_step import measurable, needs_of, task_columns, task_schema
from bucle.loop.workspace import Workspace
from bucle.release import production, releases

if TYPE_CHECKING:
    from bucle.evaluate.gate import Gate, GateFacts
    from bucle.evaluate.scoring import Scored

__all__ = ["evaluate_file", "fresh_rows", "release_called"]

ELSEWHERE = ("forgetting", "forgetting_bpb", "attack_success", "over_refusal", "bias_flips", "judge")
"""What a release's own gate measures and a file of rows cannot: of a task's gates, these are left out here."""
_SINGLE_CALLS = 30
_SHOWN = 10
_BATCH = 1_000


def evaluate_file(
    ws: Workspace, task: str, path: Path, release: str = "production", *, gates: Sequence[str] | None = None,
    report: Report | None = None,
) -> dict[str, Any]:
    """Metrics with intervals of a release's candidate on the rows of `path`, JSON-ready.

    For a classify task the TF-IDF baseline, fitted on the very rows the candidate was, is scored beside it with the
    paired difference. `seen` rows stand word for word in the candidate's training data; `overlap` counts those that
    nearly do too, lists the first, and has the metrics without them. Rows whose inputs are the same or nearly are one
    source for every interval (`repeated`: the rows, and the sources they are); `unknown_labels` are labels of the file
    that the candidate never saw, with the nearest it knows. `gates` are conditions on these figures (None: the
    task's own, as far as a file of rows can tell); their outcome is `gates`. Raises BadInput for an unknown task, an
    empty file, or columns that are not there, ConfigError for a gate or a metric that cannot be read.
    """
    from bucle.evaluate.gate import check_gates, parse_gate
    from bucle.evaluate.scoring import check_metrics
    from bucle.evaluate.statistics import interval, paired_difference

    if task not in ws.config.tasks:
        raise BadInput(f"There is no task `{task}`.", f"Tasks: {', '.join(ws.config.tasks)}.")
    settings, judges = ws.config.tasks[task], tuple(ws.config.judges)
    check_metrics(settings.kind, settings.metrics, judges)
    asked = [parse_gate(gate, judges=judges) for gate in (settings.gates if gates is None else gates)]
    elsewhere = [gate for gate in asked if gates is None and _elsewhere(gate)]
    asked = [gate for gate in asked if gate not in elsewhere]
    rows, left_out = fresh_rows(ws, task, path)
    node = release_called(ws, release)
    if task not in node.attrs.get("tasks", {}):
        served = ", ".join(node.attrs.get("tasks", {})) or "none"
        raise BadInput(f"{release} has no candidate for `{task}`.", f"It has: {served}.")
    candidate_id = str(node.attrs["tasks"][task])
    candidate = Candidate.model_validate(ws.ledger.get(candidate_id).attrs)
    learned, fitted, data = _learned(ws, task, candidate_id, candidate)
    rows, repeated = alike(rows, ws.config.data.near_duplicates, report)
    scorer = _Scorer(ws, data, rows, asked, report)
    predictor = open_candidate(ws, candidate_id)
    mine = scorer(candidate_id)
    figures = mine.scored.figures | ({} if _remote(ws, candidate) else _latency(predictor, rows))
    clusters = [r.cluster for r in rows]
    both = overlap([e.input for e in learned], [r.input for r in rows], ws.config.data.near_duplicates, report)
    fresh = [i for i in range(len(rows)) if i not in both]
    known, some = {e.input for e in fitted}, 0 < len(fresh) < len(rows)
    result: dict[str, Any] = {
        "task": task,
        "release": node.attrs["version"],
        "candidate": candidate.name,
        "rows": len(rows),
        "left_out": sum(left_out.values()),
        "left_out_reasons": dict(left_out.most_common()),
        "seen": sum(r.input in known for r in rows),
        "repeated": {"rows": repeated, "sources": len(set(clusters)),
                     "looked_near": min(len(rows), MOST_NEAR)},
        "unknown_labels": _unknown_labels(rows, candidate.labels) if settings.kind == "classify" else [],
        "metric": next(iter(mine.scored.per_row)),
        "metrics": _intervals(mine.scored, clusters),
        "summary": figures,
        "overlap": {
            "exact": sum(one.exact for one in both.values()),
            "near": sum(not one.exact for one in both.values()),
            "rows": [
                {
                    "source": rows[i].source,
                    "input": rows[i].input[:200],
                    "like": learned[one.at].input[:200],
                    "learned_from": learned[one.at].source,
                    "similarity": one.similarity,
                }
                for i, one in list(both.items())[:_SHOWN]
            ],
            "fresh": len(fresh),
            "metrics": _intervals(scorer.of(mine.said, fresh).scored, [clusters[i] for i in fresh]) if some else None,
        },
    }
    reference = None
    if settings.kind == "classify":
        reference = ("tfidf", scorer.of(tfidf(fitted, rows, ws.config.seed)))
        metric = result["metric"]
        base = reference[1].scored.per_row[metric]
        result["baseline"] = {"name": "tfidf", **interval(base, clusters=clusters).model_dump()}
        result["difference"] = paired_difference(mine.scored.per_row[metric], base, clusters=clusters).model_dump()
    elif any(gate.reference == "baseline" for gate in asked):
        stored = stored_baseline(ws, node, task)
        reference = (stored[0], scorer(stored[1])) if stored else None
    facts = _facts(ws, task, scorer, mine, figures, reference, candidate_id)
    result["gates"] = {**check_gates(asked, facts).to_dict(), "elsewhere": [gate.text for gate in elsewhere]}
    return result


def _unknown_labels(rows: Sequence[Example], labels: Sequence[str]) -> list[dict[str, Any]]:
    """Labels of the rows that the candidate cannot give, the commonest first: label, rows, the nearest it can give."""
    folded = {" ".join(label.casefold().split()): label for label in labels}
    counts = Counter(row.target for row in rows if row.target is not None and row.target not in labels)
    return [
        {"label": label, "rows": n, "nearest": folded[near[0]] if (near := get_close_matches(
            " ".join(str(label).casefold().split()), folded, 1)) else ""}
        for label, n in counts.most_common()
    ]


def _elsewhere(gate: Gate) -> bool:
    return gate.metric.partition(":")[0] in ELSEWHERE


def _learned(
    ws: Workspace, task: str, candidate_id: str, candidate: Candidate
) -> tuple[list[Example], list[Example], TaskData]:
    """The rows a candidate has learned anything from, those it was fitted on, and what it was made from."""
    roles = {e.role: e.parent for e in ws.ledger.parents(candidate_id)}
    sides, every = ws.sides(roles["split"]), ws.examples(roles["dataset"])
    whole = candidate.fitted_on == "all"
    learned = [e for e in every if whole or sides.get(e.id) in ("train", "validation")]
    fitted = [e for e in learned if whole or sides.get(e.id) == "train"]
    models = {str(n.attrs.get("name")): n.id for n in ws.ledger.nodes("base_model")}  # the newest of each name
    return learned, fitted, TaskData(task, roles["dataset"], roles["split"], 1, roles.get("index", ""), models)


class _Measured(NamedTuple):
    """Predictions, and what they scored."""

    said: Sequence[Prediction]
    scored: Scored


class _Scorer:
    """Scores a candidate's predictions on the rows, by the task's metrics and those that gates name beside them."""

    def __init__(self, ws: Workspace, data: TaskData, rows: Sequence[Example], gates: Sequence[Gate],
                 report: Report | None = None) -> None:
        from bucle.evaluate.gate import gate_metrics
        from bucle.loop.scoring import scoring_of

        self._ws, self._rows, self.gates, self._report = ws, rows, gates, report
        also, scoring = gate_metrics([gate.text for gate in gates]), scoring_of(ws, data)
        judges = dict(scoring.judges)
        for name in (one.removeprefix("judge:") for one in also if one.startswith("judge:")):
            if name not in judges and (model := data.models.get(ws.config.judges[name].model)):
                judges[name] = open_judge(ws, name, model)
        also = tuple(one for one in also if not one.startswith("judge:") or one.removeprefix("judge:") in judges)
        self._scoring = replace(scoring, also=also, judges=judges)

    @property
    def rows(self) -> Sequence[Example]:
        return self._rows

    def __call__(self, candidate: str) -> _Measured:
        """A candidate on all rows."""
        with remembered_replies(self._ws):
            predictor, said = open_candidate(self._ws, candidate), list[Prediction]()
            for start in range(0, len(self._rows), _BATCH):
                said += predictor.predict([r.input for r in self._rows[start : start + _BATCH]])
                if self._report:
                    self._report(len(said), len(self._rows), "rows answered")
            return self.of(said)

    def of(self, said: Sequence[Prediction], keep: Sequence[int] | None = None) -> _Measured:
        """Predictions on the rows, or on those at the places `keep`."""
        from bucle.evaluate.scoring import score

        places = range(len(self._rows)) if keep is None else keep
        rows, given = [self._rows[i] for i in places], [said[i] for i in places]
        with remembered_replies(self._ws):  # judges are not asked twice
            return _Measured(given, score(self._scoring, rows, given, report=self._report))


def _intervals(found: Scored, clusters: Sequence[str]) -> dict[str, Any]:
    """Every metric that has an interval, the deciding one first, in its own unit."""
    from bucle.evaluate.statistics import interval

    of_rows = {m: interval(v, clusters=clusters) for m, v in found.per_row.items() if m not in found.values}
    both = {**of_rows, **found.values}
    return {m: both[m].model_dump() for m in dict.fromkeys([*found.per_row, *found.values])}


def fresh_rows(ws: Workspace, task: str, path: Path) -> tuple[list[Example], Counter[str]]:
    """The rows of a file in the task's columns, and why others were left out."""
    from bucle.data.tables import read_examples, read_table

    settings = ws.config.tasks[task]
    if not path.is_file():
        raise BadInput(f"{path} does not exist.", "Give a file with the same columns as the task's.")
    columns = task_columns(settings)
    table = read_table(path, list(columns.values()))
    if not table.rows:
        raise BadInput(f"{path} holds a header and no rows.", "Give at least one row: nothing is measured on none.")
    there = table.columns
    for role in ("id", "group", "time", "document", "checks"):  # fresh rows seldom have them: measured without
        if columns.get(role) not in there and not (role == "document" and settings.kind == "retrieve"):
            columns.pop(role, None)
    found, problems = read_examples(path, settings.kind, columns, schema=task_schema(ws, task))
    needs = needs_of(ws, task)
    checked = [measurable(row, needs) for row in found]
    rows = [row for row in checked if isinstance(row, Example)]
    reasons = Counter(one.reason for one in (*problems, *checked) if not isinstance(one, Example))
    if not rows:
        said = ", ".join(f"{n} {reason}" for reason, n in reasons.most_common()) or "it is empty"
        raise BadInput(
            f"{path} holds no row that can be used ({said}).",
            f"`{task}` reads the columns {', '.join(columns.values())}; see its data in bucle.yaml."
            if columns
            else f"docs/tasks.md says what a row of a {settings.kind} task holds.",
        )
    return rows, reasons


def _facts(
    ws: Workspace, task: str, scorer: _Scorer, mine: _Measured, figures: Mapping[str, Any],
    baseline: tuple[str, _Measured] | None, candidate_id: str,
) -> GateFacts:
    from bucle.evaluate.gate import GateFacts, Reference

    def reference(name: str, found: _Measured, *, same: bool = False) -> Reference:
        scored = found.scored
        return Reference(name, numbers(scored.figures), scored.per_row, measured=scored.measured, same=same)

    before = None
    if any(gate.reference == "production" for gate in scorer.gates):
        served = str(production(ws.ledger).attrs["tasks"].get(task, ""))
        if served:
            same = served == candidate_id
            before = reference("production", mine if same else scorer(served), same=same)
    candidate = Candidate.model_validate(ws.ledger.get(candidate_id).attrs)
    rung = Rung(
        candidate.name, technique(candidate.technique), candidate.base, candidate.encoder, more=candidate.models
    )
    known = all(name in ws.config.models for name in rung.models)
    return GateFacts(
        rows=len(scorer.rows),
        metrics=numbers(figures),
        per_row=mine.scored.per_row,
        intervals=mine.scored.values,
        measured=mine.scored.measured,
        clusters=[r.cluster for r in scorer.rows],
        production=before,
        baseline=reference(*baseline, same=baseline[0] == candidate.name) if baseline else None,
        licences=licences_of(ws, rung) if known else None,
        judges={
            name: agreed(ws, name, latest_agreement(ws, name))
            for gate in scorer.gates
            if gate.metric.startswith("judge:")
            for name in (gate.metric.removeprefix("judge:"),)
        },
        seed=ws.config.seed,
    )


def _remote(ws: Workspace, candidate: Candidate) -> bool:
    model = ws.config.models.get(candidate.base)
    return model is not None and model.kind in REMOTE


def _latency(predictor: Predictor, rows: Sequence[Example]) -> dict[str, float]:
    """Median and 95th percentile milliseconds of single calls here."""
    import numpy as np

    times = []
    for row in rows[:_SINGLE_CALLS]:
        began = time.perf_counter()
        predictor.predict([row.input])
        times.append((time.perf_counter() - began) * 1000)
    return {"p50_ms": float(np.percentile(times, 50)), "p95_ms": float(np.percentile(times, 95))}


def release_called(ws: Workspace, name: str) -> Node:
    """The release called `production`, `2`, `v2`, or by its id. Raises NotFound."""
    if name == "production":
        return production(ws.ledger)
    wanted = name.removeprefix("v")
    found = [n for n in releases(ws.ledger) if str(n.attrs["version"]) == wanted]
    return found[0] if found else ws.ledger.get(name)
