"""Workbooks: each sheet as the tables its empty rows part it into."""

from __future__ import annotations

import datetime
import io
from typing import Any

from bucle.core.errors import Quarantined
from bucle.core.records import Block
from bucle.data.parse.safety import open_zip
from bucle.data.parse.source import Raw, markdown_table, tidy

__all__ = ["read"]

MAX_ROWS, MAX_COLUMNS = 50_000, 256


def read(raw: Raw) -> tuple[str, list[Block]]:
    """Title and blocks of a .xlsx, values as last calculated; the place is `sheet NAME`. Hidden sheets are
    skipped.
    """
    open_zip(raw.data).close()
    import openpyxl

    book = openpyxl.load_workbook(io.BytesIO(raw.data), read_only=True, data_only=True, keep_links=False)
    blocks: list[Block] = []
    total = 0
    for sheet in book.worksheets:
        if sheet.sheet_state != "visible":
            continue
        sheet.reset_dimensions()  # a declared size may lie; read what is there
        region: list[list[str]] = []
        for row in sheet.iter_rows(values_only=True, max_col=MAX_COLUMNS):
            cells = [_text(value) for value in row]
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
                blocks += _region(region, f"sheet {sheet.title}")
                region = []
        blocks += _region(region, f"sheet {sheet.title}")
    title = tidy(book.properties.title or "")
    book.close()
    return title, blocks


def _region(region: list[list[str]], place: str) -> list[Block]:
    if not region:
        return []
    used = {column for row in region for column, cell in enumerate(row) if cell}
    if len(used) == 1 or len(region) == 1:
        text = tidy("\n".join(" ".join(cell for cell in row if cell) for row in region))
        return [Block(text=text, place=place)] if text else []
    return [Block(text=markdown_table(region), place=place, kind="table")]


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return value.date().isoformat()
    if isinstance(value, float):
        return f"{value:.10g}"
    return str(value).strip()
