"""Word documents: paragraphs, lists, tables, text boxes, notes and comments in the order of the body."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any

from bucle.core.records import Block
from bucle.data.parse.safety import open_zip
from bucle.data.parse.source import Raw, markdown_table, tidy

__all__ = ["read"]

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_M = "{http://schemas.openxmlformats.org/officeDocument/2006/math}"
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
_HEADING = re.compile(r"(heading|título|titulo|encabezado)\s*\d|title$", re.IGNORECASE)
_SPACE = {f"{_W}tab": " ", f"{_W}br": "\n", f"{_W}cr": "\n", f"{_W}noBreakHyphen": "-"}
_REFERENCES = {f"{_W}footnoteReference": "footnotes", f"{_W}endnoteReference": "endnotes"}
_REFERENCES |= {f"{_W}commentReference": "comments"}


def read(raw: Raw) -> tuple[str, list[Block]]:
    """Title and blocks of a .docx; the place of a block is the section (the last heading) it stands in.

    Text that a reviewer inserted is read, deleted text is not. Footnotes and comments follow the paragraph that
    names them, as notes; page headers and footers come last, each once, placed `page header` and `page footer`.
    """
    open_zip(raw.data).close()
    import docx

    document = docx.Document(io.BytesIO(raw.data))
    reader = _Reader(document)
    reader.read_body(document.element.body)
    title = tidy(document.core_properties.title or "")
    return title or next((b.text for b in reader.blocks if b.kind == "heading"), ""), reader.blocks + reader.margins()


class _Reader:
    """What is carried along while the body is read: the section, and the notes by their number."""

    def __init__(self, document: Any) -> None:
        self.blocks: list[Block] = []
        self._section = ""
        self._part = document.part
        self._styles = {style.style_id: style.name or "" for style in document.styles}
        self._notes: dict[str, dict[str, str]] = {}

    def read_body(self, parent: Any) -> None:
        for element in parent:
            if element.tag == f"{_W}p":
                self._paragraph(element)
            elif element.tag == f"{_W}tbl":
                self._table(element)
            elif element.tag == f"{_W}sdt":  # a content control: a cover, a table of contents, a field to fill in
                for content in element.iterchildren(f"{_W}sdtContent"):
                    self.read_body(content)
            elif element.tag in (f"{_W}ins", f"{_W}customXml", f"{_W}smartTag"):
                self.read_body(element)

    def margins(self) -> list[Block]:
        """The texts of page headers and footers, each once, without bare page numbers."""
        found: dict[tuple[str, str], None] = {}
        for relation in self._part.rels.values():
            kind = relation.reltype.rsplit("/", 1)[-1]
            if kind in ("header", "footer") and not relation.is_external:
                text = tidy("\n".join(_text(paragraph) for paragraph in _paragraphs(_tree(relation.target_part))))
                if re.search(r"[^\W\d_]{2}", text):
                    found[(kind, text)] = None
        return [Block(text=text, place=f"page {kind}") for kind, text in found]

    def _place(self) -> str:
        return f"section {self._section}" if self._section else ""

    def _add(self, text: str, kind: Any = "text") -> None:
        if text:
            self.blocks.append(Block(text=text, place=self._place(), kind=kind))

    def _paragraph(self, paragraph: Any) -> None:
        text = tidy(_text(paragraph))
        style, listed = self._style(paragraph)
        if text and _HEADING.match(style):
            self._section = text[:120]
            self._add(text, "heading")
        else:
            self._add(("- " if listed else "") + text if text else "")
        self._aside(paragraph)

    def _style(self, paragraph: Any) -> tuple[str, bool]:
        """The name of the paragraph's style, and whether it is an item of a list."""
        properties = paragraph.find(f"{_W}pPr")
        if properties is None:
            return "", False
        named = properties.find(f"{_W}pStyle")
        style = self._styles.get(named.get(f"{_W}val"), "") if named is not None else ""
        number = properties.find(f"{_W}numPr/{_W}numId")
        return style, "list" in style.lower() or (number is not None and number.get(f"{_W}val") != "0")

    def _aside(self, element: Any) -> None:
        """What hangs on an element: its text boxes, then the notes and comments it names."""
        for box in _boxes(element):
            self.read_body(box)
        for found in element.iter(*_REFERENCES):
            text = self._note(_REFERENCES[found.tag], found.get(f"{_W}id", ""))
            if text:
                self._add(text, "notes")

    def _table(self, table: Any) -> None:
        rows = _rows(table)
        if sum(1 for row in rows for cell in row if cell) == 1:  # a frame around a text
            self._add(next(cell for row in rows for cell in row if cell))
        else:
            self._add(markdown_table(rows), "table")
        self._aside(table)

    def _note(self, kind: str, number: str) -> str:
        if kind not in self._notes:
            self._notes[kind] = {}
            for relation in self._part.rels.values():
                if relation.reltype.endswith(f"/{kind}") and not relation.is_external:
                    for note in _tree(relation.target_part):
                        text = tidy("\n".join(_text(paragraph) for paragraph in _paragraphs(note)))
                        who = tidy(note.get(f"{_W}author", ""))
                        if text:
                            said = f"Comment{f' by {who}' if who else ''}: {text}" if kind == "comments" else text
                            self._notes[kind][note.get(f"{_W}id", "")] = said
        return self._notes[kind].get(number, "")


def _tree(part: Any) -> Any:
    from lxml import etree  # type: ignore[import-untyped]

    return etree.fromstring(part.blob, etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False))


def _paragraphs(element: Any) -> Iterator[Any]:
    """The paragraphs under `element`, those of tables and text boxes among them, but not a picture's second version."""
    for child in element:
        if child.tag == f"{_W}p":
            yield child
        if isinstance(child.tag, str) and child.tag != _FALLBACK:
            yield from _paragraphs(child)


def _text(element: Any) -> str:
    """The text of a paragraph itself, without that of text boxes drawn in it."""
    parts: list[str] = []
    for child in element:
        if child.tag in (f"{_W}t", f"{_M}t"):
            parts.append(child.text or "")
        elif child.tag in _SPACE:
            parts.append(_SPACE[child.tag])
        elif isinstance(child.tag, str) and child.tag not in (_FALLBACK, f"{_W}txbxContent", f"{_W}pPr", f"{_W}del"):
            parts.append(_text(child))
    return "".join(parts)


def _boxes(element: Any) -> Iterator[Any]:
    """The outermost text boxes under `element`."""
    for child in element:
        if child.tag == f"{_W}txbxContent":
            yield child
        elif isinstance(child.tag, str) and child.tag != _FALLBACK:
            yield from _boxes(child)


def _rows(table: Any) -> list[list[str]]:
    """The cells' texts. A cell over several columns stands in the first; one over several rows is said in each."""
    rows: list[list[str]] = []
    for row in _children(table, "tr"):
        before = row.find(f"{_W}trPr/{_W}gridBefore")
        cells = [""] * (_number(before) if before is not None else 0)
        for cell in _children(row, "tc"):
            span, merged = cell.find(f"{_W}tcPr/{_W}gridSpan"), cell.find(f"{_W}tcPr/{_W}vMerge")
            text = _cell(cell)
            if merged is not None and merged.get(f"{_W}val") != "restart" and rows and len(cells) < len(rows[-1]):
                text = text or rows[-1][len(cells)]
            cells += [text, *([""] * (_number(span) - 1 if span is not None else 0))]
        rows.append(cells)
    return rows


def _children(element: Any, name: str) -> Iterator[Any]:
    """Its children of that name, those in content controls among them."""
    for child in element:
        if child.tag == f"{_W}{name}":
            yield child
        elif child.tag in (f"{_W}sdt", f"{_W}sdtContent", f"{_W}ins", f"{_W}customXml"):
            yield from _children(child, name)


def _number(element: Any) -> int:
    value = element.get(f"{_W}val", "1")
    return min(int(value), 100) if value.isdigit() else 1


def _cell(cell: Any) -> str:
    """The text of a cell; a table inside it as `a, b; c, d`."""
    parts: list[str] = []
    for child in cell:
        if child.tag == f"{_W}p":
            parts.append(_text(child))
        elif child.tag == f"{_W}tbl":
            parts.append("; ".join(", ".join(inner for inner in row if inner) for row in _rows(child) if any(row)))
        elif child.tag in (f"{_W}sdt", f"{_W}sdtContent"):
            parts.append(_cell(child))
    return tidy("\n".join(part for part in parts if part.strip()))
