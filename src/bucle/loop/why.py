"""`why` walks back from an answer to everything behind it; `impact` walks forward from a source to all it touched."""

from __future__ import annotations

import json
from collections import deque
from typing import Any

from bucle.core.errors import NotFound
from bucle.core.ids import short
from bucle.core.records import Chunk, Node, Trace
from bucle.loop.workspace import Workspace

__all__ = ["impact", "why"]

MAX_NODES = 400


def why(ws: Workspace, name: str) -> list[dict[str, Any]]:
    """The chain behind a trace (or any node): rows of id, kind, title, detail, role and depth, nearest first.

    From a trace: its release, the passages it used with their documents, its candidate, that one's base model,
    index, data, split and feedback, back to files. Raises NotFound.
    """
    if not name.startswith("trace:") and (":" in name or ws.ledger.alias(name)):
        return _back(ws, [(ws.ledger.resolve(name), "", 0)], set())
    trace = ws.traces.trace(name if name.startswith("trace:") else f"trace:{name}")
    rows = [
        _row(
            trace.id,
            "trace",
            f"{trace.input[:100]!r} -> {trace.output[:100]!r}",
            f"{trace.at}, {trace.ms:.0f} ms",
            "",
            0,
        )
    ]
    rows += [_feedback_row(f.id, f.by, f.rating, f.correction) for f in ws.traces.feedback(trace.id)]
    seen: set[str] = set()
    rows += _passages(ws, trace, seen)
    starts = [(n, role, 1) for n, role in ((trace.release, "release"), (trace.candidate, "candidate")) if n]
    return rows + _back(ws, starts, seen)


def impact(ws: Workspace, name: str) -> list[dict[str, Any]]:
    """Everything made from a node, a document's path, or an example's text, forward to releases and answers."""
    starts = _sources(ws, name)
    rows: list[dict[str, Any]] = []
    seen = set(starts)
    queue = deque((n, "", 0) for n in starts)
    releases = []
    while queue and len(rows) < MAX_NODES:
        node_id, role, depth = queue.popleft()
        node = ws.ledger.get(node_id)
        rows.append(_node_row(node, role, depth))
        if node.kind == "release":
            releases.append(node)
        for edge in ws.ledger.children(node_id):
            if edge.child not in seen:
                seen.add(edge.child)
                queue.append((edge.child, edge.role, depth + 1))
    documents = [n for n in map(ws.ledger.get, starts) if n.kind == "document"]
    return rows + _answers(ws, {str(n.attrs["path"]) for n in documents}, releases)


def _back(ws: Workspace, starts: list[tuple[str, str, int]], seen: set[str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    stack = list(reversed(starts))
    while stack and len(rows) < MAX_NODES:
        node_id, role, depth = stack.pop()
        if node_id in seen:
            continue
        seen.add(node_id)
        try:
            node = ws.ledger.get(node_id)
        except NotFound:
            rows.append(_row(node_id, node_id.partition(":")[0], "not in this ledger", "", role, depth))
            continue
        rows.append(_node_row(node, role, depth))
        parents = ws.ledger.parents(node_id)
        documents = sorted(str(ws.ledger.get(e.parent).attrs["path"]) for e in parents if e.role == "document")
        if documents:
            count = f"{len(documents)} documents"
            some = ", ".join(documents[:5]) + (" …" if len(documents) > 5 else "")
            rows.append(_row(count, "documents", count, some, "document", depth + 1))
        stack += [(e.parent, e.role, depth + 1) for e in reversed(parents) if e.role != "document"]
    return rows


def _passages(ws: Workspace, trace: Trace, seen: set[str]) -> list[dict[str, Any]]:
    if not trace.chunks or not trace.candidate:
        return []
    index = next((e.parent for e in ws.ledger.parents(trace.candidate) if e.role == "index"), "")
    if not index:
        return []
    known = {
        c.id: c
        for c in map(Chunk.model_validate_json, ws.ledger.read(ws.ledger.get(index), "chunks.jsonl").splitlines())
    }
    documents = {str(n.attrs["id"]): n for n in ws.ledger.nodes("document")}
    rows = []
    for chunk_id in trace.chunks:
        chunk = known.get(chunk_id)
        if chunk is None:
            continue
        rows.append(_row(chunk.id, "chunk", chunk.text[:160], f"{chunk.path} {chunk.place}".strip(), "passage", 1))
        node = documents.get(chunk.document_id)
        if node and node.id not in seen:
            seen.add(node.id)
            rows.append(_node_row(node, "document", 2))
    return rows


def _sources(ws: Workspace, name: str) -> list[str]:
    documents = [n.id for n in ws.ledger.nodes("document") if n.attrs.get("path") == name]
    if documents:
        return documents
    try:
        return [ws.ledger.resolve(name)]
    except NotFound:  # the id or the source of a row has a colon too
        found = []
    for node in ws.ledger.nodes("dataset"):
        lines = ws.ledger.read(node, "examples.jsonl").splitlines()
        if any(name in (row["input"], row["id"], row["source"]) for row in map(json.loads, lines)):
            found.append(node.id)
    if not found:
        raise NotFound(
            f"No node, document path or example is called `{name}`.", "Give a path as `bucle data list` shows it."
        )
    return found


def _answers(ws: Workspace, paths: set[str], releases: list[Node]) -> list[dict[str, Any]]:
    """Served answers: those that used a passage of these documents, and the count of each release's answers."""
    rows = []
    for release in releases:
        index_chunks: set[str] = set()
        for candidate in release.attrs["tasks"].values():
            for edge in ws.ledger.parents(candidate):
                if edge.role == "index":
                    lines = ws.ledger.read(ws.ledger.get(edge.parent), "chunks.jsonl").splitlines()
                    index_chunks |= {c["id"] for c in map(json.loads, lines) if c["path"] in paths}
        traces = ws.traces.traces(release=release.id)
        quoting = [t for t in traces if index_chunks & set(t.chunks)]
        for trace in quoting[:50]:
            rows.append(
                _row(trace.id, "trace", f"{trace.input[:80]!r} -> {trace.output[:80]!r}", trace.at, "used in", 9)
            )
        rows.append(
            _row(
                release.id,
                "traces",
                f"{len(traces)} answers were served by version {release.attrs['version']}",
                f"{len(quoting)} of them used a passage of it" if index_chunks else "",
                "served",
                9,
            )
        )
    return rows


def _feedback_row(node_id: str, by: str, rating: int | None, correction: str | None) -> dict[str, Any]:
    return _row(
        node_id,
        "feedback",
        f"{by}: {'+1' if rating == 1 else '-1' if rating else 'no rating'}",
        f"correction: {correction}" if correction else "",
        "feedback",
        1,
    )


def _node_row(node: Node, role: str, depth: int) -> dict[str, Any]:
    a = node.attrs
    title = {
        "release": lambda: f"{a['project']} version {a['version']}",
        "candidate": lambda: (
            f"{a['name']} for {a['task']}, fitted on {'every row' if a['fitted_on'] == 'all' else 'training rows'}"
        ),
        "dataset": lambda: f"{a['task']} version {a['version']}: {a['rows']} rows",
        "split": lambda: f"{a['train']} training, {a['validation']} validation, {a['test']} test rows",
        "evaluation": lambda: f"{a['rows']} held-out rows",
        "base_model": lambda: f"{a['name']} ({a['kind']})",
        "index": lambda: f"{a['chunks']} passages",
        "corpus": lambda: f"{a['documents']} documents",
        "document": lambda: str(a["path"]),
        "gate": lambda: "gate passed" if a["passed"] else "gate FAILED",
        "comparison": lambda: f"recommended {a['recommended']}",
        "feedback": lambda: f"{a['ratings']} ratings, {a['corrections']} corrections",
    }.get(node.kind, lambda: node.kind)()
    return _row(node.id, node.kind, title, f"{short(node.id)}, {node.created_at[:19]}", role, depth)


def _row(node_id: str, kind: str, title: str, detail: str, role: str, depth: int) -> dict[str, Any]:
    return {"id": node_id, "kind": kind, "title": title, "detail": detail, "role": role, "depth": depth}
