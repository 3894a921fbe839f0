"""Training, validation and test sides that share nothing, and that stay as they are when the data grows.

Rows that are nearly the same, or that belong to the same group, go to one side together. Which side follows from a
hash of what they are and the seed (or from their time), never from the order of the rows; each label has its share of
each side. Rows that were on a side in an earlier split stay there.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from bucle.core.errors import BadInput
from bucle.core.records import Example
from bucle.data.bridges import place_bridged
from bucle.data.similar import near_duplicates
from bucle.data.times import instants

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bucle.core.ports import Report

__all__ = ["Side", "Split", "split", "split_columns"]

Side = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Split:
    """Ids of examples by side, each in the order given. The sides and `excluded` are all of the examples,
    once each.

    `leaks_prevented` counts the held-out rows that have a copy or a group mate which a split row by row would
    have put on another side; `groups` the groups of two rows or more; `excluded` new rows whose group and
    near-duplicates are on different sides: on either they would leak. `moved` are rows put into training so that
    their label is in it. `together` are the rows of the largest set that must stay on one side, `alike` those of the
    largest set of near-duplicates.
    """

    train: list[str]
    validation: list[str]
    test: list[str]
    leaks_prevented: int = 0
    groups: int = 0
    excluded: list[str] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)
    together: int = 0
    alike: int = 0

    @property
    def sides(self) -> dict[str, Side]:
        """The side of each id, to give to the next split as `previous`."""
        return {
            **dict.fromkeys(self.train, "train"),
            **dict.fromkeys(self.validation, "validation"),
            **dict.fromkeys(self.test, "test"),
        }


def split(
    examples: Sequence[Example],
    *,
    test: float = 0.2,
    validation: float = 0.1,
    seed: int = 0,
    near_duplicate_threshold: float = 0.85,
    by_group: bool = True,
    keep_labels: bool = True,
    by: Literal["hash", "time"] = "hash",
    previous: Mapping[str, Side] | None = None,
    report: Report | None = None,
) -> Split:
    """Splits `examples` by their id, input, target, group and time, as `split_columns` says. Give `keep_labels` False
    where targets are answers, which are no labels."""
    return split_columns(
        [example.id for example in examples],
        [example.input for example in examples],
        labels=[example.target for example in examples] if keep_labels else None,
        groups=[example.group for example in examples] if by_group else None,
        times=[example.at for example in examples] if by == "time" else None,
        test=test,
        validation=validation,
        seed=seed,
        near_duplicate_threshold=near_duplicate_threshold,
        by=by,
        previous=previous,
        report=report,
    )


def split_columns(
    ids: Sequence[str],
    texts: Sequence[str],
    *,
    labels: Sequence[str | None] | None = None,
    groups: Sequence[str] | None = None,
    times: Sequence[str] | None = None,
    test: float = 0.2,
    validation: float = 0.1,
    seed: int = 0,
    near_duplicate_threshold: float = 0.85,
    by: Literal["hash", "time"] = "hash",
    previous: Mapping[str, Side] | None = None,
    report: Report | None = None,
) -> Split:
    """Splits rows given as columns; `test` and `validation` are shares of the rows.

    A row in `previous` keeps its side always, and what is nearly the same as it, or of its group, joins it (its group
    first, where these are on two sides). By `hash`, each label has its shares within rounding, as far as rows that stay
    together allow (they count for their commonest label), and what one label could not take goes to the next; new rows
    make up for what the old lack. By `time`, the latest new rows are the test side and those before
    them validation; rows together are as late as their latest, and rows without a time are trained on. Every label
    that has a row has one in training (unless `previous` holds all of its rows elsewhere), and where three groups or
    more exist no side stays empty. Without `previous` the same rows are split the same in any order. Raises BadInput
    for impossible shares or repeated ids.
    """
    import numpy as np

    if not (0 <= test < 1 and 0 <= validation < 1 and test + validation < 1):
        raise BadInput(
            f"Shares of test {test} and validation {validation} leave nothing to train on.",
            "Give shares that add up to less than 1.",
        )
    if len(set(ids)) < len(ids):
        raise BadInput("Two examples have the same id.", "Read them with one call of read_examples.")
    if not ids:
        return Split([], [], [])
    shares = {"test": test, "validation": validation}
    data = _Data(ids, labels, groups, instants(times) if times is not None else None, seed)
    near = near_duplicates(texts, near_duplicate_threshold, report)
    together = list(_together(near, len(ids), groups))
    side = np.full(len(ids), _OUT, np.int8)
    known = previous or {}
    old = np.zeros(len(ids), bool)
    for row, name in enumerate(ids) if known else ():
        if name in known:
            old[row], side[row] = True, _SIDES.index(known[name])
    free: list[_Part] = []
    excluded: list[int] = []
    mixed: list[list[int]] = []
    for members in together:
        was = {int(side[row]) for row in members if old[row]}
        new = [row for row in members if not old[row]]
        if not was:
            free.append(_Part(data, members))
        elif len(was) == 1:
            side[new] = was.pop()
        elif new:
            mixed.append(new)
    if mixed:
        excluded, apart = place_bridged(mixed, side, near, texts, groups, near_duplicate_threshold)
        free += [_Part(data, members) for members in apart]
    free.sort(key=lambda part: part.order)
    if by == "time":
        _by_time(free, side, shares)
    else:
        _by_hash(free, side, shares, data)
    moved = _keep_labels_in_train(data, free, side)
    _fill_empty_sides(data, free, side, shares, len(together))
    if report:
        report(len(ids), len(ids), "rows split")
    train, held, tested = ([ids[row] for row in np.flatnonzero(side == number).tolist()] for number in range(3))
    return Split(
        train,
        held,
        tested,
        leaks_prevented=sum(_leaks(data, members, side, shares) for members in together if len(members) > 1),
        groups=sum(len(members) > 1 for members in together),
        excluded=[ids[row] for row in sorted(excluded)],
        moved=[ids[row] for row in sorted(moved)],
        together=max(map(len, together)),
        alike=max(map(len, near), default=1),
    )


_SIDES: tuple[Side, ...] = ("train", "validation", "test")
_OUT = -1


@dataclass(frozen=True)
class _Data:
    ids: Sequence[str]
    labels: Sequence[str | None] | None
    groups: Sequence[str] | None
    times: Sequence[float | None] | None
    seed: int

    def draw(self, row: int) -> float:
        """What the side of a row and its group is drawn from."""
        group = self.groups[row] if self.groups else ""
        return _draw(f"group:{group}" if group else self.ids[row], self.seed)

    def label(self, row: int) -> str | None:
        return self.labels[row] if self.labels else None


class _Part:
    """Rows that no earlier split has seen and that go to one side together."""

    __slots__ = ("label", "latest", "order", "rows")

    def __init__(self, data: _Data, rows: Sequence[int]) -> None:
        self.rows = rows
        self.order = min((data.draw(row), data.ids[row]) for row in rows)
        counts = Counter(data.label(row) or "" for row in rows)
        self.label = min(counts, key=lambda label: (-counts[label], label))
        times = [data.times[row] for row in rows] if data.times else []
        self.latest = max((time for time in times if time is not None), default=None)


def _together(near: Sequence[Sequence[int]], size: int, groups: Sequence[str] | None) -> Iterator[list[int]]:
    """The rows that must stay together, each set ascending."""
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    heads: list[int] = []
    tails: list[int] = []
    for members in near:
        heads += [members[0]] * (len(members) - 1)
        tails += members[1:]
    first: dict[str, int] = {}
    for row, name in enumerate(groups or ()):
        if name and first.setdefault(name, row) != row:
            heads.append(first[name])
            tails.append(row)
    graph = coo_array((np.ones(len(heads), np.int8), (heads, tails)), shape=(size, size))
    _, part = connected_components(graph, directed=False)
    order = np.argsort(part, kind="stable")
    ends = np.flatnonzero(np.r_[part[order][1:] != part[order][:-1], True]) + 1
    begin = 0
    for end in ends.tolist():
        yield order[begin:end].tolist()
        begin = end


def _by_hash(free: Sequence[_Part], side: NDArray[np.int8], shares: Mapping[str, float], data: _Data) -> None:
    """Each label's free rows in the order of their hash: test until its share is full, validation, training."""
    import numpy as np

    old: dict[str, list[int]] = {}
    for row in np.flatnonzero(side != _OUT).tolist():
        old.setdefault(data.label(row) or "", [0, 0, 0])[side[row]] += 1
    strata: dict[str, list[_Part]] = {}
    for part in free:
        strata.setdefault(part.label, []).append(part)
    exact, given = {"test": 0.0, "validation": 0.0}, {"test": 0, "validation": 0}
    carried = {"test": 0, "validation": 0}
    for label in sorted({*strata, *old}, key=lambda label: (_draw(f"label:{label}", data.seed), label)):
        parts, have = strata.get(label, []), old.get(label, [0, 0, 0])
        total = sum(have) + sum(len(part.rows) for part in parts)
        left = {}
        for name in ("test", "validation"):  # rounding is carried on, so that rare labels have their share together
            exact[name] += shares[name] * total
            quota = round(exact[name]) - given[name]
            given[name] += quota
            left[name] = max(0, quota - have[_SIDES.index(name)]) + carried[name]
        keep = data.labels is not None and bool(label) and not have[0]
        train: list[_Part] = []
        for number, part in enumerate(parts):
            size, last = len(part.rows), keep and not train and number == len(parts) - 1
            name = next((name for name in ("test", "validation") if size <= left[name] and not last), "train")
            if name == "train":
                train.append(part)
            else:
                left[name] -= size
            side[part.rows] = _SIDES.index(name)
        coarse = max((len(part.rows) for part in parts), default=0) // 2
        for name in ("test", "validation"):
            near = [part for part in train if len(part.rows) < 2 * left[name]]
            if near and len(train) > keep:  # too large to fit, yet nearer to the quota with it than without
                part = min(near, key=lambda part: (len(part.rows), part.order))
                train.remove(part)
                left[name] -= len(part.rows)
                side[part.rows] = _SIDES.index(name)
            carried[name] = min(left[name], max(carried[name], coarse))


def _by_time(free: Sequence[_Part], side: NDArray[np.int8], shares: Mapping[str, float]) -> None:
    """The latest free rows to test, those before them to validation."""
    dated = sorted(
        ((part.latest, part.order, part) for part in free if part.latest is not None), key=lambda one: one[:2]
    )
    total = sum(len(part.rows) for _, _, part in dated)
    for part in free:
        side[part.rows] = 0
    for name in ("test", "validation"):
        count, quota = 0, shares[name] * total
        while dated and (size := len(dated[-1][2].rows)) and count + size / 2 <= max(quota, quota and size / 2):
            side[dated.pop()[2].rows] = _SIDES.index(name)
            count += size


def _draw(key: str, seed: int) -> float:
    """A number in [0, 1) that depends on `key` and `seed` only."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:7]) / 2**56


def _keep_labels_in_train(data: _Data, free: Sequence[_Part], side: NDArray[np.int8]) -> list[int]:
    """Moves, for each label with no row in training, its smallest free part there (by time, its earliest)."""
    if data.labels is None:
        return []
    trained = {label for label, at in zip(data.labels, side.tolist(), strict=True) if at == 0}
    lacking = {label for label in data.labels if label is not None} - trained
    moved: list[int] = []
    for label in sorted(lacking):
        holders = [part for part in free if any(data.labels[row] == label for row in part.rows)]
        if label in trained or not holders:
            continue
        part = min(holders, key=lambda part: (part.latest or 0.0, len(part.rows), part.order))
        side[part.rows] = 0
        moved += part.rows
        trained |= {data.labels[row] for row in part.rows}
    return moved


def _fill_empty_sides(
    data: _Data, free: Sequence[_Part], side: NDArray[np.int8], shares: Mapping[str, float], parts: int
) -> None:
    """Gives a held-out side that few rows left empty the smallest training part no label depends on (by time, the
    latest)."""
    for name in ("test", "validation"):
        number = _SIDES.index(name)
        if not shares[name] or (side == number).any() or parts < 3:
            continue
        train = Counter(data.label(row) for row in (side == 0).nonzero()[0].tolist())
        for part in sorted(free, key=lambda part: (-(part.latest or 0.0), len(part.rows), part.order)):
            lost = Counter(data.label(row) for row in part.rows)
            if side[part.rows[0]] == 0 and all(train[label] > count for label, count in lost.items()):
                side[part.rows] = number
                break


def _leaks(data: _Data, members: Sequence[int], side: NDArray[np.int8], shares: Mapping[str, float]) -> int:
    """How many held-out rows of `members` a draw row by row would have parted from another."""
    test, both = shares["test"], shares["test"] + shares["validation"]
    draws = [_draw(data.ids[row], data.seed) for row in members]
    apart = {0 if draw < test else 1 if draw < both else 2 for draw in draws}
    return sum(int(side[row]) > 0 for row in members) if len(apart) > 1 else 0
