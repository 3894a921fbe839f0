"""Plain text in any encoding, an exported chat among it."""

from __future__ import annotations

import re

from bucle.core.records import Block
from bucle.data.parse.chat import is_chat, read_chat
from bucle.data.parse.source import Raw, decode_text, tidy

__all__ = ["read"]


def read(raw: Raw) -> tuple[str, list[Block]]:
    """Blocks of a text file, one a paragraph; the place is `line N` where it begins (a chat: `date D`)."""
    text = decode_text(raw.data)
    if is_chat(text):
        return "", read_chat(text)
    blocks, line = [], 1
    for paragraph in re.split(r"(\n[ \t]*\n\s*)", text):
        if tidy(paragraph):
            lead = len(paragraph) - len(paragraph.lstrip("\n"))
            blocks.append(Block(text=tidy(paragraph), place=f"line {line + lead}"))
        line += paragraph.count("\n")
    return "", blocks
