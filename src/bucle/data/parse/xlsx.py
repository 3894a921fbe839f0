"""Workbooks: each sheet as the tables its empty rows part it into."""

from __future__ import annotations

import datetime
import html
import io
import re
import sys
from collections.abc import Iterator
from typing import Any

from bucle.core.errors import Quarantined
from bucle.core.records import Block
from bucle.data.parse.safety import open_zip
from bucle.data.parse.source import Raw, markdown_table, tidy

__all__ = ["first_sheet", "read"]

MAX_ROWS, MAX_COLUMNS = 50_000, 256
MAX_MERGED, MAX_REPEATED = 20_000, 200
_FORMULA = re.compile(
    rb'<c\b[^>]*?\br="([A-Z]{1,3}\d{1,7})"[^>]*>\s*<f[^>]*>([^<]{1,500})</f>\s*(?:<v\s*/>|<v></v>)?\s*</c>'
)
_CURRENCY = re.compile(r"[€$£¥](?!-)|\b(EUR|USD|GBP|MXN|COP)\b")
_MERGED = re.compile(rb'<mergeCell\b[^>]*?\bref="([A-Z]{1,3}\d{1,7}:[A-Z]{1,3}\d{1,7})"')


def read(raw: Raw) -> tuple[str, list[Block]]:
    """Title and blocks of a .xlsx, values as last calculated, or the formula where none was; the place is
    `sheet NAME`, `sheet NAME (hidden)` for one that is hidden. A cell merged over several rows is said in each.
    """
    archive = open_zip(raw.data)
    openpyxl = _openpyxl()
    from openpyxl.utils import range_boundaries

    def bounds(ref: bytes) -> tuple[int, int, int, int]:
        left, top, right, bottom = range_boundaries(ref.decode())
        return left or 1, top or 1, right or 1, bottom or 1

    book = openpyxl.load_workbook(io.BytesIO(raw.data), read_only=True, data_only=True, keep_links=False)
    blocks: list[Block] = []
    total = 0
    sheets: list[Any] = list(book.worksheets)
    for sheet in sheets:
        place = f"sheet {sheet.title}" + ("" if sheet.sheet_state == "visible" else " (hidden)")
        xml = archive.read(sheet._worksheet_path)
        formulas = {found[1]: found[2] for found in _FORMULA.finditer(xml)} if b"<f" in xml else {}
        uncounted = {bounds(ref)[:2]: text for ref, text in formulas.items()}
        merged = [bounds(found[1]) for found in _MERGED.finditer(xml)][:MAX_MERGED]
        starts = {(left, top): bottom for left, top, _, bottom in merged if bottom > top}
        held: dict[int, tuple[str, int]] = {}  # column -> what a merged cell says, and its last row
        region: list[list[str]] = []
        before = 0
        for number, cells in _rows(sheet):
            if number > before + 1:
                blocks += _region(region, place)
                region = []
            before = number
            for column, text in enumerate(cells, 1):
                if not text and (column, number) in uncounted:  # never calculated: the formula itself is all there is
                    cells[column - 1] = "=" + html.unescape(uncounted[column, number].decode(errors="replace"))
                elif (column, number) in starts and text:
                    held[column] = (text, min(starts[column, number], number + MAX_REPEATED))
                elif column in held and not text and any(cells):
                    cells[column - 1] = held[column][0]
            held = {column: one for column, one in held.items() if one[1] > number}
            if any(cells):
                region.append(cells)
                total += 1
                if total > MAX_ROWS:
                    raise Quarantined(
                        "too-large",
                        f"The workbook has over {MAX_ROWS:,} rows. Give rows like these "
                        "as a data set (CSV, JSONL or Parquet), not as a document.",
                    )
            elif region:
                blocks += _region(region, place)
                region = []
        blocks += _region(region, place)
    title = tidy(book.properties.title or "")
    book.close()
    return title, blocks


def first_sheet(data: bytes) -> list[tuple[int, list[str]]]:
    """The filled rows of the first sheet that has any, each with its number in it: for a workbook that is a table of
    examples. Raises Quarantined for what is no workbook, encrypted, or made to exhaust the machine."""
    try:
        open_zip(data)
        book = _openpyxl().load_workbook(io.BytesIO(data), read_only=True, data_only=True, keep_links=False)
        for sheet in book.worksheets:
            if sheet.sheet_state == "visible" and (found := [row for row in _rows(sheet) if any(row[1])]):
                return found
    except Quarantined:
        raise
    except Exception as error:  # openpyxl raises whatever a damaged part makes it stumble over
        raise Quarantined("corrupt", f"The workbook cannot be read ({type(error).__name__}).") from error
    return []


def _rows(sheet: Any) -> Iterator[tuple[int, list[str]]]:
    """The number and texts of each row that the file has: openpyxl's own would make up the millions between two."""
    from openpyxl.styles.numbers import BUILTIN_FORMATS
    from openpyxl.worksheet._reader import WorkSheetParser

    book = sheet.parent
    formats: dict[int, str] = {}

    def format_of(style: int) -> str:
        if style not in formats:
            number = book._cell_styles[style].numFmtId
            own = book._number_formats
            at = number - 164
            formats[style] = own[at] if 0 <= at < len(own) else BUILTIN_FORMATS.get(number, "General")
        return formats[style]

    with sheet._get_source() as source:
        parser = WorkSheetParser(
            source,
            sheet._shared_strings,
            data_only=True,
            epoch=book.epoch,
            date_formats=book._date_formats,
            timedelta_formats=book._timedelta_formats,
        )
        for number, row in parser.parse():
            said = {one["column"]: _text(one["value"], format_of(one["style_id"])) for one in row}
            last = max(said, default=0)
            if last <= MAX_COLUMNS:
                yield number, [said.get(at, "") for at in range(1, last + 1)]
            else:  # wider than any real table: its cells close up, so that none is lost
                yield number, [said[at] for at in sorted(said) if said[at]]


def _openpyxl() -> Any:
    """openpyxl, imported without numpy: it would load that, a tenth of a second, to know its number types."""
    absent = "openpyxl" not in sys.modules and "numpy" not in sys.modules
    if absent:
        sys.modules["numpy"] = None  # type: ignore[assignment]
    try:
        import openpyxl
    finally:
        if absent:
            del sys.modules["numpy"]
    return openpyxl


def _region(region: list[list[str]], place: str) -> list[Block]:
    if not region:
        return []
    used = {column for row in region for column, cell in enumerate(row) if cell}
    if len(used) == 1 or len(region) == 1:
        text = tidy("\n".join(" ".join(cell for cell in row if cell) for row in region))
        return [Block(text=text, place=place)] if text else []
    return [Block(text=markdown_table(region), place=place, kind="table")]


def _text(value: Any, form: str = "General") -> str:
    """A value as the sheet shows it where its format is of percents or of a currency; otherwise the value itself."""
    if value is None:
        return ""
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return value.date().isoformat()
    if isinstance(value, int | float) and not isinstance(value, bool) and form != "General":
        if form.split(";")[0].rstrip('"').endswith("%"):
            return f"{value * 100:.10g}%"
        sign = _CURRENCY.search(form)
        if sign:
            return f"{value:.10g} {sign[0]}"
    if isinstance(value, float):
        return f"{value:.10g}"
    return str(value).strip()
