"""What a parser's failure means, in one sentence a person can act on."""

from __future__ import annotations

import zipfile

from bucle.core.errors import Quarantined
from bucle.data.parse.source import Raw

__all__ = ["OLE", "refusal", "sniff"]

OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_ZIPPED = {".docx", ".pptx", ".xlsx", ".xlsm", ".epub", ".zip"}
_PACKAGES = {"docx": "python-docx", "pptx": "python-pptx", "markdown_it": "markdown-it-py", "PIL": "pillow"}
_PACKAGES |= {"msoffcrypto": "msoffcrypto-tool"}
_MARKS = (
    (b"%PDF-", "a PDF"),
    (b"PK\x03\x04", "a zip archive"),
    (OLE, "an Office file of before 2007"),
    (b"{\\rtf", "a rich text file"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"\x89PNG", "a PNG picture"),
    (b"GIF8", "a GIF picture"),
    (b"Rar!", "a RAR archive"),
    (b"7z\xbc\xaf", "a 7-Zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
)


def sniff(data: bytes) -> str:
    """What `data` begins like, in words; empty where it begins like nothing known."""
    head = data[:1024].lstrip()
    if head[:200].lower().startswith((b"<!doctype html", b"<html")):
        return "a web page"
    return next((told for mark, told in _MARKS if head.startswith(mark)), "")


def refusal(raw: Raw, error: Exception) -> Quarantined:
    """Why the file in `raw` could not be read, given whatever its parser raised on it."""
    if isinstance(error, Quarantined):
        return error
    text = str(error).lower()
    if isinstance(error, MemoryError) or ("memory" in text and "alloc" in text):
        return Quarantined("out-of-memory", "Reading the file needs more memory than a file may use.")
    if isinstance(error, ImportError):
        module = (error.name or "").split(".")[0]
        name = _PACKAGES.get(module, module) or "a library"
        return Quarantined(
            "missing-package", f"Reading {raw.suffix} files needs {name}, which is not installed: pip install {name}."
        )
    if isinstance(error, RecursionError):
        return Quarantined("corrupt", "The file is nested deeper than any real document.")
    like = sniff(raw.data)
    if raw.suffix in _ZIPPED:
        if not raw.data.startswith(b"PK"):
            what = f"it begins like {like}" if like else "it does not begin like one"
            return Quarantined("corrupt", f"The file is no {raw.suffix}: {what}.")
        if isinstance(error, zipfile.BadZipFile) and b"PK\x05\x06" not in raw.data[-70_000:]:
            return Quarantined("corrupt", "The file is cut short: the list of its parts, at its end, is missing.")
    if raw.suffix == ".pdf" and not raw.data[:1024].lstrip().startswith(b"%PDF-"):
        what = f"it begins like {like}" if like else "it does not begin like one"
        return Quarantined("corrupt", f"The file is no .pdf: {what}.")
    return Quarantined("corrupt", f"The file is damaged: it cannot be read as {raw.suffix or 'what it claims to be'}.")
