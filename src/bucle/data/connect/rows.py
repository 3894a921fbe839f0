"""Rows of a query or a dataset: as JSON lines for a task, or as one Markdown file each for documents."""

from __future__ import annotations

import datetime
import decimal
import difflib
import json
import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bucle.core.errors import BadInput
from bucle.core.ports import Report
from bucle.core.sources import HuggingFaceSource, SqlSource
from bucle.data.connect.files import MAX_FILE_BYTES, SyncProblem
from bucle.data.connect.mirror import Mirror
from bucle.data.connect.safe import file_name

__all__ = ["as_value", "write_documents", "write_lines"]

Row = Mapping[str, Any]
MAX_BYTES = 2 * 2**30
"""Of all rows as JSON lines."""
EVERY_S = 0.2


def write_lines(
    source: SqlSource | HuggingFaceSource, rows: Iterable[Row], mirror: Mirror, report: Report
) -> list[SyncProblem]:
    """All rows into `rows.jsonl` of the mirror, one at a time. Raises BadInput for none, or too many bytes."""
    part, size, count = mirror.part(), 0, 0
    with part.open("w", encoding="utf-8", newline="\n") as file:
        for row in _counted(rows, source.max_rows, report):
            count += 1
            line = json.dumps({name: as_value(value, name) for name, value in row.items()}, ensure_ascii=False)
            size += len(line.encode("utf-8", "replace")) + 1
            if size > MAX_BYTES:
                raise BadInput(f"The rows are over {MAX_BYTES:,} bytes.", "Narrow the query, or lower `max_rows`.")
            file.write(line.encode("utf-8", "replace").decode() + "\n")
    if not count:
        raise BadInput("The source gave no rows.", "Correct its `query` or `split` in bucle.yaml.")
    mirror.put("rows", "rows.jsonl", part)
    return _cut_off(source, count)


def write_documents(
    source: SqlSource | HuggingFaceSource, rows: Iterable[Row], origin: str, mirror: Mirror, report: Report
) -> list[SyncProblem]:
    """One `.md` file a row: `title` as its heading, the `text` columns below (all others, named, without `text`)."""
    problems: list[SyncProblem] = []
    seen: Counter[str] = Counter()
    count = 0
    for count, row in enumerate(_counted(rows, source.max_rows, report), 1):
        if count == 1:
            _check(source, row)
        own = str(as_value(row[source.id], source.id) or "") if source.id else ""
        name = own or f"row-{count:06d}"
        seen[name] += 1
        if seen[name] > 1:
            name = f"{name} ({seen[name]})"
        text = _markdown(source, row).encode("utf-8", "replace")
        if not text.strip():
            problems.append(SyncProblem(name, "empty", f"Row {count} holds no text."))
        elif len(text) > MAX_FILE_BYTES:
            problems.append(SyncProblem(name, "too-large", f"Row {count} has over {MAX_FILE_BYTES:,} bytes."))
        else:
            mirror.put(name, file_name(name) + ".md", text, origin=f"{origin}#{name}")
    return problems + _cut_off(source, count)


def _counted(rows: Iterable[Row], most: int, report: Report) -> Iterator[Row]:
    said = 0.0
    for count, row in enumerate(rows):
        if count >= most:
            break
        if time.monotonic() - said > EVERY_S:
            said = time.monotonic()
            report(count, 0, f"{count:,} rows")
        yield row


def _cut_off(source: SqlSource | HuggingFaceSource, count: int) -> list[SyncProblem]:
    if count < source.max_rows:
        return []
    return [SyncProblem("rows", "too-many", f"`max_rows` ({source.max_rows:,}) was reached; later rows are not read.")]


def _check(source: SqlSource | HuggingFaceSource, row: Row) -> None:
    for column in (*source.text, source.title, source.id):
        if column and column not in row:
            near = difflib.get_close_matches(column, list(row), 1)
            raise BadInput(
                f"The source has no column {column!r}." + (f" The nearest is {near[0]!r}." if near else ""),
                f"Its columns: {', '.join(row)}.",
            )


def _markdown(source: SqlSource | HuggingFaceSource, row: Row) -> str:
    title = " ".join(_text(row[source.title], source.title).split()) if source.title else ""
    names = source.text or tuple(name for name in row if name not in (source.title, source.id))
    told = {name: text for name in names if (text := _text(row[name], name).strip())}
    named = not source.text and len(names) > 1
    body = "\n\n".join(f"**{name}**: {text}" if named else text for name, text in told.items())
    return "\n\n".join(part for part in (f"# {title}" if title else "", body) if part) + "\n"


def _text(value: Any, column: str) -> str:
    plain = as_value(value, column)
    return "" if plain is None else plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def as_value(value: Any, column: str) -> Any:
    """`value` as text, or None; dates are ISO 8601, numbers as written, lists and objects stay, with the numbers and
    truth values in them. Raises BadInput for bytes, which have no one meaning as text."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, decimal.Decimal):
        return format(value, "f") if value.is_finite() else None
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else None
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, bytes | bytearray | memoryview):
        raise BadInput(
            f"Column {column!r} holds bytes, not text.", "Leave it out of the query, or have the database decode it."
        )
    if isinstance(value, Mapping):
        return {str(key): _inside(inner, column) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_inside(inner, column) for inner in value]
    return str(value)


def _inside(value: Any, column: str) -> Any:
    """A value within a list or an object, as JSON has it."""
    if isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, decimal.Decimal) and value.is_finite():
        return int(value) if value == value.to_integral_value() else float(value)
    return as_value(value, column)


def rows_file(mirror: Mirror) -> Path:
    """The one file of a mirror of rows."""
    return mirror.files / next(iter(mirror.entries.values())).path
