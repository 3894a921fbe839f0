"""What a customised model lost: answers that its base knew, and bits per byte on text that it should still read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bucle.core.errors import BadInput
from bucle.core.records import Interval
from bucle.evaluate.statistics import bootstrap_mean, paired_difference
from bucle.evaluate.suite import Question

__all__ = ["Lost", "forgetting", "lost"]

GUESSING = 0.01
"""The chance that a base which guesses has a part of the suite counted as known."""


@dataclass(frozen=True)
class Lost:
    """What tuning cost on the suite. `before` and `after` are 1 or 0 for each question of the parts that the base knows
    (`known`), in order; `value` the loss of accuracy there with its paired interval (None: it knows none, so nothing
    could be lost); `parts` a table for people: part, language, name (both), n, chance, before, after, known, and the
    loss with its interval (value, low, high)."""

    known: tuple[str, ...]
    before: tuple[float, ...]
    after: tuple[float, ...]
    value: Interval | None
    parts: tuple[dict[str, Any], ...]


def forgetting(base_bits: Sequence[float], tuned_bits: Sequence[float], *, seed: int = 0) -> Interval:
    """Mean rise in bits per byte (tuned minus base) over the same documents; positive means forgotten.

    One value a document on both sides, in the same order; 95% interval by a bootstrap over documents. Raises
    BadInput when the lengths differ, fewer than two documents are given or a value is not finite.
    """
    if len(base_bits) != len(tuned_bits):
        raise BadInput(f"{len(base_bits)} documents before, {len(tuned_bits)} after", "measure the same ones")
    rises = [after - before for before, after in zip(base_bits, tuned_bits, strict=True)]
    return bootstrap_mean(rises, seed=seed)


def lost(questions: Sequence[Question], before: Sequence[float], after: Sequence[float]) -> Lost:
    """The loss of accuracy (before minus after) on the parts of the suite that the base answers better than by
    guessing, one by one at 1% (exact binomial test against the mean chance). Parts are taken whole: to take only the
    questions that the base had right would call its luck a loss. Raises BadInput where the lengths differ."""
    from scipy.stats import binomtest

    if not len(questions) == len(before) == len(after) or not questions:
        raise BadInput(f"{len(before)} answers before and {len(after)} after to {len(questions)} questions")
    known = []
    for part in dict.fromkeys(one.part for one in questions):
        mine = [place for place, one in enumerate(questions) if one.part == part]
        chance = sum(1 / len(questions[place].choices) for place in mine) / len(mine)
        right = sum(before[place] > 0 for place in mine)
        if binomtest(right, len(mine), chance, "greater").pvalue < GUESSING:
            known.append(part)
    kept = [place for place, one in enumerate(questions) if one.part in known]
    had, has = tuple(before[place] for place in kept), tuple(after[place] for place in kept)
    return Lost(tuple(known), had, has, paired_difference(had, has) if kept else None,
                tuple(_table(questions, before, after, known)))


def _table(questions: Sequence[Question], before: Sequence[float], after: Sequence[float],
           known: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    for part, language in dict.fromkeys((one.part, one.language) for one in questions):
        mine = [place for place, one in enumerate(questions) if (one.part, one.language) == (part, language)]
        had, has = [before[place] for place in mine], [after[place] for place in mine]
        gap = paired_difference(had, has)
        rows.append({
            "part": part, "language": language, "name": f"{part} {language}", "n": len(mine),
            "value": gap.value, "low": gap.low, "high": gap.high,
            "chance": sum(1 / len(questions[place].choices) for place in mine) / len(mine),
            "before": sum(had) / len(had), "after": sum(has) / len(has), "known": part in known,
        })
    return rows
