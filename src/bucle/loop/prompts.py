"""A project's prompts: found by file, name, version or alias; the one that a task names."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bucle.core.errors import BadInput, ConfigError, NotFound
from bucle.core.yamlfile import at_line
from bucle.customise.prompt.store import Stored, keep, resolve, save
from bucle.customise.prompt.template import load_prompt_file, messages_of, names_used
from bucle.loop.workspace import Workspace

__all__ = ["TaskPrompt", "check_prompt", "check_task_prompt", "find_prompt", "is_path", "save_file", "task_prompt"]


@dataclass(frozen=True)
class TaskPrompt:
    """The prompt of a task: `spec` as a mapping with its schema in it, `node` its name in the ledger, `title` for
    people."""

    spec: dict[str, Any]
    node: str
    title: str


def find_prompt(ws: Workspace, ref: str) -> Stored:
    """The prompt that `ref` names: a file (a path that ends in .yaml, from the project's folder or from here), or one
    of the ledger: `NAME`, `NAME@alias`, `NAME@3`, `prompt:sha…`. A file is not saved: it becomes a node when something
    uses it. Raises NotFound, ConfigError and TemplateError."""
    if not is_path(ref):
        return resolve(ws.ledger, ref)
    path = _file(ws, ref)
    return Stored(load_prompt_file(path, ws.root), "", path.read_text("utf-8-sig"))


def save_file(ws: Workspace, ref: str, *, by: str, reason: str = "") -> Stored:
    """Save the prompt of a file as a version of its name. Raises as find_prompt."""
    if not is_path(ref):
        raise BadInput(f"`{ref}` is no file of a prompt.", "Its name ends in .yaml.")
    found = find_prompt(ws, ref)
    return save(ws.ledger, found.spec, found.text, by=by, reason=reason)


def task_prompt(ws: Workspace, task: str) -> TaskPrompt | None:
    """The prompt that `tasks.TASK.prompt` names, kept as a node of the ledger; None where the task names none. Raises
    as check_task_prompt."""
    found, ref = check_task_prompt(ws, task), ws.config.tasks[task].prompt
    if found is None:
        return None
    node = found.node or keep(ws.ledger, found.spec, found.text).id
    return TaskPrompt(found.spec.model_dump(mode="json"), node, found.title if found.node else ref)


def check_task_prompt(ws: Workspace, task: str) -> Stored | None:
    """The prompt that `tasks.TASK.prompt` names, with nothing kept. Raises ConfigError with the line of bucle.yaml, or
    the prompt file's own errors, where it cannot be used."""
    ref = ws.config.tasks[task].prompt
    if not ref:
        return None
    with at_line(ws.root / "bucle.yaml", "tasks", task, "prompt"):  # what bucle.yaml says; a file tells its own lines
        if is_path(ref) and not os.path.isfile(_file(ws, ref)):
            raise ConfigError(f"`prompt` names {ref[:300]}, which does not exist.",
                              "Correct the path, or save one: bucle prompt save FILE.")
        try:
            stored = None if is_path(ref) else resolve(ws.ledger, ref)
        except NotFound as error:
            raise ConfigError(error.message, error.hint) from None
    found = stored or find_prompt(ws, ref)
    with at_line(ws.root / "bucle.yaml", "tasks", task, "prompt"):
        if "input" not in names_used(found.spec):
            raise ConfigError(f"the prompt `{found.spec.name}` never uses `input`: every row would be asked the same.",
                              "Put {{ input }} into its `user:`.")
    return found


def is_path(ref: str) -> bool:
    """Whether a reference means a file."""
    return ref.endswith((".yaml", ".yml")) or "/" in ref or "\\" in ref


def _file(ws: Workspace, ref: str) -> Path:
    here, there = Path(ref), ws.root / ref
    try:
        return there if there.is_file() else here
    except (OSError, ValueError):  # no name that a file can have
        return here


def check_prompt(ws: Workspace, ref: str) -> dict[str, Any]:
    """Whether a prompt can be used, tried with stand-ins for its inputs: name, inputs, the characters of that try,
    warnings. Raises TemplateError or ConfigError with file and line."""
    spec = find_prompt(ws, ref).spec
    used = names_used(spec)
    stand_in: dict[str, Any] = {"text": "texto", "number": 1, "flag": True, "list": ["texto"]}
    values = {n: stand_in.get(one.type, one.of[0] if one.of else "") for n, one in spec.inputs.items()
              if one.default is None and n != "input"}
    parts = messages_of(spec, "texto", values=values, passages=["texto"], language=ws.config.language)
    said = parts.messages()
    warnings = [f"the input `{name}` is declared and stands in no template" for name in spec.inputs if name not in used]
    if "input" not in used:
        warnings.append("`input` stands in no template: no task can use this prompt")
    return {"name": spec.name, "inputs": sorted(spec.inputs), "used": sorted(used),
            "characters": sum(len(m["content"]) for m in said), "warnings": warnings}
