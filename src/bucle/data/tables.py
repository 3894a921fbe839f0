"""A team's labelled examples: CSV, TSV, JSONL or Parquet into rows, and rows into examples."""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bucle.core.errors import BadInput, NotFound, Quarantined
from bucle.core.ids import content_id
from bucle.core.records import Example, TaskKind
from bucle.data.columns import ColumnGuess, guess_columns
from bucle.data.delimited import MAX_LINE, Table, parse_delimited
from bucle.data.parse.source import decode

__all__ = ["ColumnGuess", "RowProblem", "Table", "guess_columns", "read_examples", "read_table"]

MAX_BYTES = 512 * 2**20
_ROLES: Mapping[TaskKind, tuple[str, ...]] = {
    "classify": ("text", "label", "id", "group", "time", "language"),
    "answer": ("question", "answer", "document", "id", "group", "time", "language"),
}
_REQUIRED: Mapping[TaskKind, tuple[str, ...]] = {
    "classify": ("text", "label"),
    "answer": ("question", "answer"),
}
_ANSWER_NAMES = {
    "question": ("question", "pregunta", "query", "consulta", "text"),
    "answer": ("answer", "respuesta", "target"),
    "document": ("document", "documento", "source", "fuente", "doc", "path"),
    "language": ("language", "lang", "idioma"),
}


@dataclass(frozen=True)
class RowProblem:
    """A row left out: `source` is `file:line`, `reason` one of `empty-text`, `missing-label`,
    `unknown-label`.
    """

    source: str
    reason: str
    detail: str = ""


def read_table(path: Path, names: Collection[str] = ()) -> Table:
    """The rows of a CSV, TSV, JSONL, JSON or Parquet file as texts; `lines` are row numbers for Parquet and
    JSON. `names` are columns that the caller expects: a first row that holds one is a header, whatever it looks like.

    Raises NotFound, and BadInput for a file that is too large, in no known format, or malformed.
    """
    if not path.is_file():
        raise NotFound(f"{path} does not exist.", "Check its name.")
    if path.stat().st_size > MAX_BYTES:
        raise BadInput(f"{path} has over {MAX_BYTES:,} bytes.", "Split it, or give a sample.")
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _parquet(path)
    try:
        text = decode(path.read_bytes())
    except Quarantined as refused:
        raise BadInput(f"{path}: {refused.message}", "Give CSV, TSV, JSONL or Parquet.") from refused
    if suffix in (".jsonl", ".ndjson", ".json"):
        return _json_lines(path, text, whole=suffix == ".json")
    if suffix in (".csv", ".tsv", ".tab", ".txt"):
        try:
            table = parse_delimited(text, suffix)
        except BadInput as error:
            raise BadInput(f"{path}: {error.message}", error.hint) from error
        if not table.has_header and len(table.rows) > 1 and set(names) & set(table.rows[0]):
            return Table(table.rows[0], table.rows[1:], True, table.lines[1:], table.ragged)
        return table
    raise BadInput(
        f"{path}: {suffix or 'a file without a suffix'} is not a table Bucle reads.",
        "Give .csv, .tsv, .jsonl, .json or .parquet.",
    )


def _json_lines(path: Path, text: str, *, whole: bool) -> Table:
    records: list[tuple[int, Any]] = []
    try:
        if whole and text.lstrip().startswith("["):
            records = list(enumerate(json.loads(text), 1))
        else:
            for number, line in enumerate(text.split("\n"), 1):
                if len(line) > MAX_LINE:
                    raise BadInput(f"{path}:{number}: the line has over {MAX_LINE:,} characters.", "Split the record.")
                if line.strip():
                    records.append((number, json.loads(line)))
    except (json.JSONDecodeError, RecursionError) as error:
        where = f":{number}" if not whole else ""
        raise BadInput(f"{path}{where}: not JSON: {error}.", "Each line must be one JSON object.") from error
    for number, record in records:
        if not isinstance(record, dict):
            raise BadInput(f"{path}:{number}: the record is not a JSON object.", 'Write {"text": …, "label": …}.')
    if not records:
        raise BadInput(f"{path} holds no rows.", "Give a file with one example a row.")
    names = tuple(dict.fromkeys(str(key) for _, record in records for key in record))
    rows = [tuple(_text(record.get(name)) for name in names) for _, record in records]
    return Table(names, rows, True, [number for number, _ in records])


def _parquet(path: Path) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        data = pq.read_table(path, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{path}: not a readable Parquet file: {error}.", "Write it again, or give CSV.") from error
    rows = [tuple(_text(value) for value in row.values()) for row in data.to_pylist()]
    return Table(tuple(data.column_names), rows, True, list(range(1, len(rows) + 1)))


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def read_examples(
    path: Path,
    kind: TaskKind,
    columns: Mapping[str, str] | None = None,
    *,
    known_labels: Collection[str] | None = None,
) -> tuple[list[Example], list[RowProblem]]:
    """The examples in a file, in its order, and the rows that cannot be used.

    `columns` names the file's column for each role (`text`, `label`; for kind `answer` `question`, `answer`,
    `document`; for both `group`, `time`, `language`); what it leaves out is guessed. A column may be given by
    its number from 1. An empty answer means that the question has none. An example's id is the hash of its
    input, its target and, for the n-th row with the same two, of n: it stays when rows are added. `source` is
    `file:line`. Raises BadInput for a column that is not there, naming the nearest.
    """
    table = read_table(path, [str(name) for name in (columns or {}).values()])
    chosen = _choose(table, kind, columns or {}, path)
    at = {role: table.columns.index(name) for role, name in chosen.items()}
    examples: list[Example] = []
    problems: list[RowProblem] = []
    seen: Counter[tuple[str, str | None]] = Counter()
    question, target_role = _REQUIRED[kind]
    for row, line in zip(table.rows, table.lines, strict=True):
        cell = {role: row[index] for role, index in at.items()}
        source, given = f"{path.name}:{line}", cell[target_role]
        if not cell[question]:
            problems.append(RowProblem(source, "empty-text"))
        elif kind == "classify" and not given:
            problems.append(RowProblem(source, "missing-label", cell[question][:80]))
        elif kind == "classify" and known_labels is not None and given not in known_labels:
            near = difflib.get_close_matches(given, list(known_labels), 1)
            problems.append(RowProblem(source, "unknown-label", given + (f" (nearest: {near[0]})" if near else "")))
        else:
            target = given or None
            count = seen[cell[question], target]
            seen[cell[question], target] += 1
            examples.append(
                Example(
                    id=content_id("example", {"input": cell[question], "target": target, "n": count}),
                    input=cell[question],
                    target=target,
                    group=cell.get("group", ""),
                    at=cell.get("time", ""),
                    language=cell.get("language", ""),
                    document=cell.get("document", ""),
                    source=source,
                )
            )
    return examples, problems


def _choose(table: Table, kind: TaskKind, columns: Mapping[str, str], path: Path) -> dict[str, str]:
    chosen: dict[str, str] = {}
    for role, name in columns.items():
        if role not in _ROLES[kind]:
            raise BadInput(f"{role!r} is no column role of a {kind} task.", f"Roles: {', '.join(_ROLES[kind])}.")
        chosen[role] = _column(table, str(name), path)
    for role, name in _guesses(table, kind).items():
        if role not in chosen and name not in chosen.values():
            chosen[role] = name
    for role in _REQUIRED[kind]:
        if role not in chosen:
            raise BadInput(
                f"{path}: no column looks like the {role}; it has {', '.join(table.columns)}.",
                f"Name it in bucle.yaml, under the task: `{role}: COLUMN`.",
            )
    return chosen


def _guesses(table: Table, kind: TaskKind) -> dict[str, str]:
    lower = {name.lower(): name for name in reversed(table.columns)}
    named = {
        role: next((lower[name] for name in names if name in lower), None) for role, names in _ANSWER_NAMES.items()
    }
    if kind == "answer":
        found: dict[str, str | None] = dict(named)
    else:
        guess = guess_columns(table)
        found = {
            "text": guess.text,
            "label": guess.label,
            "id": guess.id,
            "group": guess.group,
            "time": guess.time,
            "language": named["language"],
        }
    taken: dict[str, str] = {}
    for role, name in found.items():
        if name is not None and name not in taken.values():
            taken[role] = name
    return taken


def _column(table: Table, name: str, path: Path) -> str:
    if name in table.columns:
        return name
    if name.isdigit() and 1 <= int(name) <= len(table.columns):
        return table.columns[int(name) - 1]
    near: Sequence[str] = difflib.get_close_matches(name, table.columns, 1, 0.3) or table.columns[:1]
    raise BadInput(
        f"{path} has no column {name!r}; the nearest is {near[0]!r}.",
        f"Its columns: {', '.join(table.columns)}.",
    )
