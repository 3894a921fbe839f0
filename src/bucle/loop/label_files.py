"""Annotations to and from files of other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bucle.loop.label import Labelling
from bucle.loop.row_step import task_schema

__all__ = ["export_labels", "import_labels"]


def export_labels(labelling: Labelling, format_: str, *, everything: bool = False) -> str:
    """The text of a file in one of `bucle.data.label.exchange.FORMATS`: the rows that somebody spoke about, or with
    `everything` the whole pool."""
    from bucle.data.label import effective
    from bucle.data.label.exchange import export

    items = labelling.store.annotations(labelling.task)
    spoken = {item.row for item in items}
    rows = [row for row in labelling.rows().values() if everything or row.id in spoken]
    return export(format_, rows, items, effective(items), kind=labelling.kind)


def import_labels(labelling: Labelling, path: Path, *, control: str = "") -> dict[str, Any]:
    """What a file of another tool says, stored; told by how its rows were found and what was left out, and why."""
    from bucle.data.label.exchange import match, read_file
    from bucle.ledger import now

    format_, asked, left = read_file(path, control=control)
    texts = {name: row.input for name, row in labelling.rows().items()}
    declared = getattr(labelling.ws.config.tasks[labelling.task], "labels", ())
    found = match(
        asked,
        texts,
        task=labelling.task,
        kind=labelling.kind,
        origin=path.name,
        labels=declared,
        known=labelling.labels(),
        at=now(),
        schema=task_schema(labelling.ws, labelling.task),
    )
    with labelling.ws.ledger.transaction():
        added = labelling.store.add_rows(labelling.task, found.rows)
        stored = labelling.store.add(found.annotations)
    return {
        "task": labelling.task,
        "format": format_,
        "rows": len(asked),
        "matched_by_id": found.by_id,
        "matched_by_text": found.by_text,
        "new_rows": added,
        "stored": stored,
        "already_there": len(found.annotations) - stored,
        "left_out": dict((left + found.left_out).most_common()),
        "new_labels": dict(found.new_labels.most_common(50)),
    }
