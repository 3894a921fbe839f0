"""Paragraphs that stand in many documents, or on many pages of one, and belong to none: banners, footers,
letterheads."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from bucle.core.records import Block, Document
from bucle.data.similar import normal_form

__all__ = ["Boilerplate", "find_boilerplate", "strip_boilerplate"]

LEAST_DOCUMENTS = 4
LEAST_PAGES = 4
_EDGE_WORDS = 40
_COVERS = 2
"""Pages before the one that is numbered 1."""
_LEAD_IN_WORDS = 12
_PARAGRAPHS = re.compile(r"\n[ \t]*\n")
_PAGE = re.compile(r"^(?:page|p[áa]gina|p[áa]g\.?|slide|diapositiva) ?(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Boilerplate:
    """A paragraph that was taken out. `id` names it to `bucle data restore`; `documents` is in how many it stood, or
    on how many `pages` of the one at `path`."""

    id: str
    text: str
    documents: int
    path: str = ""
    pages: int = 0
    source: str = ""

    @property
    def detail(self) -> str:
        where = f"on {self.pages} pages of {self.path}" if self.pages else f"in {self.documents} documents"
        return f"{where}: {self.text[:120]}"


def find_boilerplate(
    documents: Sequence[Document],
    share: float,
    *,
    source_of: Callable[[Document], str] = lambda document: "",
    restored: Collection[str] = (),
) -> list[Boilerplate]:
    """The paragraphs (compared in normal form) in at least `share` of a source's documents and in 4 at least, the most
    frequent first; then, of each document of 4 pages or more, those at the beginning or end of that share of its
    pages (the page's own number apart, so that `page 3 of 9` is one). `share` 1 finds none.

    Headings, tables and a line that leads in to what follows it (`Precios:`) are never boilerplate: they give context.
    """
    if share >= 1:
        return []
    found = []
    by_source: dict[str, list[Document]] = defaultdict(list)
    for document in documents:
        by_source[source_of(document)].append(document)
    for source, members in sorted(by_source.items()):
        counts: Counter[str] = Counter()
        shown: dict[str, str] = {}
        for document in members:
            forms = {normal_form(text): text for text in _candidates(document.blocks)}
            counts.update(forms.keys())
            shown |= {form: text for form, text in forms.items() if form not in shown}
        least = max(LEAST_DOCUMENTS, share * len(members))
        for form, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
            name = _name(form)
            if form and count >= least and name not in restored:
                found.append(Boilerplate(name, shown[form], count, source=source))
    taken = {one.id for one in found}
    for document in documents:
        found += [one for one in _on_pages(document, share) if one.id not in restored and one.id not in taken]
    return found


def strip_boilerplate(document: Document, boilerplate: Iterable[Boilerplate]) -> Document:
    """`document` without those paragraphs; a block that has nothing left goes. The same object where nothing stood."""
    names = {one.id for one in boilerplate if not one.path}
    edges = {one.id for one in boilerplate if one.path == document.path}
    if not names and not edges:
        return document
    total = len({page for block in document.blocks if (page := _page(block))}) if edges else 0
    kept: list[Block] = []
    changed = False
    for block in document.blocks:
        if block.kind not in ("text", "notes"):
            kept.append(block)
            continue
        pieces = _PARAGRAPHS.split(block.text)
        left = [one for one in pieces if _name(normal_form(one)) not in names]
        if edges and (page := _page(block)):
            left = [one for one in left if _name(_edge_form(one, page, total), document.path) not in edges]
        if len(left) == len(pieces):
            kept.append(block)
            continue
        changed = True
        if text := "\n\n".join(left).strip():
            kept.append(block.model_copy(update={"text": text}))
    return document.model_copy(update={"blocks": tuple(kept)}) if changed else document


def _candidates(blocks: Iterable[Block]) -> Iterable[str]:
    for block in blocks:
        if block.kind in ("text", "notes"):
            for text in _PARAGRAPHS.split(block.text):
                if not (text.rstrip().endswith(":") and len(text.split()) <= _LEAD_IN_WORDS):
                    yield text


def _page(block: Block) -> int:
    """The page a block stands on; 0 where it is on none."""
    found = _PAGE.match(block.place)
    return int(found[1]) if found else 0


def _on_pages(document: Document, share: float) -> list[Boilerplate]:
    """Short paragraphs that are among the first or last two of their page, on `share` of the pages."""
    pages: dict[int, list[str]] = defaultdict(list)
    for block in document.blocks:
        if page := _page(block):
            pages[page] += _candidates([block]) if block.kind in ("text", "notes") else [""]
    if len(pages) < LEAST_PAGES:
        return []
    counts: Counter[str] = Counter()
    shown: dict[str, str] = {}
    for page, texts in pages.items():
        edge = {_edge_form(text, page, len(pages)): text for text in (*texts[:2], *texts[-2:])}
        counts.update(edge.keys())
        shown |= {form: text for form, text in edge.items() if form not in shown}
    least = max(LEAST_PAGES, share * len(pages))
    return [
        Boilerplate(_name(form, document.path), shown[form], 1, document.path, count)
        for form, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        if form and count >= least
    ]


def _edge_form(text: str, page: int, total: int) -> str:
    """The normal form of a short paragraph, `#` for what may be its page's number or the number of pages."""
    words = normal_form(text).split()
    if len(words) > _EDGE_WORDS:
        return ""
    numbers = {str(near) for near in range(page - _COVERS, page + _COVERS + 1)} | {str(total)}
    return " ".join("#" if word in numbers else word for word in words)


def _name(form: str, path: str = "") -> str:
    return "paragraph:" + hashlib.sha256(f"{path}\0{form}".encode()).hexdigest()[:16]
