"""Which test rows a candidate has learned from, word for word or nearly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Overlap", "overlap"]

_COMPARED = 200
"""Of a group of alike texts, a test row is compared with so many that were learned from: time stays linear."""


@dataclass(frozen=True)
class Overlap:
    """A test row is like the learned text at index `at`; `similarity` as `data.similar` measures it, 1.0 where `exact`
    (the same but for case, accents' form, space and punctuation)."""

    at: int
    exact: bool
    similarity: float


def overlap(learned: Sequence[str], rows: Sequence[str], threshold: float) -> dict[int, Overlap]:
    """Index of each of `rows` that is the same as one of `learned`, or at least `threshold` like it -> the likest, in
    the rows' order. A pair is measured, never estimated; hashing may miss one at the threshold (`near_duplicates`)."""
    from bucle.data.similar import near_duplicates, normal_form, similarity

    first: dict[str, int] = {}
    for at, text in enumerate(learned):
        if form := normal_form(text):
            first.setdefault(form, at)
    found = {i: Overlap(first[form], True, 1.0) for i, text in enumerate(rows) if (form := normal_form(text)) in first}
    rest = [i for i in range(len(rows)) if i not in found]
    if rest and learned:
        for group in near_duplicates([*learned, *(rows[i] for i in rest)], threshold):
            theirs = [at for at in group if at < len(learned)][:_COMPARED]
            for place in group:
                if place >= len(learned) and theirs:
                    row = rest[place - len(learned)]
                    like, at = max((similarity(rows[row], learned[at]), -at) for at in theirs)
                    if like >= threshold:
                        found[row] = Overlap(-at, False, like)
    return dict(sorted(found.items()))
