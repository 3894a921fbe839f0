"""Docling as a parser, where it is installed (`pip install docling`): layout models for hard PDFs and scans.

Its PDF and picture models are downloaded from Hugging Face at first use; for a machine without network, run
`docling-tools models download` elsewhere and name the folder in DOCLING_ARTIFACTS_PATH. Office files, HTML and
Markdown need no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bucle.core.errors import Quarantined
from bucle.core.records import Block
from bucle.data.parse.source import markdown_table, tidy

__all__ = ["DoclingParser"]

_HEADINGS = {"title", "section_header"}
_SKIPPED = {"page_header", "page_footer"}


class DoclingParser:
    """Reads whatever Docling does; a block's place is its page or, where the format has none, its section."""

    media_types: Sequence[str] = ()

    def __init__(self) -> None:
        from docling.document_converter import DocumentConverter

        self._converter = DocumentConverter()

    def parse(self, path: Path) -> tuple[str, list[Block]]:
        """Title and blocks of the file. Raises Quarantined where Docling refuses it or lacks its models."""
        from docling.exceptions import ConversionError

        try:
            document = self._converter.convert(path).document
        except ConversionError as error:
            raise Quarantined("corrupt", f"Docling cannot read the {path.suffix} file.") from error
        except OSError as error:  # its model downloader's errors are OSErrors
            raise Quarantined(
                "missing-package",
                "Docling's models are not on this machine. Run `docling-tools models download` where there is network.",
            ) from error
        blocks: list[Block] = []
        section = ""
        for item, _ in document.iterate_items():
            label = str(getattr(item.label, "value", item.label))
            text = _text(item, label)
            if not text or label in _SKIPPED:
                continue
            kind: Any = "table" if label == "table" else "heading" if label in _HEADINGS else "text"
            section = text[:120] if kind == "heading" else section
            blocks.append(Block(text=text, place=_place(item, section), kind=kind))
        return next((block.text for block in blocks if block.kind == "heading"), ""), blocks


def _text(item: Any, label: str) -> str:
    if label == "table":
        return markdown_table([[cell.text for cell in row] for row in item.data.grid])  # its own rewrites numbers
    text = tidy(str(getattr(item, "text", "") or ""))
    return f"- {text}" if label == "list_item" and text else text


def _place(item: Any, section: str) -> str:
    seen = getattr(item, "prov", None)
    if seen:
        return f"page {seen[0].page_no}"
    return f"section {section}" if section else ""
