"""What other tools' files have in common: rows with what was said about them, matched to the rows of a task; and CSV
and JSON lines of our own."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bucle.core.errors import BadInput, NotFound
from bucle.core.ids import content_id
from bucle.core.records import Annotation, Example, TaskKind
from bucle.data.kinds import Fault, accepted, parts, said
from bucle.data.label.effective import Label
from bucle.data.schema import Schema

__all__ = ["FORMATS", "Asked", "Imported", "Remark", "export", "match", "mended", "neutral", "read_file"]

FORMATS = ("label-studio", "argilla", "csv", "jsonl")
MAX_BYTES = 256 * 2**20
MAX_ROWS = 1_000_000
MAX_TEXT = 100_000
MAX_LABEL, MAX_ANSWER = 200, 100_000
MAX_NAME = 200


@dataclass(frozen=True)
class Remark:
    """One thing said in a foreign file. `id` and `at` are empty where the file does not say."""

    by: str
    label: str
    at: str = ""
    kind: Literal["annotation", "prelabel", "adjudication"] = "annotation"
    id: str = ""
    note: str = ""


@dataclass(frozen=True)
class Asked:
    """One row of a file: its text, the id it had here (or there), and what was said."""

    id: str
    text: str
    remarks: tuple[Remark, ...]


@dataclass
class Imported:
    """What an import comes to. `left_out` counts by reason; nothing is stored yet."""

    annotations: list[Annotation] = field(default_factory=list)
    rows: list[Example] = field(default_factory=list)
    by_id: int = 0
    by_text: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    new_labels: Counter[str] = field(default_factory=Counter)


def read_file(path: Path, *, control: str = "") -> tuple[str, list[Asked], Counter[str]]:
    """The format of a file by what stands in it, its rows, and counts of what in it cannot be used, by reason.

    `control` names the question to read where a file holds several. Raises NotFound, and BadInput for a file that is
    too large, malformed, or of none of the formats.
    """
    from bucle.data.label.argilla import read_argilla
    from bucle.data.label.labelstudio import read_label_studio

    if not path.is_file():
        raise NotFound(f"{path} does not exist.", "Check its name.")
    if path.stat().st_size > MAX_BYTES:
        raise BadInput(f"{path} has over {MAX_BYTES:,} bytes.", "Split it.")
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 text.", "Export it again as JSON.") from error
    records = _records(path, text)
    first = next((r for r in records if isinstance(r, dict)), None)
    if first is None:
        raise BadInput(f"{path} holds no record.", "Give the JSON that Label Studio or Argilla exports.")
    if isinstance(first.get("data"), dict):
        return "label-studio", *read_label_studio(records, control)
    if isinstance(first.get("fields"), dict):
        return "argilla", *read_argilla(records, control)
    if {"row", "label", "by"} <= set(first):
        return "jsonl", *_own(records)
    raise BadInput(
        f"{path} is neither Label Studio (records with `data`) nor Argilla (with `fields`) nor our own JSON lines.",
        f"Its first record has: {', '.join(map(str, list(first)[:8]))[:200]}. Export as JSON, not JSON-MIN or CSV.",
    )


def _records(path: Path, text: str) -> list[Any]:
    try:
        if text.lstrip().startswith("["):
            found = json.loads(text)
        else:
            try:
                found = [json.loads(line) for line in text.split("\n") if line.strip()]
            except json.JSONDecodeError:
                found = [json.loads(text)]  # one object over several lines
            if len(found) == 1 and isinstance(found[0], dict) and isinstance(found[0].get("records"), list):
                found = found[0]["records"]
        if re.search(r"\\u[dD][89a-fA-F]", text):
            found = mended(found)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not JSON: {str(error)[:200]}.", "Export it again as JSON.") from error
    if len(found) > MAX_ROWS:
        raise BadInput(f"{path} has over {MAX_ROWS:,} records.", "Split it.")
    return list(found)


def mended(value: Any) -> Any:
    """`value` with each half of a surrogate pair, which JSON can hold and no file can, replaced by a question mark."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {mended(name): mended(inner) for name, inner in value.items()}
    return [mended(inner) for inner in value] if isinstance(value, list) else value


def _own(records: Sequence[Any]) -> tuple[list[Asked], Counter[str]]:
    found, left = [], Counter[str]()
    for record in records:
        told = record if isinstance(record, dict) else {}
        names = ("row", "text", "label", "by", "at", "id", "note")
        cell = {name: told.get(name, "") for name in names}
        kind = told.get("kind", "annotation")
        if cell["label"] is None:
            left["taken-back"] += 1
            continue
        if not all(isinstance(v, str) for v in cell.values()) or kind not in ("annotation", "prelabel", "adjudication"):
            left["malformed"] += 1
            continue
        remark = Remark(cell["by"], cell["label"], cell["at"], kind, cell["id"], cell["note"])
        found.append(Asked(cell["row"], cell["text"], (remark,)))
    return found, left


def match(
    asked: Iterable[Asked],
    rows: Mapping[str, str],
    *,
    task: str,
    kind: TaskKind,
    origin: str,
    labels: Collection[str] = (),
    known: Collection[str] = (),
    at: str,
    schema: Schema | None = None,
) -> Imported:
    """Annotations of a task from a file's rows. `rows` is id -> text of the task's rows: a foreign row is found by its
    id, then by its text, else it becomes a new row. `labels` are all that are allowed (none: any), `known` those seen
    before; `origin` names the file; `at` stands in where the file does not say when. An answer that cannot be one of
    its kind (kinds.accepted, with `schema`) is left out, and so is a new row of a conversation that is none."""
    found, by_text = Imported(), dict[str, str]()
    for row, text in rows.items():
        by_text.setdefault(text.strip(), row)
    fresh: dict[str, Example] = {}
    for number, one in enumerate(asked, 1):
        text = one.text.strip()
        if one.id in rows:
            row, where = one.id, "id"
        elif text in by_text:
            row, where = by_text[text], "text"
        elif not text:
            found.left_out["no-text"] += 1
            continue
        elif len(text) > MAX_TEXT or not _can_be(kind, text):
            found.left_out["text-too-long"] += 1
            continue
        else:
            row, where = content_id("example", {"input": text, "n": 0}), "new"
        read = (_annotation(remark, row, task, kind, labels, at, schema, found.left_out) for remark in one.remarks)
        made = [a for a in read if a]
        if where == "id":
            found.by_id += 1
        elif where == "text":
            found.by_text += 1
        else:
            fresh[row] = Example(id=row, input=text, target=None, source=f"{origin}:{number}")
            by_text[text] = row
        found.annotations += made
        found.new_labels.update(a.label for a in made if a.label and known and a.label not in known)
    found.rows = list(fresh.values())
    return found


def _annotation(
    remark: Remark,
    row: str,
    task: str,
    kind: TaskKind,
    labels: Collection[str],
    at: str,
    schema: Schema | None,
    left: Counter[str],
) -> Annotation | None:
    label, by = remark.label.strip(), remark.by.strip()
    if kind != "classify":
        try:
            label = accepted(kind, label[: MAX_ANSWER + 1], schema)
        except BadInput:
            left["label-unusable"] += 1
            return None
    if not label and kind == "classify":
        left["no-label"] += 1
    elif len(label) > MAX_ANSWER or (kind == "classify" and (len(label) > MAX_LABEL or not label.isprintable())):
        left["label-unusable"] += 1
    elif labels and kind == "classify" and label not in labels:
        left["unknown-label"] += 1
    elif not by or len(by) > MAX_NAME or not by.isprintable():
        left["no-author"] += 1
    elif remark.at and _time(remark.at) is None:
        left["no-time"] += 1
    else:
        body = {"task": task, "row": row, "by": by, "label": label, "kind": remark.kind, "at": remark.at}
        ours = remark.id.startswith("annotation:") and len(remark.id) <= MAX_NAME and remark.id.isprintable()
        return Annotation(
            id=remark.id if ours else content_id("annotation", body | {"foreign": remark.id[:MAX_NAME]}),
            task=task,
            row=row,
            by=by,
            label=label,
            at=remark.at or at,
            kind=remark.kind,
            note=remark.note[:8000],
        )
    return None


def _can_be(kind: TaskKind, text: str) -> bool:
    """Whether a text may be the input of a new row."""
    try:
        return bool(parts(kind, text, "", open_=True).input)
    except Fault:
        return False


def _time(text: str) -> str | None:
    from datetime import UTC, datetime

    try:
        told = datetime.fromisoformat(text)
        return (told if told.tzinfo else told.replace(tzinfo=UTC)).astimezone(UTC).isoformat()
    except (ValueError, OverflowError):
        return None


def export(
    format_: str,
    rows: Sequence[Example],
    annotations: Sequence[Annotation],
    labels: Mapping[str, Label],
    *,
    kind: TaskKind,
) -> str:
    """A file's text: `label-studio` and `argilla` JSON and our `jsonl` hold everything ever said about `rows` that was
    not taken back; `csv` a line a row with the label that counts."""
    from bucle.data.label.argilla import write_argilla
    from bucle.data.label.labelstudio import write_label_studio

    writers: dict[str, Callable[..., str]] = {"label-studio": write_label_studio, "argilla": write_argilla}
    if format_ in writers:
        return writers[format_](rows, latest(annotations), kind=kind)
    if format_ == "jsonl":
        texts = {row.id: row.input for row in rows}
        kept = [a for a in annotations if a.row in texts]
        return "".join(json.dumps(a.model_dump() | {"text": texts[a.row]}, ensure_ascii=False) + "\n" for a in kept)
    if format_ == "csv":
        return _csv(rows, labels, kind)
    raise BadInput(f"There is no format `{format_}`.", f"Formats: {', '.join(FORMATS)}.")


def latest(annotations: Iterable[Annotation]) -> dict[str, list[Annotation]]:
    """Row -> what each person (and machine) says now, oldest first; what was taken back is left out."""
    now: dict[tuple[str, str, str], Annotation] = {}
    for item in annotations:
        now[item.row, item.by, item.kind] = item
    found: dict[str, list[Annotation]] = {}
    for item in now.values():
        if item.label is not None:
            found.setdefault(item.row, []).append(item)
    return found


def _csv(rows: Sequence[Example], labels: Mapping[str, Label], kind: TaskKind) -> str:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["id", "text", "label", "status", "by", "at", "source"])
    for row in rows:
        label = labels.get(row.id)
        given = said(kind, row) or ""
        told = [label.label, label.status, label.by, label.at] if label else [given, "source" if given else "", "", ""]
        writer.writerow([neutral(cell) for cell in (row.id, row.input, *told, row.source)])
    return out.getvalue()


def neutral(cell: str) -> str:
    """`cell` so that no spreadsheet runs it as a formula: an apostrophe before what could begin one."""
    return "'" + cell if cell[:1] in ("=", "+", "-", "@", "\t", "\r", "\n") or cell.lstrip()[:1] in ("=", "@") else cell
