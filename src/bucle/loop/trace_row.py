"""Everything about one row, document or passage: where it came from, its very bytes, its history, what it made."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any

from bucle.core.errors import BadInput, NotFound
from bucle.core.ids import content_id, file_sha256
from bucle.core.records import Chunk, Document, Example, Node
from bucle.loop.versions import DOCUMENTS, Version, documents_of, trained_on, versions
from bucle.loop.workspace import Workspace

__all__ = ["show"]

MAX_BYTES = 20_000
"""Bytes of the source that are shown of one row."""


def show(ws: Workspace, name: str) -> dict[str, Any]:
    """What the ledger knows of `name`, JSON-ready, with `kind` `row`, `document` or `chunk`.

    A row is called by its id or the beginning of that, by its value in the `id:` column that bucle.yaml names, by its
    place (`rows.tsv:12`), or by its text; a document by its path or id; a passage by its id. Rows of the newest
    versions come first. Raises NotFound, naming the nearest.
    """
    name = name.strip()
    if name.startswith("chunk:"):
        return _chunk(ws, name)
    if name and not name.startswith("example:") and (found := _document(ws, name)):
        return found
    if name and (found := _row(ws, name)):
        return found
    raise NotFound(f"No row, document or passage is called `{name[:80]}`.", _nearest(ws, name))


def _row(ws: Workspace, name: str) -> dict[str, Any] | None:
    listed = [v for v in versions(ws) if v.task != DOCUMENTS]
    for version in sorted(listed, key=lambda v: (not v.current, -v.number)):
        matches = _matching(ws, version.node, name)
        if matches:
            return _told(ws, version, matches[0], listed) | {"also": [r.id for r in matches[1:6]]}
    return _waiting(ws, name)


def _waiting(ws: Workspace, name: str) -> dict[str, Any] | None:
    """A row that is in no version yet because nobody has labelled it, by its id, place or text."""
    from bucle.loop.label_pool import pool_rows

    for task, settings in ws.config.tasks.items():
        if not isinstance(settings.data, str) or not ws.rows_file(task).is_file():
            continue
        try:
            found = [row for row in pool_rows(ws, task) if name in (row.id, row.source, row.input)]
        except BadInput:
            continue
        if found and found[0].target is None:
            path = ws.rows_file(task)
            file: dict[str, Any] = {"path": settings.data, "said": "waits for a label"}
            file["next"] = f"bucle label start {task}"
            if found[0].span is not None and found[0].source.rpartition(":")[0] == path.name:
                file |= _bytes(path, found[0].span)
            told = {"task": task, "version": None, "current": False, "side": "in no dataset before it has a label"}
            more = {"file": file, "history": [], "releases": [], "also": [row.id for row in found[1:6]]}
            return {"kind": "row", **found[0].model_dump(mode="json"), **told, **more}
    return None


def _matching(ws: Workspace, dataset: str, name: str) -> list[Example]:
    """Rows called so, exact names first. Lines are searched as bytes before any is parsed."""
    import json

    needle = json.dumps(name, ensure_ascii=False)[1:-1].encode("utf-8", "replace")
    called = content_id("example", {"id": name, "n": 0})
    exact: list[Example] = []
    begun: list[Example] = []
    for line in ws.row_lines(dataset):
        if needle not in line and called.encode() not in line:
            continue
        row = Example.model_validate_json(line)
        if row.id == called or name in (row.id, row.source, row.input):
            exact.append(row)
        elif (row.id.startswith(name) and len(name) > len("example:")) or row.source.endswith("/" + name):
            begun.append(row)
    return exact or begun


def _told(ws: Workspace, version: Version, row: Example, listed: list[Version]) -> dict[str, Any]:
    node = ws.ledger.get(version.node)
    return {
        "kind": "row",
        **row.model_dump(mode="json"),
        "task": version.task,
        "version": version.number,
        "dataset": version.node,
        "side": _side(ws, version.node, row.id),
        "file": _source(ws, version.task, node, row),
        "history": _history(ws, row, [v for v in listed if v.task == version.task]),
        "releases": _releases(ws, row, [v for v in listed if v.task == version.task]),
    }


def _side(ws: Workspace, dataset: str, row: str) -> str:
    from bucle.loop.version_diff import newest_split

    split = newest_split(ws, dataset)
    return ws.sides(split).get(row, "left out of the split") if split else ""


def _source(ws: Workspace, task: str, dataset: Node, row: Example) -> dict[str, Any]:
    """The file behind a row: whether it still is what was read, and the row's own bytes in it."""
    settings = ws.config.tasks.get(task)
    if row.source.startswith("trace:"):
        return {"said": "made from feedback on a served answer", "next": f"bucle why {row.source}"}
    if settings is None or not isinstance(settings.data, str):
        return {"said": "from a source outside the project"}
    path = ws.root / settings.data
    if row.source.rpartition(":")[0] not in (path.name, settings.data):
        return {"said": f"came with an import, {row.source}; not from {settings.data}"}
    digest = _file_digest(ws, dataset)
    told: dict[str, Any] = {"path": settings.data, "line": row.source.rpartition(":")[2], "sha256": digest}
    if not path.is_file():
        return told | {"same": False, "said": "the file is not there any more"}
    same = bool(digest) and file_sha256(path) == digest
    told |= {"same": same, "said": "the file is as it was read" if same else "the file has changed since it was read"}
    if same and row.span is not None:
        told |= _bytes(path, row.span)
    return told


def _file_digest(ws: Workspace, dataset: Node) -> str:
    """The digest of the file that the first version of this line of versions was read from."""
    for _ in range(1000):
        if digest := dataset.attrs.get("sha256"):
            return str(digest)
        before = [e.parent for e in ws.ledger.parents(dataset.id) if e.role == "previous"]
        if not before:
            break
        dataset = ws.ledger.get(before[0])
    return ""


def _bytes(path: Path, span: tuple[int, int]) -> dict[str, Any]:
    first, last = span
    with path.open("rb") as file:
        file.seek(max(0, first))
        raw = file.read(max(0, min(last - first, MAX_BYTES)))
    from bucle.data.lines import find_encoding

    text = raw.decode(find_encoding(path).codec, "backslashreplace")
    return {"span": [first, last], "bytes": text, "cut": last - first > MAX_BYTES}


def _history(ws: Workspace, row: Example, listed: list[Version]) -> list[dict[str, Any]]:
    """What this wording was labelled in each version of the task, where that changed."""
    from bucle.data.similar import normal_form

    form = normal_form(row.input) or row.input
    told: list[dict[str, Any]] = []
    before: list[tuple[str | None, str]] = []
    for version in listed:
        words = max(re.findall(r"[A-Za-z0-9]{3,}", row.input), key=len, default="").encode().lower()
        lines = (line for line in ws.row_lines(version.node) if words in line.lower())
        found = [e for e in map(Example.model_validate_json, lines) if (normal_form(e.input) or e.input) == form]
        now = sorted({(e.target, e.labelled_by) for e in found}, key=str)
        if now != before:
            told.append(
                {
                    "version": version.number,
                    "at": version.at,
                    "labels": [
                        {"target": t, "labelled_by": by, "rows": sum(e.target == t for e in found)} for t, by in now
                    ],
                }
            )
            before = now
    return told


def _releases(ws: Workspace, row: Example, listed: list[Version]) -> list[dict[str, Any]]:
    """Releases whose candidate was made from rows with this one: whether it was fitted on it, tuned, or measured."""
    from bucle.core.ids import short

    made = trained_on(ws)
    told = []
    for version in listed:
        pairs = made.get(version.node, [])
        if not pairs or not any(row.id.encode() in line for line in ws.row_lines(version.node)):
            continue
        for release, candidate in pairs:
            split = next((e.parent for e in ws.ledger.parents(candidate.id) if e.role == "split"), "")
            side = ws.sides(split).get(row.id, "") if split else ""
            on_all = candidate.attrs.get("fitted_on") == "all"
            use = (
                "fitted on it" if on_all or side == "train" else {"validation": "tuned on it", "test": "measured on it"}
            )
            told.append(
                {
                    "release": release.attrs["version"],
                    "node": short(release.id),
                    "candidate": candidate.attrs["name"],
                    "dataset_version": version.number,
                    "side": side,
                    "use": use if isinstance(use, str) else use.get(side, "not used"),
                }
            )
    return told


def _document(ws: Workspace, name: str) -> dict[str, Any] | None:
    listed = versions(ws, DOCUMENTS)
    for version in sorted(listed, key=lambda v: (not v.current, -v.number)):
        for document in documents_of(ws, version.node):
            if name in (document.path, document.id) or (name.startswith("document:") and document.id.startswith(name)):
                return _document_told(ws, version, document, listed)
    return None


def _document_told(ws: Workspace, version: Version, document: Document, listed: list[Version]) -> dict[str, Any]:
    chunks, of_index = _chunks_of(ws, document, version.node)
    known = [
        v.number
        for v in listed
        if any(e.role == "document" and _is(ws, e.parent, document.id) for e in ws.ledger.parents(v.node))
    ]
    return {
        "kind": "document",
        **document.model_dump(mode="json", exclude={"blocks"}),
        "version": version.number,
        "current": version.current,
        "characters": len(document.text),
        "blocks": [b.model_dump() for b in document.blocks],
        "chunks": [{"id": c.id, "place": c.place, "heading": c.heading, "text": c.text} for c in chunks],
        "indexed": of_index,
        "versions": known,
        "releases": list(version.releases),
    }


def _is(ws: Workspace, node: str, document: str) -> bool:
    return ws.ledger.get(node).attrs.get("id") == document


def _indexes(ws: Workspace) -> list[Node]:
    return list(reversed(ws.ledger.nodes("index")))


def _index_chunks(ws: Workspace, index: Node, needle: str) -> list[Chunk]:
    if "chunks.jsonl" not in index.blobs:
        return []
    with ws.ledger.blobs.verify(index.blobs["chunks.jsonl"]).open("rb") as file:
        return [Chunk.model_validate_json(line) for line in file if needle.encode() in line]


def _chunks_of(ws: Workspace, document: Document, corpus: str) -> tuple[list[Chunk], bool]:
    """The passages of a document in the newest index of its corpus; as they would be cut where there is none yet."""
    from bucle.data.chunk import chunk_documents

    for index in _indexes(ws):
        if any(e.parent == corpus for e in ws.ledger.parents(index.id)):
            return [c for c in _index_chunks(ws, index, document.id) if c.document_id == document.id], True
    return chunk_documents([document]), False


def _chunk(ws: Workspace, name: str) -> dict[str, Any]:
    from bucle.release import releases

    for index in _indexes(ws):
        found = [c for c in _index_chunks(ws, index, name) if c.id.startswith(name)] if len(name) > 9 else []
        if found:
            serving = [
                r.attrs["version"]
                for r in releases(ws.ledger)
                for c in r.attrs["tasks"].values()
                if any(e.parent == index.id for e in ws.ledger.parents(c))
            ]
            return {
                "kind": "chunk",
                **found[0].model_dump(mode="json"),
                "index": index.id,
                "releases": sorted(set(serving)),
                "also": [c.id for c in found[1:6]],
            }
    for version in sorted(versions(ws, DOCUMENTS), key=lambda v: (not v.current, -v.number)):
        from bucle.data.chunk import chunk_documents

        for document in documents_of(ws, version.node):
            for chunk in chunk_documents([document]):
                if len(name) > 9 and chunk.id.startswith(name):
                    return {"kind": "chunk", **chunk.model_dump(mode="json"), "index": "", "releases": [], "also": []}
    raise NotFound(f"No passage is called `{name[:80]}`.", "bucle data show PATH lists the passages of a document.")


def _nearest(ws: Workspace, name: str) -> str:
    paths, places, texts = [], [], []
    for version in versions(ws):
        if not version.current:
            continue
        if version.task == DOCUMENTS:
            paths = [d.path for d in documents_of(ws, version.node)]
        else:
            for number, line in enumerate(ws.row_lines(version.node)):
                if number >= 20_000:
                    break
                row = Example.model_validate_json(line)
                places.append(row.source)
                texts.append(row.input)
    where = places if re.search(r":\d+$", name) else [*paths, *texts]
    near = difflib.get_close_matches(name, where, 1, 0.4) or difflib.get_close_matches(name, [*paths, *places], 1, 0.4)
    return f"The nearest: bucle data show {near[0][:80]!r}" if near else "bucle data list shows what there is."
