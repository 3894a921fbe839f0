"""A team's labelled examples, one at a time from files of any size, each with its bytes' place in the file."""

from __future__ import annotations

import difflib
import hashlib
import json
from array import array
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from bucle.core.errors import BadInput, NotFound
from bucle.core.ids import content_id
from bucle.core.records import Example, TaskKind
from bucle.data.columns import REQUIRED, choose_columns
from bucle.data.delimited import MAX_LINE, Line, Shape, Table, find_shape, read_records
from bucle.data.kinds import OPTIONAL, Fault, Parts, parts
from bucle.data.lines import Encoding, find_encoding, read_lines
from bucle.data.schema import Schema

__all__ = ["RowProblem", "row_bytes", "stream_rows", "text_of"]

MAX_STREAM = 16 * 2**30
MAX_WHOLE = 512 * 2**20
_SAMPLE_ROWS = 10_000
_SAMPLE_CHARACTERS = 16_000_000
_JUDGED = 1_000
"""After so many lines a file that is mostly no JSON is given up."""


@dataclass(frozen=True)
class RowProblem:
    """A row left out: `source` is `file:line`, `reason` one of `empty-text`, `missing-label`, `unknown-label`,
    `not-json`, `too-long`, `bad-encoding`, `nul-bytes`, or what `bucle.data.kinds.parts` finds.
    """

    source: str
    reason: str
    detail: str = ""


class _Row(NamedTuple):
    """Cells as wide as the table, or a problem."""

    line: int
    cells: Sequence[str]
    span: tuple[int, int] | None = None
    problem: str = ""
    detail: str = ""


def stream_rows(
    path: Path,
    kind: TaskKind,
    columns: Mapping[str, str] | None = None,
    *,
    known_labels: Collection[str] | None = None,
    unlabelled: bool = False,
    schema: Schema | None = None,
) -> Iterator[Example | RowProblem]:
    """The examples of a CSV, TSV, JSONL, XLSX or Parquet file in its order, and between them the rows that cannot be
    used. Memory stays the same however long the file is (16 bytes a row for the ids); a JSON array and a workbook are
    read whole.

    `columns`, `known_labels`, ids and sources are as `read_examples` says; `span` is the record's bytes in the file
    (None in Parquet, workbooks and JSON arrays), which `row_bytes` reads again. With `unlabelled` a row without what is
    right for it (a label, a reference, documents) is an example whose target is None, and no column need hold that.
    References of an extract task keep `schema`. Raises NotFound, and BadInput for a file that is too large, in no known
    format, or mostly malformed.
    """
    if not path.is_file():
        raise NotFound(f"{path} does not exist.", "Check its name.")
    if path.stat().st_size > MAX_STREAM:
        raise BadInput(f"{path} has over {MAX_STREAM:,} bytes.", "Split it, or give a sample.")
    given = {role: str(name) for role, name in (columns or {}).items()}
    alone = kind in OPTIONAL - {"answer"} or (unlabelled and kind != "answer")
    required = REQUIRED[kind][:1] if alone else REQUIRED[kind]
    table, read = _opened(path, list(given.values()))
    chosen = choose_columns(table, kind, given, path, required)
    if "id" not in given:  # a guessed column names no row
        chosen.pop("id", None)
    make = _maker(path.name, kind, table.columns, chosen, known_labels, unlabelled, schema)
    return map(make, read(list(chosen.values())))


def row_bytes(path: Path, span: tuple[int, int]) -> str:
    """The text at bytes [`span[0]`, `span[1]`) of a file: the record an example was read from. Raises NotFound, and
    BadInput where the file ends before it."""
    start, end = span
    if not path.is_file():
        raise NotFound(f"{path} does not exist.", "The row's text is in its dataset still.")
    if not 0 <= start <= end <= path.stat().st_size or end - start > 8 * MAX_LINE:
        raise BadInput(f"{path} has no bytes {start} to {end} of a row.", "The file has changed since it was read.")
    with path.open("rb") as file:
        wide = b"\0" in file.read(8192)
        file.seek(start)
        data = file.read(end - start)
    if not wide:
        try:
            return data.decode()
        except UnicodeDecodeError:
            pass
    return data.decode(find_encoding(path).codec, "replace")


def text_of(value: Any) -> str:
    """A cell of any type as text; nothing is the empty text."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False, default=text_of)  # dates and the like
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


_Opened = tuple[Table, Callable[[Sequence[str]], Iterator[_Row]]]
"""The columns with a sample of rows to choose among them by, and what reads all rows (given the columns wanted)."""


def _opened(path: Path, names: Sequence[str]) -> _Opened:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _parquet(path)
    if suffix == ".xlsx" or (suffix == ".json" and _is_array(path)):
        return _whole(path, names)
    if suffix in (".jsonl", ".ndjson", ".json"):
        return _json_lines(path, find_encoding(path), names)
    if suffix in (".csv", ".tsv", ".tab", ".txt"):
        return _delimited(path, find_encoding(path), suffix, names)
    raise BadInput(
        f"{path}: {suffix or 'a file without a suffix'} is not a table Bucle reads.",
        "Give .csv, .tsv, .jsonl, .json, .xlsx or .parquet.",
    )


def _maker(
    name: str,
    kind: TaskKind,
    columns: Sequence[str],
    chosen: Mapping[str, str],
    known_labels: Collection[str] | None,
    unlabelled: bool,
    schema: Schema | None,
) -> Callable[[_Row], Example | RowProblem]:
    at = {role: columns.index(column) for role, column in chosen.items()}
    question, answer = REQUIRED[kind]
    repeats = _Repeats()

    def make(row: _Row) -> Example | RowProblem:
        source = f"{name}:{row.line}"
        if row.problem:
            return RowProblem(source, row.problem, row.detail)
        cell = {role: row.cells[index] for role, index in at.items()}
        text, given = cell[question], cell.get(answer, "")
        if not text:
            return RowProblem(source, "empty-text")
        try:
            "".join(cell.values()).encode()
        except UnicodeEncodeError:  # half of a surrogate pair, which JSON can write
            return RowProblem(source, "bad-encoding", "half a character")
        if len(text) > MAX_LINE:
            return RowProblem(source, "too-long", f"over {MAX_LINE:,} characters")
        own = {"document": cell.get("document", ""), "checks": cell.get("checks", "")}
        told: Parts | RowProblem
        try:
            told = parts(kind, text, given, **own, schema=schema, open_=unlabelled)
            text = told.input
        except Fault as fault:
            told = RowProblem(source, fault.reason, fault.detail)
        known_by = ("id", cell["id"]) if cell.get("id") else ("input", text)
        count = repeats.before(*known_by)  # also of rows left out, which may be labelled one day
        if isinstance(told, RowProblem):
            return told
        if kind == "classify" and not given and not unlabelled:
            return RowProblem(source, "missing-label", text[:80])
        if kind == "classify" and given and known_labels is not None and given not in known_labels:
            near = difflib.get_close_matches(given, list(known_labels), 1)
            return RowProblem(source, "unknown-label", given + (f" (nearest: {near[0]})" if near else ""))
        return Example(
            id=content_id("example", dict([known_by, ("n", count)])),
            input=text,
            target=told.target,
            group=cell.get("group", ""),
            at=cell.get("time", ""),
            language=cell.get("language", ""),
            document=told.document,
            checks=told.checks,
            source=source,
            span=row.span,
        )

    return make


class _Repeats:
    """How often each text of a kind was seen before, in 16 to 32 bytes a text: a set of 64-bit hashes with open
    addressing, and counts for those that repeat."""

    def __init__(self) -> None:
        self.table = array("Q", bytes(8 << 12))
        self.used = 0
        self.again: dict[int, int] = {}

    def before(self, kind: str, text: str) -> int:
        digest = hashlib.blake2b(f"{kind}:{text}".encode(), digest_size=8).digest()
        name = int.from_bytes(digest, "little") or 1
        if not self._put(name):
            count = self.again[name] = self.again.get(name, 0) + 1
            return count
        self.used += 1
        if 2 * self.used > len(self.table):
            old, self.table = self.table, array("Q", bytes(16 * len(self.table)))
            for one in old:
                if one:
                    self._put(one)
        return 0

    def _put(self, name: int) -> bool:
        table, mask = self.table, len(self.table) - 1
        slot = name & mask
        while (there := table[slot]) and there != name:
            slot = (slot + 1) & mask
        table[slot] = name
        return not there


def _sample(lines: Iterator[Line]) -> Iterator[Line]:
    left = _SAMPLE_CHARACTERS
    for line in islice(lines, _SAMPLE_ROWS):
        left -= len(line.text)
        if left < 0:
            return
        yield line


def _delimited(path: Path, encoding: Encoding, suffix: str, names: Sequence[str]) -> _Opened:
    sample = list(_sample(read_lines(path, encoding)))
    sound = [line.text for line in sample if not line.problem]
    if not any(text.strip() for text in sound) and any(line.problem for line in sample):
        raise _malformed(path, next(line for line in sample if line.problem))
    try:
        shape = find_shape(sound, suffix, names)
    except BadInput as error:
        raise BadInput(f"{path}: {error.message}", error.hint) from error
    read = _delimited_rows(iter(sample), shape)
    table = Table(shape.columns, [tuple(row.cells) for row in read if not row.problem], shape.has_header)
    return table, lambda _: _delimited_rows(read_lines(path, encoding), shape)


def _delimited_rows(lines: Iterator[Line], shape: Shape) -> Iterator[_Row]:
    header = shape.has_header
    for first, last, cells in read_records(lines, shape.delimiter, shape.quoted):
        if first.problem:
            yield _Row(first.number, (), None, first.problem, _detail(first))
        elif header:
            header = False
        else:
            yield _Row(first.number, shape.row(cells), (first.start, last.end))


def _detail(line: Line) -> str:
    return f"{line.end - line.start:,} bytes" if line.problem == "too-long" else ""


def _malformed(path: Path, line: Line) -> BadInput:
    if line.problem == "too-long":
        return BadInput(
            f"{path}:{line.number}: the line is longer than {MAX_LINE:,} characters.",
            "Check that the file is CSV, TSV or JSONL.",
        )
    return BadInput(f"{path}:{line.number}: the line is no text ({line.problem}).", "Give CSV, TSV, JSONL or Parquet.")


def _json_lines(path: Path, encoding: Encoding, names: Sequence[str]) -> _Opened:
    def records(lines: Iterator[Line]) -> Iterator[tuple[Line, dict[str, Any] | str]]:
        """Each line's record, or why it is none."""
        good, bad, first = 0, 0, (0, "")
        for line in lines:
            if not line.problem and not line.text.strip():
                continue
            record = _json_record(line)
            good, bad = good + isinstance(record, dict), bad + isinstance(record, str)
            if isinstance(record, str) and bad == 1:
                first = (line.number, record)
            if bad > good and bad + good >= _JUDGED:
                break
            yield line, record
        if bad > good:
            raise BadInput(
                f"{path}:{first[0]}: {first[1]}; {bad} of {bad + good} lines are like that.",
                'Each line must be one JSON object: {"text": …, "label": …}.',
            )

    def rows(keys: Sequence[str], lines: Iterator[Line]) -> Iterator[_Row]:
        for line, record in records(lines):
            if isinstance(record, str):
                yield _Row(line.number, (), None, line.problem or "not-json", _detail(line) or record)
            else:
                cells = [text_of(record.get(key)) for key in keys]
                yield _Row(line.number, cells, (line.start, line.end))

    def keys_of(lines: Iterator[Line]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(key for _, record in records(lines) if isinstance(record, dict) for key in record))

    sample = list(_sample(read_lines(path, encoding)))
    keys = keys_of(iter(sample))
    wanted = {name for name in names if not name.isdigit()}
    if keys and not wanted <= set(keys):  # a key that only later records have
        keys = keys_of(read_lines(path, encoding))
    if not keys:
        raise BadInput(f"{path} holds no rows.", "Give a file with one example a row.")
    table = Table(keys, [tuple(row.cells) for row in rows(keys, iter(sample)) if not row.problem], True)
    return table, lambda _: rows(keys, read_lines(path, encoding))


def _json_record(line: Line) -> dict[str, Any] | str:
    if line.problem:
        return f"the line is {line.problem}"
    try:
        record = json.loads(line.text)
    except (ValueError, RecursionError) as error:
        return f"not JSON: {str(error)[:120]}"
    return record if isinstance(record, dict) else "the record is not a JSON object"


def _is_array(path: Path) -> bool:
    encoding = find_encoding(path)
    filled = (line for line in read_lines(path, encoding) if line.text.strip() or line.problem)
    first = next(filled, None)
    return first is not None and (first.text.lstrip().startswith("[") or first.problem == "too-long")


def _whole(path: Path, names: Sequence[str] = ()) -> _Opened:
    from bucle.data.tables import read_table

    table = read_table(path, names)
    return table, lambda _: (_Row(line, row) for line, row in zip(table.lines, table.rows, strict=True))


def _parquet(path: Path) -> _Opened:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def broken(error: Exception) -> BadInput:
        return BadInput(f"{path}: not a readable Parquet file: {error}.", "Write it again, or give CSV.")

    try:
        with pq.ParquetFile(path) as file:
            columns = tuple(file.schema_arrow.names)
            sizes = [file.metadata.row_group(n) for n in range(file.metadata.num_row_groups)]
            widest = max((group.total_byte_size / max(1, group.num_rows) for group in sizes), default=1)
    except (pa.ArrowException, OSError) as error:
        raise broken(error) from error
    size = int(min(4096, max(16, 32_000_000 / max(1.0, widest))))

    def rows(wanted: Sequence[str]) -> Iterator[_Row]:
        names = None if any("." in name for name in wanted) else list(wanted)
        number = 0
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(size, columns=names):
                    data = {name: batch.column(name).to_pylist() for name in wanted}
                    for at in range(batch.num_rows):
                        number += 1
                        yield _Row(number, [text_of(data[c][at]) if c in data else "" for c in columns])
        except (pa.ArrowException, OSError) as error:
            raise broken(error) from error

    sample = [tuple(row.cells) for row in islice(rows(columns), _SAMPLE_ROWS)]
    return Table(columns, sample, True), rows
