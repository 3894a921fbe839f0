"""Word documents: paragraphs, lists and tables in the order of the body."""

from __future__ import annotations

import io
import re

from bucle.core.records import Block
from bucle.data.parse.safety import open_zip
from bucle.data.parse.source import Raw, markdown_table, tidy

__all__ = ["read"]


def read(raw: Raw) -> tuple[str, list[Block]]:
    """Title and blocks of a .docx; the place of a block is the section (the last heading) it stands in."""
    open_zip(raw.data).close()
    import docx
    from docx.table import Table

    document = docx.Document(io.BytesIO(raw.data))
    title, section, blocks = tidy(document.core_properties.title or ""), "", []
    for item in document.iter_inner_content():
        place = f"section {section}" if section else ""
        if isinstance(item, Table):
            text = markdown_table([_cells(row) for row in item.rows])
            if text:
                blocks.append(Block(text=text, place=place, kind="table"))
            continue
        text = tidy(item.text)
        if not text:
            continue
        style = (item.style.name if item.style is not None else "") or ""
        if re.match(r"(heading|título|titulo|encabezado)\s*\d|title$", style, re.IGNORECASE):
            title = title or text
            section = text[:120]
            blocks.append(Block(text=text, place=f"section {section}", kind="heading"))
        else:
            bullet = "- " if "list" in style.lower() else ""
            blocks.append(Block(text=bullet + text, place=place))
    return title, blocks


def _cells(row: object) -> list[str]:
    """The row's texts with a merged cell once, the columns it covers left empty."""
    texts, seen = [], set()
    for cell in row.cells:  # type: ignore[attr-defined]
        texts.append("" if cell._tc in seen else cell.text)
        seen.add(cell._tc)
    return texts
