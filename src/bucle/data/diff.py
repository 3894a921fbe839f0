"""What changed between two versions of rows, of their sides, and of documents."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from bucle.core.records import Document, Example
from bucle.data.similar import normal_form

__all__ = ["DocumentDiff", "RowDiff", "SplitDiff", "diff_documents", "diff_rows", "diff_splits"]

T = TypeVar("T")


@dataclass(frozen=True)
class RowDiff:
    """`relabelled` pairs have another target, `edited` pairs the same target with another wording. Where a row came
    from (`source`, `span`), its other columns and who labelled it make no difference."""

    added: list[Example]
    removed: list[Example]
    relabelled: list[tuple[Example, Example]]
    edited: list[tuple[Example, Example]]
    unchanged: int

    @property
    def labels(self) -> dict[tuple[str | None, str | None], int]:
        """How often a label became another, the commonest first."""
        return dict(Counter((_said(b), _said(a)) for b, a in self.relabelled).most_common())

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The ids of each row that changed, before and after."""
        return [(b.id, a.id) for b, a in (*self.relabelled, *self.edited)]


@dataclass(frozen=True)
class SplitDiff:
    """`moved` are rows on another side than before: (id, side before, side after). There must be none."""

    moved: list[tuple[str, str, str]]
    added: dict[str, int]
    removed: dict[str, int]


@dataclass(frozen=True)
class DocumentDiff:
    """`renamed` documents have the same bytes under another path, `changed` ones the same path with other bytes or
    text, `relabelled` ones other access labels and nothing else."""

    added: list[Document]
    changed: list[tuple[Document, Document]]
    renamed: list[tuple[Document, Document]]
    deleted: list[Document]
    relabelled: list[tuple[Document, Document]] = field(default_factory=list)
    unchanged: int = 0


def diff_rows(before: Iterable[Example], after: Iterable[Example]) -> RowDiff:
    """What happened to the rows of `before` on the way to `after`.

    A row is the same by its input and target, as often as they occur; else by its id; else by the normal form of its
    input (case, accents, punctuation aside): with the same target first, then with another. Of rows that are the same
    in both only two digests are kept, so that a million of them fit; `before` is read twice, and held in memory if it
    is an iterator.
    """
    if isinstance(before, Iterator):
        before = list(before)
    known = {_digest(row.id): _content(row) for row in before}
    unchanged = 0
    new: list[Example] = []
    for row in after:
        key = _digest(row.id)
        if key in known and known[key] == _content(row):
            del known[key]
            unchanged += 1
        else:
            new.append(row)
    old = [row for row in before if _digest(row.id) in known] if known else []
    relabelled: list[tuple[Example, Example]] = []
    edited: list[tuple[Example, Example]] = []

    def match(pairs: Iterable[tuple[Example, Example]]) -> set[str]:
        """Sort pairs of the same row into what happened to each; returns the ids of both."""
        nonlocal unchanged
        used: set[str] = set()
        for was, now in pairs:
            used |= {"-" + was.id, "+" + now.id}
            if _said(was) != _said(now):
                relabelled.append((was, now))
            elif _content(was) != _content(now):
                edited.append((was, now))
            else:
                unchanged += 1
        return used

    same: tuple[Callable[[Example], object], ...] = (
        lambda row: (row.input, _said(row)),  # before the id, which counts rows of one text from the top of the file
        lambda row: row.id,
        lambda row: (_form(row), _said(row)),
        _form,
    )
    for way in same:
        used = match(_paired(old, new, way))
        old = [row for row in old if "-" + row.id not in used]
        new = [row for row in new if "+" + row.id not in used]
    return RowDiff(new, old, relabelled, edited, unchanged)


def diff_splits(
    before: Mapping[str, str], after: Mapping[str, str], pairs: Sequence[tuple[str, str]] = ()
) -> SplitDiff:
    """Rows that changed side between two splits (id -> side). `pairs` are ids of one row before and after it changed
    (`RowDiff.pairs`): a corrected row must keep its side too."""
    now = dict(pairs)
    moved = [
        (now.get(row, row), side, after[now.get(row, row)])
        for row, side in before.items()
        if after.get(now.get(row, row), side) != side
    ]
    came = set(after) - set(before) - set(now.values())
    gone = set(before) - set(after) - set(now)
    return SplitDiff(
        moved,
        dict(Counter(after[row] for row in sorted(came)).most_common()),
        dict(Counter(before[row] for row in sorted(gone)).most_common()),
    )


def diff_documents(before: Iterable[Document], after: Iterable[Document]) -> DocumentDiff:
    """What happened to the documents of `before`, by path, and by their bytes where a path is gone."""
    old, new = {d.path: d for d in before}, {d.path: d for d in after}
    changed, relabelled = [], []
    unchanged = 0
    for path in [p for p in old if p in new]:
        was, now = old.pop(path), new.pop(path)
        if was.sha256 != now.sha256 or was.blocks != now.blocks:
            changed.append((was, now))
        elif was.access != now.access:
            relabelled.append((was, now))
        else:
            unchanged += 1
    renamed = list(_paired(old.values(), new.values(), lambda d: d.sha256))
    gone, came = {was.path for was, _ in renamed}, {now.path for _, now in renamed}
    return DocumentDiff(
        [d for path, d in new.items() if path not in came],
        changed,
        renamed,
        [d for path, d in old.items() if path not in gone],
        relabelled,
        unchanged,
    )


def _paired(old: Iterable[T], new: Iterable[T], key: Callable[[T], object]) -> Iterator[tuple[T, T]]:
    """Pairs of the same key in order, each member in one pair at most."""
    waiting: dict[object, list[T]] = defaultdict(list)
    for one in old:
        waiting[key(one)].append(one)
    for group in waiting.values():
        group.reverse()
    for one in new:
        if same := waiting.get(key(one)):
            yield same.pop(), one


def _form(row: Example) -> str:
    return normal_form(row.input) or row.input


def _said(row: Example) -> str | None:
    """What is right for a row: its target, or where it has none (retrieve) the documents it names."""
    return row.target if row.target is not None else row.document or None


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _content(row: Example) -> bytes:
    said = _said(row)
    return _digest("\0".join((row.input, said or "", str(said is None), row.checks)))
