"""Unstructured as a parser, where it is installed (`pip install "unstructured[docx,pdf]"`, an extra a format).

Its `fast` strategy is used: no layout model. It tells headings from text with spaCy's English model, which must be
there (`python -m spacy download en_core_web_sm`); Bucle does not let it download one while it parses. Its calls home
are turned off.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bucle.core.records import Block
from bucle.data.parse.html import page_blocks, parse_tree
from bucle.data.parse.source import tidy

__all__ = ["UnstructuredParser"]

_SKIPPED = {"Header", "Footer", "PageNumber", "PageBreak", "Image"}


class UnstructuredParser:
    """Reads whatever Unstructured does; a block's place is its page, its sheet, or its section."""

    media_types: Sequence[str] = ()

    def __init__(self) -> None:
        os.environ.update(DO_NOT_TRACK="true", SCARF_NO_ANALYTICS="true")
        from unstructured.partition.auto import partition

        self._partition = partition

    def parse(self, path: Path) -> tuple[str, list[Block]]:
        """Title and blocks of the file."""
        blocks: list[Block] = []
        section = ""
        for element in self._partition(filename=str(path), strategy="fast"):
            text = _text(element)
            if not text or element.category in _SKIPPED:
                continue
            kind: Any = {"Title": "heading", "Table": "table"}.get(element.category, "text")
            section = text[:120] if kind == "heading" else section
            blocks.append(Block(text=text, place=_place(element.metadata, section, path.suffix), kind=kind))
        return next((block.text for block in blocks if block.kind == "heading"), ""), blocks


def _text(element: Any) -> str:
    markup = getattr(element.metadata, "text_as_html", None)
    if element.category == "Table" and markup:
        tables = [block.text for block in page_blocks(parse_tree(markup.encode()))]
        return "\n\n".join(tables) or tidy(element.text)
    text = tidy(element.text)
    return f"- {text}" if element.category == "ListItem" and text else text


def _place(metadata: Any, section: str, suffix: str) -> str:
    if getattr(metadata, "page_name", None):
        return f"sheet {metadata.page_name}"
    if getattr(metadata, "page_number", None) and suffix not in (".docx", ".html", ".md"):
        return f"{'slide' if suffix == '.pptx' else 'page'} {metadata.page_number}"
    return f"section {section}" if section else ""
