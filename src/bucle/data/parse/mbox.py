"""Mailboxes (mbox): each message as an .eml, its number in its place."""

from __future__ import annotations

import re
from collections.abc import Iterator

from bucle.core.errors import Quarantined
from bucle.core.records import Block
from bucle.data.parse.eml import message_blocks
from bucle.data.parse.source import MAX_TEXT, Raw

__all__ = ["read", "split_mbox"]

MAX_MESSAGES = 20_000
_START = re.compile(rb"^From [^\r\n]*\r?\n", re.MULTILINE)


def read(raw: Raw) -> tuple[str, list[Block]]:
    """Blocks of every message of an .mbox, with attachments; the place is `message N, body` and the like."""
    blocks: list[Block] = []
    size = 0
    for number, data in enumerate(split_mbox(raw.data), 1):
        if number > MAX_MESSAGES:
            raise Quarantined("too-large", f"The mailbox has over {MAX_MESSAGES:,} messages.")
        try:
            subject, found = message_blocks(data, raw)
        except Quarantined as refused:
            subject, found = "", [Block(text=f"[message: not read, {refused.reason}. {refused.message}]", kind="notes")]
        place = f"message {number}"
        if subject:
            blocks.append(Block(text=subject, place=place, kind="heading"))
        for block in found:
            size += len(block.text)
            blocks.append(block.model_copy(update={"place": f"{place}, {block.place}" if block.place else place}))
        if size > MAX_TEXT:
            raise Quarantined("too-large", f"The mailbox holds over {MAX_TEXT:,} characters.")
    if all(block.kind == "notes" for block in blocks):
        raise Quarantined("corrupt", "No message in the mailbox can be read.")
    return "", blocks


def split_mbox(data: bytes) -> Iterator[bytes]:
    """The bytes of each message: one begins at a `From ` line after an empty line; `>From ` is quoted text."""
    starts = [
        found
        for found in _START.finditer(data)
        if found.start() == 0 or data[max(0, found.start() - 4) : found.start()].endswith((b"\n\n", b"\r\n\r\n"))
    ]
    if not starts or starts[0].start() != 0:
        raise Quarantined("corrupt", "The file is no mailbox: it does not begin with a `From ` line.")
    ends = [found.start() for found in starts[1:]] + [len(data)]
    for found, end in zip(starts, ends, strict=True):
        yield re.sub(rb"^>(>*From )", rb"\1", data[found.end() : end], flags=re.MULTILINE)
