"""A project's document sources brought up to date, all of them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from bucle.core.ports import Report
from bucle.loop.workspace import Workspace

if TYPE_CHECKING:
    from bucle.data.connect import Synced

__all__ = ["sync_all", "sync_rows", "told"]


def sync_all(ws: Workspace, *, force: bool = False, report: Report | None = None) -> list[Synced]:
    """Every source under `data.documents`, in order; empty where there is none.

    Where there are several, each one's `prefix` is its `name/`: a document's path is `prefix + file.path`, its file
    `root / file.path`. Raises what `bucle.data.connect.sync` raises.
    """
    from bucle.data.connect import source_name, sync

    sources = ws.config.data.documents or ()
    mirrors = ws.root / ".bucle" / "sources"
    found: list[Synced] = []
    taken: set[str] = set()
    for source in sources:
        name = base = source_name(source)
        count = 1
        while name in taken:
            count += 1
            name = f"{base}-{count}"
        taken.add(name)
        made = sync(source, ws.root, mirrors, force=force, report=report)
        made.name, made.prefix = name, f"{name}/" if len(sources) > 1 else ""
        found.append(made)
    return found


def sync_rows(ws: Workspace, *, force: bool = False, report: Report | None = None) -> dict[str, str]:
    """The rows of every task whose rows are not in a file of the project, fetched: task -> file."""
    from bucle.data.connect import fetch_rows

    mirrors = ws.root / ".bucle" / "sources"
    return {
        name: str(fetch_rows(task.data, ws.root, mirrors, force=force, report=report))
        for name, task in ws.config.tasks.items()
        if not isinstance(task.data, str)
    }


def told(found: Synced) -> dict[str, Any]:
    """What a sync found, JSON-ready."""
    return {
        "source": found.name,
        "files": len(found.files),
        **asdict(found.changes),
        "problems": [asdict(problem) for problem in found.problems],
        "note": found.note,
    }
