"""A version of a task's rows written to a file for other tools."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bucle.core.errors import BadInput
from bucle.core.tasks import TextTask
from bucle.loop.row_step import task_schema
from bucle.loop.version_diff import newest_split
from bucle.loop.versions import rows, version_called
from bucle.loop.workspace import Workspace

__all__ = ["export"]


def export(
    ws: Workspace,
    task: str,
    output: Path,
    *,
    version: str = "current",
    format: str | None = None,
    sides: Sequence[str] = (),
    force: bool = False,
) -> dict[str, Any]:
    """Write the rows of a version to `output`; returns the counts by side. Raises BadInput where `output` is there
    already (unless `force`), is a file that the project reads, or no format fits it."""
    from bucle.data.export import FORMATS, SUFFIXES, export_rows

    if not task and len(ws.config.tasks) == 1:
        task = next(iter(ws.config.tasks))
    if task not in ws.config.tasks:
        raise BadInput(f"There is no task `{task}`.", f"Tasks: {', '.join(ws.config.tasks)}.")
    suffix = output.suffix.lower()
    chosen = (
        next((f for f in FORMATS if f == format), None) or SUFFIXES.get(suffix) or ("" if suffix else "huggingface")
    )
    if not chosen:
        raise BadInput(f"{output}: no format goes by {suffix}.", f"Give --format: {', '.join(FORMATS)}.")
    own = {ws.root / t.data for t in ws.config.tasks.values() if isinstance(t.data, str)} | {ws.root / "bucle.yaml"}
    if output.resolve() in {p.resolve() for p in own}:
        raise BadInput(f"{output} is a file that this project reads.", "Write to another.")
    if output.exists() and (
        not force or (output.is_dir() and not (output / "data").is_dir() and any(output.iterdir()))
    ):
        raise BadInput(f"{output} is there already.", "Give --force to write over an export, or another name.")
    if output.exists() and output.is_dir() != (chosen == "huggingface"):
        raise BadInput(f"{output} is {'a folder' if output.is_dir() else 'a file'} already.", "Give another name.")
    picked = version_called(ws, task, version)
    settings = ws.config.tasks[task]
    split = newest_split(ws, picked.node)
    side_of = ws.sides(split) if split else {}
    wanted = set(sides) or ({"train"} if chosen == "openai" and side_of else set())
    some = (r for r in rows(ws, picked.node) if not wanted or side_of.get(r.id) in wanted)
    told = export_rows(some, output, chosen, settings.kind, side_of, instruction=_instruction(ws, task))
    return {"task": task, "version": picked.number, "format": chosen, "path": str(output), **told}


def _instruction(ws: Workspace, task: str) -> str:
    """What a model is told before a row's input: the task's own, or for a kind that cannot be guessed from the input
    alone (translate to what?) what the prompting candidates say."""
    settings = ws.config.tasks[task]
    if not isinstance(settings, TextTask) or settings.kind in ("converse", "instruct"):
        return settings.instruction
    from bucle.customise.prompt.instructions import system_for

    schema = task_schema(ws, task)
    given = settings.model_dump(include={"instruction", "source", "target", "voice"})
    return system_for(settings.kind, given | {"language": ws.config.language, "schema": schema and schema.body})
