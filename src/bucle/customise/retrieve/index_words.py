"""Search by words of our own, over what an asker may see and nothing else: BM25 (Robertson and Zaragoza 2009).

LanceDB's BM25 weighs a word by all passages that hold it, those that the asker may not see included, so that its scores
tell who asks often enough what stands in them. Here how rare a word is, how many passages there are and how long they
are is counted over the asker's own ones. Words are cut, folded and stemmed by LanceDB itself as in its full text.

Where which word stands is kept as arrays that are read where they are needed: 100,000 passages open at once.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bucle.core.records import Chunk
from bucle.customise.retrieve import index_rows as layout
from bucle.customise.retrieve.index_lexicon import hashes_of

__all__ = ["Words"]

K1 = 1.2
B = 0.75
_FOLDER = "words"
_ARRAYS = ("terms", "starts", "rows", "times", "lengths", "columns", "owners", "digests", "numbers")
_AT_ONCE = 20_000  # distinct pieces of text cut into words in one call


class Words:
    """`terms` are hashes of a column and a word, in order; those from `starts[i]` to `starts[i + 1]` of `rows` are the
    texts that hold the i-th, `times` how often. Of each text, which is a passage in one column: `lengths` in words,
    `columns` (the column's number) and `owners` (the passage's). Of each passage: `digests`, and `numbers`, its row's
    in the table."""

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        self.terms, self.starts, self.rows, self.times = (arrays[name] for name in _ARRAYS[:4])
        self.lengths, self.columns, self.owners, self.digests, self.numbers = (arrays[name] for name in _ARRAYS[4:])
        self._ordered: Any = None

    @classmethod
    def load(cls, folder: Path) -> Words:
        """As saved; pages are read when they are needed."""
        return cls({name: np.load(folder / _FOLDER / f"{name}.npy", mmap_mode="r", allow_pickle=False)
                    for name in _ARRAYS})

    def save(self, folder: Path) -> None:
        (folder / _FOLDER).mkdir()
        for name in _ARRAYS:
            np.save(folder / _FOLDER / f"{name}.npy", getattr(self, name), allow_pickle=False)

    @classmethod
    def of(
        cls, chunks: Sequence[Chunk], told: Sequence[bytes], columns: Sequence[str], numbers: Any,
        old: Words | None = None,
    ) -> Words:
        """The words of `chunks`, whose digests are `told` and whose rows in the table are `numbers`. Those that `old`
        holds, as an index of the same columns had them, are not cut again."""
        digests = np.frombuffer(b"".join(told), dtype="V16")
        before = {d: i for i, d in enumerate(old.digests.tolist())} if old is not None else {}
        known = np.array([before.get(d, -1) for d in digests.tolist()], dtype=np.int64)
        fresh = np.flatnonzero(known < 0)
        terms, rows, times, lengths, places, owners = _cut([chunks[i] for i in fresh.tolist()], columns)
        owners = fresh[owners].astype(np.uint32)
        if old is not None and len(fresh) < len(chunks):
            kept = np.flatnonzero(known >= 0)
            now = np.full(len(old.digests), -1, dtype=np.int64)
            now[known[kept]] = kept
            whose = now[old.owners]
            stay = whose >= 0
            place = np.cumsum(stay) - 1
            held = stay[old.rows]
            terms = np.concatenate([np.repeat(old.terms, np.diff(old.starts))[held], terms])
            rows = np.concatenate([place[old.rows[held]].astype(np.uint32), rows + np.uint32(stay.sum())])
            times = np.concatenate([old.times[held], times])
            lengths = np.concatenate([old.lengths[stay], lengths])
            places = np.concatenate([old.columns[stay], places])
            owners = np.concatenate([whose[stay].astype(np.uint32), owners])
        order = np.lexsort((rows, terms))
        terms, rows, times = terms[order], rows[order], times[order]
        own, starts = np.unique(terms, return_index=True)
        return cls({"terms": own, "starts": np.append(starts, len(terms)).astype(np.int64), "rows": rows,
                    "times": times, "lengths": lengths, "columns": places, "owners": owners, "digests": digests,
                    "numbers": np.asarray(numbers, dtype=np.uint64)})

    def mask(self, numbers: Any) -> Any:
        """Which passages have one of these rows of the table, `[passages]`."""
        if self._ordered is None:
            order = np.argsort(self.numbers)
            self._ordered = order, np.asarray(self.numbers)[order]
        order, ordered = self._ordered
        found = np.asarray(numbers, dtype=np.uint64)
        at = np.searchsorted(ordered, found).clip(max=max(len(ordered) - 1, 0))
        here = np.zeros(len(ordered), dtype=bool)
        here[order[at[ordered[at] == found]]] = True
        return here

    def search(
        self, question: str, columns: Sequence[str], depth: int, seen: Any, wanted: Any
    ) -> dict[int, float]:
        """Row of the table -> BM25 score of the `depth` best passages among `wanted`, counted over `seen` alone; both
        are masks. A passage that stands in two columns has the better of its scores."""
        best = np.zeros(len(self.numbers))
        visible = seen[self.owners]
        for place, column in enumerate(columns):
            words = Counter(_words(question, column))
            own = visible & (self.columns == place) if len(columns) > 1 else visible
            texts = int(np.count_nonzero(own))
            if not words or not texts:
                continue
            scores = np.zeros(len(own))
            average = max(float(self.lengths[own].sum(dtype=np.int64)) / texts, 1.0)
            hashes = hashes_of([f"{column} {word}" for word in words])
            for term, said in zip(hashes, words.values(), strict=True):
                at = int(np.searchsorted(self.terms, term))
                if at == len(self.terms) or self.terms[at] != term:
                    continue
                piece = slice(int(self.starts[at]), int(self.starts[at + 1]))
                rows, times = self.rows[piece], self.times[piece]
                held = own[rows]
                rows, times = rows[held], times[held].astype(np.float64)
                rare = np.log1p((texts - len(rows) + 0.5) / (len(rows) + 0.5))
                length = K1 * (1 - B + B * self.lengths[rows] / average)
                scores[rows] += said * rare * (K1 + 1) * times / (times + length)
            np.maximum.at(best, self.owners[own], scores[own])
        found = np.flatnonzero(wanted & (best > 0))
        if len(found) > depth:
            least = np.partition(best[found], len(found) - depth)[len(found) - depth]
            found = found[best[found] >= least]
        found = found[np.lexsort((found, -best[found]))][:depth]
        return dict(zip(self.numbers[found].tolist(), best[found].tolist(), strict=True))


def _words(text: str, column: str) -> list[str]:
    """A text's words as the column's full-text index has them, stop words left out."""
    import lancedb

    return [token.text for token in lancedb.tokenize(text, **layout.tokenizing(column))]


def _cut(chunks: Sequence[Chunk], columns: Sequence[str]) -> tuple[Any, ...]:
    """Hash of column and word, text, and how often it stands there; of each text its length, column and passage."""
    terms: dict[str, int] = {}
    ids: list[int] = []
    ends, places, owners = [0], [], []
    pieces: list[dict[str, tuple[int, ...]]] = [{} for _ in columns]
    for begin in range(0, len(chunks), 2000):
        some = [
            (owner, place, text.split())
            for owner, chunk in enumerate(chunks[begin : begin + 2000], begin)
            for place, text in enumerate(layout.texts(chunk, columns))
            if text is not None
        ]
        for place, column in enumerate(columns):
            new = list(set[str]().union(*(said for _, own, said in some if own == place)).difference(pieces[place]))
            for piece, words in zip(new, _apart(new, column), strict=True):
                pieces[place][piece] = tuple(terms.setdefault(f"{column} {word}", len(terms)) for word in words)
        for owner, place, said in some:
            ids.extend(itertools.chain.from_iterable(map(pieces[place].__getitem__, said)))
            ends.append(len(ids))
            places.append(place)
            owners.append(owner)
    lengths: Any = np.diff(np.array(ends, dtype=np.int64))
    of_texts = lengths.astype(np.uint32), np.array(places, dtype=np.uint8), np.array(owners, dtype=np.int64)
    size = max(len(terms), 1)
    own: Any = np.repeat(np.arange(len(lengths)), lengths) * size + np.array(ids, dtype=np.int64)
    keys, times = np.unique(own, return_counts=True)
    hashes = hashes_of(list(terms)) if terms else np.zeros(1, np.uint64)
    counts = times.clip(max=65535).astype(np.uint16)
    return hashes[keys % size], (keys // size).astype(np.uint32), counts, *of_texts


def _apart(pieces: Sequence[str], column: str) -> list[list[str]]:
    """The words of each piece of text that holds no space, many cut in one call."""
    found: list[list[str]] = []
    for begin in range(0, len(pieces), _AT_ONCE):
        some = pieces[begin : begin + _AT_ONCE]
        together = "".join(some)
        mark = next(str(number) for number in itertools.count(10**12) if str(number) not in together)
        own: list[list[str]] = [[]]
        for word in _words(f" {mark} ".join(some), column):
            if word == mark:
                own.append([])
            else:
                own[-1].append(word)
        found += own if len(own) == len(some) else [_words(piece, column) for piece in some]
    return found
