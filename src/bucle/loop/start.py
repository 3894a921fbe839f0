"""Starting a project: bucle.yaml written from one labelled file, its columns guessed and shown."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from bucle.core.config import load_project
from bucle.core.errors import BadInput

__all__ = ["start_project"]

MAX_LABELS = 500


def start_project(
    folder: Path,
    source: Path | None,
    *,
    text: str = "",
    label: str = "",
    docs: Path | None = None,
    name: str = "",
    language: str = "es",
) -> dict[str, Any]:
    """Write `folder/bucle.yaml`. The team's file stays where it is and is referred to.

    Returns path, columns (role -> column and why), rows, labels and the next command. Raises BadInput where a project
    is already there, or no column can be the text or the label.
    """
    path = folder / "bucle.yaml"
    if path.exists():
        raise BadInput(f"{path} is already there.", f"bucle run {folder}, or start in another folder.")
    name = re.sub(r"[^\w .-]", "-", name or folder.resolve().name).strip(" .-")[:80] or "project"
    if source is None:
        return _documents_only(path, docs, name, language) if docs is not None else _empty(path, name, language)
    if not source.is_file():
        raise BadInput(f"{source} does not exist.", "bucle init --from FILE")
    from bucle.data.columns import guess_columns
    from bucle.data.tables import read_examples, read_table

    guess = guess_columns(read_table(source))
    columns = {
        role: column
        for role, column in (
            ("text", text or guess.text),
            ("label", label or guess.label),
            ("group", guess.group),
            ("time", guess.time),
        )
        if column
    }
    if missing := [role for role in ("text", "label") if role not in columns]:
        raise BadInput(
            f"No column of {source} looks like the {missing[0]}.",
            f"bucle init --from {source} --{missing[0]} COLUMN; other kinds of task than labels: docs/tasks.md",
        )
    rows, problems = read_examples(source, "classify", columns)
    labels = Counter(str(r.target) for r in rows)
    if len(labels) < 2 or len(labels) > min(MAX_LABELS, max(2, len(rows) // 2)):
        raise BadInput(
            f"The column `{columns['label']}` holds {len(labels)} different labels in {len(rows)} rows.",
            f"bucle init --from {source} --text COLUMN --label COLUMN",
        )
    task: dict[str, Any] = {
        "kind": "classify",
        "data": _relative(source, folder),
        **columns,
        "gates": ["accuracy >= baseline - 0.02 at 95%", "accuracy >= production - 0.03 at 95%"],
    }
    body: dict[str, Any] = {"project": name, "language": language, "seed": 7}
    if docs is not None:
        body["data"] = _data(docs, folder)
    body |= {
        "tasks": {"labels": task},
        "models": {"nano": {"kind": "pretrain"}, "minilm": {"kind": "encoder", "path": "minilm"}},
    }
    _write(path, body, "# Written by `bucle init`; every key is explained in docs/bucle.yaml.md\n")
    shown = {
        role: f"{column!r} ({'given' if column in (text, label) else guess.why.get(role, '')})"
        for role, column in columns.items()
    }
    return {
        "path": str(path),
        "columns": shown,
        "rows": len(rows),
        "left_out": len(problems),
        "labels": dict(labels.most_common()),
        "next": f"bucle run {folder}",
    }


def _data(docs: Path, folder: Path) -> dict[str, Any]:
    if not docs.is_dir():
        raise BadInput(f"{docs} is not a folder.", "bucle init --docs FOLDER")
    return {"documents": {"path": _relative(docs, folder)}}


def _documents_only(path: Path, docs: Path, name: str, language: str) -> dict[str, Any]:
    """A project with documents and no task yet; questions are drafted from them."""
    body: dict[str, Any] = {"project": name, "language": language, "seed": 7, "data": _data(docs, path.parent)}
    _write(path, body, "# Written by `bucle init`; every key is explained in docs/bucle.yaml.md\n")
    return {
        "path": str(path),
        "columns": {},
        "rows": 0,
        "left_out": 0,
        "labels": {},
        "documents": body["data"]["documents"]["path"],
        "next": f"bucle data list -p {path.parent} reads them; bucle data bootstrap -p {path.parent} drafts questions",
    }


def _empty(path: Path, name: str, language: str) -> dict[str, Any]:
    body = {
        "project": name,
        "language": language,
        "seed": 7,
        "tasks": {"labels": {"kind": "classify", "data": "data/examples.csv", "text": "text", "label": "label"}},
        "models": {"nano": {"kind": "pretrain"}, "minilm": {"kind": "encoder", "path": "minilm"}},
    }
    _write(path, body, "# Put labelled rows into data/examples.csv (columns text and label), then `bucle run`.\n")
    return {
        "path": str(path),
        "columns": {},
        "rows": 0,
        "left_out": 0,
        "labels": {},
        "next": f"write {path.parent}/data/examples.csv with columns text and label, then: bucle run {path.parent}",
    }


def _write(path: Path, body: dict[str, Any], comment: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".new")
    scratch.write_text(comment + yaml.safe_dump(body, sort_keys=False, allow_unicode=True, width=110), encoding="utf-8")
    scratch.replace(path)
    load_project(path)


def _relative(target: Path, folder: Path) -> str:
    return Path(os.path.relpath(target.resolve(), folder.resolve())).as_posix()
