"""Answers that are kept: by key, and of the same group by what they mean."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bucle.core.engine import ChatAnswer

__all__ = ["Answers", "Similar"]

MAX_BYTES = 64 * 2**20
"""Of the texts that one route keeps; the answer least lately used goes first."""


@dataclass(slots=True)
class _Entry:
    answer: ChatAnswer
    until: float
    size: int


class Answers:
    """Up to `entries` answers of 64 MiB together, each for `seconds` from when it was made; the least lately used go
    first. `dropped` is told the key of each that goes."""

    def __init__(self, entries: int, seconds: float, clock: Callable[[], float] = time.monotonic,
                 dropped: Callable[[bytes], None] | None = None) -> None:
        self._most, self._seconds, self._clock, self._dropped = entries, seconds, clock, dropped
        self._kept: OrderedDict[bytes, _Entry] = OrderedDict()
        self.size = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: bytes) -> ChatAnswer | None:
        found = self._kept.get(key)
        if found is None:
            return None
        if self._clock() >= found.until:
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return found.answer

    def put(self, key: bytes, answer: ChatAnswer) -> bool:
        """Keep it; False for one that is too large to."""
        size = 500 + sum(len(c.text) * 2 + len(str(c.tool_calls)) + 3 * len(str(c.logprobs or ""))
                         for c in answer.choices) + len(str(answer.prediction or ""))
        if size > MAX_BYTES // 16:
            return False
        if key in self._kept:
            self._drop(key)
        self._kept[key] = _Entry(answer, self._clock() + self._seconds, size)
        self.size += size
        while len(self._kept) > self._most or self.size > MAX_BYTES:
            self._drop(next(iter(self._kept)))
        return True

    def _drop(self, key: bytes) -> None:
        self.size -= self._kept.pop(key).size
        if self._dropped is not None:
            self._dropped(key)


class Similar:
    """Which kept answer's question means the same: one float32 row a question, `entries` at most, each compared
    within its group only. The first vector decides their length."""

    def __init__(self, entries: int, similarity: float) -> None:
        self.similarity, self._most, self._free = similarity, entries, list[int]()
        self._rows: Any = None
        self._groups: dict[bytes, dict[bytes, int]] = {}
        self._places: dict[bytes, bytes] = {}

    def __len__(self) -> int:
        return len(self._places)

    def add(self, group: bytes, key: bytes, vector: Any) -> None:
        """Remember that the answer kept under `key` is to a question of `group` with this unit vector."""
        import numpy as np

        self.forget(key)
        if self._rows is None:
            self._rows = np.zeros((0, len(vector)), dtype=np.float32)
        if not self._free:
            has = len(self._rows)
            grown = min(self._most, max(256, 2 * has))
            self._free = list(range(has, grown))[::-1]
            self._rows = np.concatenate([self._rows, np.zeros((grown - has, self._rows.shape[1]), dtype=np.float32)])
        if not self._free or len(vector) != self._rows.shape[1]:
            return
        place = self._free.pop()
        self._rows[place] = vector
        self._groups.setdefault(group, {})[key] = place
        self._places[key] = group

    def forget(self, key: bytes) -> None:
        if (group := self._places.pop(key, None)) is None:
            return
        members = self._groups[group]
        self._free.append(members.pop(key))
        if not members:
            del self._groups[group]

    def nearest(self, group: bytes, vector: Any) -> Sequence[tuple[bytes, float]]:
        """Keys of the group whose questions are at least `similarity` near (cosine), the nearest first."""
        import numpy as np

        if not (members := self._groups.get(group)) or len(vector) != self._rows.shape[1]:
            return ()
        keys = list(members)
        places = np.fromiter(members.values(), dtype=np.int64, count=len(keys))
        scores = self._rows[places] @ np.asarray(vector, dtype=np.float32)
        near = np.flatnonzero(scores >= self.similarity - 1e-6)
        return [(keys[i], float(scores[i])) for i in near[np.argsort(-scores[near])]]
