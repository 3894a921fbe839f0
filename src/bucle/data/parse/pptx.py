"""Slides: titles, text, tables, and the speaker's notes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

from bucle.core.records import Block
from bucle.data.parse.safety import open_zip
from bucle.data.parse.source import Raw, markdown_table, tidy

__all__ = ["read"]


def read(raw: Raw) -> tuple[str, list[Block]]:
    """Title and blocks of a .pptx; shapes from the top down, then left to right; the place is `slide N`."""
    open_zip(raw.data).close()
    import pptx

    deck = pptx.Presentation(io.BytesIO(raw.data))
    blocks: list[Block] = []
    for number, slide in enumerate(deck.slides, 1):
        place = f"slide {number}"
        head = slide.shapes.title
        if head is not None and tidy(head.text_frame.text):
            blocks.append(Block(text=tidy(head.text_frame.text), place=place, kind="heading"))
        for shape in sorted(_shapes(slide.shapes, 0), key=lambda one: (one.top or 0, one.left or 0)):
            if head is not None and shape.shape_id == head.shape_id:
                continue
            if getattr(shape, "has_table", False):
                text = markdown_table([[cell.text for cell in row.cells] for row in shape.table.rows])
                if text:
                    blocks.append(Block(text=text, place=place, kind="table"))
            elif shape.has_text_frame and tidy(shape.text_frame.text):
                blocks.append(Block(text=tidy(shape.text_frame.text), place=place))
        if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
            notes = tidy(slide.notes_slide.notes_text_frame.text)
            if notes:
                blocks.append(Block(text=notes, place=place, kind="notes"))
    title = tidy(deck.core_properties.title or "")
    if title in ("", "PowerPoint Presentation", "Presentación de PowerPoint"):
        title = next((block.text for block in blocks if block.kind == "heading"), "")
    return title, blocks


def _shapes(shapes: Any, depth: int) -> Iterator[Any]:
    for shape in shapes:
        if hasattr(shape, "shapes") and depth < 10:
            yield from _shapes(shape.shapes, depth + 1)
        else:
            yield shape
