"""`bucle evaluate --stage retrieval`: how well a candidate finds, cites and abstains, and where each failed question
was lost."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bucle.core.errors import BadInput, NotFound
from bucle.core.ids import sha256_hex
from bucle.core.records import Candidate, Prediction
from bucle.execute import Outcome, Runner, StepContext
from bucle.loop.candidates import BATCH, REMOTE_BATCH, predict_kept, predictions, rows_of
from bucle.loop.indexing import in_force
from bucle.loop.measure import fresh_rows, release_called
from bucle.loop.opening import load_candidate, open_candidate, remembered_replies
from bucle.loop.overlap import alike
from bucle.loop.pricing import is_remote
from bucle.loop.retrieval_found import Holding, Job, are_paths, corpus_of, given, in_passages, rankings_of, used
from bucle.loop.story import latest_records
from bucle.loop.versions import labels_today
from bucle.loop.workspace import Workspace
from bucle.release import PRODUCTION

__all__ = ["NEXT", "retrieval_stage"]

NEXT = {
    "parsing": ("bucle data quarantine; bucle data restore", "bucle data quarantine; bucle data restore"),
    "chunking": ("retrieval.chunk_words u overlap_words mayores en bucle.yaml",
                 "larger retrieval.chunk_words or overlap_words in bucle.yaml"),
    "access": ("--access ETIQUETA, para medir a quien la tiene", "--access LABEL, to measure for who holds it"),
    "retrieval": ("otro encoder (retrieval.encoder), o queries: multi de la técnica",
                  "another encoder (retrieval.encoder), or the technique's queries: multi"),
    "ranking": ("un retrieval.reranker, o más passages de la técnica",
                "a retrieval.reranker, or more of the technique's passages"),
    "answering": ("bucle prompt improve, u otro modelo; bucle choose",
                  "bucle prompt improve, or another model; bucle choose"),
}
"""What to try next where a stage loses questions, in Spanish and English."""
ITS_OWN = ("chain", "external")
"""Techniques whose candidates search in their own way: what they return is measured."""
_SHOWN = 8  # passages of a failed question's ranking that are kept with it


def retrieval_stage(
    ws: Workspace, runner: Runner, task: str = "", path: Path | None = None, *, release: str = "", candidate: str = "",
    ks: Sequence[int] = (), access: Sequence[str] = (),
) -> dict[str, Any]:
    """The retrieval figures of a task's candidate and where each failed question was lost, JSON-ready.

    On the rows of the file `path`, or on the held-out rows of the task. The candidate is the one called `candidate` in
    the latest comparison, else that of `release`, else production's, else the recommended one. Of a chain or another
    library's object that searches by itself, the passages or documents that it returns are measured. `access` are the
    labels that the asker holds (none: what everybody may see). The result names every question and document, whatever
    their labels: it is for the team. Stored as an `evaluation` node with `stage: retrieval`; the same asked again is
    not measured again.

    `{task, kind, candidate, release, rows, held_out, depth, access, ks, metrics: {name: Interval}, failed, stages:
    [{stage, count, share, next, next_es}], lost: [{id, source, input, target, document, stage, reason, why, why_es,
    rank, approximate, output, found}], approximate, node, reused}`. Raises NotFound and BadInput for what does not
    exist, does not search, or holds no rows.
    """
    task = task or next((n for n, t in ws.config.tasks.items() if t.kind in ("answer", "retrieve")), "")
    if task not in ws.config.tasks:
        raise NotFound(f"There is no task `{task[:80]}`." if task else "This project has no task that searches.",
                       f"Tasks: {', '.join(ws.config.tasks)}.")
    settings = ws.config.tasks[task]
    if settings.kind not in ("answer", "retrieve"):
        able = [name for name, one in ws.config.tasks.items() if one.kind in ("answer", "retrieve")]
        raise BadInput(f"`{task}` is a {settings.kind} task, which retrieves nothing.",
                       f"Those that do: {', '.join(able)}." if able else "An answer or a retrieve task does.")
    version, node = _candidate(ws, task, release, candidate)
    made = Candidate.model_validate(ws.ledger.get(node).attrs)
    roles = {e.role: e.parent for e in ws.ledger.parents(node)}
    index = roles.get("index", "") or (in_force(ws) if made.technique in ITS_OWN else "")
    if not index:
        raise BadInput(f"`{made.name}` searches no documents.", f"--candidate NAME: {_searching(ws, task)}")
    depths = _depths(ks, getattr(settings, "k", 0))
    labels, depth = tuple(sorted(set(access))), ws.config.retrieval.depth
    split = roles["split"]
    rows = fresh_rows(ws, task, path)[0] if path else rows_of(ws, roles["dataset"], split)
    if not rows:
        raise BadInput(f"`{task}` has no held-out rows.", "Give a file: bucle evaluate --stage retrieval TASK FILE")
    lines = "".join(row.model_dump_json() + "\n" for row in rows).encode()
    stored = "" if path or labels else _stored(ws, node, split)

    def work(ctx: StepContext) -> Outcome:
        return _measured(ctx, Job(ws, made, node, index, roles, rows, depths, depth, frozenset(labels), stored),
                         {"task": task, "kind": settings.kind, "held_out": path is None, "access": list(labels)})

    record = runner.step(
        f"retrieval {task} {made.name}",
        work,
        stage="evaluate",
        params={"ks": depths, "depth": depth, "access": labels, "rows": sha256_hex(lines.decode()),
                "labels": sorted(labels_today(ws).items()), "documents": ws.ledger.alias("documents") or "",
                "seed": ws.config.seed},
        inputs={"candidate": node, "index": index, "split": "" if path else split},
    )
    found: dict[str, Any] = json.loads(ws.ledger.read(ws.ledger.get(record["evaluation"]), "retrieval.json"))
    return found | {"release": version, "node": record["evaluation"], "reused": record.cached}


def _measured(ctx: StepContext, job: Job, about: dict[str, Any]) -> Outcome:
    from bucle.evaluate.lost import STAGES, Asked, diagnose, homes, say
    from bucle.evaluate.retrieval import retrieval_figures

    ws, by_document = job.ws, job.candidate.kind == "retrieve"
    rows, _ = alike(job.rows, ws.config.data.near_duplicates, ctx.report)
    inputs = [row.input for row in rows]
    predictor = open_candidate(ws, job.node)
    with remembered_replies(ws):
        holding = Holding(predictor, job.access)
        said = predictions(ws, job.stored) if job.stored else predict_kept(
            holding, inputs, ctx, batch=REMOTE_BATCH if is_remote(ws, job.node) else BATCH)
        rankings = rankings_of(predictor, inputs, said, job, ctx)
        forced = None if by_document else _forced(job, inputs, ctx)
    corpus = corpus_of(job, predictor)
    found = []
    for home in homes(rows, corpus, documents=by_document):
        found.append(home)
        ctx.report(len(found), len(rows), "answers looked for")
    paths = are_paths(job, said, corpus)
    if paths:
        rankings = [[part for name in one for part in corpus.names.get(name, ())] for one in rankings]
    asked = [
        Asked(row, one, given(one) if by_document or not job.searched else tuple(ranking), used(predictor, one))
        for row, one, ranking in zip(rows, said, rankings, strict=True)
    ]
    metrics = retrieval_figures(asked, corpus.passages, found, ks=job.ks, forced=forced, documents=by_document,
                                paths=paths, seed=ws.config.seed)
    deep = [
        Asked(one.row, in_passages(one.said, corpus) if paths else one.said, tuple(ranking),
              one.used if job.searched else tuple(ranking), told=job.searched or bool(ranking))
        for one, ranking in zip(asked, rankings, strict=True)
    ]
    lost = diagnose(deep, corpus, found, k=max(job.ks) if by_document else 0)
    listed = [
        {
            "id": row.id, "source": row.source, "input": row.input, "target": row.target, "document": row.document,
            "stage": one.stage, "reason": one.reason, "why": why["en"], "why_es": why["es"], "rank": one.rank,
            "approximate": one.approximate, "output": said[one.at].output, "abstained": said[one.at].abstained,
            "found": [{"id": name, "document": corpus.passages[name].document} for name in rankings[one.at][:_SHOWN]
                      if name in corpus.passages],
        }
        for one in lost for row in (rows[one.at],) for why in (say(one, row),)
    ]
    counts = {stage: sum(one.stage == stage for one in lost) for stage in STAGES}
    result = about | {
        "candidate": job.candidate.name, "rows": len(rows), "depth": job.depth, "ks": list(job.ks),
        "metrics": {name: value.model_dump() for name, value in metrics.items()},
        "failed": len(lost), "approximate": sum(one.approximate for one in lost),
        "stages": [{"stage": stage, "count": n, "share": n / len(lost) if lost else 0.0,
                    "next": NEXT[stage][1], "next_es": NEXT[stage][0]} for stage, n in counts.items()],
        "lost": listed,
    }
    parents = [("candidate", job.node), ("index", job.index)]
    parents += [("split", job.roles["split"])] if about["held_out"] else []
    node = ctx.ledger.put(
        "evaluation", {"task": about["task"], "stage": "retrieval", "rows": len(rows), "access": about["access"]},
        parents=parents,
        blobs={
            "retrieval.json": json.dumps(result, ensure_ascii=False).encode("utf-8", "replace"),
            "predictions.jsonl": "".join(one.model_dump_json() + "\n" for one in said).encode(),
            "rankings.jsonl": "".join(json.dumps(one) + "\n" for one in rankings).encode(),
        },
    )
    note = f"{len(lost)} of {len(rows)} questions failed"
    note += f", most at {max(counts, key=lambda stage: counts[stage])}" if lost else ""
    return Outcome({"evaluation": node.id}, {"failed": len(lost), "rows": len(rows), "stages": counts}, note)


def _forced(job: Job, inputs: Sequence[str], ctx: StepContext) -> list[Prediction] | None:
    """What a candidate that quotes would answer without its threshold; None where a model would have to be paid for
    it."""
    folder = job.ws.ledger.materialise(job.ws.ledger.get(job.node))
    if "base" in job.roles or not (folder / "quote.json").is_file():
        return None
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(shutil.copytree(folder, Path(scratch) / "candidate"))
        (copy / "quote.json").unlink()
        settings = json.loads((folder / "quote.json").read_text())
        if "threshold" not in settings:
            return None
        (copy / "quote.json").write_text(json.dumps(settings | {"threshold": -1.0}))
        holding = Holding(load_candidate(job.ws, job.node, copy), job.access)
        return predict_kept(holding, inputs, ctx, name="forced")


def _depths(ks: Sequence[int], most: int) -> list[int]:
    """The depths to measure recall at; `most`: how many documents a retrieve task gives, 0 for an answer task."""
    from bucle.evaluate.retrieval import DEPTHS

    if any(not 1 <= k <= 1000 for k in ks):
        raise BadInput(f"-k {min(ks)}: recall is measured at 1 to 1,000 passages.", "-k 10")
    if most and ks and max(ks) > most:
        raise BadInput(f"-k {max(ks)}: the task retrieves {most} documents.", f"Write `k: {max(ks)}` for the task.")
    wanted = {*DEPTHS, *ks}
    return sorted({k for k in wanted if k <= most} | {most}) if most else sorted(wanted)


def _stored(ws: Workspace, candidate: str, split: str) -> str:
    """The evaluation with a candidate's predictions on the held-out rows, where it was scored."""
    for edge in ws.ledger.children(candidate):
        node = ws.ledger.get(edge.child)
        parents = {e.role: e.parent for e in ws.ledger.parents(edge.child)}
        scored = node.kind == "evaluation" and edge.role == "candidate" and parents.get("split") == split
        if scored and {"predictions.jsonl", "scores.json"} <= node.blobs.keys():  # a stage's own has no scores
            return node.id
    return ""


def _candidate(ws: Workspace, task: str, release: str, name: str) -> tuple[int | None, str]:
    """The release's version (None: not of a release) and the candidate's node."""
    if name:
        known = _compared(ws, task)
        if name not in known:
            raise NotFound(f"The latest comparison of `{task}` has no candidate `{name[:80]}`.",
                           f"It has: {', '.join(known)}." if known else "bucle choose")
        return None, known[name]
    if release or ws.ledger.alias(PRODUCTION):
        node = release_called(ws, release or PRODUCTION)
        if task in node.attrs.get("tasks", {}):
            return int(node.attrs["version"]), str(node.attrs["tasks"][task])
        if release:
            raise BadInput(f"{release} has no candidate for `{task}`.",
                           f"It has: {', '.join(node.attrs.get('tasks', {})) or 'none'}.")
    known = _compared(ws, task)
    chosen = next((r.figures["recommended"] for r in latest_records(ws.ledger) if r.name == f"compare {task}"), "")
    if chosen not in known:
        raise NotFound(f"Nothing has been chosen for `{task}` yet.", "bucle choose")
    return None, known[chosen]


def _compared(ws: Workspace, task: str) -> dict[str, str]:
    """Name -> node of the candidates of the latest comparison of a task."""
    record = next((r for r in latest_records(ws.ledger) if r.name == f"compare {task}"), None)
    if record is None:
        return {}
    return {
        e.role.removeprefix("evaluation "): next(p.parent for p in ws.ledger.parents(e.parent) if p.role == "candidate")
        for e in ws.ledger.parents(record["comparison"]) if e.role.startswith("evaluation ")
    }


def _searching(ws: Workspace, task: str) -> str:
    able = [name for name, node in _compared(ws, task).items()
            if any(e.role == "index" for e in ws.ledger.parents(node))]
    return ", ".join(able) or "quote (bucle choose)"
