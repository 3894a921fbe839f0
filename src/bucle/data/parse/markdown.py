"""Markdown, cut at its headings; tables and code stay whole."""

from __future__ import annotations

import re

from bucle.core.records import Block
from bucle.data.parse.source import Raw, decode_text, tidy

__all__ = ["read", "split_markdown"]


_FOOTNOTE = re.compile(r"^( {0,3}\[\^[^\]\n]{1,80}\]):", re.MULTILINE)
"""The head of a footnote, which plain CommonMark takes for the target of a link where it is of one word."""


def read(raw: Raw) -> tuple[str, list[Block]]:
    """Title (the front matter's, or the first heading) and blocks; the place is the section."""
    text = decode_text(raw.data)
    title = ""
    front = re.match(r"---\n(.{0,20000}?)\n---\n", text, re.DOTALL)
    if front:
        named = re.search(r"^title:\s*(.+)$", front[1], re.MULTILINE)
        title = named[1].strip().strip("\"'") if named else ""
        text = text[front.end() :]
    blocks = split_markdown(text)
    return title or next((block.text for block in blocks if block.kind == "heading"), ""), blocks


def split_markdown(text: str) -> list[Block]:
    """The top-level blocks of Markdown `text`, as written but for the marks of headings."""
    from markdown_it import MarkdownIt

    lines = text.split("\n")
    tokens = MarkdownIt("commonmark", {"maxNesting": 20}).enable("table").parse(_FOOTNOTE.sub(r"\1\:", text))
    blocks: list[Block] = []
    section = ""
    for at, token in enumerate(tokens):
        if token.level != 0 or token.map is None:
            continue
        source = "\n".join(lines[token.map[0] : token.map[1]])
        if token.type == "heading_open":
            section = tidy(re.sub(r"[*_`]+", "", tokens[at + 1].content))[:120]
            if section:
                blocks.append(Block(text=section, place=f"section {section}", kind="heading"))
            continue
        if token.type == "html_block":
            source = re.sub(r"<!--.*?-->|<[^<>]{1,500}>", " ", source, flags=re.DOTALL)
        if tidy(source):
            body = source.strip("\n") if token.type in ("fence", "code_block") else tidy(source)
            blocks.append(
                Block(
                    text=body,
                    place=f"section {section}" if section else "",
                    kind="table" if token.type == "table_open" else "text",
                )
            )
    return blocks
