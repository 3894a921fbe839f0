"""Which parser reads which file, and what its failure means."""

from __future__ import annotations

import importlib
import importlib.metadata
import mimetypes
import tempfile
import warnings
from pathlib import Path

from bucle.core.errors import Quarantined
from bucle.core.records import Block
from bucle.data.parse.source import MAX_TEXT, Raw

__all__ = ["FORMATS", "media_type", "read_any"]

_OFFICE = "application/vnd.openxmlformats-officedocument"
FORMATS = {
    ".pdf": ("pdf", "application/pdf"),
    ".docx": ("docx", f"{_OFFICE}.wordprocessingml.document"),
    ".pptx": ("pptx", f"{_OFFICE}.presentationml.presentation"),
    ".xlsx": ("xlsx", f"{_OFFICE}.spreadsheetml.sheet"),
    ".xlsm": ("xlsx", "application/vnd.ms-excel.sheet.macroEnabled.12"),
    ".html": ("html", "text/html"),
    ".htm": ("html", "text/html"),
    ".xhtml": ("html", "application/xhtml+xml"),
    ".eml": ("eml", "message/rfc822"),
    ".epub": ("epub", "application/epub+zip"),
    ".md": ("markdown", "text/markdown"),
    ".markdown": ("markdown", "text/markdown"),
    ".txt": ("text", "text/plain"),
    ".text": ("text", "text/plain"),
    ".rst": ("text", "text/x-rst"),
    ".log": ("text", "text/plain"),
    ".csv": ("delimited", "text/csv"),
    ".tsv": ("delimited", "text/tab-separated-values"),
}
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"


def media_type(name: str) -> str:
    suffix = Path(name).suffix.lower()
    return FORMATS[suffix][1] if suffix in FORMATS else mimetypes.guess_type(name)[0] or "application/octet-stream"


def read_any(raw: Raw) -> tuple[str, list[Block]]:
    """Title and blocks of the file, by the parser its name calls for. Raises Quarantined with the reason.

    A format Bucle does not know is offered to the plug-ins in the entry point group `bucle.parsers`.
    """
    if not raw.data.strip(b"\0 \t\r\n\xef\xbb\xbf"):
        raise Quarantined("empty", "The file holds nothing.")
    if raw.data.startswith(_OLE):
        if "EncryptedPackage".encode("utf-16-le") in raw.data:
            raise Quarantined("encrypted", "The Office file is encrypted with a password.")
        raise Quarantined("unknown-format", "This is an Office file of before 2007; save it as .docx, .xlsx or .pptx.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            title, blocks = _read(raw)
    except Quarantined:
        raise
    except MemoryError as error:
        raise Quarantined("out-of-memory", "Reading the file needs more memory than a file may use.") from error
    except RecursionError as error:
        raise Quarantined("corrupt", "The file is nested deeper than any real document.") from error
    except Exception as error:  # whatever a parser library raises on malformed bytes, the file is what failed
        if "memory" in str(error).lower() and "alloc" in str(error).lower():
            raise Quarantined("out-of-memory", "Reading the file needs more memory than a file may use.") from error
        detail = " ".join(str(error).split())[:200]
        raise Quarantined(
            "corrupt", f"The file cannot be read as {raw.suffix}: {type(error).__name__}: {detail}"
        ) from error
    if sum(len(block.text) for block in blocks) > MAX_TEXT:
        raise Quarantined("too-large", f"The file holds over {MAX_TEXT:,} characters.")
    if not any(block.text.strip() for block in blocks):
        raise Quarantined("empty", "The file opens, but holds no text.")
    return title, blocks


def _read(raw: Raw) -> tuple[str, list[Block]]:
    if raw.suffix in FORMATS:
        module = importlib.import_module(f"bucle.data.parse.{FORMATS[raw.suffix][0]}")
        found: tuple[str, list[Block]] = module.read(raw)
        return found
    kind = media_type(raw.name)
    for entry in importlib.metadata.entry_points(group="bucle.parsers"):
        parser = entry.load()()
        if kind in parser.media_types:
            with tempfile.NamedTemporaryFile(suffix=raw.suffix) as file:
                file.write(raw.data)
                file.flush()
                title, blocks = parser.parse(Path(file.name))
                return title, list(blocks)
    raise Quarantined(
        "unknown-format",
        f"No parser reads {raw.suffix or 'files without a suffix'}. Known: {', '.join(sorted(FORMATS))}.",
    )
