"""Delimited text into rows: the delimiter, what quotes mean and whether there is a header are read off the
text.
"""

from __future__ import annotations

import csv
import re
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from bucle.core.errors import BadInput

__all__ = ["MAX_LINE", "Table", "has_header", "parse_delimited"]

MAX_LINE = 1_000_000
"""Characters of one line (a record over several lines: of all of them)."""
_MAX_JOINED = 200  # lines one quoted cell may run over
_SAMPLE = 200
_KNOWN = re.compile(
    r"(id|idx|index|row_?id|text|texto|utterance|message|mensaje|input|prompt|sentence|frase|query|consulta|"
    r"label|etiqueta|intent|intenci[oó]n|class|clase|categor(y|[ií]a)|target|question|pregunta|answer|"
    r"respuesta|context|document|documento|source|fuente|language|lang|idioma|date|fecha|time|hora|"
    r"timestamp|user|usuario|customer|cliente|group|grupo|slots|name|nombre|split)",
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


def parse_delimited(text: str, suffix: str = "") -> Table:
    """The table in `text` (line ends as `\\n`). `suffix` `.tsv` or `.tab` settles the delimiter.

    Quotes that do not wrap whole cells are part of the text, and a quote that is opened and never closed
    swallows nothing. Raises BadInput for no rows or a line over MAX_LINE characters.
    """
    lines = text.split("\n")
    if any(len(line) > MAX_LINE for line in lines):
        raise BadInput(f"A line is longer than {MAX_LINE:,} characters.", "Check that the file is CSV, TSV or JSONL.")
    sample = [line for line in lines if line.strip()][:_SAMPLE]
    if not sample:
        raise BadInput("The file holds no rows.", "Give a file with one example a row.")
    delimiter = "\t" if suffix in (".tsv", ".tab") and any("\t" in line for line in sample) else _delimiter(sample)
    quoted = _quotes_wrap(lines[:2_000], delimiter)
    records = (
        _records(lines, delimiter)
        if quoted
        else [(number, line.split(delimiter)) for number, line in enumerate(lines, 1) if line.strip()]
    )
    width = Counter(len(cells) for _, cells in records).most_common(1)[0][0]
    rows, ragged = [], []
    for number, cells in records:
        if len(cells) != width:
            ragged.append(number)
        joined = [*cells[: width - 1], delimiter.join(cells[width - 1 :])]
        rows.append(tuple(cell.strip() for cell in [*joined, *[""] * (width - len(joined))]))
    numbers = [number for number, _ in records]
    if not has_header(rows):
        return Table(tuple(f"column{index + 1}" for index in range(width)), rows, False, numbers, ragged)
    names = tuple(name or f"column{index + 1}" for index, name in enumerate(rows[0]))
    return Table(names, rows[1:], True, numbers[1:], ragged)


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
    records = []
    at = 0
    while at < len(lines):
        if not lines[at].strip():
            at += 1
            continue
        cells, used = _record(lines, at, delimiter)
        records.append((at + 1, cells))
        at += used
    return records


def _record(lines: Sequence[str], at: int, delimiter: str) -> tuple[list[str], int]:
    """The cells of the record that begins at line `at`, and how many lines it takes."""
    if '"' not in lines[at]:
        return lines[at].split(delimiter), 1
    joined = ""
    for used, line in enumerate(lines[at : at + _MAX_JOINED], 1):
        joined += line if used == 1 else "\n" + line
        if len(joined) > MAX_LINE:
            break
        if joined.count('"') % 2:
            continue
        try:
            return next(csv.reader([joined], delimiter=delimiter, strict=True)), used
        except (csv.Error, StopIteration):
            break
    return lines[at].split(delimiter), 1


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
