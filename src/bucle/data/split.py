"""Training, validation and test sides that share nothing, and that stay as they are when the data grows.

Rows that are nearly the same, or that belong to the same group, go to one side together. The side follows
from a hash of the group's key and the seed, never from the order or the number of rows.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from bucle.core.errors import BadInput
from bucle.core.records import Example
from bucle.data.similar import near_duplicates

__all__ = ["Side", "Split", "split"]

Side = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Split:
    """Ids of examples by side, each in the order given. The sides and `excluded` are all of the examples,
    once each.

    `leaks_prevented` counts the held-out rows that have a copy or a group mate which a split row by row would
    have put on another side; `groups` the groups of two rows or more; `excluded` new rows nearly the same as
    old rows on two sides at once: on either they would leak. `moved` are rows put into training so that their
    label is in it.
    """

    train: list[str]
    validation: list[str]
    test: list[str]
    leaks_prevented: int = 0
    groups: int = 0
    excluded: list[str] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)

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
    previous: Mapping[str, Side] | None = None,
) -> Split:
    """Splits `examples`; `test` and `validation` are shares of the rows, met approximately.

    A row in `previous` keeps its side always, and what is nearly the same as it, or of its group, joins it.
    With `keep_labels` every label that has a row has one in training (unless `previous` holds all of its rows
    elsewhere); give False where targets are answers, which are no labels. Where three groups or more exist no
    side stays empty. Raises BadInput for impossible shares or repeated ids.
    """
    if not (0 <= test < 1 and 0 <= validation < 1 and test + validation < 1):
        raise BadInput(
            f"Shares of test {test} and validation {validation} leave nothing to train on.",
            "Give shares that add up to less than 1.",
        )
    if len({example.id for example in examples}) < len(examples):
        raise BadInput("Two examples have the same id.", "Read them with one call of read_examples.")
    known = previous or {}
    groups = _groups(examples, near_duplicate_threshold, by_group)
    sides: dict[int, Side] = {}
    excluded: set[int] = set()
    fixed: set[int] = set()
    for number, members in enumerate(groups):
        old = {known[examples[index].id] for index in members if examples[index].id in known}
        if len(old) > 1:  # a new row bridges old ones: these stay where they are, what is new would leak
            excluded |= {index for index in members if examples[index].id not in known}
        if old:
            fixed.add(number)
        sides[number] = (
            next(iter(old)) if len(old) == 1 else _side(_key(examples, members, by_group), seed, test, validation)
        )
    row_side = {
        index: known.get(examples[index].id, sides[number])
        for number, members in enumerate(groups)
        for index in members
        if index not in excluded
    }
    labels = [example.target if keep_labels else None for example in examples]
    moved = _keep_labels_in_train(examples, labels, groups, row_side, fixed)
    _fill_empty_sides(examples, groups, row_side, fixed, {"test": test, "validation": validation}, labels)
    named: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for index, example in enumerate(examples):
        if index in row_side:
            named[row_side[index]].append(example.id)
    return Split(
        **named,
        leaks_prevented=_leaks(examples, groups, row_side, seed, test, validation),
        groups=sum(len(members) > 1 for members in groups),
        excluded=[examples[index].id for index in sorted(excluded)],
        moved=[examples[index].id for index in sorted(moved)],
    )


def _groups(examples: Sequence[Example], threshold: float, by_group: bool) -> list[list[int]]:
    """Indices of the rows that must stay together, each group ascending."""
    parent = list(range(len(examples)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    together = near_duplicates([example.input for example in examples], threshold)
    if by_group:
        named: dict[str, list[int]] = {}
        for index, example in enumerate(examples):
            if example.group:
                named.setdefault(example.group, []).append(index)
        together += list(named.values())
    for members in together:
        for index in members:
            low, high = sorted((root(members[0]), root(index)))
            parent[high] = low
    found: dict[int, list[int]] = {}
    for index in range(len(examples)):
        found.setdefault(root(index), []).append(index)
    return list(found.values())


def _key(examples: Sequence[Example], members: Sequence[int], by_group: bool) -> str:
    """What the group's side is drawn from: its first row, so that rows added at the end of the data change
    nothing.
    """
    first = examples[members[0]]
    return f"group:{first.group}" if by_group and first.group else first.id


def _draw(key: str, seed: int) -> float:
    """A number in [0, 1) that depends on `key` and `seed` only."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:7]) / 2**56


def _side(key: str, seed: int, test: float, validation: float) -> Side:
    drawn = _draw(key, seed)
    return "test" if drawn < test else "validation" if drawn < test + validation else "train"


def _keep_labels_in_train(
    examples: Sequence[Example],
    labels: Sequence[str | None],
    groups: Sequence[Sequence[int]],
    row_side: dict[int, Side],
    fixed: set[int],
) -> set[int]:
    """Moves, for each label with no row in training, its smallest free group there; changes `row_side`."""
    moved: set[int] = set()
    trained = {labels[index] for index, side in row_side.items() if side == "train"}
    free = sorted(
        (len(members), examples[members[0]].id, number) for number, members in enumerate(groups) if number not in fixed
    )
    for label in sorted({label for label in labels if label is not None}):
        if label in trained:
            continue
        for _, _, number in free:
            members = [index for index in groups[number] if index in row_side]
            if any(labels[index] == label for index in members):
                row_side.update(dict.fromkeys(members, "train"))
                moved |= set(members)
                trained |= {labels[index] for index in members}
                break
    return moved


def _fill_empty_sides(
    examples: Sequence[Example],
    groups: Sequence[Sequence[int]],
    row_side: dict[int, Side],
    fixed: set[int],
    shares: Mapping[str, float],
    labels: Sequence[str | None],
) -> None:
    """Gives a held-out side that few rows left empty the smallest training group no label depends on."""
    for side in ("test", "validation"):
        if not shares[side] or side in row_side.values() or len(groups) < 3:
            continue
        for members in sorted(
            (members for number, members in enumerate(groups) if number not in fixed),
            key=lambda members: (len(members), examples[members[0]].id),
        ):
            train = Counter(labels[index] for index, at in row_side.items() if at == "train")
            lost = Counter(labels[index] for index in members)
            if all(row_side.get(index) == "train" for index in members) and all(
                train[label] > count for label, count in lost.items()
            ):
                row_side.update(dict.fromkeys(members, "test" if side == "test" else "validation"))
                break


def _leaks(
    examples: Sequence[Example],
    groups: Sequence[Sequence[int]],
    row_side: Mapping[int, Side],
    seed: int,
    test: float,
    validation: float,
) -> int:
    leaks = 0
    for members in groups:
        if len(members) > 1 and len({_side(examples[index].id, seed, test, validation) for index in members}) > 1:
            leaks += sum(row_side.get(index) in ("test", "validation") for index in members)
    return leaks
