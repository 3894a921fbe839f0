"""What a parser is given, and the small things every parser needs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from bucle.core.errors import Quarantined

__all__ = ["MAX_FILE_BYTES", "MAX_TEXT", "WESTERN", "Raw", "decode", "decode_text", "markdown_table", "tidy"]

MAX_FILE_BYTES = 64 * 2**20
"""As in bucle.data.connect, which a worker need not load."""
MAX_TEXT = 20_000_000
"""Characters of one document; past it the file is `too-large`."""
WESTERN = set("áéíóúàèìòùäëïöüâêîôûãõñçÁÉÍÓÚÀÈÌÒÙÄËÏÖÜÂÊÎÔÛÃÕÑÇ¿¡ªº·€£°«»“”‘’–—…ßŒœ²³½®©´\xa0")


_INVISIBLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u00ad\ufeff\u200b\ufffe]")
_SPACES = re.compile(r"[ \t\xa0\u202f\u2009]+")
_EMPTY_LINES = re.compile(r"\n\s*\n+")
_LINE_ENDS = re.compile(r" *\n *")


@dataclass(frozen=True)
class Raw:
    """One file in memory. `depth` counts how far inside other files it stands (an attachment of an attachment: 2);
    `beside` is a file that helps to read it (a Slack export's people).
    """

    data: bytes
    name: str
    password: str = ""
    depth: int = 0
    beside: bytes = b""

    @property
    def suffix(self) -> str:
        dot = self.name.rfind(".")
        return self.name[dot:].lower() if dot > 0 else ""


def decode(data: bytes) -> str:
    """The text of `data` in whatever encoding it is, line ends as `\\n`. Raises Quarantined for what is no
    text.

    A byte-order mark decides, then UTF-8, then Windows-1252 where all it adds are letters and signs of
    western European languages (on short Spanish text statistical guessers are often wrong), then
    charset-normalizer.
    """
    for mark, name in (
        (b"\xef\xbb\xbf", "utf-8-sig"),
        (b"\xff\xfe\0\0", "utf-32"),
        (b"\0\0\xfe\xff", "utf-32"),
        (b"\xff\xfe", "utf-16"),
        (b"\xfe\xff", "utf-16"),
    ):
        if data.startswith(mark):
            return _lines(data.decode(name, errors="replace"))
    if b"\0" in data[:8192]:
        for name, zeros in (("utf-16-le", data[1:4096:2]), ("utf-16-be", data[0:4096:2])):
            if zeros.count(0) > 0.7 * len(zeros):
                return _lines(data.decode(name, errors="replace"))
        raise Quarantined("unknown-format", "The file holds binary data, not text.")
    try:
        return _lines(data.decode())
    except UnicodeDecodeError:
        pass
    western = data.decode("cp1252", errors="replace")
    odd = {char for char in western if ord(char) > 126} - WESTERN
    if not odd:
        return _lines(western)
    from charset_normalizer import from_bytes

    best = from_bytes(data[:200_000]).best()
    return _lines(data.decode(best.encoding, errors="replace") if best else western)


def decode_text(data: bytes) -> str:
    """As decode, for formats whose bytes are their text. Raises Quarantined early for over MAX_TEXT characters."""
    text = decode(data)
    if len(text) > MAX_TEXT:
        raise Quarantined("too-large", f"The file holds over {MAX_TEXT:,} characters.")
    return text


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def tidy(text: str) -> str:
    """`text` without control characters, soft hyphens and runs of spaces; at most one empty line in a row."""
    if text.isprintable() and "  " not in text:  # most cells and short lines: nothing to do
        return text.strip()
    text = _SPACES.sub(" ", _INVISIBLE.sub("", _lines(text)))
    return _LINE_ENDS.sub("\n", _EMPTY_LINES.sub("\n\n", text)).strip()


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """`rows` as a Markdown table whose first row is the head; empty rows and columns go. Empty text for no
    cells.
    """
    cells = [[" ".join(tidy(cell).split()).replace("|", "\\|") for cell in row] for row in rows]
    cells = [row for row in cells if any(row)]
    width = max((len(row) for row in cells), default=0)
    cells = [row + [""] * (width - len(row)) for row in cells]
    keep = [column for column in range(width) if any(row[column] for row in cells)]
    lines = ["| " + " | ".join(row[column] for column in keep) + " |" for row in cells]
    if lines:
        lines.insert(1, "|" + " --- |" * len(keep))
    return "\n".join(lines)
