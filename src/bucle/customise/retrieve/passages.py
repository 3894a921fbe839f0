"""The passages of a prompt, fewer and shorter until a small model's context holds them: the least relevant go first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from bucle.core.records import Chunk
from bucle.customise.retrieve.index import Index

__all__ = ["shorter_and_shorter"]

MAX_PASSAGES = 3


def shorter_and_shorter(
    index: Index, question: str, chunks: Sequence[Chunk], weight: float, access: frozenset[str]
) -> Iterator[tuple[tuple[Chunk, ...], list[str]]]:
    """Passages to put into a prompt, with their texts, the most first: MAX_PASSAGES of `chunks` (best first), one fewer
    each time, and of the last one only its sentences, the least relevant to the question left out each time."""
    for count in range(min(MAX_PASSAGES, len(chunks)), 0, -1):
        yield tuple(chunks[:count]), [c.text for c in chunks[:count]]
    if not chunks:
        return
    best = chunks[0]
    spans = index.sentences(best.id, access)
    vector: Any = index.embed([question])[0] if weight > 0 and len(spans) > 1 else None
    support = index.support(question, spans, weight=weight, vector=vector) if len(spans) > 1 else []
    order = sorted(range(len(support)), key=lambda i: (-support[i], i))
    for count in range(len(spans) - 1, 0, -1):
        kept = sorted(order[:count])
        yield (best,), [" ".join(spans[i] for i in kept)]
