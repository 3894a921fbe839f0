"""CSV and TSV files given as documents: one table."""

from __future__ import annotations

from bucle.core.errors import BadInput, Quarantined
from bucle.core.records import Block
from bucle.data.delimited import parse_delimited
from bucle.data.parse.source import Raw, decode_text, markdown_table

__all__ = ["read"]

MAX_ROWS = 50_000


def read(raw: Raw) -> tuple[str, list[Block]]:
    """The file as a Markdown table; without a header its columns are named `column1`, `column2`…"""
    try:
        table = parse_delimited(decode_text(raw.data), raw.suffix)
    except BadInput as error:
        raise Quarantined("corrupt", error.message) from error
    if len(table.rows) > MAX_ROWS:
        raise Quarantined("too-large", f"The table has over {MAX_ROWS:,} rows. Give it as a data set, not a document.")
    text = markdown_table([table.columns, *table.rows]) if table.rows else ""
    return "", [Block(text=text, place=f"rows 1-{len(table.rows)}", kind="table")] if text else []
