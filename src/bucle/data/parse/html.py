"""Web pages: the main content by trafilatura, or all that is readable where there is no boilerplate."""

from __future__ import annotations

import re
from typing import Any

from bucle.core.errors import Quarantined
from bucle.core.records import Block
from bucle.data.parse.source import MAX_TEXT, Raw, decode, markdown_table, tidy

__all__ = ["page_blocks", "page_title", "read"]

_SKIP = {
    "script",
    "style",
    "noscript",
    "template",
    "svg",
    "head",
    "iframe",
    "object",
    "nav",
    "button",
    "select",
}
_HEADINGS = {"h1", "h2", "h3", "h4", "h5", "h6"}
_LEAVES = {"p", "li", "pre", "blockquote", "dt", "dd", "figcaption", "caption", "address"}
_KEPT_SHARE = 0.5
"""Share of the page's words trafilatura must keep, or the page is one without boilerplate (a form letter, an
export) that its rules would cut; then all of its readable text is taken.
"""
_BLOCK_SHARE, _TABLE_SHARE = 0.6, 0.3
"""Share of a block's triples of words that must stand in trafilatura's text; it reorders and cuts tables."""
_NEAR = 2


def read(raw: Raw) -> tuple[str, list[Block]]:
    """Title and blocks of an HTML page. Scripts, styles and menus are left out; nothing is fetched."""
    tree = parse_tree(raw.data)
    everything = page_blocks(tree)
    if sum(len(block.text) for block in everything) > MAX_TEXT:
        raise Quarantined("too-large", f"The page holds over {MAX_TEXT:,} characters.")
    import trafilatura

    main = trafilatura.extract(
        _text_of(raw.data), include_comments=False, include_tables=True, include_links=False, favor_recall=True
    )
    blocks = _kept(everything, main or "")
    if _words(blocks) < _KEPT_SHARE * _words(everything):
        blocks = everything
    return page_title(tree), blocks


def _kept(blocks: list[Block], main: str) -> list[Block]:
    """Those of `blocks` that stand in the text that trafilatura calls the page's own.

    Its text says which; ours has the tables and places. Blocks too short to tell are kept among others that are.
    """
    words = re.findall(r"\w+", main.lower())
    known = set(zip(words, words[1:], words[2:], strict=False))
    said = f" {' '.join(words)} "
    told: list[bool | None] = []
    for block in blocks:
        own = re.findall(r"\w+", block.text.lower())
        triples = list(zip(own, own[1:], own[2:], strict=False))
        if len(triples) < 3:
            told.append(None if f" {' '.join(own)} " in said else False)
        else:
            share = sum(triple in known for triple in triples) / len(triples)
            told.append(share >= (_TABLE_SHARE if block.kind == "table" else _BLOCK_SHARE))
    sure = [at for at, one in enumerate(told) if one]
    if not sure:
        return []
    first, last = sure[0] - _NEAR, sure[-1] + _NEAR
    return [block for at, block in enumerate(blocks) if told[at] or (told[at] is None and first <= at <= last)]


def parse_tree(data: bytes) -> Any:
    """The element tree of an HTML page in any encoding. Raises Quarantined where there is none."""
    from lxml import etree  # type: ignore[import-untyped]
    from lxml import html as lxml_html

    text = _text_of(data).encode()
    for huge in (False, True):  # libxml2 drops what passes its usual limits; the second try has hardly any
        parser = lxml_html.HTMLParser(encoding="utf-8", huge_tree=huge)
        try:
            tree = lxml_html.document_fromstring(text, parser=parser)
        except (etree.ParserError, ValueError) as error:
            raise Quarantined("empty", "The page holds no text.") from error
        if not any(entry.type_name == "ERR_RESOURCE_LIMIT" for entry in parser.error_log):
            return tree
    raise Quarantined("corrupt", "The page is nested deeper than any real document.")


def _text_of(data: bytes) -> str:
    named = re.search(
        rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?([\w-]{2,30})|<\?xml[^>]{0,100}?encoding=[\"']([\w-]{2,30})",
        data[:4096],
        re.IGNORECASE,
    )
    text = None
    if named:
        try:
            text = data.decode((named[1] or named[2]).decode("ascii"))
        except (LookupError, UnicodeDecodeError):
            text = None
    return re.sub(r"^\s*<\?xml[^>]*\?>", "", text if text is not None else decode(data))


def page_title(tree: Any) -> str:
    found = tree.find(".//title")
    return tidy(" ".join(found.text_content().split())) if found is not None else ""


def page_blocks(tree: Any, section: str = "", prefix: str = "") -> list[Block]:
    """The readable blocks of the page. `prefix` stands before each place (`attachment a.html, `)."""
    blocks: list[Block] = []
    loose: list[str] = []

    def place() -> str:
        return prefix + (f"section {section}" if section else "") if section else prefix.rstrip(", ")

    def add(text: str, kind: Any = "text") -> None:
        text = tidy(text)
        if text:
            blocks.append(Block(text=text, place=place(), kind=kind))

    def flush() -> None:
        add(" ".join(" ".join(loose).split()))
        loose.clear()

    def visit(element: Any) -> None:
        nonlocal section
        if not isinstance(element.tag, str) or element.tag in _SKIP:
            return
        tag = element.tag
        if tag in _HEADINGS:
            flush()
            text = " ".join(element.text_content().split())
            section = tidy(text)[:120] or section
            add(text, "heading")
        elif tag == "table" and not element.findall(".//table") and _is_data(element):
            flush()
            rows = [
                [" ".join(cell.text_content().split()) for cell in row.xpath("./td|./th")] for row in element.iter("tr")
            ]
            add(markdown_table(rows), "table")
        elif tag in _LEAVES and not any(
            child.tag in _LEAVES | _HEADINGS | {"table", "ul", "ol", "div"} for child in element.iterdescendants()
        ):
            flush()
            text = element.text_content()
            add(text if tag == "pre" else ("- " if tag == "li" else "") + " ".join(text.split()))
        else:
            block = tag in (
                "div",
                "section",
                "article",
                "tr",
                "td",
                "th",
                "ul",
                "ol",
                "li",
                "body",
                "br",
                "hr",
                "table",
                "p",
                "main",
                "header",
                "footer",
                "aside",
                "dl",
                "blockquote",
            )
            if block:
                flush()
            loose.append(element.text or "")
            for child in element:
                visit(child)
                loose.append(child.tail or "")
            if block:
                flush()

    visit(tree)
    flush()
    return blocks


def _is_data(table: Any) -> bool:
    """Whether a table holds data: two rows and two columns at least. Layout tables are read as text."""
    rows = [len(row.xpath("./td|./th")) for row in table.iter("tr")]
    return len(rows) >= 2 and max(rows) >= 2


def _words(blocks: list[Block]) -> int:
    return sum(len(re.findall(r"\w+", block.text)) for block in blocks)
