"""How rare each word, pair of words and piece of a word is in the index, and what sentences share with a question.

The same features and weights as `classic.features.fit_tfidf` (words and pairs of words; characters within words, two to
five; logarithmic counts, smoothed inverse document frequency), but hashed into buckets that are counted, so that they
open at once, and an update adds and subtracts. Everything is arrays: 100,000 passages are counted in seconds.
Collisions make a rare feature seem more frequent, never the other way round.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bucle.customise.retrieve.index_rows import folded

__all__ = ["Lexicon", "hashes_of"]

_WORD = re.compile(r"\w\w+")
_SIZES = (2, 3, 4, 5)  # characters
_BATCH = 500  # passages counted at once
_PRIME = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xC2B2AE3D27D4EB4F)
_BITS = 22
_BUCKETS = 1 << _BITS  # of words, and as many of characters
_ARRAYS = ("buckets", "counts", "ends", "passages")
_FEW = 2000  # passages whose buckets are remembered one by one
MAX_SPAN = 20_000
"""Characters of a text that are compared; a longer one says enough by then."""


class Lexicon:
    """Document frequencies, apart for each audience (passages with the same access labels): what an asker is told is
    reckoned from those of the passages that may be seen and from nothing else. The audience `i` has the buckets from
    `ends[i]` to `ends[i + 1]`, in order (those of characters after those of words), their `counts`, and `passages[i]`
    passages."""

    def __init__(self, buckets: Any, counts: Any, ends: Any, passages: Any) -> None:
        self.buckets, self.counts, self.ends, self.passages = buckets, counts, ends, passages

    @classmethod
    def empty(cls) -> Lexicon:
        return cls(np.zeros(0, np.uint32), np.zeros(0, np.int32), np.zeros(1, np.int64), np.zeros(0, np.int64))

    @classmethod
    def load(cls, folder: Path) -> Lexicon:
        """As saved; its pages are read when they are needed."""
        return cls(*(np.load(folder / f"lexicon-{name}.npy", mmap_mode="r", allow_pickle=False) for name in _ARRAYS))

    def save(self, folder: Path) -> None:
        for name in _ARRAYS:
            np.save(folder / f"lexicon-{name}.npy", getattr(self, name), allow_pickle=False)

    def changed(
        self, added: Mapping[int, Sequence[str]], gone: Mapping[int, Sequence[str]] | None = None
    ) -> Lexicon:
        """With these passages (audience -> texts) counted, and those that are `gone` taken away."""
        gone = gone or {}
        parts, passages = [], []
        scratch: Any = None
        for audience in range(max(len(self.passages), *(number + 1 for number in [*added, *gone, -1]))):
            buckets, counts = self._own(audience)
            before = int(self.passages[audience]) if audience < len(self.passages) else 0
            more, less = added.get(audience, ()), gone.get(audience, ())
            if more or less:
                scratch = np.zeros(2 * _BUCKETS, np.int32) if scratch is None else scratch
                scratch[buckets] = counts
                few = len(more) + len(less) <= _FEW
                touched = [buckets.astype(np.int64)]
                for texts, sign in ((more, 1), (less, -1)):
                    for own in _count(scratch, texts, sign):
                        if few:
                            touched.append(own)
                held = np.unique(np.concatenate(touched)) if few else np.flatnonzero(scratch)
                counts = scratch[held]
                scratch[held] = 0
                buckets, counts = held[counts > 0].astype(np.uint32), counts[counts > 0]
            parts.append((buckets, counts))
            passages.append(before + len(more) - len(less))
        ends = np.cumsum([0, *(len(buckets) for buckets, _ in parts)])
        return Lexicon(
            np.concatenate([np.zeros(0, np.uint32), *(buckets for buckets, _ in parts)]),
            np.concatenate([np.zeros(0, np.int32), *(counts for _, counts in parts)]),
            ends.astype(np.int64),
            np.array(passages, dtype=np.int64),
        )

    def support(
        self, question: str, spans: Sequence[str], audiences: Sequence[int], without: Lexicon | None = None
    ) -> Any:
        """The mean of the two cosines of each span with the question, `[len(spans)]` in [0, 1], as the passages of
        these audiences have it, less those counted in `without`. What stands in none of them counts for nothing."""
        support = np.zeros(len(spans), dtype=np.float32)
        for table, blocks in enumerate(_features([question, *spans])):
            rows, buckets = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
            keys, times = np.unique(rows.astype(np.int64) * _BUCKETS + buckets, return_counts=True)
            rows, buckets = keys // _BUCKETS, keys % _BUCKETS
            distinct, place = np.unique(buckets, return_inverse=True)
            asked = (distinct + table * _BUCKETS).astype(np.uint32)
            seen, passages = self._seen(asked, audiences)
            if without is not None:
                fewer, hidden = without._seen(asked, range(len(without.passages)))
                seen, passages = seen - fewer, passages - hidden
            support += _cosines(rows, buckets, times, seen[place], passages, len(spans) + 1)[1:] / 2
        return support

    def _own(self, audience: int) -> tuple[Any, Any]:
        if audience >= len(self.passages):
            return np.zeros(0, np.uint32), np.zeros(0, np.int32)
        piece = slice(int(self.ends[audience]), int(self.ends[audience + 1]))
        return self.buckets[piece], self.counts[piece]

    def _seen(self, asked: Any, audiences: Iterable[int]) -> tuple[Any, int]:
        """How many passages of these audiences hold each bucket asked for, and how many passages there are."""
        seen, passages = np.zeros(len(asked), np.int64), 0
        for audience in audiences:
            buckets, counts = self._own(audience)
            if len(buckets):
                at = np.searchsorted(buckets, asked).clip(max=len(buckets) - 1)
                seen += np.where(buckets[at] == asked, counts[at], 0)
                passages += int(self.passages[audience])
        return seen, passages


def _count(scratch: Any, texts: Sequence[str], sign: int) -> Iterator[Any]:
    """Add each text's buckets to `scratch`, once each; they are given too."""
    for begin in range(0, len(texts), _BATCH):
        some = texts[begin : begin + _BATCH]
        for table, blocks in enumerate(_features(some)):
            own = scratch[table * _BUCKETS : (table + 1) * _BUCKETS]
            for rows, buckets in blocks:
                ends = np.cumsum(np.bincount(rows, minlength=len(some)))
                for held in np.split(buckets, ends[:-1]):
                    own[held] += sign  # once a bucket, however often it stands there
                yield buckets + table * _BUCKETS


def _cosines(rows: Any, buckets: Any, times: Any, seen: Any, passages: int, count: int) -> Any:
    """Of every text with the first one."""
    idf = np.log((1 + passages) / (1 + seen.astype(np.float64))) + 1
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


def _features(texts: Sequence[str]) -> tuple[list[tuple[Any, Any]], list[tuple[Any, Any]]]:
    """Of words and of characters: which text, in order, and which bucket, as often as it occurs."""
    plain = [folded(text[:MAX_SPAN].lower()) for text in texts]
    words = [_WORD.findall(text) for text in plain]
    known: dict[str, int] = {}
    ids = np.array([known.setdefault(w, len(known)) for own in words for w in own], dtype=np.int64)
    rows = np.repeat(np.arange(len(words)), [len(own) for own in words])
    hashes = hashes_of(list(known))
    single = hashes[ids] if len(ids) else np.zeros(0, np.uint64)
    together = rows[1:] == rows[:-1]
    pairs = _mixed(single[:-1] * _MIX + single[1:])[together]
    of_words = [(rows, _bucket(single)), (rows[1:][together], _bucket(pairs))]

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
    return of_words, [(np.repeat(rows, repeats), _bucket(grams[first + np.arange(len(first))]))]


def _bucket(hashes: Any) -> Any:
    return (hashes >> np.uint64(64 - _BITS)).astype(np.int64)


def _mixed(values: Any) -> Any:
    """Every bit of the result depends on every bit of the value (the finaliser of SplitMix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _codes(words: Sequence[str]) -> Any:
    return np.frombuffer("".join(words).encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)


def hashes_of(words: Sequence[str]) -> Any:
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
