"""`bucle evaluate --stage retrieval`: how well a candidate finds, cites and abstains, and where each failed question
was lost."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bucle.core.errors import BadInput, NotFound
from bucle.core.ids import sha256_hex
from bucle.core.records import Candidate, Example, Prediction
from bucle.execute import Outcome, Runner, StepContext
from bucle.loop.candidates import (
    BATCH,
    REMOTE_BATCH,
    is_remote,
    load_candidate,
    open_candidate,
    predict_as,
    predict_kept,
    predictions,
    remembered_replies,
    rows_of,
)
from bucle.loop.document_step import read_documents
from bucle.loop.indexing import in_force
from bucle.loop.measure import fresh_rows, release_called
from bucle.loop.model_steps import model_folder
from bucle.loop.overlap import alike
from bucle.loop.story import latest_records
from bucle.loop.versions import labels_today
from bucle.loop.workspace import Workspace
from bucle.release import PRODUCTION

if TYPE_CHECKING:
    from bucle.core.ports import Predictor, SearchIndex
    from bucle.evaluate.lost import Corpus, Gone

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
SHOWN_TO_MODEL = 3
EVEN = 0.5
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
        return _measured(ctx, _Job(ws, made, node, index, roles, rows, depths, depth, frozenset(labels), stored),
                         {"task": task, "kind": settings.kind, "held_out": path is None, "access": list(labels)})

    record = runner.step(
        f"retrieval {task} {made.name}",
        work,
        stage="evaluate",
        params={"ks": depths, "depth": depth, "access": labels, "rows": sha256_hex(lines.decode()),
                "labels": sorted(labels_today(ws).items()), "seed": ws.config.seed},
        inputs={"candidate": node, "index": index, "split": "" if path else split},
    )
    found: dict[str, Any] = json.loads(ws.ledger.read(ws.ledger.get(record["evaluation"]), "retrieval.json"))
    return found | {"release": version, "node": record["evaluation"], "reused": record.cached}


@dataclass(frozen=True)
class _Job:
    ws: Workspace
    candidate: Candidate
    node: str
    index: str
    roles: dict[str, str]
    rows: Sequence[Example]
    ks: Sequence[int]
    depth: int
    access: frozenset[str]
    stored: str

    @property
    def searched(self) -> bool:
        """Whether its search can be asked for more than it returns."""
        return "index" in self.roles


def _measured(ctx: StepContext, job: _Job, about: dict[str, Any]) -> Outcome:
    from bucle.evaluate.lost import STAGES, Asked, diagnose, homes, say
    from bucle.evaluate.retrieval import retrieval_figures

    ws, by_document = job.ws, job.candidate.kind == "retrieve"
    rows, _ = alike(job.rows, ws.config.data.near_duplicates, ctx.report)
    inputs = [row.input for row in rows]
    predictor = open_candidate(ws, job.node)
    with remembered_replies(ws):
        holding = _Holding(predictor, job.access)
        said = predictions(ws, job.stored) if job.stored else predict_kept(
            holding, inputs, ctx, batch=REMOTE_BATCH if is_remote(ws, job.node) else BATCH)
        rankings = _rankings(predictor, inputs, said, job, ctx)
        forced = None if by_document else _forced(job, inputs, ctx)
    corpus = _corpus(job, predictor)
    found = []
    for home in homes(rows, corpus, documents=by_document):
        found.append(home)
        ctx.report(len(found), len(rows), "answers looked for")
    paths = _are_paths(job, said, corpus)
    if paths:
        rankings = [[part for name in one for part in corpus.names.get(name, ())] for one in rankings]
    asked = [
        Asked(row, one, _given(one) if by_document or not job.searched else tuple(ranking), _used(predictor, one))
        for row, one, ranking in zip(rows, said, rankings, strict=True)
    ]
    metrics = retrieval_figures(asked, corpus.passages, found, ks=job.ks, forced=forced, documents=by_document,
                                paths=paths, seed=ws.config.seed)
    deep = [
        Asked(one.row, _in_passages(one.said, corpus) if paths else one.said, tuple(ranking),
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


class _Holding:
    """A predictor asked by who holds some labels."""

    def __init__(self, predictor: Predictor, access: frozenset[str]) -> None:
        self.predictor, self.access = predictor, access

    def predict(self, inputs: Sequence[str]) -> list[Prediction]:
        return predict_as(self.predictor, inputs, self.access)


def _part(predictor: Predictor, name: str) -> Any:
    """What a predictor searches with: its own, or that of what it quotes from; None where it has none."""
    for one in (predictor, getattr(predictor, "quote", None)):
        if (found := getattr(one, name, None)) is not None:
            return found
    return None


def _index(predictor: Predictor) -> SearchIndex | None:
    found: SearchIndex | None = getattr(_part(predictor, "finder"), "index", None) or _part(predictor, "index")
    return found


def _opened(job: _Job) -> SearchIndex:
    """The index of a candidate that keeps its own search to itself (a chain), with the labels of today."""
    from bucle.core.ports import LoadContext
    from bucle.customise.retrieve.quote import open_index

    encoder = next((e.parent for e in job.ws.ledger.parents(job.index) if e.role == "encoder"), "")
    return open_index(LoadContext(
        labels=(), params={}, index=model_folder(job.ws, job.index),
        encoder=model_folder(job.ws, encoder) if encoder else None,
        project=job.ws.root, trusted=job.ws.trusted, extra={"labels": labels_today(job.ws)},
    ))


def _deep(predictor: Predictor, inputs: Sequence[str], job: _Job) -> list[list[str]]:
    """The `depth` best passages for each input, by the candidate's own search, or, where it keeps that to itself, by
    words and meaning alike."""
    if not job.searched:
        return [[] for _ in inputs]
    if (finder := _part(predictor, "finder")) is not None:
        every = [found.hits for found in finder.find(inputs, k=job.depth, access=job.access)]
    else:
        index, settings = _index(predictor) or _opened(job), _part(predictor, "settings")
        weight = float(settings.get("weight", EVEN)) if isinstance(settings, Mapping) else EVEN
        every = [index.search(one, k=job.depth, weight=weight, access=job.access) for one in inputs]
    return [[hit.chunk.id for hit in hits] for hits in every]


def _rankings(
    predictor: Predictor, inputs: Sequence[str], said: Sequence[Prediction], job: _Job, ctx: StepContext
) -> list[list[str]]:
    """The passages found for each input, best first: what the candidate found itself, then what a search of `depth`
    passages adds. Each batch is kept on disk, so that a kill never searches for it twice."""
    kept = ctx.work / "rankings.jsonl"
    done: list[list[str]] = []
    if kept.exists():
        done = [json.loads(line) for line in kept.read_text().splitlines(keepends=True) if line.endswith("\n")]
    with kept.open("w") as file:
        file.writelines(json.dumps(one) + "\n" for one in done)
        for start in range(len(done), len(inputs), BATCH):
            some = _deep(predictor, inputs[start : start + BATCH], job)
            both = [list(dict.fromkeys([*_given(one), *more]))
                    for one, more in zip(said[start : start + BATCH], some, strict=True)]
            file.writelines(json.dumps(one) + "\n" for one in both)
            file.flush()
            done += both
            ctx.report(len(done), len(inputs), "searches")
    return done


def _given(said: Prediction) -> tuple[str, ...]:
    """What a candidate says that it found, best first; where it says only what it cites, that."""
    return said.chunks or said.citations


def _are_paths(job: _Job, said: Sequence[Prediction], corpus: Corpus) -> bool:
    """Whether a candidate that searches by itself names documents, not passages. Raises BadInput where it names
    neither."""
    names = {name for one in said for name in (*one.chunks, *one.citations)}
    if job.searched or names & corpus.passages.keys():
        return False
    if names & corpus.names.keys():
        return True
    name, failed = job.candidate.name, next((one.error for one in said if one.error), "")
    why = (f"it gives {min(names)[:80]!r}, which is none of them" if names
           else f"answering failed: {failed[:200]}" if failed else "it gives nothing beside its answers")
    raise BadInput(f"`{name}` names no passage or document of this project: {why}.",
                   "Let it return its sources with `chunk_id` or `path` in their metadata (docs/interop.md).")


def _in_passages(said: Prediction, corpus: Corpus) -> Prediction:
    """What names documents, with a passage of each in its place."""
    of = corpus.names
    return said.model_copy(update={"chunks": tuple(of[name][0] for name in said.chunks if name in of)})


def _used(predictor: Predictor, said: Prediction) -> tuple[str, ...]:
    """The passages that an answer was made from: those that its span `passages` says a model was shown; where nothing
    was asked, the first few of those found; and a quotation is chosen among all."""
    shown = next((one["shown"] for one in said.spans if one.get("name") == "passages" and "shown" in one), None)
    if shown is not None:
        return tuple(dict.fromkeys([*said.citations, *map(str, shown)]))
    if getattr(predictor, "quote", None) is None:
        return said.chunks
    return tuple(dict.fromkeys([*said.citations, *said.chunks[: int(getattr(predictor, "passages", SHOWN_TO_MODEL))]]))


def _forced(job: _Job, inputs: Sequence[str], ctx: StepContext) -> list[Prediction] | None:
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
        holding = _Holding(load_candidate(job.ws, job.node, copy), job.access)
        return predict_kept(holding, inputs, ctx, name="forced")


def _corpus(job: _Job, predictor: Predictor) -> Corpus:
    """The documents behind the index, its passages, what was left out, and what the asker may not see."""
    from bucle.evaluate.lost import Corpus, Passage

    ws = job.ws
    corpus = next((e.parent for e in ws.ledger.parents(job.index) if e.role == "corpus"), "")
    lines = ws.ledger.read(ws.ledger.get(job.index), "chunks.jsonl").splitlines()
    chunks = [json.loads(line) for line in lines]
    gone, boilerplate = _gone(ws, corpus)
    index, seen = _index(predictor) or _opened(job), set[str]()
    names = [str(chunk["id"]) for chunk in chunks]
    for start in range(0, len(names), 1000):
        seen |= index.get(names[start : start + 1000], job.access).keys()
    return Corpus(
        documents={d.path: d.text for d in read_documents(ws, corpus)} if corpus else {},
        passages={str(c["id"]): Passage(str(c["path"]), str(c["text"]), str(c.get("heading", ""))) for c in chunks},
        gone=gone,
        boilerplate=boilerplate,
        hidden=frozenset(name for name in names if name not in seen),
    )


def _gone(ws: Workspace, corpus: str) -> tuple[dict[str, Gone], list[str]]:
    """Documents that the step which made a corpus left out, and the paragraphs that it took out of the others."""
    from bucle.evaluate.lost import Gone

    done = ws.ledger.rows("SELECT outputs, figures FROM steps WHERE name = 'documents' ORDER BY finished_at DESC")
    figures = next((json.loads(f) for o, f in done if json.loads(o).get("corpus") == corpus), None)
    if figures is None:
        return {}, []
    gone = {str(q["path"]): Gone("quarantined", str(q["reason"]), str(q["message"])) for q in figures["quarantined"]}
    gone |= {str(r["path"]): Gone("removed", str(r["reason"]), str(r["detail"]), str(r["kept"] or ""))
             for r in figures["removed"]}
    return gone, [str(one["text"]) for one in figures["boilerplate"]]


def _depths(ks: Sequence[int], given: int) -> list[int]:
    """The depths to measure recall at; `given`: how many documents a retrieve task gives, 0 for an answer task."""
    from bucle.evaluate.retrieval import DEPTHS

    if any(not 1 <= k <= 1000 for k in ks):
        raise BadInput(f"-k {min(ks)}: recall is measured at 1 to 1,000 passages.", "-k 10")
    if given and ks and max(ks) > given:
        raise BadInput(f"-k {max(ks)}: the task retrieves {given} documents.", f"Write `k: {max(ks)}` for the task.")
    wanted = {*DEPTHS, *ks}
    return sorted({k for k in wanted if k <= given} | {given}) if given else sorted(wanted)


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
