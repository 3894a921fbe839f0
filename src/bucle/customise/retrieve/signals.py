"""Five looks at the passages that a search found, each on [0, 1] within it.

- `words`: BM25, stemmed (Robertson and Zaragoza 2009);
- `meaning`: the cosine of question and passage;
- `sentence_words`: the best sentence's cosine with the question over words, pairs of words and character 4-grams, each
  weighed by how rare it is among the passages found; as the best of many parts tells more than their mean (Khattab and
  Zaharia 2020, of tokens), and 4-grams see through endings without a stemmer (McNamee and Mayfield 2004);
- `sentence_meaning`: the embedding cosine of the best sentence;
- `together`: the share of the question's 4-grams, weighed so, that stand in two neighbouring sentences.
"""

from __future__ import annotations

import itertools
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
    parts = _sentences_of(index, hits, access)
    flat = [span for own in parts for span in own]
    meaning = support_of(index, question, flat, 1.0, vector, access)
    at = 0
    for row, (hit, own) in enumerate(zip(hits, parts, strict=True)):
        best = float(meaning[at : at + len(own)].max()) if own else 0.0
        at += len(own)
        signals[row, :2] = hit.words or 0.0, math.nan if hit.meaning is None else hit.meaning
        signals[row, 3] = best
    signals[:, 2], signals[:, 4] = _by_words(question, parts)
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


def support_of(
    index: SearchIndex, question: str, spans: Sequence[str], weight: float, vector: Any, access: frozenset[str]
) -> Any:
    """How well each sentence supports the question, `[len(spans)]` in [0, 1]: by words, as rare as they are in what
    `access` may see, and by meaning with `weight`.
    An index that scores no sentences gives the share of the question's 4-grams in each."""
    import numpy as np

    if not spans:
        return np.zeros(0, np.float32)
    own = getattr(index, "support", None)
    if own is not None:
        return np.asarray(own(question, spans, weight=weight, vector=vector, access=access), np.float32)
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


def _by_words(question: str, parts: Sequence[Sequence[str]]) -> tuple[Any, Any]:
    """`sentence_words` and `together` of each passage, given as its sentences."""
    import numpy as np

    text = joined(question[:MOST_ASKED])
    words = text.strip("_").split("_") if text.strip("_") else []
    alone, pairs = dict.fromkeys(words), dict.fromkeys(itertools.pairwise(words))
    pieces = [*(f"_{word}_" for word in alone), *(f"_{a}_{b}_" for a, b in pairs)]
    marks = grams(question[:MOST_ASKED])
    if not marks:
        return np.zeros(len(parts)), np.zeros(len(parts))
    asked, cut = [*pieces, *marks], len(pieces)
    read = [[joined(span) for span in own] for own in parts]
    found = [np.array([[one in text for one in asked] for text in own], bool).reshape(-1, len(asked)) for own in read]
    holding = sum(one.any(axis=0).astype(np.float64) for one in found)
    rare = np.log1p((len(parts) - holding + 0.5) / (holding + 0.5))
    share = rare**2
    share[:cut] /= max(float(share[:cut].sum()) ** 0.5, 1e-9)
    share[cut:] /= max(float(share[cut:].sum()) ** 0.5, 1e-9)
    best, near = np.zeros(len(parts)), np.zeros(len(parts))
    for row, (own, here) in enumerate(zip(read, found, strict=True)):
        if not own:
            continue
        best[row] = float((here @ share / np.sqrt([len(text) for text in own])).max())
        windows = here[:-1] | here[1:] if len(here) > 1 else here
        near[row] = float((windows[:, cut:] @ rare[cut:]).max())
    return best, near


def _sentences_of(index: SearchIndex, hits: Sequence[Hit], access: frozenset[str]) -> list[list[str]]:
    """The sentences of each passage, read at once where the index can."""
    at_once = getattr(index, "sentences_of", None)
    if at_once is None:
        return [parts_of(index, hit, access) for hit in hits]
    found = at_once([hit.chunk.id for hit in hits], access)
    return [list(found.get(hit.chunk.id, ())) for hit in hits]


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
