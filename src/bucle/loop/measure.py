"""Measuring a release on fresh rows, beside the honest baseline fitted on the same training rows."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bucle.core.errors import BadInput
from bucle.core.ports import FitContext, LoadContext
from bucle.core.records import Candidate, Example, Node
from bucle.customise.registry import technique
from bucle.loop.candidates import documents_of_chunks, open_candidate
from bucle.loop.row_step import task_columns
from bucle.loop.workspace import Workspace
from bucle.release import production, releases

__all__ = ["evaluate_file", "release_called"]


def evaluate_file(ws: Workspace, task: str, path: Path, release: str = "production") -> dict[str, Any]:
    """Metrics with intervals of a release's candidate on the rows of `path`, JSON-ready.

    For a classify task the TF-IDF baseline, fitted on the very rows the candidate was, is scored beside it with the
    paired difference. Rows that stand in the candidate's training data are counted in `seen`: the figures are then
    too good. Raises BadInput for an unknown task, an empty file, or columns that are not there.
    """
    from bucle.data.tables import read_examples, read_table
    from bucle.evaluate.metrics import PRIMARY, score_rows, summarise
    from bucle.evaluate.statistics import interval, paired_difference

    if task not in ws.config.tasks:
        raise BadInput(f"There is no task `{task}`.", f"Tasks: {', '.join(ws.config.tasks)}.")
    settings = ws.config.tasks[task]
    if not path.is_file():
        raise BadInput(f"{path} does not exist.", "Give a file with the same columns as the task's.")
    columns = task_columns(settings)
    there = read_table(path, list(columns.values())).columns
    for role in ("id", "group", "time", "document"):  # fresh rows seldom have them, and are measured without
        if columns.get(role) not in there:
            columns.pop(role, None)
    rows, problems = read_examples(path, settings.kind, columns)
    if not rows:
        raise BadInput(f"{path} holds no row that can be used ({len(problems)} problems).", "Check its columns.")
    node = release_called(ws, release)
    candidate_id = str(node.attrs["tasks"][task])
    candidate = Candidate.model_validate(ws.ledger.get(candidate_id).attrs)
    roles = {e.role: e.parent for e in ws.ledger.parents(candidate_id)}
    sides = ws.sides(roles["split"])
    fitted = [e for e in ws.examples(roles["dataset"]) if candidate.fitted_on == "all" or sides.get(e.id) == "train"]
    chunks = documents_of_chunks(ws, roles.get("index", ""))
    said = open_candidate(ws, candidate_id).predict([r.input for r in rows])
    scores, metric = score_rows(settings.kind, rows, said, chunks), PRIMARY[settings.kind]
    clusters = [r.cluster for r in rows]
    known = {e.input for e in fitted}
    result: dict[str, Any] = {
        "task": task,
        "release": node.attrs["version"],
        "candidate": candidate.name,
        "rows": len(rows),
        "left_out": len(problems),
        "seen": sum(r.input in known for r in rows),
        "metric": metric,
        "metrics": {m: interval(v, clusters=clusters).model_dump() for m, v in scores.items()},
        "summary": summarise(settings.kind, rows, said, chunks),
    }
    if settings.kind == "classify":
        base = score_rows("classify", rows, _tfidf(fitted, rows, ws.config.seed), {})[metric]
        result["baseline"] = {"name": "tfidf", **interval(base, clusters=clusters).model_dump()}
        result["difference"] = paired_difference(scores[metric], base, clusters=clusters).model_dump()
    return result


def _tfidf(fitted: list[Example], rows: list[Example], seed: int) -> Any:
    baseline = technique("tfidf")
    with TemporaryDirectory() as folder:
        out = Path(folder)
        labels = sorted({str(e.target) for e in fitted})
        baseline.fit(
            FitContext(
                out=out,
                work=out,
                train=fitted,
                validation=[],
                labels=labels,
                params={},
                seed=seed,
                report=lambda done, total, note="": None,
            )
        )
        return baseline.load(out, LoadContext(labels=labels, params={})).predict([r.input for r in rows])


def release_called(ws: Workspace, name: str) -> Node:
    """The release called `production`, `2`, `v2`, or by its id. Raises NotFound."""
    if name == "production":
        return production(ws.ledger)
    wanted = name.removeprefix("v")
    found = [n for n in releases(ws.ledger) if str(n.attrs["version"]) == wanted]
    return found[0] if found else ws.ledger.get(name)
