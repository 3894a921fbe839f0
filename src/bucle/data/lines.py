"""The lines of a text file of any encoding and size, one at a time, each with its bytes' place in the file."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from bucle.core.errors import BadInput
from bucle.data.delimited import MAX_LINE, Line
from bucle.data.parse.source import WESTERN

__all__ = ["Encoding", "find_encoding", "read_lines"]

_CHUNK = 1 << 20
_MARKS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\0\0", "utf-32-le"),
    (b"\0\0\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)
_END = re.compile(r"\r\n|\n|\r")


class Encoding(NamedTuple):
    """A codec and the bytes of the mark before the text."""

    codec: str
    mark: int = 0


def find_encoding(path: Path) -> Encoding:
    """The encoding of a text file, in constant memory; one pass or two over it.

    A byte-order mark decides, then UTF-8 (damaged in places too, where ten times as much of it is sound), then
    Windows-1252 where all it adds are letters and signs of western European languages, then charset-normalizer on its
    beginning. Raises BadInput for what is no text.
    """
    with path.open("rb") as file:
        head = file.read(200_000)
        for mark, codec in _MARKS:
            if head.startswith(mark):
                return Encoding(codec, len(mark))
        if b"\0" in head[:8192]:
            for codec, zeros in (("utf-16-le", head[1:4096:2]), ("utf-16-be", head[0:4096:2])):
                if zeros.count(0) > 0.7 * len(zeros):
                    return Encoding(codec)
            raise BadInput(f"{path}: The file holds binary data, not text.", "Give CSV, TSV, JSONL or Parquet.")
        file.seek(0)
        sound, damaged, odd = _utf8(file)
    if not damaged or sound >= 10 * damaged:
        return Encoding("utf-8")
    if not odd:
        return Encoding("cp1252")
    from charset_normalizer import from_bytes

    best = from_bytes(head).best()
    return Encoding(best.encoding if best else "cp1252")


def _utf8(file: BinaryIO) -> tuple[int, int, bool]:
    """How many characters beyond ASCII are sound in UTF-8 and how many are not (counted in full only where any is
    not), and whether Windows-1252 would read signs that western text lacks."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        while chunk := file.read(_CHUNK):
            decoder.decode(chunk)
        decoder.decode(b"", final=True)
        return 0, 0, False
    except UnicodeDecodeError:
        pass
    file.seek(0)
    lenient = codecs.getincrementaldecoder("utf-8")(errors="replace")
    sound = damaged = 0
    high: set[int] = set()
    while chunk := file.read(_CHUNK):
        text = lenient.decode(chunk)
        bad = text.count("\ufffd")
        damaged += bad
        sound += sum(not char.isascii() for char in text) - bad
        high |= {byte for byte in set(chunk) if byte > 126}
    return sound, damaged or 1, any(bytes([byte]).decode("cp1252", "replace") not in WESTERN for byte in high)


def read_lines(path: Path, encoding: Encoding) -> Iterator[Line]:
    """Every line, ended by `\\n`, `\\r\\n` or `\\r`. Memory is bounded by MAX_LINE: a longer line is a problem, not
    text."""
    try:
        single = codecs.lookup(encoding.codec).name in _BY_BYTE
    except LookupError:
        single = False
    with path.open("rb") as file:
        file.seek(encoding.mark)
        yield from _by_byte(file, encoding) if single else _by_character(file, encoding)


_BY_BYTE = frozenset(
    {"utf-8", "ascii", "iso8859-1", "iso8859-2", "iso8859-9", "iso8859-15"}
    | {f"cp{number}" for number in (437, 850, 852, 858, *range(1250, 1259))}
)
"""Codecs in which the bytes of a line end are that and nothing else."""


def _by_byte(file: BinaryIO, encoding: Encoding) -> Iterator[Line]:
    limit = 4 * MAX_LINE
    number, start = 0, encoding.mark
    while raw := file.readline(limit):
        if len(raw) == limit and not raw.endswith(b"\n"):
            number += 1
            size = len(raw)
            while (more := file.readline(_CHUNK)) and not more.endswith(b"\n"):
                size += len(more)
            size += len(more)
            yield Line(number, "", start, start + size, "too-long")
            start += size
            continue
        body = raw[:-2] if raw.endswith(b"\r\n") else raw[:-1] if raw.endswith(b"\n") else raw
        if b"\r" in body:
            at = start
            parts = body.split(b"\r")
            if raw == body and not parts[-1]:
                parts.pop()
            for part in parts:
                number += 1
                yield _line(number, part, at, encoding.codec)
                at += len(part) + 1
        else:
            number += 1
            yield _line(number, body, start, encoding.codec)
        start += len(raw)


def _line(number: int, raw: bytes, start: int, codec: str) -> Line:
    if b"\0" in raw:
        return Line(number, "", start, start + len(raw), "nul-bytes")
    try:
        text = raw.decode(codec)
    except UnicodeDecodeError:
        if codec == "utf-8":
            return Line(number, raw[:200].decode(codec, "replace"), start, start + len(raw), "bad-encoding")
        text = raw.decode(codec, "replace")
    return Line(number, text, start, start + len(raw), "too-long" if len(text) > MAX_LINE else "")


def _by_character(file: BinaryIO, encoding: Encoding) -> Iterator[Line]:
    """For encodings of two bytes and more; the bytes of a line are those it encodes to again."""
    decoder = codecs.getincrementaldecoder(encoding.codec)(errors="replace")
    number, start, pending, size, long = 0, encoding.mark, "", 0, False

    def bytes_of(text: str) -> int:
        return len(text.encode(encoding.codec, "replace"))

    while True:
        chunk = file.read(_CHUNK)
        pending += decoder.decode(chunk, final=not chunk)
        at = 0
        for end in _END.finditer(pending):
            if end.end() == len(pending) and end.group() == "\r" and chunk:
                break  # its line feed may be in the next chunk
            text = pending[at : end.start()]
            size += bytes_of(text)
            number += 1
            problem = "too-long" if long or len(text) > MAX_LINE else "nul-bytes" if "\0" in text else ""
            yield Line(number, "" if problem else text, start, start + size, problem)
            start += size + bytes_of(end.group())
            at, size, long = end.end(), 0, False
        pending = pending[at:]
        if not chunk:
            break
        if len(pending) > MAX_LINE:
            kept = pending.endswith("\r")
            size += bytes_of(pending[: len(pending) - kept])
            pending, long = "\r" if kept else "", True
    if pending or long:
        yield Line(
            number + 1, "" if long else pending, start, start + size + bytes_of(pending), "too-long" if long else ""
        )
