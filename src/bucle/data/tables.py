"""A team's labelled examples in a file: its table, and its rows as examples."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from bucle.core.errors import BadInput, NotFound, Quarantined
from bucle.core.records import Example, TaskKind
from bucle.data.columns import ColumnGuess, guess_columns
from bucle.data.delimited import MAX_LINE, Table, has_header, parse_delimited
from bucle.data.parse.source import decode
from bucle.data.rows import RowProblem, stream_rows, text_of
from bucle.data.schema import Schema

__all__ = ["ColumnGuess", "RowProblem", "Table", "guess_columns", "read_examples", "read_table"]

MAX_BYTES = 512 * 2**20


def read_table(path: Path, names: Collection[str] = ()) -> Table:
    """The rows of a CSV, TSV, JSONL, JSON, XLSX or Parquet file as texts; `lines` are row numbers for Parquet and
    JSON. Of a workbook the first visible sheet with rows is read. `names` are columns that the caller expects: a first
    row that holds one is a header, whatever it looks like.

    Raises NotFound, and BadInput for a file that is too large, in no known format, or malformed.
    """
    if not path.is_file():
        raise NotFound(f"{path} does not exist.", "Check its name.")
    if path.stat().st_size > MAX_BYTES:
        raise BadInput(f"{path} has over {MAX_BYTES:,} bytes.", "Split it, or give a sample.")
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _parquet(path)
    if suffix == ".xlsx":
        return _workbook(path, names)
    try:
        text = decode(path.read_bytes())
    except Quarantined as refused:
        raise BadInput(f"{path}: {refused.message}", "Give CSV, TSV, JSONL or Parquet.") from refused
    if suffix in (".jsonl", ".ndjson", ".json"):
        return _json_lines(path, text, whole=suffix == ".json")
    if suffix in (".csv", ".tsv", ".tab", ".txt"):
        try:
            return parse_delimited(text, suffix, names)
        except BadInput as error:
            raise BadInput(f"{path}: {error.message}", error.hint) from error
    raise BadInput(
        f"{path}: {suffix or 'a file without a suffix'} is not a table Bucle reads.",
        "Give .csv, .tsv, .jsonl, .json, .xlsx or .parquet.",
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
    rows = [tuple(text_of(record.get(name)) for name in names) for _, record in records]
    return Table(names, rows, True, [number for number, _ in records])


def _workbook(path: Path, names: Collection[str]) -> Table:
    from bucle.data.parse.xlsx import first_sheet

    try:
        found = first_sheet(path.read_bytes())
    except Quarantined as refused:
        raise BadInput(f"{path}: {refused.message}", "Give CSV, JSONL or Parquet.") from refused
    if not found:
        raise BadInput(f"{path} holds no rows.", "Give a file with one example a row.")
    width = max(len(cells) for _, cells in found)
    rows = [tuple(cells) + ("",) * (width - len(cells)) for _, cells in found]
    numbers = [number for number, _ in found]
    if has_header(rows[:2_001]) or (len(rows) > 1 and set(names) & set(rows[0])):
        columns = tuple(name or f"column{n}" for n, name in enumerate(rows[0], 1))
        return Table(columns, rows[1:], True, numbers[1:])
    return Table(tuple(f"column{n}" for n in range(1, width + 1)), rows, False, numbers)


def _parquet(path: Path) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        data = pq.read_table(path, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{path}: not a readable Parquet file: {error}.", "Write it again, or give CSV.") from error
    rows = [tuple(text_of(value) for value in row.values()) for row in data.to_pylist()]
    return Table(tuple(data.column_names), rows, True, list(range(1, len(rows) + 1)))


def read_examples(
    path: Path,
    kind: TaskKind,
    columns: Mapping[str, str] | None = None,
    *,
    known_labels: Collection[str] | None = None,
    schema: Schema | None = None,
) -> tuple[list[Example], list[RowProblem]]:
    """The examples in a file, in its order, and the rows that cannot be used.

    `columns` names the file's column for each role (`text`, `label`; for kind `answer` `question`, `answer`,
    `document`; for a kind of TextTask `input`, `reference`, `checks`; for retrieve `query`, `document`; for all `id`,
    `group`, `time`, `language`); what it leaves out is guessed. A column may be given by
    its number from 1. An empty answer means that the question has none. An example's id is the hash of its
    input and, for the n-th row with the same, of n: it stays when rows are added or relabelled. Where `columns` gives
    an `id` column (one is never guessed), its value takes the input's place, and the id stays when the row is edited
    too. `source` is `file:line`, `span` its bytes. Raises BadInput for a column that is not there, naming the nearest.
    """
    examples: list[Example] = []
    problems: list[RowProblem] = []
    for row in stream_rows(path, kind, columns, known_labels=known_labels, schema=schema):
        if isinstance(row, Example):
            examples.append(row)
        else:
            problems.append(row)
    return examples, problems
