"""What changed between two versions of a task's rows or of the documents, for people and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from bucle.core.errors import BadInput
from bucle.core.records import Example, TaskKind
from bucle.loop.versions import DOCUMENTS, Version, documents_of, rows, used, version_called, versions
from bucle.loop.workspace import Workspace

__all__ = ["compare", "newest_split"]


def compare(ws: Workspace, task: str, first: str = "", second: str = "") -> dict[str, Any]:
    """What changed between two versions of a task's rows, or of `documents`; JSON-ready. Without names the current one
    and what was current before it, in the order of runs; with one, from it to the current. Raises NotFound, and
    BadInput where there is but one version."""
    if not (first and second):
        found = versions(ws, task)
        if len(found) < 2 and not (first and found):
            raise BadInput(
                f"`{task}` has {len(found) or 'no'} version{'' if len(found) == 1 else 's'}: nothing to compare yet.",
                "Change its data and run `bucle data list`.",
            )
        b = next((v for v in found if v.current), found[-1])
        a = version_called(ws, task, first) if first else _before(ws, found, b)
    else:
        a, b = version_called(ws, task, first), version_called(ws, task, second)
    told: dict[str, Any] = {"task": task, "before": a.json(), "after": b.json()}
    return told | (_documents_diff(ws, a, b) if task == DOCUMENTS else _rows_diff(ws, a, b))


def _before(ws: Workspace, found: list[Version], current: Version) -> Version:
    """What runs used before `current`; where none did, the version made before it (or after, if it is the first)."""
    nodes = {v.node: v for v in found}
    earlier = (nodes[n.id] for n in used(ws, current.task) if n.id != current.node and n.id in nodes)
    others = [v for v in found if v.node != current.node]
    return next(earlier, None) or next((v for v in reversed(others) if v.number < current.number), others[-1])


class _Rows:
    """The rows of a version, read from the ledger each time they are gone through."""

    def __init__(self, ws: Workspace, dataset: str) -> None:
        self._ws, self._dataset = ws, dataset

    def __iter__(self) -> Iterator[Example]:
        return rows(self._ws, self._dataset)


def _rows_diff(ws: Workspace, a: Version, b: Version) -> dict[str, Any]:
    from bucle.data.diff import diff_rows, diff_splits
    from bucle.data.kinds import said

    task_kind = cast(TaskKind, ws.ledger.get(b.node).attrs.get("kind", "classify"))
    diff = diff_rows(_Rows(ws, a.node), _Rows(ws, b.node))
    splits = [newest_split(ws, v.node) for v in (a, b)]
    moved = diff_splits(ws.sides(splits[0]), ws.sides(splits[1]), diff.pairs).moved if all(splits) else None

    def given(e: Example) -> str | None:
        return said(task_kind, e)

    def row(e: Example) -> dict[str, Any]:
        return {"id": e.id, "input": e.input, "target": given(e), "source": e.source, "labelled_by": e.labelled_by}

    def pair(was: Example, now: Example) -> dict[str, Any]:
        return {"before": row(was), "after": row(now)}

    few = task_kind in ("classify", "answer")  # elsewhere each text would be a label of its own
    labels: dict[str, dict[str, int]] = {}
    for kind, some in (("added", diff.added), ("removed", diff.removed)):
        for e in some:
            cell = labels.setdefault(_label(given(e)), dict.fromkeys(("added", "removed", "to", "from"), 0))
            cell[kind] += 1
    for (was, now), n in diff.labels.items():
        for label, kind in ((was, "from"), (now, "to")):
            labels.setdefault(_label(label), dict.fromkeys(("added", "removed", "to", "from"), 0))[kind] += n
    counts = {k: len(getattr(diff, k)) for k in ("added", "removed", "relabelled", "edited")}
    return {
        "counts": counts | {"unchanged": diff.unchanged, "changed_side": None if moved is None else len(moved)},
        "labels": labels if few else {},
        "confusion": [{"before": b, "after": n, "n": c} for (b, n), c in diff.labels.items()] if few else [],
        "added": [row(e) for e in diff.added],
        "removed": [row(e) for e in diff.removed],
        "relabelled": [pair(*p) for p in diff.relabelled],
        "edited": [pair(*p) for p in diff.edited],
        "changed_side": [{"id": i, "before": w, "after": n} for i, w, n in moved or []],
    }


def _documents_diff(ws: Workspace, a: Version, b: Version) -> dict[str, Any]:
    from bucle.data.diff import diff_documents

    diff = diff_documents(documents_of(ws, a.node), documents_of(ws, b.node))
    found: dict[str, list[dict[str, Any]]] = {
        "added": [{"path": d.path} for d in diff.added],
        "changed": [{"path": n.path, "characters": len(n.text) - len(w.text)} for w, n in diff.changed],
        "renamed": [{"before": w.path, "after": n.path} for w, n in diff.renamed],
        "deleted": [{"path": d.path} for d in diff.deleted],
        "relabelled": [{"path": n.path, "before": w.access, "after": n.access} for w, n in diff.relabelled],
    }
    return {"counts": {k: len(v) for k, v in found.items()} | {"unchanged": diff.unchanged}, **found}


def newest_split(ws: Workspace, dataset: str) -> str:
    """The split of a dataset that was made last; empty without one."""
    found = [ws.ledger.get(e.child) for e in ws.ledger.children(dataset) if e.role == "dataset"]
    splits = sorted((n for n in found if n.kind == "split"), key=lambda n: n.created_at)
    return splits[-1].id if splits else ""


def _label(target: str | None) -> str:
    return "(no answer)" if target is None else target[:60]
