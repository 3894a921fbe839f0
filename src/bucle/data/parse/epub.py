"""E-books: the chapters in the order of the spine."""

from __future__ import annotations

import posixpath
from typing import Any
from urllib.parse import unquote

from bucle.core.errors import Quarantined
from bucle.core.records import Block
from bucle.data.parse.html import page_blocks, parse_tree
from bucle.data.parse.safety import open_zip
from bucle.data.parse.source import Raw, tidy

__all__ = ["read"]

_NAMES = {
    "c": "urn:oasis:names:tc:opendocument:xmlns:container",
    "o": "http://www.idpf.org/2007/opf",
    "dc": "http://purl.org/dc/elements/1.1/",
}


def read(raw: Raw) -> tuple[str, list[Block]]:
    """Title and blocks of an .epub; the place is the section. Names in it are looked up inside the archive
    only.
    """
    with open_zip(raw.data) as book:
        names = set(book.namelist())

        def part(name: str) -> bytes:
            if name not in names:
                raise Quarantined("corrupt", f"The e-book has no part {name[:80]!r}.")
            return book.read(name)

        if (
            "META-INF/encryption.xml" in names
            and b"EncryptedData" in part("META-INF/encryption.xml")
            and "META-INF/rights.xml" in names
        ):
            raise Quarantined("encrypted", "The e-book is protected (DRM).")
        root = _xml(part("META-INF/container.xml")).find(".//c:rootfile", _NAMES)
        package_name = root.get("full-path", "") if root is not None else ""
        package = _xml(part(package_name))
        title = package.findtext(".//dc:title", "", _NAMES)
        items = {item.get("id"): item.get("href", "") for item in package.iterfind(".//o:manifest/o:item", _NAMES)}
        blocks: list[Block] = []
        for reference in package.iterfind(".//o:spine/o:itemref", _NAMES):
            href = posixpath.join(posixpath.dirname(package_name), unquote(items.get(reference.get("idref"), "")))
            name = posixpath.normpath(href)
            if name in names:
                section = blocks[-1].place.removeprefix("section ") if blocks else ""
                try:
                    blocks += page_blocks(parse_tree(part(name)), section)
                except Quarantined as refused:
                    if refused.reason != "empty":  # a cover or a blank page
                        raise
    return tidy(title), blocks


def _xml(data: bytes) -> Any:
    from lxml import etree  # type: ignore[import-untyped]

    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        return etree.fromstring(data, parser)
    except etree.XMLSyntaxError as error:
        raise Quarantined("corrupt", f"The e-book's package is not XML: {error}.") from error
