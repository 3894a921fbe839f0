"""Sitemaps (sitemaps.org): the pages that a site lists, through indexes of sitemaps, compressed or not."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from bucle.core.sources import WebSource
from bucle.data.connect.files import SyncProblem
from bucle.data.connect.globs import matches
from bucle.data.connect.http import Http, NotFetched, Unreachable, site
from bucle.data.connect.safe import public_url

__all__ = ["is_sitemap", "pages"]

MAX_BYTES = 50 * 2**20
"""Of one sitemap, decompressed: what sitemaps.org allows."""
MAX_SITEMAPS = 500
MAX_DEPTH = 3


def is_sitemap(source: WebSource) -> bool:
    return source.sitemap or urlsplit(source.url).path.lower().endswith((".xml", ".xml.gz"))


def pages(http: Http, source: WebSource, part: Path) -> tuple[list[str], str, list[SyncProblem]]:
    """The URLs to fetch, the site they are of, and problems. Other sites' pages are left out, as are those whose path
    matches none of the source's patterns. Raises Unreachable where no sitemap can be read, or all are empty."""
    found: dict[str, None] = {}
    problems: list[SyncProblem] = []
    home, elsewhere, over = site(source.url), 0, 0
    waiting = [(source.url, 0)]
    seen = {source.url}
    tried_others = False
    while waiting:
        url, depth = waiting.pop(0)
        try:
            reply = http.fetch(url, part, limit=MAX_BYTES)
            if url == source.url:
                home = site(reply.url)
            listed, inner = _read(part)
        except NotFetched as refused:
            if url == source.url and source.sitemap and not tried_others and refused.reason != "private-address":
                tried_others = True
                own = [u for u in http.sitemaps(url) if site(u) == home] or [f"{home}/sitemap.xml"]
                waiting += [(u, 0) for u in own if u not in seen]
                seen.update(own)
                continue
            if not found and not waiting:
                raise Unreachable(refused.message) from None
            problems.append(SyncProblem(public_url(url), refused.reason, refused.message))
            continue
        for other in inner:
            if other in seen or site(other) != home:
                continue
            if depth >= MAX_DEPTH or len(seen) >= MAX_SITEMAPS:
                problems.append(SyncProblem(public_url(other), "too-many", "Sitemaps beyond the limit are not read."))
                break
            seen.add(other)
            waiting.append((other, depth + 1))
        for page in listed:
            if site(page) not in (home, site(source.url)):
                elsewhere += 1
            elif not any(matches(urlsplit(page).path.lstrip("/"), p.lstrip("/")) for p in source.patterns):
                continue
            elif page not in found and len(found) >= source.max_pages:
                over += 1
            else:
                found[page] = None
    if elsewhere:
        told = f"{elsewhere} pages of other sites are not fetched."
        problems.append(SyncProblem(public_url(source.url), "elsewhere", told))
    if over:
        told = f"{over} pages beyond max_pages ({source.max_pages}) are not fetched."
        problems.append(SyncProblem(public_url(source.url), "too-many", told))
    if not found:
        raise Unreachable(f"{public_url(source.url)} lists no page" + (": " + problems[0].message if problems else ""))
    return list(found), home, problems


def _read(file: Path) -> tuple[list[str], list[str]]:
    """The pages and the further sitemaps in a sitemap. Raises NotFetched where it is none, or unsafe."""
    data = file.read_bytes()
    if data.startswith(b"\x1f\x8b"):
        data = _unzip(data)
    if not data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<") and not data.startswith((b"\xff\xfe", b"\xfe\xff")):
        lines = [line.strip() for line in data.decode("utf-8", "replace").splitlines()]
        listed = [line for line in lines if line.startswith(("http://", "https://"))]
        if not listed:
            raise NotFetched("no-sitemap", "What came is no sitemap.")
        return listed, []
    return _urls(data)


def _urls(data: bytes) -> tuple[list[str], list[str]]:
    from lxml import etree  # type: ignore[import-untyped]

    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        root = etree.fromstring(data, parser)
    except (etree.XMLSyntaxError, ValueError):
        raise NotFetched("no-sitemap", "What came is not XML, or not safe to read.") from None
    if root.getroottree().docinfo.internalDTD is not None and root.getroottree().docinfo.internalDTD.entities():
        raise NotFetched("entities", "The sitemap declares entities, which a sitemap never needs; it is not read.")
    kind = etree.QName(root).localname.lower()
    if kind not in ("urlset", "sitemapindex"):
        raise NotFetched("no-sitemap", "What came is no sitemap.")
    listed = [url for url in _locations(root) if len(url) < 8000]
    return (listed, []) if kind == "urlset" else ([], listed)


def _locations(root: object) -> Iterator[str]:
    for entry in root:  # type: ignore[attr-defined]
        for child in entry:
            if isinstance(child.tag, str) and child.tag.rpartition("}")[2] == "loc" and child.text:
                yield child.text.strip().partition("#")[0]


def _unzip(data: bytes) -> bytes:
    unzip = zlib.decompressobj(31)
    try:
        plain = unzip.decompress(data, MAX_BYTES + 1)
    except zlib.error:
        raise NotFetched("corrupt", "The compressed sitemap is damaged.") from None
    if len(plain) > MAX_BYTES:
        raise NotFetched("too-large", f"The sitemap has over {MAX_BYTES:,} bytes.")
    return plain
