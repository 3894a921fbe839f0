"""Five looks at the passages that a search found, each on [0, 1] within it.

- `words`: BM25, stemmed (Robertson and Zaragoza 2009);
- `meaning`: the cosine of question and passage;
- `sentence_words`, `sentence_meaning`: the TF-IDF and the embedding cosine of its best sentence, as the best of many
  parts tells more than their mean (Khattab and Zaharia 2020, of tokens);
- `together`: the share of the question's character 4-grams, weighed by how rare they are among the passages found, that
  stand in two neighbouring sentences. 4-grams see through endings without a stemmer (McNamee and Mayfield 2004).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from bucle.core.ports import Hit, SearchIndex
from bucle.customise.overlap import folded
from bucle.data.sentences import sentences

__all__ = ["DEPTH", "SIGNALS", "Pool", "grams", "joined", "look", "order", "parts_of", "support_of", "weighed"]

SIGNALS = ("words", "meaning", "sentence_words", "sentence_meaning", "together")
DEPTH = 50
GRAM = 4


@dataclass(frozen=True)
class Pool:
    """The passages that one search found and their signals, `[passages, 5]` float32 in [0, 1]."""

    hits: tuple[Hit, ...]
    signals: Any


def look(
    index: SearchIndex,
    question: str,
    vector: Any,
    *,
    access: frozenset[str] = frozenset(),
    where: Mapping[str, str] | None = None,
    depth: int = DEPTH,
) -> Pool:
    """Up to `depth` passages by words and as many by meaning, that a holder of `access` may see, with their signals.
    `vector` is the question's."""
    import numpy as np

    narrowed: dict[str, Any] = {"where": where} if where else {}
    hits = index.search(question, k=2 * depth, weight=0.5, vector=vector, access=access, **narrowed)
    signals = np.zeros((len(hits), len(SIGNALS)), np.float32)
    if not hits:
        return Pool((), signals)
    parts = [parts_of(index, hit, access) for hit in hits]
    flat = [span for own in parts for span in own]
    lexical = support_of(index, question, flat, 0.0, vector)
    meaning = support_of(index, question, flat, 1.0, vector)
    at = 0
    for row, (hit, own) in enumerate(zip(hits, parts, strict=True)):
        here = slice(at, at + len(own))
        at += len(own)
        best = (float(lexical[here].max()), float(meaning[here].max())) if own else (0.0, 0.0)
        signals[row, :4] = hit.words or 0.0, math.nan if hit.meaning is None else hit.meaning, *best
    signals[:, 4] = _together(question, parts)
    return Pool(tuple(hits), _on_unit_range(signals))


def order(pool: Pool, weights: Mapping[str, float]) -> list[Hit]:
    """The pool's passages, best first, with their fused score in [0, 1]."""
    scores = weighed(pool, weights)
    ranked = sorted(range(len(pool.hits)), key=lambda i: (-float(scores[i]), pool.hits[i].chunk.id))
    return [replace(pool.hits[i], score=min(1.0, max(0.0, float(scores[i])))) for i in ranked]


def weighed(pool: Pool, weights: Mapping[str, float]) -> Any:
    """The fused score of each passage, `[passages]`: the weighted sum of its signals."""
    import numpy as np

    return pool.signals @ np.array([weights.get(name, 0.0) for name in SIGNALS], np.float32)


def parts_of(index: SearchIndex, hit: Hit, access: frozenset[str]) -> list[str]:
    """The sentences of a passage that was found, as the index has them, or cut here where it does not say."""
    own = getattr(index, "sentences", None)
    return list(own(hit.chunk.id, access)) if own is not None else list(_cut(hit.chunk.text))


def support_of(index: SearchIndex, question: str, spans: Sequence[str], weight: float, vector: Any) -> Any:
    """How well each sentence supports the question, `[len(spans)]` in [0, 1]: by words, and by meaning with `weight`.
    An index that scores no sentences gives the share of the question's 4-grams in each."""
    import numpy as np

    if not spans:
        return np.zeros(0, np.float32)
    own = getattr(index, "support", None)
    if own is not None:
        return np.asarray(own(question, spans, weight=weight, vector=vector), np.float32)
    asked = grams(question)
    return np.array([sum(gram in joined(span) for gram in asked) / max(1, len(asked)) for span in spans], np.float32)


def grams(text: str) -> list[str]:
    """The distinct character 4-grams within a text's words, shorter words whole, `_` at their ends; folded."""
    words = [f"_{word}_" for word in re.findall(r"\w+", folded(text))]
    return list(dict.fromkeys(w[i : i + GRAM] for w in words for i in range(max(1, len(w) - GRAM + 1))))


@lru_cache(maxsize=20_000)
def joined(text: str) -> str:
    """A text's words, folded, with `_` around each: `_la_baja_`."""
    return "_" + "_".join(re.findall(r"\w+", folded(text))) + "_"


@lru_cache(maxsize=5_000)
def _cut(text: str) -> tuple[str, ...]:
    return tuple(sentences(text))


def _together(question: str, parts: Sequence[Sequence[str]]) -> Any:
    import numpy as np

    asked = grams(question[:MOST_ASKED])
    if not asked:
        return np.zeros(len(parts), np.float32)
    found = [
        np.array([[gram in text for gram in asked] for text in map(joined, own)], bool).reshape(len(own), len(asked))
        for own in parts
    ]
    holding = sum(marks.any(axis=0).astype(np.float32) for marks in found)
    rare = np.log1p((len(parts) - holding + 0.5) / (holding + 0.5))
    windows = [marks[:-1] | marks[1:] if len(marks) > 1 else marks for marks in found]
    return np.array([float((w @ rare).max()) if len(w) else 0.0 for w in windows]) / max(float(rare.sum()), 1e-9)


MOST_ASKED = 2_000
"""Characters of a question that are compared with sentences."""


def _on_unit_range(signals: Any) -> Any:
    """Each column on [0, 1]; what a search did not find counts as its worst."""
    import numpy as np

    unknown = np.isnan(signals)
    signals = np.where(unknown, np.where(unknown.all(axis=0), 0.0, np.nanmin(np.where(unknown, np.inf, signals), 0)),
                       signals)
    low, high = signals.min(axis=0), signals.max(axis=0)
    return ((signals - low) / np.where(high > low, high - low, 1.0)).astype(np.float32)
