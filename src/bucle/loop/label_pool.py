"""The rows that can be labelled: those of a task's source, with a label or not, and those that imports added."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from bucle.core.errors import BadInput
from bucle.core.ids import content_id
from bucle.core.records import Example
from bucle.ledger import AnnotationStore, Ledger
from bucle.loop.data_steps import task_columns
from bucle.loop.workspace import Workspace

__all__ = ["labelled_rows", "labels_node", "pool_rows"]


def labelled_rows(ws: Workspace, task: str, rows: Iterable[Example]) -> Iterator[Example]:
    """The rows of the next version of a task: its source's, with what people settled on, then those that imports
    added. `rows` should hold the unlabelled ones too; whatever has no label in the end is left out."""
    from bucle.data.label import apply_labels, effective

    store = AnnotationStore(ws.ledger)
    labels = effective(store.annotations(task))
    answer = ws.config.tasks[task].kind == "answer"
    yield from apply_labels(rows, labels, keep_unlabelled=answer)
    yield from apply_labels(store.rows(task), labels)


def labels_node(ledger: Ledger, task: str) -> str:
    """The id of a node (kind `labels`) that holds who settled which label and when, for the lineage of a dataset; empty
    where nothing was labelled."""
    import json

    from bucle.data.label import effective, labels_digest

    store = AnnotationStore(ledger)
    digest = labels_digest(store, task)
    if not digest:
        return ""
    settled = {row: label for row, label in effective(store.annotations(task)).items() if label.settled}
    lines = [
        json.dumps({"row": row, "label": one.label, "by": one.by, "at": one.at, "status": one.status})
        for row, one in sorted(settled.items())
    ]
    blobs = {"labels.jsonl": "".join(line + "\n" for line in lines).encode()}
    return ledger.put("labels", {"task": task, "rows": len(settled), "digest": digest}, blobs=blobs).id


def pool_rows(ws: Workspace, task: str) -> list[Example]:
    """Every row of a task, in the order of its source, the added ones last; `target` is None where the source gives no
    label. Raises BadInput for an unknown task or a file that cannot be read."""
    if task not in ws.config.tasks:
        raise BadInput(f"There is no task `{task}`.", f"Tasks: {', '.join(ws.config.tasks)}.")
    found = {row.id: row for row in _source_rows(ws, task)}
    for row in AnnotationStore(ws.ledger).rows(task):
        found.setdefault(row.id, row)
    return list(found.values())


def _source_rows(ws: Workspace, task: str) -> Iterator[Example]:
    from bucle.data.tables import read_table

    settings = ws.config.tasks[task]
    path, columns = ws.rows_file(task), task_columns(settings)
    table = read_table(path, list(columns.values()))
    at = _places(table, settings.kind, columns, path)
    seen: Counter[tuple[str, str | None]] = Counter()
    allowed = set(getattr(settings, "labels", ()))
    first, second = ("text", "label") if settings.kind == "classify" else ("question", "answer")
    for row, line in zip(table.rows, table.lines, strict=True):
        cell = {role: row[index] for role, index in at.items()}
        text, target = cell[first], cell.get(second) or None
        if not text or (target and allowed and target not in allowed):
            continue
        name = content_id("example", {"input": text, "target": target, "n": seen[text, target]})
        seen[text, target] += 1
        yield Example(
            id=name,
            input=text,
            target=target,
            group=cell.get("group", ""),
            at=cell.get("time", ""),
            language=cell.get("language", ""),
            document=cell.get("document", ""),
            source=f"{path.name}:{line}",
        )


def _places(table: Any, kind: Any, columns: dict[str, str], path: Any) -> dict[str, int]:
    from bucle.data.tables import _choose

    chosen = _choose(table, kind, columns, path)
    return {role: table.columns.index(name) for role, name in chosen.items()}
