"""A file inside another: an attachment of a message, an entry of an archive. Only ever in memory."""

from __future__ import annotations

import mimetypes
import posixpath

from bucle.core.errors import Quarantined
from bucle.core.records import Block
from bucle.data.parse.source import Raw, tidy

__all__ = ["MAX_DEPTH", "inner_blocks", "inner_name", "is_media", "note"]

MAX_DEPTH = 2


def inner_name(name: str) -> str:
    """`name` as a path that leads nowhere: relative, without `..`, drive letters or control characters."""
    parts = tidy(" ".join(name.split())).replace("\\", "/").split("/")
    return posixpath.join("", *(part for part in parts if part not in ("", ".", "..") and not part.endswith(":")))[
        -200:
    ]


def is_media(name: str) -> bool:
    """Whether the name is a picture's, a sound's or a film's: there is no text in those."""
    return (mimetypes.guess_type(name)[0] or "").split("/")[0] in ("image", "audio", "video", "font")


def note(name: str, refused: Quarantined) -> str:
    """What is said in place of an inner file that could not be read."""
    return f"[{name}: not read, {refused.reason}. {refused.message}]"


def inner_blocks(data: bytes, name: str, raw: Raw, place: str) -> list[Block]:
    """The blocks of the file `name` inside `raw`, placed after `place`, or a note that says why there are none.

    Raises Quarantined for a bomb: what holds one is not read at all.
    """
    from bucle.data.parse.formats import read_any

    try:
        if raw.depth >= MAX_DEPTH:
            raise Quarantined("too-large", "It stands too deep inside other files.")
        _, blocks = read_any(Raw(data, name.rsplit("/", 1)[-1], raw.password, raw.depth + 1))
    except Quarantined as refused:
        if refused.reason in ("zip-bomb", "out-of-memory"):
            raise Quarantined(refused.reason, f"{name!r} inside it: {refused.message}") from refused
        return [Block(text=note(name, refused), place=place, kind="notes")]
    return [block.model_copy(update={"place": f"{place}, {block.place}" if block.place else place}) for block in blocks]
