"""The side of new rows that tie old rows of two sides together: only what would leak wherever it went is left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from bucle.data.similar import near_duplicates, similarity

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["place_bridged"]

_COMPARED = 100_000
"""Pairs of one family that are compared one by one to find the rows between two sides; in a larger family, which only
templates make, every new row is taken to be one."""
_UNKNOWN, _TORN = -1, -2
_Family = tuple[str, object]


def place_bridged(
    mixed: Iterable[Sequence[int]],
    side: NDArray[np.int8],
    near: Iterable[Sequence[int]],
    texts: Sequence[str],
    groups: Sequence[str] | None,
    threshold: float,
) -> tuple[list[int], list[list[int]]]:
    """Sides for the new rows of `mixed`, each the new rows of one component that holds old rows on two sides or more.

    `side` (a number for every row, negative: none yet) is written for the rows that can be placed; `near` are the
    near-duplicates' sets. A row goes to the side of its group, else to that of its near-duplicates; a family (a group,
    or near-duplicates) without old rows goes where most of its rows are drawn, as a whole. Returns the rows that are
    left out, whose two families are on different sides or one of them on both; and sets of rows that are tied to
    others by such rows only, which have no side yet. The order of the rows makes no difference.
    """
    new = {row for rows in mixed for row in rows}
    families: dict[int, list[_Family]] = {row: [] for row in new}
    sides: dict[_Family, int] = {}
    excluded: set[int] = set()

    def add(family: _Family, members: Iterable[int], on: set[int]) -> None:
        sides[family] = on.pop() if len(on) == 1 else _TORN if on else _UNKNOWN
        for row in members:
            families[row].append(family)

    named: dict[str, list[int]] = {}
    for row in new if groups else ():
        if groups and groups[row]:
            named.setdefault(groups[row], []).append(row)
    was: dict[str, set[int]] = {name: set() for name in named}
    for row, name in enumerate(groups or ()) if named else ():
        if name in named and side[row] >= 0:
            was[name].add(int(side[row]))
    for name, rows in named.items():
        add(("group", name), rows, was[name])
    for family in near:
        if new.isdisjoint(family):
            continue
        for members in _untied(family, side, texts, threshold, excluded):
            fresh = [row for row in members if row in new]
            add(("near", min(members)), fresh, {int(side[row]) for row in members if side[row] >= 0})
    return _settle({row: families[row] for row in new - excluded}, sides, side, excluded)


def _untied(
    family: Sequence[int], side: NDArray[np.int8], texts: Sequence[str], threshold: float, excluded: set[int]
) -> Iterator[Sequence[int]]:
    """`family` in parts, without the new rows between its old sides; they are put into `excluded`."""
    old = [row for row in family if side[row] >= 0]
    new = [row for row in family if side[row] < 0]
    if len({int(side[row]) for row in old}) < 2:
        yield family
        return
    if len(old) * len(new) > _COMPARED:
        excluded.update(new)
        return
    between = {
        row
        for row in new
        if len({int(side[one]) for one in old if similarity(texts[row], texts[one]) >= threshold}) > 1
    }
    excluded |= between
    rest = [row for row in family if row not in between]
    parts = [[rest[at] for at in part] for part in near_duplicates([texts[row] for row in rest], threshold)]
    for part in parts:
        if len({int(side[row]) for row in part if side[row] >= 0}) > 1:  # two new rows make the bridge
            excluded.update(row for row in part if side[row] < 0)
        else:
            yield part


def _settle(
    families: dict[int, list[_Family]], sides: dict[_Family, int], side: NDArray[np.int8], excluded: set[int]
) -> tuple[list[int], list[list[int]]]:
    """A side for each family, from those that have one to those they share rows with; then for each row."""
    members: dict[_Family, list[int]] = {}
    for row in families:
        for family in families[row]:
            members.setdefault(family, []).append(row)
    while True:
        found: dict[_Family, int] = {}
        for kind in ("group", "near"):
            for family, rows in members.items():
                if family[0] == kind and sides[family] == _UNKNOWN:
                    on = Counter(sides[other] for row in rows for other in families[row] if sides[other] >= 0)
                    if on:
                        found[family] = min(on, key=lambda number: (-on[number], number))
            if found:
                break
        if not found:
            break
        sides |= found
    loose: dict[int, None] = {}
    for row in sorted(families):
        its = {sides[family] for family in families[row]}
        if _TORN in its or len(its) > 1:
            excluded.add(row)
        elif its and _UNKNOWN not in its:
            side[row] = its.pop()
        else:
            loose[row] = None
    return sorted(excluded), _tied(loose, families, members)


def _tied(
    loose: dict[int, None], families: dict[int, list[_Family]], members: dict[_Family, list[int]]
) -> list[list[int]]:
    """The loose rows in sets that share families."""
    parts = []
    while loose:
        part: list[int] = []
        open_: list[int] = [next(iter(loose))]
        del loose[open_[0]]
        while open_:
            part.append(row := open_.pop())
            for other in (one for family in families[row] for one in members[family] if one in loose):
                del loose[other]
                open_.append(other)
        parts.append(sorted(part))
    return parts
