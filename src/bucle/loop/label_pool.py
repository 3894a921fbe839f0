"""The rows that can be labelled: those of a task's source, with a label or not, and those that imports added."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bucle.core.errors import BadInput
from bucle.core.records import Example
from bucle.ledger import AnnotationStore
from bucle.loop.draft_rows import draft_sources
from bucle.loop.row_step import task_columns, task_schema
from bucle.loop.workspace import Workspace

__all__ = ["Pool", "pool", "pool_rows"]


@dataclass(frozen=True)
class Pool:
    """The rows of a task by id, and of those that their file calls drafts the drafted label or answer (empty: no
    answer): a machine's proposal, so nothing is said of them."""

    rows: dict[str, Example]
    drafts: dict[str, str]


def pool_rows(ws: Workspace, task: str) -> list[Example]:
    """Every row of a task, in the order of its source, the added ones last; nothing is said of it (kinds.said) where
    the source gives no label, or only a draft. Raises BadInput for an unknown task or a file that cannot be read."""
    return list(pool(ws, task).rows.values())


def pool(ws: Workspace, task: str) -> Pool:
    """pool_rows by id, with the drafts."""
    from bucle.data.kinds import said, saying

    if task not in ws.config.tasks:
        raise BadInput(f"There is no task `{task}`.", f"Tasks: {', '.join(ws.config.tasks)}.")
    settings = ws.config.tasks[task]
    drafted = draft_sources(ws.rows_file(task), settings, task_columns(settings))
    rows: dict[str, Example] = {}
    drafts: dict[str, str] = {}
    for row in _source_rows(ws, task):
        if row.source in drafted:
            drafts[row.id] = said(settings.kind, row) or ""
            row = saying(settings.kind, row, None)
        rows[row.id] = row
    for row in AnnotationStore(ws.ledger).rows(task):
        rows.setdefault(row.id, row)
    return Pool(rows, drafts)


def _source_rows(ws: Workspace, task: str) -> Iterator[Example]:
    from bucle.data.rows import stream_rows

    settings = ws.config.tasks[task]
    labels = getattr(settings, "labels", ()) or None
    columns = task_columns(settings)
    schema = task_schema(ws, task)
    path = ws.rows_file(task)
    for row in stream_rows(path, settings.kind, columns, known_labels=labels, unlabelled=True, schema=schema):
        if isinstance(row, Example):
            yield row
