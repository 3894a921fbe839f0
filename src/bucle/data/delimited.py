"""Delimited text into rows: the delimiter, what quotes mean and whether there is a header are read off the
text.
"""

from __future__ import annotations

import csv
import re
import statistics
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from bucle.core.errors import BadInput

__all__ = ["MAX_LINE", "Line", "Shape", "Table", "find_shape", "has_header", "parse_delimited", "read_records"]

MAX_LINE = 1_000_000
"""Characters of one line (a record over several lines: of all of them)."""
_MAX_JOINED = 200  # lines one quoted cell may run over
_SAMPLE = 200
_KNOWN = re.compile(
    r"(id|idx|index|row_?id|text|texto|utterance|message|mensaje|input|prompt|sentence|frase|query|consulta|"
    r"label|etiqueta|intent|intenci[oó]n|class|clase|categor(y|[ií]a)|target|question|pregunta|answer|"
    r"respuesta|context|document|documento|source|fuente|language|lang|idioma|date|fecha|time|hora|"
    r"timestamp|user|usuario|customer|cliente|group|grupo|slots|name|nombre|split|"
    r"entrada|salida|output|referen(ce|cia)|summary|resumen|traducci[oó]n|translation|messages|mensajes|"
    r"checks|comprobaciones|tests?|pruebas?)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Table:
    """Rows of texts, as wide as `columns`. `lines` has each row's line in the file (from 1).

    `ragged` are the lines that had too few cells (filled with empty ones) or too many (joined into the last
    column). Without a header the columns are `column1`, `column2`…
    """

    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    has_header: bool
    lines: list[int] = field(default_factory=list)
    ragged: list[int] = field(default_factory=list)


class Line(NamedTuple):
    """A line without its end. [`start`, `end`) are its bytes in the file; `problem` says why there is no text:
    `too-long`, `bad-encoding` or `nul-bytes`."""

    number: int
    text: str
    start: int = 0
    end: int = 0
    problem: str = ""


@dataclass(frozen=True)
class Shape:
    """How delimited text is to be read. `quoted`: quotes wrap cells, and are not part of the text."""

    delimiter: str
    quoted: bool
    columns: tuple[str, ...]
    has_header: bool

    def row(self, cells: Sequence[str]) -> tuple[str, ...]:
        """`cells` as wide as `columns`: too many are joined into the last, missing ones are empty."""
        width = len(self.columns)
        joined = [*cells[: width - 1], self.delimiter.join(cells[width - 1 :])]
        return tuple([cell.strip() for cell in joined] + [""] * (width - len(joined)))


def find_shape(lines: Sequence[str], suffix: str = "", names: Collection[str] = ()) -> Shape:
    """What `lines` (all of a file, or its first thousands) say about how it is written. `suffix` `.tsv` or `.tab`
    settles the delimiter; a first row that holds one of `names` is a header, whatever it looks like.

    Quotes that do not wrap whole cells are part of the text. Raises BadInput for no rows.
    """
    sample = [line for line in lines if line.strip()][:_SAMPLE]
    if not sample:
        raise BadInput("The file holds no rows.", "Give a file with one example a row.")
    delimiter = "\t" if suffix in (".tsv", ".tab") and any("\t" in line for line in sample) else _delimiter(sample)
    quoted = _quotes_wrap(lines[:2_000], delimiter)
    records = [cells for _, _, cells in read_records(_numbered(lines), delimiter, quoted)]
    width = Counter(map(len, records)).most_common(1)[0][0]
    shape = Shape(delimiter, quoted, tuple(f"column{index + 1}" for index in range(width)), False)
    rows = [shape.row(cells) for cells in records[:2_001]]
    if has_header(rows) or (len(rows) > 1 and set(names) & set(rows[0])):
        return Shape(delimiter, quoted, tuple(name or f"column{n}" for n, name in enumerate(rows[0], 1)), True)
    return shape


def parse_delimited(text: str, suffix: str = "", names: Collection[str] = ()) -> Table:
    """The table in `text` (line ends as `\\n`), read as `find_shape` says. A quote that is opened and never closed
    swallows nothing. Raises BadInput for no rows or a line over MAX_LINE characters.
    """
    lines = text.split("\n")
    if any(len(line) > MAX_LINE for line in lines):
        raise BadInput(f"A line is longer than {MAX_LINE:,} characters.", "Check that the file is CSV, TSV or JSONL.")
    shape = find_shape(lines, suffix, names)
    rows, numbers, ragged = [], [], []
    for line, _, cells in read_records(_numbered(lines), shape.delimiter, shape.quoted):
        if len(cells) != len(shape.columns):
            ragged.append(line.number)
        rows.append(shape.row(cells))
        numbers.append(line.number)
    header = int(shape.has_header)
    return Table(shape.columns, rows[header:], shape.has_header, numbers[header:], ragged)


def _numbered(lines: Iterable[str]) -> Iterator[Line]:
    return (Line(number, line) for number, line in enumerate(lines, 1))


def _delimiter(sample: Sequence[str]) -> str:
    """The candidate that cuts most lines into the same number of cells (two at least), the more cells the
    better.
    """
    best, best_score = ",", 0.0
    for candidate in "\t;,|":
        counts = Counter(len(re.sub(r'"[^"]*"', "", line).split(candidate)) for line in sample)
        width, same = max(counts.items(), key=lambda item: (item[0] > 1, item[1]))
        score = same / len(sample) * (1 + min(width, 20) / 100) if width > 1 else 0.0
        if score > best_score + 0.05:
            best, best_score = candidate, score
    return best


def _quotes_wrap(lines: Sequence[str], delimiter: str) -> bool:
    """Whether quotes are the format's (they wrap cells) rather than the text's."""
    cells = [cell.strip() for line in lines if '"' in line for cell in line.split(delimiter)]
    if delimiter != "\t":
        return not cells or _evenness(_records(lines, delimiter)) >= _evenness(
            [(0, line.split(delimiter)) for line in lines if line.strip()]
        )
    # Spreadsheets quote a tab-separated cell only where they must, people write quotes as they please.
    opened = [cell for cell in cells if cell.startswith('"')]
    inner = [cell for cell in cells if '"' in cell and not cell.startswith('"') and not cell.endswith('"')]
    whole = [cell for cell in opened if len(cell) > 1 and cell.endswith('"')]
    needed = any('""' in cell[1:-1] for cell in whole) or len(whole) == len(cells)
    return bool(opened) and not inner and needed


def _evenness(records: Sequence[tuple[int, list[str]]]) -> float:
    """Share of `records` that are as wide as most are; 0 where most have one cell."""
    width, count = Counter(len(cells) for _, cells in records).most_common(1)[0]
    return count / len(records) if width > 1 else 0.0


def _records(lines: Sequence[str], delimiter: str) -> list[tuple[int, list[str]]]:
    return [(line.number, cells) for line, _, cells in read_records(_numbered(lines), delimiter, True)]


def read_records(lines: Iterable[Line], delimiter: str, quoted: bool) -> Iterator[tuple[Line, Line, list[str]]]:
    """The first and the last line of each record, and its cells (none where a line has a problem). Looks ahead no
    further than one quoted cell may run; empty lines are skipped."""
    source = iter(lines)
    ahead: deque[Line] = deque()
    while (line := ahead.popleft() if ahead else next(source, None)) is not None:
        if line.problem:
            yield line, line, []
        elif not quoted or '"' not in line.text:
            if line.text.strip():
                yield line, line, line.text.split(delimiter)
        else:
            cells, used = _quoted_record(line, ahead, source, delimiter)
            last = line
            for _ in range(used):
                last = ahead.popleft()
            yield line, last, cells


def _quoted_record(line: Line, ahead: deque[Line], source: Iterator[Line], delimiter: str) -> tuple[list[str], int]:
    """The cells of the record that begins with `line`, and how many of the lines `ahead` belong to it."""
    parts, size, inside = [line.text], len(line.text), line.text.count('"') % 2
    while inside and len(parts) < _MAX_JOINED:
        if len(ahead) < len(parts):
            if (more := next(source, None)) is None:
                break
            ahead.append(more)
        more = ahead[len(parts) - 1]
        size += len(more.text) + 1
        if more.problem or size > MAX_LINE:
            break
        parts.append(more.text)
        inside ^= more.text.count('"') % 2
    if not inside:
        try:
            return next(csv.reader(["\n".join(parts)], delimiter=delimiter, strict=True)), len(parts) - 1
        except (csv.Error, StopIteration):
            pass
    return line.text.split(delimiter), 0


def has_header(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first of `rows` names the columns.

    It does not where a cell is empty, a number or long text, where two are the same, or where one stands
    among its column's later values. It does where a cell is a name such data usually has, or where it is
    unlike its column: a word over numbers or dates, or much shorter than what is under it.
    """
    if len(rows) < 2:
        return False
    first, rest = rows[0], rows[1 : 1 + 2000]
    if len({cell.lower() for cell in first}) < len(first) or not all(first):
        return False
    if any(len(cell) > 60 or re.fullmatch(r"[-+]?[\d.,:/]+", cell) for cell in first):
        return False
    if sum(bool(_KNOWN.fullmatch(cell)) for cell in first) * 2 >= len(first):
        return True
    columns = list(zip(*rest, strict=True))
    if any(name in column for name, column in zip(first, columns, strict=True)):
        return False
    votes = 0
    for name, column in zip(first, columns, strict=True):
        values = [value for value in column if value]
        if not values:
            continue
        if sum(bool(re.fullmatch(r"[-+]?[\d.,:/-]+", value)) for value in values) > 0.9 * len(values):
            return True
        shorter = len(values) >= 3 and len(name) * 2.5 < statistics.median(map(len, values))
        votes += (shorter and name.count(" ") <= 2) or bool(_KNOWN.fullmatch(name))
    return votes * 2 >= len(first)
