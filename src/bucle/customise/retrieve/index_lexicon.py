"""How rare each word, pair of words and piece of a word is in the index, and what sentences share with a question.

The same features and weights as `classic.features.fit_tfidf` (words and pairs of words; characters within words, two to
five; logarithmic counts, smoothed inverse document frequency), but hashed into two tables of counts, so that the memory
they take does not grow with the corpus, they open at once, and an update adds and subtracts. Everything is arrays:
100,000 passages are counted in seconds. Collisions make a rare feature seem more frequent, never the other way round.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bucle.customise.retrieve.index_rows import folded

__all__ = ["Lexicon"]

_WORD = re.compile(r"\w\w+")
_SIZES = (2, 3, 4, 5)  # characters
_BATCH = 500  # passages counted at once
_PRIME = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xC2B2AE3D27D4EB4F)
_FILE = "lexicon.npy"
MAX_SPAN = 20_000
"""Characters of a text that are compared; a longer one says enough by then."""


class Lexicon:
    """Document frequencies of `passages` passages: `counts` is `[2, buckets]`, of words and of characters."""

    def __init__(self, counts: Any, passages: int) -> None:
        self.counts, self.passages = counts, passages
        self._bits = np.uint64(64 - (counts.shape[1].bit_length() - 1))

    @classmethod
    def empty(cls, passages: int) -> Lexicon:
        """One with room for `passages`; fewer passages need fewer buckets."""
        bits = 18 if passages < 2_000 else 20 if passages < 20_000 else 22
        return cls(np.zeros((2, 1 << bits), dtype=np.int32), 0)

    @classmethod
    def load(cls, folder: Path, passages: int, *, whole: bool = False) -> Lexicon:
        """As saved; its pages are read when they are needed, unless `whole`."""
        return cls(np.load(folder / _FILE, mmap_mode=None if whole else "r", allow_pickle=False), passages)

    def save(self, folder: Path) -> None:
        np.save(folder / _FILE, self.counts, allow_pickle=False)

    def fits(self, passages: int) -> bool:
        """Whether this many passages would be given as many buckets as there are."""
        return Lexicon.empty(passages).counts.shape == self.counts.shape

    def add(self, texts: Sequence[str], sign: int = 1) -> None:
        """Count passages, or (`sign` -1) take away those that are no longer there."""
        for at in range(0, len(texts), _BATCH):
            some = texts[at : at + _BATCH]
            for table, blocks in zip(self.counts, self._features(some), strict=True):
                for rows, buckets in blocks:
                    ends = np.cumsum(np.bincount(rows, minlength=len(some)))
                    for own in np.split(buckets, ends[:-1]):
                        table[own] += sign  # once a bucket, however often it stands there
        self.passages += sign * len(texts)

    def support(self, question: str, spans: Sequence[str]) -> Any:
        """The mean of the two cosines of each span with the question, `[len(spans)]` in [0, 1]. What stands nowhere in
        the index counts for nothing."""
        support = np.zeros(len(spans), dtype=np.float32)
        for table, blocks in enumerate(self._features([question, *spans])):
            rows, buckets = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
            support += self._cosines(table, rows, buckets, len(spans) + 1)[1:] / 2
        return support

    def _cosines(self, table: int, rows: Any, buckets: Any, count: int) -> Any:
        """Of every text with the first one."""
        size = self.counts.shape[1]
        keys, times = np.unique(rows.astype(np.int64) * size + buckets, return_counts=True)
        rows, buckets = keys // size, keys % size
        seen = self.counts[table][buckets]
        idf = np.log((1 + self.passages) / (1 + seen.astype(np.float64))) + 1
        weights = (1 + np.log(times)) * np.where(seen > 0, np.maximum(idf, 1.0), 0.0)
        norms = np.sqrt(np.bincount(rows, weights**2, minlength=count))
        asked = rows == 0
        mine, own = buckets[asked], weights[asked]
        if not len(mine):
            return np.zeros(count, dtype=np.float32)
        at = np.searchsorted(mine, buckets).clip(max=len(mine) - 1)
        products = np.where(mine[at] == buckets, own[at] * weights, 0.0)
        dots = np.bincount(rows, products, minlength=count)
        scale = norms * norms[0]
        return np.divide(dots, scale, out=np.zeros(count), where=scale > 0).astype(np.float32)

    def _features(self, texts: Sequence[str]) -> tuple[list[tuple[Any, Any]], list[tuple[Any, Any]]]:
        """Of words and of characters: which text, in order, and which bucket, as often as it occurs."""
        plain = [folded(text[:MAX_SPAN].lower()) for text in texts]
        words = [_WORD.findall(text) for text in plain]
        known: dict[str, int] = {}
        ids = np.array([known.setdefault(w, len(known)) for own in words for w in own], dtype=np.int64)
        rows = np.repeat(np.arange(len(words)), [len(own) for own in words])
        hashes = _hashes(list(known))
        single = hashes[ids] if len(ids) else np.zeros(0, np.uint64)
        together = rows[1:] == rows[:-1]
        pairs = _mixed(single[:-1] * _MIX + single[1:])[together]
        of_words = [(rows, self._bucket(single)), (rows[1:][together], self._bucket(pairs))]

        pieces = [text.split() for text in plain]
        known = {}
        ids = np.array([known.setdefault(p, len(known)) for own in pieces for p in own], dtype=np.int64)
        rows = np.repeat(np.arange(len(pieces)), [len(own) for own in pieces])
        starts, grams = _grams(list(known))
        lengths = np.diff(starts)
        if not len(ids):
            return of_words, [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
        repeats = lengths[ids]
        first = np.repeat(starts[:-1][ids] - np.concatenate([[0], np.cumsum(repeats)[:-1]]), repeats)
        return of_words, [(np.repeat(rows, repeats), self._bucket(grams[first + np.arange(len(first))]))]

    def _bucket(self, hashes: Any) -> Any:
        return (hashes >> self._bits).astype(np.int64)


def _mixed(values: Any) -> Any:
    """Every bit of the result depends on every bit of the value (the finaliser of SplitMix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _codes(words: Sequence[str]) -> Any:
    return np.frombuffer("".join(words).encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)


def _hashes(words: Sequence[str]) -> Any:
    """One number a word (none is empty), `[len(words)]`."""
    if not words:
        return np.zeros(0, np.uint64)
    lengths = np.array([len(word) for word in words])
    ends = np.cumsum(lengths)
    place = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)
    terms = _mixed(_codes(words) * _PRIME + place.astype(np.uint64))
    return _mixed(np.add.reduceat(terms, ends - lengths) + _PRIME)


def _grams(words: Sequence[str]) -> tuple[Any, Any]:
    """Each word's runs of two to five characters, a space at either end: where each word's begin, and their numbers."""
    if not words:
        return np.zeros(1, np.int64), np.zeros(0, np.uint64)
    lengths = np.array([len(word) + 2 for word in words])
    codes = _codes([f" {word} " for word in words])
    owner = np.repeat(np.arange(len(words)), lengths)
    owners, grams = [], []
    value = _mixed(codes + _PRIME)
    for size in range(2, max(_SIZES) + 1):
        value = _mixed(value[: len(codes) - size + 1] * _MIX + codes[size - 1 :])
        inside = owner[: len(value)] == owner[size - 1 :]
        owners.append(owner[: len(value)][inside])
        grams.append(value[inside])
    whose = np.concatenate(owners)
    order = np.argsort(whose, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(whose, minlength=len(words)))])
    return starts, np.concatenate(grams)[order]
