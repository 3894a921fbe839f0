"""Which texts are nearly the same: MinHash and banding propose pairs, each is then measured exactly.

Exact duplicates never enter the hashing: they are grouped by their normal form. No shingles are kept: a million short
texts need some 200 MB besides themselves.
"""

from __future__ import annotations

import functools
from array import array
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from bucle.data.minhash import (
    band_keys,
    bands_for,
    batches,
    digest,
    jaccard,
    normal_form,
    normal_forms,
    shingles,
    signatures,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bucle.core.ports import Report

__all__ = ["NearIndex", "exact_duplicates", "near_duplicates", "normal_form", "similarity"]

_WINDOW = 64
"""Of a bucket of alike texts, each is compared with so many neighbours: time stays linear for any data."""
_MISSES = 24
"""And with one that was found unlike so many, no other is compared."""
_SLACK = 4.5
"""Standard errors below the threshold at which an estimate rules a pair out unmeasured."""
_TAIL = 1_024
_COMPARED = 32


def similarity(a: str, b: str) -> float:
    """Jaccard similarity in [0, 1] of the texts' sets of five-character shingles, in normal form."""
    first, second = normal_forms([a, b])
    return jaccard(shingles(first), shingles(second)) if first and second else 0.0


def exact_duplicates(texts: Sequence[str]) -> list[list[int]]:
    """Groups (two members at least, ascending) of texts with the same normal form. Empty texts are in no
    group.
    """
    members: dict[bytes, list[int]] = {}
    for start, forms in batches(texts):
        for index, form in enumerate(forms, start):
            if form:
                members.setdefault(digest(form), []).append(index)
    return [group for group in members.values() if len(group) > 1]


def near_duplicates(texts: Sequence[str], threshold: float = 0.85, report: Report | None = None) -> list[list[int]]:
    """Groups of texts joined by chains of pairs whose similarity is at least `threshold`. The same groups for the
    same texts in any order.

    Each group is ascending and the groups go by their first member; exact duplicates are in them. Hashing may miss a
    pair (at the threshold, fewer than 1 in 1,000 by its own formula); it never adds one. `report` hears the texts
    hashed.
    """
    import numpy as np

    bands = bands_for(threshold)
    size = bands[0] * bands[1]
    first: dict[bytes, int] = {}
    same = np.arange(len(texts), dtype=np.int32)
    filled = np.ones(len(texts), bool)
    order: list[NDArray[np.uint64]] = []
    unique = array("i")
    keys: list[NDArray[np.uint32]] = []
    small: list[NDArray[np.uint8]] = []
    for start, forms in batches(texts):
        new: list[str] = []
        names = array("Q")
        for index, form in enumerate(forms, start):
            if not form:
                filled[index] = False
                continue
            name = digest(form)
            found = first.setdefault(name, index)
            same[index] = found
            if found == index:
                new.append(form)
                unique.append(index)
                names.append(int.from_bytes(name[:8], "little"))
        if threshold < 1:
            minima = signatures(new, size)
            keys.append(band_keys(minima, bands))
            small.append(minima.astype(np.uint8))
            order.append(np.frombuffer(names, np.uint64) if names else np.zeros(0, np.uint64))
        if report:
            report(start + len(forms), len(texts), "texts hashed")
    first.clear()
    rows = np.frombuffer(unique, np.int32) if unique else np.zeros(0, np.int32)
    parent = list(range(len(rows)))
    if len(rows) > 1 and threshold < 1:
        joined_keys, joined_small = np.hstack(keys), np.vstack(small)
        keys.clear()
        small.clear()
        _join(texts, rows, joined_keys, joined_small, np.concatenate(order), threshold, parent)
    roots = np.full(len(texts), -1, np.int64)
    roots[rows] = rows[[_root(parent, place) for place in range(len(parent))]] if len(rows) else 0
    groups = roots[same]
    groups[~filled] = -1
    return _grouped(groups)


class NearIndex:
    """Which of the texts seen before one is nearly the same as, while they stream by. Some 130 bytes a kept text
    besides the text itself.

    A text is compared with those kept before it (the ones `add` returned None for), so what is dropped is at least
    `threshold` like something kept.
    """

    def __init__(self, threshold: float = 0.85) -> None:
        self.threshold = threshold
        self.seen = 0
        self._bands = bands_for(threshold)
        self._text = bytearray()
        self._ends = array("Q", [0])
        self._index = array("Q")
        self._tail: dict[int, list[int]] = {}
        self._tail_keys: list[NDArray[np.uint32]] = []
        self._runs: list[list[tuple[NDArray[np.uint32], NDArray[np.uint32]]]] = []

    def __len__(self) -> int:
        """How many texts are kept."""
        return len(self._index)

    def add(self, text: str) -> int | None:
        """The index (from 0, as added) of an earlier text that this one is nearly the same as, or None: it is kept.
        An empty text is like no other and not kept. `add_many` is several times as fast."""
        return self.add_many([text])[0]

    def add_many(self, texts: Sequence[str]) -> list[int | None]:
        """What `add` says to each, in their order."""
        import numpy as np

        found: list[int | None] = []
        for _, forms in batches(texts):
            keys = band_keys(signatures(forms, self._bands[0] * self._bands[1]), self._bands)
            old = self._in_runs(keys)
            names = (keys.astype(np.uint64) | (np.arange(len(keys), dtype=np.uint64) << np.uint64(32))[:, None]).T
            for row, form in enumerate(forms):
                found.append(self._one(form, names[row].tolist(), old.get(row), keys[:, row]) if form else None)
                self.seen += 1
        return found

    def _one(self, form: str, names: list[int], old: dict[int, int] | None, keys: NDArray[np.uint32]) -> int | None:
        met = old or {}
        for name in names:
            for kept in self._tail.get(name, ())[-_WINDOW:]:
                met[kept] = met.get(kept, 0) + 1
        if met:
            pieces = shingles(form)
            for kept in sorted(met, key=lambda kept: (-met[kept], kept))[:_COMPARED]:
                other = self._text[self._ends[kept] : self._ends[kept + 1]].decode("utf-8", "surrogatepass")
                if other == form or jaccard(pieces, shingles(other)) >= self.threshold:
                    return self._index[kept]
        place = len(self._index)
        self._text += form.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._text))
        self._index.append(self.seen)
        for name in names:
            self._tail.setdefault(name, []).append(place)
        self._tail_keys.append(keys)
        return None

    def _in_runs(self, keys: NDArray[np.uint32]) -> dict[int, dict[int, int]]:
        """Row of `keys` -> the kept texts of the sorted runs that share most bands with it, and how many."""
        import numpy as np

        if len(self._tail_keys) >= _TAIL:
            self._flush()
        pairs: list[NDArray[np.uint64]] = []
        for run in self._runs:
            for (run_keys, run_rows), asked in zip(run, keys, strict=True):
                low = np.searchsorted(run_keys, asked, "left")
                count = np.minimum(np.searchsorted(run_keys, asked, "right") - low, _WINDOW)
                if hits := int(count.sum()):
                    row = np.repeat(np.arange(len(asked), dtype=np.uint64), count)
                    step = np.arange(hits) - np.repeat(np.cumsum(count) - count, count)
                    at = run_rows[np.repeat(low, count) + step].astype(np.uint64)
                    pairs.append(row << np.uint64(32) | at)
        found: dict[int, dict[int, int]] = {}
        if pairs:
            both, times = np.unique(np.concatenate(pairs), return_counts=True)
            for at in np.lexsort((both, -times, both >> np.uint64(32))):
                asking, kept = divmod(int(both[at]), 2**32)
                if len(likely := found.setdefault(asking, {})) < _COMPARED:
                    likely[kept] = int(times[at])
        return found

    def _flush(self) -> None:
        """The newest texts become a sorted run; runs of like size become one."""
        import numpy as np

        keys = np.stack(self._tail_keys, axis=1)
        rows = np.arange(len(self._index) - keys.shape[1], len(self._index), dtype=np.uint32)
        self._tail.clear()
        self._tail_keys.clear()
        run = [_sorted(band, rows) for band in keys]
        while self._runs and len(self._runs[-1][0][0]) <= 2 * len(rows):
            last = self._runs.pop()
            for band, (old_keys, old_rows) in enumerate(last):  # band by band: two whole copies would be felt
                new_keys, new_rows = run[band]
                run[band] = _sorted(np.concatenate([old_keys, new_keys]), np.concatenate([old_rows, new_rows]))
                last[band] = (old_keys[:0], old_rows[:0])
                del old_keys, old_rows, new_keys, new_rows
            rows = run[0][1]
        self._runs.append(run)


def _sorted(keys: NDArray[np.uint32], rows: NDArray[np.uint32]) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    order = keys.argsort(kind="stable")
    return keys[order], rows[order]


def _join(
    texts: Sequence[str],
    rows: NDArray[np.int32],
    keys: NDArray[np.uint32],
    small: NDArray[np.uint8],
    names: NDArray[np.uint64],
    threshold: float,
    parent: list[int],
) -> None:
    """Join in `parent` the places of `rows` whose texts are alike. What is joined already is not measured again, and a
    text that was found unlike so many that shared its keys is measured no more."""
    import numpy as np

    size = small.shape[1]
    least = size * (threshold - _SLACK * (threshold * (1 - threshold) / size) ** 0.5)
    roots = np.arange(len(parent))
    misses = np.zeros(len(parent), np.int16)
    unlike = np.zeros(0, np.uint64)

    @functools.lru_cache(maxsize=4 * _WINDOW)
    def pieces(place: int) -> set[str]:
        return shingles(normal_form(texts[rows[place]]))

    for band in range(len(keys)):
        for pairs in _neighbours(keys[band], keys[(band + 1) % len(keys)], names):
            a, b = (pairs >> np.uint64(32)).astype(np.int64), (pairs & np.uint64(2**32 - 1)).astype(np.int64)
            pairs = pairs[(roots[a] != roots[b]) & (misses[a] < _MISSES) & (misses[b] < _MISSES)]
            pairs = pairs[_agreeing(small, pairs) >= least]
            pairs = pairs[~np.isin(pairs, unlike)]
            missed, joined = [], False
            for pair in pairs.tolist():
                one, other = divmod(pair, 2**32)
                low, high = sorted((_root(parent, one), _root(parent, other)))
                if low == high:
                    continue
                if jaccard(pieces(one), pieces(other)) >= threshold:
                    parent[high], joined = low, True
                else:
                    missed.append(pair)
                    misses[one] += 1
                    misses[other] += 1
            if missed:
                unlike = np.union1d(unlike, np.array(missed, np.uint64))
            if joined:
                roots = np.array(parent)
                while (above := roots[roots] != roots).any():
                    roots[above] = roots[roots[above]]


def _neighbours(
    keys: NDArray[np.uint32], finer: NDArray[np.uint32], names: NDArray[np.uint64]
) -> Iterator[NDArray[np.uint64]]:
    """Pairs (the lower place in the upper half of 64 bits) that share a key. In a bucket those stand nearest that
    share the next band's key too; what orders the rest is the text alone."""
    import numpy as np

    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    if len(order) > _WINDOW and (ordered[_WINDOW:] == ordered[:-_WINDOW]).any():
        order = np.lexsort((names, finer, keys))
    alive = np.arange(len(order))
    for distance in range(1, _WINDOW + 1):
        alive = alive[alive < len(order) - distance]
        alive = alive[ordered[alive] == ordered[alive + distance]]
        if not len(alive):
            return
        a, b = order[alive].astype(np.uint64), order[alive + distance].astype(np.uint64)
        yield np.minimum(a, b) << np.uint64(32) | np.maximum(a, b)


def _agreeing(small: NDArray[np.uint8], pairs: NDArray[np.uint64]) -> NDArray[np.int64]:
    """In how many minima the two of each pair agree."""
    import numpy as np

    out = np.empty(len(pairs), np.int64)
    for at in range(0, len(pairs), 100_000):
        part = pairs[at : at + 100_000]
        a, b = (part >> np.uint64(32)).astype(np.int64), (part & np.uint64(2**32 - 1)).astype(np.int64)
        out[at : at + len(part)] = (small[a] == small[b]).sum(axis=1)
    return out


def _root(parent: list[int], index: int) -> int:
    while parent[index] != index:
        parent[index] = parent[parent[index]]
        index = parent[index]
    return index


def _grouped(names: NDArray[np.int64]) -> list[list[int]]:
    """Indices by name where a name has two at least; -1 is no name."""
    import numpy as np

    order = np.argsort(names, kind="stable")
    ordered = names[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(ordered) else np.zeros(0, np.int64)
    ends = np.r_[starts[1:], len(ordered)]
    kept = (ends - starts > 1) & (ordered[starts] >= 0) if len(starts) else np.zeros(0, bool)
    groups = [order[low:high].tolist() for low, high in zip(starts[kept], ends[kept], strict=True)]
    return sorted(groups, key=lambda group: group[0])
