"""What a candidate found for each question, by its own search or by what it returns, and the documents, passages and
labels to hold it against."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bucle.core.errors import BadInput
from bucle.core.records import Candidate, Example, Prediction
from bucle.execute import StepContext
from bucle.loop.candidates import BATCH
from bucle.loop.document_step import read_documents
from bucle.loop.model_steps import model_folder
from bucle.loop.opening import predict_as
from bucle.loop.versions import labels_today
from bucle.loop.workspace import Workspace

if TYPE_CHECKING:
    from bucle.core.ports import Predictor, SearchIndex
    from bucle.evaluate.lost import Corpus, Gone

__all__ = ["Holding", "Job", "are_paths", "corpus_of", "given", "in_passages", "rankings_of", "used"]

SHOWN_TO_MODEL = 3
EVEN = 0.5


@dataclass(frozen=True)
class Job:
    """One measurement: the candidate (its node, and its parents by role), its index, and what is asked of it."""

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


class Holding:
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


def _opened(job: Job) -> SearchIndex:
    """The index of a candidate that keeps its own search to itself (a chain), with the labels of today."""
    from bucle.core.ports import LoadContext
    from bucle.customise.retrieve.quote import open_index

    encoder = next((e.parent for e in job.ws.ledger.parents(job.index) if e.role == "encoder"), "")
    return open_index(LoadContext(
        labels=(), params={}, index=model_folder(job.ws, job.index),
        encoder=model_folder(job.ws, encoder) if encoder else None,
        project=job.ws.root, trusted=job.ws.trusted, extra={"labels": labels_today(job.ws)},
    ))


def _deep(predictor: Predictor, inputs: Sequence[str], job: Job) -> list[list[str]]:
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


def rankings_of(
    predictor: Predictor, inputs: Sequence[str], said: Sequence[Prediction], job: Job, ctx: StepContext
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
            both = [list(dict.fromkeys([*given(one), *more]))
                    for one, more in zip(said[start : start + BATCH], some, strict=True)]
            file.writelines(json.dumps(one) + "\n" for one in both)
            file.flush()
            done += both
            ctx.report(len(done), len(inputs), "searches")
    return done


def given(said: Prediction) -> tuple[str, ...]:
    """What a candidate says that it found, best first; where it says only what it cites, that."""
    return said.chunks or said.citations


def are_paths(job: Job, said: Sequence[Prediction], corpus: Corpus) -> bool:
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


def in_passages(said: Prediction, corpus: Corpus) -> Prediction:
    """What names documents, with a passage of each in its place."""
    of = corpus.names
    return said.model_copy(update={"chunks": tuple(of[name][0] for name in said.chunks if name in of)})


def used(predictor: Predictor, said: Prediction) -> tuple[str, ...]:
    """The passages that an answer was made from: those that its span `passages` says a model was shown; where nothing
    was asked, the first few of those found; and a quotation is chosen among all."""
    shown = next((one["shown"] for one in said.spans if one.get("name") == "passages" and "shown" in one), None)
    if shown is not None:
        return tuple(dict.fromkeys([*said.citations, *map(str, shown)]))
    if getattr(predictor, "quote", None) is None:
        return said.chunks
    return tuple(dict.fromkeys([*said.citations, *said.chunks[: int(getattr(predictor, "passages", SHOWN_TO_MODEL))]]))


def corpus_of(job: Job, predictor: Predictor) -> Corpus:
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
