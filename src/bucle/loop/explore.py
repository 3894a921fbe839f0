"""`bucle explore`: what the data stage found, and what only a closer look does: tokens, topics, outliers, changes.

Each of these is a step of its own that `bucle run` never takes, so that a second look costs nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bucle.core.errors import BadInput, BucleError
from bucle.core.records import Chunk, Document, Example, Node
from bucle.execute import Display, Outcome, Runner, StepContext, StepRecord, project_lock
from bucle.loop.readers import Reader, lengths, readers
from bucle.loop.story import latest_records
from bucle.loop.versions import DOCUMENTS, documents_of, rows, used
from bucle.loop.workspace import Workspace

__all__ = ["MAP_POINTS", "REPORT", "explore", "save_explored"]

REPORT = "explore.html"
MAP_POINTS = 5_000
"""Texts that topics, the map and outliers look at."""
SHOWN = 20
TOKEN_SAMPLE = 50_000
_COUNTS = {"access", "formats", "kinds", "labels", "languages", "personal", "personal_left", "reasons"}


@dataclass(frozen=True)
class Item:
    """A row or a passage as the map shows it."""

    id: str
    text: str
    label: str
    side: str
    source: str


def explore(ws: Workspace, display: Display, task: str = "") -> dict[str, Any]:
    """Everything the exploration shows, JSON-ready: `tasks` by name (one, where `task` names it) and `documents` (None
    where the project has none, or one task was asked for). Raises BadInput for a task that there is not."""
    if task and task not in ws.config.tasks:
        raise BadInput(f"There is no task `{task}`.", f"Tasks: {', '.join(ws.config.tasks)}.")
    from bucle.loop.run import run

    run(ws, display, until="data")
    by_name = {record.name: record for record in latest_records(ws.ledger)}
    models = readers(ws)
    with project_lock(ws.ledger.folder), display:
        runner = Runner(ws.ledger, display)
        tasks = {
            name: _task(ws, runner, by_name, models, name) for name in ws.config.tasks if task in ("", name)
        }
        read = None if task else by_name.get("documents")
        documents = _documents(ws, runner, read, models) if read else None
    whose = {"project": ws.config.project, "seed": ws.config.seed}
    return {**whose, "tasks": _ranked(tasks), "documents": _ranked(documents)}


def _ranked(value: Any, name: str = "") -> Any:
    """`value` with its counts by name in order, the highest first: a stored step keeps its keys in the alphabet's."""
    if isinstance(value, list):
        return [_ranked(one, name) for one in value]
    if not isinstance(value, dict):
        return value
    kept = {key: _ranked(one, key) for key, one in value.items()}
    if name not in _COUNTS:
        return kept
    size = {key: one["count"] if isinstance(one, dict) else one for key, one in kept.items()}
    return dict(sorted(kept.items(), key=lambda pair: (-size[pair[0]], pair[0])))


def save_explored(ws: Workspace, found: Mapping[str, Any], output: str | Path | None = None) -> Path:
    """Write the HTML report on what `explore` found, into `output` or the project's `.bucle`; returns where."""
    from bucle.loop.report.explore import render_explore

    path = Path(output) if output else ws.ledger.folder / REPORT
    if not path.parent.is_dir():
        raise BadInput(f"The folder {path.parent} does not exist.", f"mkdir -p {path.parent}")
    scratch = path.with_name(path.name + ".new")
    scratch.write_text(render_explore(found, language=ws.config.language), encoding="utf-8", errors="replace")
    scratch.replace(path)
    return path


def _task(
    ws: Workspace, runner: Runner, by_name: Mapping[str, StepRecord], models: Sequence[Reader], name: str
) -> dict[str, Any]:
    from bucle.data.kinds import plain

    kind = ws.config.tasks[name].kind
    read, split = by_name[f"examples {name}"], by_name[f"split {name}"]
    dataset, sides = read["dataset"], split["split"]

    def texts() -> list[str]:
        from bucle.data.explore import sample_by_hash

        some = sample_by_hash(rows(ws, dataset), TOKEN_SAMPLE, lambda row: row.id)
        return [plain(kind, row.input) for row in some]

    def items() -> list[Item]:
        from bucle.data.explore import sample_by_hash

        some = sample_by_hash(rows(ws, dataset), MAP_POINTS, lambda row: row.id)
        side = ws.sides(sides)
        labels = bool(by_name[f"explore {name}"].figures["labels"])
        return [
            Item(row.id, plain(kind, row.input), _label(row, labels), side.get(row.id, "excluded"), row.source)
            for row in some
        ]

    return {
        "kind": kind,
        "unknown_documents": _unknown(ws, by_name, dataset) if kind == "retrieve" else [],
        **read.figures,
        **split.figures,
        **by_name[f"explore {name}"].figures,
        **_personal(ws, read, by_name[f"explore {name}"]),
        "tokens": _tokens(runner, f"tokens {name}", models, {"dataset": dataset}, lambda: {"rows": texts()})["rows"],
        **_topics(ws, runner, f"topics {name}", {"dataset": dataset, "split": sides}, items),
        "changes": _row_changes(ws, runner, name, dataset),
    }


def _unknown(ws: Workspace, by_name: Mapping[str, StepRecord], dataset: str) -> list[dict[str, Any]]:
    """Documents that rows of a retrieve task name and the project does not have, with how many rows name each: no
    candidate can find those. Empty without documents."""
    if "documents" not in by_name:
        return []
    there = {str(node.attrs["path"]) for node in ws.documents(by_name["documents"]["corpus"])}
    named = Counter(name for row in rows(ws, dataset) for name in row.document.split(";") if name not in there)
    return [{"document": name, "rows": n} for name, n in named.most_common(5 * SHOWN)]


def _personal(ws: Workspace, read: StepRecord, seen: StepRecord) -> dict[str, Any]:
    """`personal` (findings by kind, when the data were read), `personal_done` (what was done about each kind: keep,
    mask, hash, drop), `personal_dropped` (rows that went for it) and `personal_left` (by kind, in the text as stored;
    `personal_shown` shows some)."""
    found = dict(read.figures.get("personal") or {})
    left = dict(seen.figures.get("personal") or {})
    policy = {str(kind): action for kind, action in ws.config.data.personal_data.items()}
    done = {kind: "drop" if kind == "secret" else policy.get(kind, "mask") for kind in {*found, *left}}
    dropped = dict(read.figures.get("removed_reasons") or {}).get("personal-data", 0)
    return {"personal": found, "personal_done": done, "personal_dropped": dropped, "personal_left": left}


def _label(row: Example, labels: bool) -> str:
    if labels:
        return "–" if row.target is None else row.target
    return row.document or ("–" if row.target is None else "")


def _documents(ws: Workspace, runner: Runner, read: StepRecord, models: Sequence[Reader]) -> dict[str, Any]:
    corpus = read["corpus"]
    inputs = {"corpus": corpus}

    def look(ctx: StepContext) -> Outcome:
        from bucle.data.explore import explore_documents

        left_out = read.figures
        return Outcome({}, explore_documents(documents_of(ws, corpus), left_out["quarantined"], left_out["removed"]))

    def texts() -> dict[str, list[str]]:
        from bucle.data.explore import sample_by_hash

        documents = [d.text for d in sample_by_hash(documents_of(ws, corpus), TOKEN_SAMPLE // 5, lambda d: d.id)]
        passages = sample_by_hash(_passages(ws, corpus), TOKEN_SAMPLE, lambda chunk: chunk.id)
        return {"documents": documents, "passages": [chunk.text for chunk in passages]}

    def items() -> list[Item]:
        from bucle.data.explore import sample_by_hash

        some = sample_by_hash(_passages(ws, corpus), MAP_POINTS, lambda chunk: chunk.id)
        return [
            Item(c.id, c.text, c.path.rsplit(".", 1)[-1].lower()[:8], "", f"{c.path} {c.place}".strip()) for c in some
        ]

    params = {"left_out": [read.figures["quarantined"], read.figures["removed"]]}
    seen = runner.step("explore documents", look, stage="data", inputs=inputs, params=params)
    tokens = _tokens(runner, "tokens documents", models, inputs, texts)
    return {
        "files": read.figures.get("files"),
        **seen.figures,
        **_personal(ws, read, seen),
        "tokens": tokens["documents"],
        "passage_tokens": tokens["passages"],
        **_topics(ws, runner, "topics documents", inputs, items),
        "changes": _document_changes(ws, runner, corpus),
    }


def _passages(ws: Workspace, corpus: str) -> Iterator[Chunk]:
    from bucle.data.chunk import chunk_documents

    for document in documents_of(ws, corpus):
        yield from chunk_documents([document])


def _tokens(
    runner: Runner,
    name: str,
    models: Sequence[Reader],
    inputs: Mapping[str, str],
    texts: Callable[[], Mapping[str, Sequence[str]]],
) -> Mapping[str, Any]:
    """Of each set of texts, their lengths to each model."""

    def work(ctx: StepContext) -> Outcome:
        found: dict[str, list[Any]] = {}
        sets = texts()
        total = sum(len(some) for some in sets.values()) * max(1, len(models))
        done = 0
        for what, some in sets.items():
            found[what] = []
            for reader in models:
                found[what].append(lengths(reader, some, ctx.report, done, total))
                done += len(some)
        return Outcome({}, found)

    return runner.step(
        name, work, stage="data", inputs=dict(inputs), params={"models": [reader.key() for reader in models]}
    ).figures


def _topics(
    ws: Workspace, runner: Runner, name: str, inputs: Mapping[str, str], items: Callable[[], Sequence[Item]]
) -> dict[str, Any]:
    """`topics` (with the points of the map) and `outliers` of a sample of texts."""
    from bucle.loop.model_steps import fingerprint

    encoder = next(((n, m) for n, m in ws.config.models.items() if m.kind == "encoder"), None)
    print_of = ""
    if encoder is not None and encoder[1].kind == "encoder":
        try:
            print_of = fingerprint(encoder[1])
        except BucleError:
            encoder = None

    def work(ctx: StepContext) -> Outcome:
        from bucle.data.explore import shown
        from bucle.data.outliers import find_outliers
        from bucle.data.topics import find_topics, tfidf_vectors

        some = items()
        texts = [item.text for item in some]
        total = len(texts) * 3 // 2 + 3  # embedding, then three phases that take about half as long together
        vectors, by, why = None, "tfidf", "" if encoder else "no-encoder"
        if encoder is not None and encoder[1].kind == "encoder" and texts:
            try:
                vectors, by = _embed(ws, encoder[1].path, texts, ctx, total), encoder[0]
            except BucleError as error:
                why = error.message
        if vectors is None:
            vectors = tfidf_vectors(texts, seed=ws.config.seed)
        base, left = len(texts), total - len(texts)
        found = find_topics(
            texts,
            vectors,
            seed=ws.config.seed,
            report=lambda done, phases, note="": ctx.report(base + left * done // (phases + 1), total, note),
        )
        words = sorted(len(text.split()) for text in texts)
        long = words[int(0.95 * (len(words) - 1))] * 3 if words else 0
        outliers = [
            {
                **_shown(some[one.index]),
                "distance": one.distance,
                "times": one.times,
                "nearest": shown(texts[one.nearest]),
                "similarity": one.similarity,
                "why": _why(texts[one.index], long),
            }
            for one in find_outliers(vectors, top=SHOWN)
        ]
        topics = [
            {
                **topic,
                "central": [_shown(some[index]) for index in topic["central"]],
                "labels": _most([some[i].label for i, at in enumerate(found["of"]) if at == number]),
            }
            for number, topic in enumerate(found["topics"])
        ]
        points = [
            {"x": x, "y": y, "topic": topic, "text": shown(item.text, 160), "label": item.label, "side": item.side,
             "source": item.source}
            for item, (x, y), topic in zip(some, found["places"], found["of"], strict=True)
        ]
        figures = {
            "topics": {
                "sampled": len(some), "vectors": by, "why_not_encoder": why, "map": found["map"],
                "silhouette": found["silhouette"], "topics": topics, "points": points,
            },
            "outliers": outliers,
        }
        return Outcome({}, figures, f"{len(topics)} topics, {len(outliers)} outliers")

    return dict(
        runner.step(
            name,
            work,
            stage="data",
            inputs=dict(inputs),
            params={"encoder": print_of, "name": encoder[0] if encoder else "", "seed": ws.config.seed},
        ).figures
    )


def _embed(ws: Workspace, path: str, texts: Sequence[str], ctx: StepContext, total: int) -> Any:
    """[rows, dimensions] by the project's encoder; vectors made before a kill are kept in the step's own folder."""
    import numpy as np

    from bucle.models.encoder import Encoder

    encoder = Encoder(path, cache=ctx.work / "vectors.db")
    made = []
    for at in range(0, len(texts), 256):
        made.append(encoder.embed_array([text[:4_000] for text in texts[at : at + 256]]))
        ctx.report(min(at + 256, len(texts)), total, "vectors")
    return np.concatenate(made)


def _shown(item: Item) -> dict[str, Any]:
    from bucle.data.explore import shown

    return {"id": item.id, "input": shown(item.text), "label": item.label, "side": item.side, "source": item.source}


def _why(text: str, long: int) -> list[str]:
    """What else stands out: `long`, `short`, `symbols`."""
    words = text.split()
    letters = sum(char.isalpha() or char.isspace() for char in text) / max(1, len(text))
    checks = (("long", len(words) > long > 0), ("short", len(words) < 3), ("symbols", letters < 0.6))
    return [name for name, holds in checks if holds]


def _most(labels: Iterable[str]) -> dict[str, int]:
    return dict(Counter(label for label in labels if label).most_common(3))


@dataclass(frozen=True)
class _Rows:
    """The rows of a dataset, to be read more than once."""

    ws: Workspace
    dataset: str

    def __iter__(self) -> Iterator[Example]:
        return rows(self.ws, self.dataset)


def _before(ws: Workspace, name: str, current: str) -> Node | None:
    """What runs used before the current version of a task's rows (of the same kind: as read, or grown by feedback) or
    of the documents."""
    version = ws.ledger.get(current).attrs.get("version")
    others = (node for node in used(ws, name) if node.id != current and node.attrs.get("version") == version)
    return next(others, None)


def _row_changes(ws: Workspace, runner: Runner, name: str, dataset: str) -> dict[str, Any] | None:
    before = _before(ws, name, dataset)
    if before is None:
        return None

    def work(ctx: StepContext) -> Outcome:
        from bucle.data.diff import diff_rows
        from bucle.data.explore import shown
        from bucle.data.kinds import plain, said

        kind = ws.config.tasks[name].kind
        diff = diff_rows(_Rows(ws, before.id), _Rows(ws, dataset))

        def show(row: Example, was: str | None = None) -> dict[str, Any]:
            told = shown(said(kind, row) or "–", 80)
            return {"input": shown(plain(kind, row.input)), "label": told, "was": was, "source": row.source}

        return Outcome(
            {},
            {
                "before": before.id, "at": before.created_at, "rows_before": before.attrs.get("rows"),
                "added": len(diff.added), "removed": len(diff.removed), "relabelled": len(diff.relabelled),
                "edited": len(diff.edited), "unchanged": diff.unchanged,
                "shown": {
                    "added": [show(row) for row in diff.added[:SHOWN]],
                    "removed": [show(row) for row in diff.removed[:SHOWN]],
                    "relabelled": [show(a, shown(b.target or "–", 80)) for b, a in diff.relabelled[:SHOWN]],
                    "edited": [show(a, shown(b.input, 120)) for b, a in diff.edited[:SHOWN]],
                },
            },
        )

    return dict(
        runner.step(f"changes {name}", work, stage="data", inputs={"before": before.id, "after": dataset}).figures
    )


def _document_changes(ws: Workspace, runner: Runner, corpus: str) -> dict[str, Any] | None:
    before = _before(ws, DOCUMENTS, corpus)
    if before is None:
        return None

    def work(ctx: StepContext) -> Outcome:
        from bucle.data.diff import diff_documents

        diff = diff_documents(documents_of(ws, before.id), documents_of(ws, corpus))

        def pair(was: Document, now: Document) -> dict[str, str]:
            return {"path": now.path, "was": was.path if was.path != now.path else ""}

        lists: dict[str, list[dict[str, str]]] = {
            "added": [{"path": d.path, "was": ""} for d in diff.added],
            "changed": [pair(was, now) for was, now in diff.changed],
            "renamed": [pair(was, now) for was, now in diff.renamed],
            "deleted": [{"path": d.path, "was": ""} for d in diff.deleted],
            "relabelled": [pair(was, now) for was, now in diff.relabelled],
        }
        return Outcome(
            {},
            {
                "before": before.id, "at": before.created_at, "unchanged": diff.unchanged,
                **{kind: len(some) for kind, some in lists.items()},
                "shown": {kind: some[:SHOWN] for kind, some in lists.items()},
            },
        )

    return dict(
        runner.step("changes documents", work, stage="data", inputs={"before": before.id, "after": corpus}).figures
    )
