"""Documents into passages to index and to cite: whole paragraphs, with the heading and the place they stand
under.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bucle.core.errors import BadInput
from bucle.core.ids import content_id
from bucle.core.records import Block, Chunk, Document
from bucle.data.sentences import sentence_spans

__all__ = ["chunk_documents"]


def chunk_documents(documents: Sequence[Document], *, max_words: int = 120, overlap: int = 20) -> list[Chunk]:
    """The passages of `documents` in order, each of `max_words` words at most.

    A passage ends at a heading, at the end of its place (page, slide, sheet, section), or when the next
    paragraph does not fit. Only a paragraph too long for one passage is cut, between sentences, and then each
    piece repeats up to `overlap` words of the one before. A table stays whole where it fits; a longer one is
    cut between rows and repeats its head. `heading` is the title and the last heading. An id is the hash of
    document, text and position. A passage carries the access labels of its document.
    """
    if max_words < 10 or not 0 <= overlap <= max_words // 2:
        raise BadInput(
            f"Chunks of {max_words} words with {overlap} overlapping cannot be made.",
            "Give max_words of at least 10 and an overlap of at most half of it.",
        )
    return [chunk for document in documents for chunk in _chunks(document, max_words, overlap)]


def _chunks(document: Document, max_words: int, overlap: int) -> Iterator[Chunk]:
    for ordinal, (heading, place, text) in enumerate(_passages(document, max_words, overlap)):
        context = " › ".join(dict.fromkeys(part for part in (document.title, heading) if part))
        yield Chunk(
            id=content_id("chunk", {"document": document.id, "text": text, "ordinal": ordinal}),
            document_id=document.id,
            path=document.path,
            text=text,
            heading=context,
            place=place,
            language=document.language,
            access=document.access,
        )


def _passages(document: Document, max_words: int, overlap: int) -> Iterator[tuple[str, str, str]]:
    heading, place = "", ""
    bare = ""  # a heading nothing has followed yet
    held: list[str] = []
    words = 0

    def flush() -> Iterator[tuple[str, str, str]]:
        nonlocal words
        if held:
            yield heading, place, "\n\n".join(held)
        held.clear()
        words = 0

    for block in document.blocks:
        if block.kind == "heading":
            yield from flush()
            if bare and bare != document.title:
                yield heading, place, bare
            heading, place, bare = block.text[:200], block.place, block.text
            continue
        if held and block.place != place:
            yield from flush()
        place, bare = block.place, ""
        for piece in _pieces(block, max_words, overlap):
            size = len(piece.split())
            if held and words + size > max_words:
                yield from flush()
            held.append(piece)
            words += size
    yield from flush()
    if bare:
        yield heading, place, bare


def _pieces(block: Block, max_words: int, overlap: int) -> list[str]:
    if len(block.text.split()) <= max_words:
        return [block.text]
    if block.kind == "table":
        return _table_pieces(block.text.split("\n"), max_words)
    pieces: list[str] = []
    current: list[str] = []
    fresh = 0
    for unit in _units(block.text, max_words - overlap):
        size = len(unit.split())
        if fresh and sum(len(one.split()) for one in current) + size > max_words:
            pieces.append(" ".join(current))
            current, fresh = _tail(current, min(overlap, max_words - size)), 0
        current.append(unit)
        fresh += 1
    return [*pieces, " ".join(current)]


def _units(text: str, most: int) -> list[str]:
    """Lines and sentences of `text`; one of over `most` words is cut between words."""
    units = []
    for start, end in sentence_spans(text):
        words = text[start:end].split()
        units += [" ".join(words[at : at + most]) for at in range(0, len(words), most)]
    return units


def _tail(units: Sequence[str], most: int) -> list[str]:
    """The last of `units` that have `most` words at most together."""
    kept: list[str] = []
    for unit in reversed(units):
        most -= len(unit.split())
        if most < 0:
            break
        kept.insert(0, unit)
    return kept


def _table_pieces(lines: Sequence[str], max_words: int) -> list[str]:
    head, rows = list(lines[:2]), lines[2:]
    pieces: list[list[str]] = []
    size = start = sum(len(line.split()) for line in head)
    for row in rows:
        if not pieces or (size + len(row.split()) > max_words and len(pieces[-1]) > len(head)):
            pieces.append([*head])
            size = start
        pieces[-1].append(row)
        size += len(row.split())
    return ["\n".join(piece) for piece in pieces]
