"""Which test rows a candidate has learned from, word for word or nearly, and which repeat one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bucle.core.ids import sha256_hex
from bucle.core.ports import Report
from bucle.core.records import Example

__all__ = ["MOST_NEAR", "Overlap", "alike", "overlap"]

_COMPARED = 50
"""Of a group of alike texts, a test row is compared with so many that were learned from: time stays linear."""


MOST_NEAR = 5_000
"""Rows that near-duplicates are looked for among; of more, a sample that does not depend on their order (texts that
differ in a word or two cost some 3 ms each). The same but for case and space are found among all."""


def _sample(texts: Sequence[str]) -> list[int]:
    """Places of the texts that near-duplicates are looked for among."""
    if len(texts) <= MOST_NEAR:
        return list(range(len(texts)))
    return sorted(sorted(range(len(texts)), key=lambda place: (sha256_hex(texts[place]), place))[:MOST_NEAR])


@dataclass(frozen=True)
class Overlap:
    """A test row is like the learned text at index `at`; `similarity` as `data.similar` measures it, 1.0 where `exact`
    (the same but for case, accents' form, space and punctuation)."""

    at: int
    exact: bool
    similarity: float


def alike(rows: Sequence[Example], threshold: float, report: Report | None = None) -> tuple[list[Example], int]:
    """The rows with a `group` in which those stay together whose inputs are the same or at least `threshold` alike, and
    those of one group: what a split keeps together is one source for an interval too. A row with a document has that
    for its source already. Also how many rows say what another one says, or nearly."""
    from bucle.data.similar import exact_duplicates, near_duplicates

    parent = list(range(len(rows)))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    groups: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        if row.group:
            groups.setdefault(row.group, []).append(place)
    texts = [row.input for row in rows]
    sample, same = _sample(texts), exact_duplicates(texts)
    near = [[sample[at] for at in found]
            for found in near_duplicates([texts[place] for place in sample], threshold, report)]
    for members in (*groups.values(), *same, *near):
        for place in members[1:]:
            parent[root(place)] = root(members[0])
    kept = [row.model_copy(update={"group": rows[root(place)].group or rows[root(place)].id})
            for place, row in enumerate(rows)]
    return kept, len({place for members in (*same, *near) for place in members})


def overlap(
    learned: Sequence[str], rows: Sequence[str], threshold: float, report: Report | None = None
) -> dict[int, Overlap]:
    """Index of each of `rows` that is the same as one of `learned`, or at least `threshold` like it -> the likest, in
    the rows' order. A pair is measured, never estimated; hashing may miss one at the threshold (`near_duplicates`)."""
    from bucle.data.minhash import jaccard, shingles
    from bucle.data.similar import near_duplicates, normal_form

    first: dict[str, int] = {}
    for at, text in enumerate(learned):
        if form := normal_form(text):
            first.setdefault(form, at)
    found = {i: Overlap(first[form], True, 1.0) for i, text in enumerate(rows) if (form := normal_form(text)) in first}
    rest = [i for i in range(len(rows)) if i not in found]
    rest = [rest[at] for at in _sample([rows[i] for i in rest])]
    if rest and learned:
        for group in near_duplicates([*learned, *(rows[i] for i in rest)], threshold, report):
            theirs = [(at, shingles(normal_form(learned[at]))) for at in group if at < len(learned)][:_COMPARED]
            for place in group:
                if place >= len(learned) and theirs:
                    row = rest[place - len(learned)]
                    mine = shingles(normal_form(rows[row]))
                    like, at = max((jaccard(mine, pieces), -at) for at, pieces in theirs)
                    if like >= threshold:
                        found[row] = Overlap(-at, False, like)
    return dict(sorted(found.items()))
