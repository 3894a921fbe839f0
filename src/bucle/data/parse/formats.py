"""Which parser reads which file."""

from __future__ import annotations

import importlib
import importlib.metadata
import mimetypes
import tempfile
import warnings
from pathlib import Path

from bucle.core.errors import Quarantined
from bucle.core.ports import Parser
from bucle.core.records import Block
from bucle.data.parse.failure import OLE, refusal, sniff
from bucle.data.parse.source import MAX_TEXT, Raw

__all__ = ["FORMATS", "media_type", "read_any", "suffix_of"]

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
    ".mbox": ("mbox", "application/mbox"),
    ".epub": ("epub", "application/epub+zip"),
    ".md": ("markdown", "text/markdown"),
    ".markdown": ("markdown", "text/markdown"),
    ".txt": ("text", "text/plain"),
    ".text": ("text", "text/plain"),
    ".rst": ("text", "text/x-rst"),
    ".log": ("text", "text/plain"),
    ".csv": ("delimited", "text/csv"),
    ".tsv": ("delimited", "text/tab-separated-values"),
    ".json": ("jsondoc", "application/json"),
    ".jsonl": ("jsondoc", "application/jsonl"),
    ".ndjson": ("jsondoc", "application/jsonl"),
    ".zip": ("archive", "application/zip"),
}
_LOCKABLE = {".docx", ".pptx", ".xlsx", ".xlsm"}


def suffix_of(name: str) -> str:
    """The suffix that decides, in lower case with its dot."""
    return Raw(b"", name.rsplit("/", 1)[-1]).suffix


def media_type(name: str) -> str:
    suffix = suffix_of(name)
    return FORMATS[suffix][1] if suffix in FORMATS else mimetypes.guess_type(name)[0] or "application/octet-stream"


def read_any(raw: Raw, parser: str = "") -> tuple[str, list[Block]]:
    """Title and blocks of the file, by `parser` (see bucle.data.parse.choice) or the one its name calls for.

    A format Bucle does not know is offered to the plug-ins in the entry point group `bucle.parsers`. Raises
    Quarantined with the reason.
    """
    if not raw.data.strip(b"\0 \t\r\n\xef\xbb\xbf"):
        raise Quarantined("empty", "The file holds nothing.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if raw.data.startswith(OLE):
                raw = _unlock(raw)
            title, blocks = _chosen(raw, parser) if parser else _read(raw)
    except Exception as error:  # whatever a parser library raises on malformed bytes, the file is what failed
        raise refusal(raw, error) from error
    if sum(len(block.text) for block in blocks) > MAX_TEXT:
        raise Quarantined("too-large", f"The file holds over {MAX_TEXT:,} characters.")
    if not any(block.text.strip() for block in blocks):
        raise Quarantined("empty", "The file opens, but holds no text.")
    return _storable(title), [
        block if _storable(block.text) is block.text else block.model_copy(update={"text": _storable(block.text)})
        for block in blocks
    ]


def _storable(text: str) -> str:
    """`text` itself, or without the halves of characters (`\\ud800` in JSON) that no encoding can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="replace").decode()
    return text


def _unlock(raw: Raw) -> Raw:
    """The Office file inside an encrypted one, opened with the password."""
    if "EncryptedPackage".encode("utf-16-le") not in raw.data or raw.suffix not in _LOCKABLE:
        raise Quarantined("unknown-format", "This is an Office file of before 2007; save it as .docx, .xlsx or .pptx.")
    if not raw.password:
        raise Quarantined("encrypted", "The Office file is encrypted. It needs a password.")
    from bucle.data.parse.locked import unlock

    return unlock(raw)


def _read(raw: Raw) -> tuple[str, list[Block]]:
    if raw.suffix in FORMATS:
        module = importlib.import_module(f"bucle.data.parse.{FORMATS[raw.suffix][0]}")
        found: tuple[str, list[Block]] = module.read(raw)
        return found
    kind = media_type(raw.name)
    for entry in importlib.metadata.entry_points(group="bucle.parsers"):
        parser = entry.load()()
        if kind in parser.media_types:
            return _by_port(raw, parser)
    like = sniff(raw.data)
    raise Quarantined(
        "unknown-format",
        f"No parser reads {raw.suffix or 'files without a suffix'}{f'; it begins like {like}' if like else ''}. "
        f"Known: {', '.join(sorted(FORMATS))}.",
    )


def _chosen(raw: Raw, name: str) -> tuple[str, list[Block]]:
    from bucle.data.parse.choice import load_parser

    return _by_port(raw, load_parser(name))


def _by_port(raw: Raw, parser: Parser) -> tuple[str, list[Block]]:
    with tempfile.NamedTemporaryFile(suffix=raw.suffix) as file:
        file.write(raw.data)
        file.flush()
        title, blocks = parser.parse(Path(file.name))
        return title, list(blocks)
