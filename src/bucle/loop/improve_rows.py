"""The rows of a search for a better prompt: which may be shown, which choose, which confirm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bucle.core.errors import BadInput
from bucle.core.ids import sha256_hex
from bucle.core.records import Example
from bucle.loop.candidates import TaskData, rows_of
from bucle.loop.workspace import Workspace

__all__ = ["Sides", "sides_of"]

CHOOSE, MOST_CHOOSE, LEAST_CHOOSE = 100, 300, 10
"""Rows that choose: as many as validation has, up to MOST_CHOOSE; filled up to CHOOSE with training rows."""
SHARE = 3  # at most one part in so many of the training rows
LOOK = 24
"""Training rows that the prompt in force answers first, for failures to learn from."""


@dataclass(frozen=True)
class Sides:
    """`pool`: training rows that may be shown. `look`: those of them whose answers are looked at (never shown in that
    look). `choose` and `test` are never shown; `train` is every training row. `borrowed` of `choose` come from it."""

    pool: tuple[Example, ...]
    look: tuple[Example, ...]
    choose: tuple[Example, ...]
    test: tuple[Example, ...]
    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    borrowed: int


def sides_of(ws: Workspace, data: TaskData, seed: int) -> Sides:
    """The sides of a search, whole clusters at a time; the same for the same seed. Raises BadInput for too few rows."""
    train, validation, test = (rows_of(ws, data.dataset, data.split, side) for side in ("train", "validation", "test"))
    order = {row.id: sha256_hex(f"{seed} {row.cluster}") for row in [*train, *validation]}
    choose = sorted(validation, key=lambda row: (order[row.id], row.id))[:MOST_CHOOSE]
    borrowed: list[Example] = []
    if len(choose) < CHOOSE:
        borrowed = _clusters(train, order, min(CHOOSE - len(choose), len(train) // SHARE))
    gone = {row.cluster for row in borrowed}
    pool = [row for row in train if row.cluster not in gone]
    if len(choose) + len(borrowed) < LEAST_CHOOSE or len(test) < LEAST_CHOOSE:
        raise BadInput(
            f"`{data.name}` has {len(choose) + len(borrowed)} rows to choose on and {len(test)} to confirm on; "
            f"a search takes {LEAST_CHOOSE} of each.", "Add labelled rows: bucle label")
    look = _clusters([row for row in pool if row.target], order, min(LOOK, len(pool) // SHARE))
    return Sides(tuple(pool), tuple(look), (*choose, *borrowed), tuple(test), tuple(train), tuple(validation),
                 len(borrowed))


def _clusters(rows: Sequence[Example], order: dict[str, str], most: int) -> list[Example]:
    """At most `most` rows, whole clusters at a time, in the order of their hash."""
    groups: dict[str, list[Example]] = {}
    for row in sorted(rows, key=lambda row: (order[row.id], row.id)):
        groups.setdefault(row.cluster, []).append(row)
    found: list[Example] = []
    for group in groups.values():
        if len(found) + len(group) <= most:
            found += group
    return found
