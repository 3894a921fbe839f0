"""The rows that can be labelled: those of a task's source, with a label or not, and those that imports added."""

from __future__ import annotations

from collections.abc import Iterator

from bucle.core.errors import BadInput
from bucle.core.records import Example
from bucle.ledger import AnnotationStore
from bucle.loop.row_step import task_columns
from bucle.loop.workspace import Workspace

__all__ = ["pool_rows"]


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
    from bucle.data.rows import stream_rows

    settings = ws.config.tasks[task]
    labels = getattr(settings, "labels", ()) or None
    columns = task_columns(settings)
    for row in stream_rows(ws.rows_file(task), settings.kind, columns, known_labels=labels, unlabelled=True):
        if isinstance(row, Example):
            yield row
