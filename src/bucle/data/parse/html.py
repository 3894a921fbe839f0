"""Web pages: every block with text that is not menu, banner or frame of the page."""

from __future__ import annotations

import re
from typing import Any

from bucle.core.errors import Quarantined
from bucle.core.records import Block
from bucle.data.parse.chrome import drop, likely_chrome, surely_chrome
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
    "select",
}
_HEADINGS = {"h1", "h2", "h3", "h4", "h5", "h6"}
_LEAVES = {"p", "li", "pre", "blockquote", "dt", "dd", "figcaption", "caption", "address"}
_BREAKS = {"div", "section", "article", "tr", "td", "th", "ul", "ol", "li", "body", "br", "hr", "table", "p", "main"}
_BREAKS |= {"header", "footer", "aside", "dl", "blockquote", "figure", "figcaption", "details", "summary", "form"}
_BREAKS |= {"fieldset", "legend", "center", "address"}
_KEPT_SHARE = 0.7
"""Share of the words outside menus, page header and page footer that must be kept, or all of them are."""


def read(raw: Raw) -> tuple[str, list[Block]]:
    """Title and blocks of an HTML page. Scripts, menus, cookie banners and the page's own header and footer are left
    out, all else is kept; nothing is fetched."""
    tree = parse_tree(raw.data)
    title = page_title(tree)
    if len(tree.text_content()) > MAX_TEXT and sum(len(block.text) for block in page_blocks(tree)) > MAX_TEXT:
        raise Quarantined("too-large", f"The page holds over {MAX_TEXT:,} characters.")
    everything = page_blocks(tree)
    drop(surely_chrome(tree))
    plain = page_blocks(tree)
    drop(likely_chrome(tree, _text_of(raw.data)))
    blocks = page_blocks(tree)
    if _words(blocks) < _KEPT_SHARE * _words(plain):
        blocks = plain
    return title, blocks or everything


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
        if not isinstance(element.tag, str) or element.tag in _SKIP or not _is_read(element):
            return
        tag = element.tag
        if tag in _HEADINGS:
            flush()
            text = _flat(element)
            section = tidy(text)[:120] or section
            add(text, "heading")
        elif tag == "table" and not element.findall(".//table") and _is_data(element):
            flush()
            for caption in element.iterchildren("caption"):
                add(_flat(caption))
            rows = [[_flat(cell) for cell in row.xpath("./td|./th")] for row in element.iter("tr")]
            add(markdown_table(rows), "table")
        elif tag in _LEAVES and not any(
            child.tag in _LEAVES | _HEADINGS | {"table", "ul", "ol", "div"} for child in element.iterdescendants()
        ):
            flush()
            text = element.text_content() if tag == "pre" else _flat(element)
            add(("- " if tag == "li" else "") + text if text else "")
        else:
            block = tag in _BREAKS
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


def _is_read(element: Any) -> bool:
    """A button only where it opens a text (an answer in a list of questions); its words are then a title."""
    return element.tag != "button" or "aria-expanded" in element.attrib or "?" in (element.text_content() or "")


def _flat(element: Any) -> str:
    """The text on one line: what breaks a line parts words, items of a list stand apart by semicolons."""
    parts: list[str] = []

    def gather(one: Any) -> None:
        parts.append(one.text or "")
        for child in one:
            if isinstance(child.tag, str) and child.tag not in _SKIP:
                if child.tag == "li" and child.getprevious() is not None:
                    parts.append("; ")
                elif child.tag in _BREAKS | _LEAVES | _HEADINGS:
                    parts.append(" ")
                gather(child)
                if child.tag in _BREAKS | _LEAVES | _HEADINGS and child.tag != "li":
                    parts.append(" ")
            parts.append(child.tail if child.tail and (child.tail.strip() or child.tag != "li") else "")

    gather(element)
    return " ".join("".join(parts).split())


def _is_data(table: Any) -> bool:
    """Whether a table holds data: two rows and two columns at least. Layout tables are read as text."""
    rows = [len(row.xpath("./td|./th")) for row in table.iter("tr")]
    return len(rows) >= 2 and max(rows) >= 2


def _words(blocks: list[Block]) -> int:
    return sum(len(re.findall(r"\w+", block.text)) for block in blocks)
