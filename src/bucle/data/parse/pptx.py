"""Slides: titles, text, tables, and the speaker's notes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

from bucle.core.records import Block
from bucle.data.parse.safety import open_zip
from bucle.data.parse.source import Raw, markdown_table, tidy

__all__ = ["read"]

_A = "{http://schemas.openxmlformats.org/drawingml/2006/main}"


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
            elif getattr(shape, "has_chart", False):
                blocks += _chart(shape.chart, place)
            elif shape.has_text_frame and tidy(shape.text_frame.text):
                blocks.append(Block(text=tidy(shape.text_frame.text), place=place))
        blocks += _diagrams(slide, place)
        if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
            notes = tidy(slide.notes_slide.notes_text_frame.text)
            if notes:
                blocks.append(Block(text=notes, place=place, kind="notes"))
    title = tidy(deck.core_properties.title or "")
    if title in ("", "PowerPoint Presentation", "Presentación de PowerPoint"):
        title = next((block.text for block in blocks if block.kind == "heading"), "")
    return title, blocks


def _chart(chart: Any, place: str) -> list[Block]:
    """A chart as the table behind it: a row for each category, a column for each series."""
    try:
        title = tidy(chart.chart_title.text_frame.text) if chart.has_title and chart.chart_title.has_text_frame else ""
        names = [str(name) for name in chart.plots[0].categories]
        series = [one for plot in chart.plots for one in plot.series]
        rows = [["", *(str(one.name) for one in series)]]
        for at, name in enumerate(names):
            values = [list(one.values)[at : at + 1] for one in series]
            rows.append([name, *("" if not value or value[0] is None else f"{value[0]:.10g}" for value in values)])
    except (AttributeError, IndexError, KeyError, ValueError, TypeError):  # a kind of chart without categories
        return []
    table = markdown_table([[cell or (" " if at else "-") for at, cell in enumerate(row)] for row in rows])
    found = [Block(text=title, place=place)] if title else []
    return [*found, Block(text=table, place=place, kind="table")] if len(rows) > 1 else found


def _diagrams(slide: Any, place: str) -> list[Block]:
    """The texts of SmartArt, whose words stand in a part of their own."""
    from lxml import etree  # type: ignore[import-untyped]

    blocks: list[Block] = []
    for relation in slide.part.rels.values():
        if relation.is_external or not relation.reltype.endswith("/diagramData"):
            continue
        parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
        tree = etree.fromstring(relation.target_part.blob, parser)
        lines = [tidy("".join(paragraph.itertext(f"{_A}t"))) for paragraph in tree.iter(f"{_A}p")]
        if any(lines):
            blocks.append(Block(text="\n".join(f"- {line}" for line in lines if line), place=place))
    return blocks


def _shapes(shapes: Any, depth: int) -> Iterator[Any]:
    for shape in shapes:
        if hasattr(shape, "shapes") and depth < 10:
            yield from _shapes(shape.shapes, depth + 1)
        else:
            yield shape
