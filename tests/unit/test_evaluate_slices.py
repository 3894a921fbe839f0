"""Slices: a planted weak spot is found and named, chance finds no more than was promised, odd rows break nothing."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from bucle.core.errors import BadInput
from bucle.core.records import Example
from bucle.evaluate.slices import find_slices


def rows(rng: np.random.Generator, n: int, together: int = 1, **own: Any) -> list[Example]:
    """Rows with every facet drawn at random, in groups of `together`."""
    made = [
        Example(
            id=str(i), target=f"L{rng.integers(0, 8)}", language="es" if rng.random() < 0.7 else "en",
            input="cómo " * (rng.random() < 0.4) + "hola " * int(rng.integers(1, 20)) + "3" * (rng.random() < 0.3),
            source=f"f{rng.integers(0, 3)}.csv:{i}", at=f"2026-0{rng.integers(1, 7)}-1{rng.integers(0, 9)}",
            group=f"g{i // together}" if together > 1 else "",
        )
        for i in range(n)
    ]
    return [one.model_copy(update=own) for one in made]


def test_a_planted_slice_is_found_and_the_rest_is_not() -> None:
    rng = np.random.default_rng(3)
    some = rows(rng, 600)
    right = [float(rng.random() < (0.55 if one.language == "en" else 0.9)) for one in some]
    found = find_slices(some, right)
    worse = [one for one in found if one.worse]
    assert worse[0].where == {"language": "en"}
    first = worse[0]
    assert first.q < 1e-6
    assert first.difference.low < first.difference.value < first.difference.high < 0
    assert first.value.value == pytest.approx(np.mean([right[row] for row in first.rows]))
    assert first.difference.value == pytest.approx(first.value.value - first.rest)
    assert {some[row].language for row in first.rows} == {"en"}
    assert all(one.q >= one.p for one in found)
    told = json.loads(json.dumps(first.to_dict()))
    assert told["n"] == len(first.rows) == len(told["rows"])


def test_of_two_that_share_out_all_rows_the_worse_one_is_told() -> None:
    rng = np.random.default_rng(0)
    some = rows(rng, 400)
    right = [float(rng.random() < (0.5 if one.language == "es" else 0.9)) for one in some]
    worse = [one for one in find_slices(some, right) if one.worse]
    assert {"language": "es"} in [dict(one.where) for one in worse]
    assert all(one.difference.value < 0 for one in worse)


def test_two_together_are_told_only_where_they_are_worse_than_either() -> None:
    rng = np.random.default_rng(5)
    some = rows(rng, 1600)

    def has(one: Example) -> bool:
        return any(char.isdigit() for char in one.input)

    both = [float(rng.random() < (0.5 if one.language == "en" and has(one) else 0.9)) for one in some]
    pairs = [dict(one.where) for one in find_slices(some, both) if one.worse and len(one.where) == 2]
    assert {"language": "en", "numbers": "yes"} in pairs
    alone = [float(rng.random() < (0.5 if one.language == "en" else 0.9)) for one in some]
    assert [one.where for one in find_slices(some, alone) if one.worse and len(one.where) == 2] == []


@pytest.mark.parametrize("graded", [pytest.param(False, marks=pytest.mark.slow), True])
def test_chance_is_called_a_weak_spot_in_at_most_one_of_twenty(graded: bool) -> None:
    """Where no slice differs, anything found is wrong: the false discovery rate is the share of trials that find."""
    rng, wrong, sure, tests = np.random.default_rng(1), 0, 0, 0
    for _ in range(60):
        some = rows(rng, 240)
        scores = rng.beta(2, 1, 240) if graded else (rng.random(240) < 0.85).astype(float)
        found = find_slices(some, scores.tolist())
        wrong += any(one.q < 0.05 for one in found)
        single = [one.p < 0.05 for one in found if len(one.where) == 1]
        sure, tests = sure + sum(single), tests + len(single)
    assert wrong <= 7  # 3 expected at 5%; more than 7 of 60 has a chance below 2%
    assert 0.02 < sure / tests < 0.075  # each p keeps its 5% alone


def test_rows_of_one_source_are_no_independent_evidence() -> None:
    """Rows in groups of ten that are all right or all wrong: the same shares are evidence of a tenth of the rows."""
    right = np.repeat(np.random.default_rng(2).random(60) < np.where(np.arange(60) < 20, 0.7, 0.9), 10).astype(float)
    spots = []
    for together in (1, 10):
        some = rows(np.random.default_rng(9), 600, together, language="es")
        some = [one.model_copy(update={"language": "en"}) if i < 200 else one for i, one in enumerate(some)]
        spots.append(next(one for one in find_slices(some, right.tolist()) if one.where.keys() == {"language"}))
    wide = [one.difference.high - one.difference.low for one in spots]
    assert wide[1] > 2 * wide[0]


def test_the_interval_is_narrow_enough_to_agree_with_a_test_of_shares() -> None:
    """On independent rows the p is near that of a permutation of the slice's rows."""
    rng = np.random.default_rng(8)
    some = rows(rng, 300)
    right = np.array([float(rng.random() < (0.72 if one.language == "en" else 0.86)) for one in some])
    spot = next(one for one in find_slices(some, right.tolist()) if "language" in one.where and len(one.where) == 1)
    inside = np.zeros(300, dtype=bool)
    inside[list(spot.rows)] = True
    drawn = [abs(right[mask].mean() - right[~mask].mean()) for mask in (rng.permutation(inside) for _ in range(4000))]
    chance = np.mean([one >= abs(spot.difference.value) - 1e-12 for one in drawn])
    assert chance == pytest.approx(spot.p, abs=0.03)


def test_a_document_is_judged_by_its_own_rows() -> None:
    rng = np.random.default_rng(4)
    some = [Example(id=str(i), input="hola", target=None, document=f"d{i // 30}.md") for i in range(300)]
    right = [float(rng.random() < (0.4 if i < 30 else 0.9)) for i in range(300)]
    worse = [one for one in find_slices(some, right) if one.worse]
    assert [dict(one.where) for one in worse] == [{"document": "d0.md"}]
    assert worse[0].value.high - worse[0].value.low < 0.4


def test_odd_rows_break_nothing() -> None:
    texts = ["", "[", "[1]", '[{"role": "user", "content": "¿Qué?"}]', "\u202e🚨\x00", "a\r\n" * 900, "[{}]"] * 20
    some = [Example(id=str(i), input=text, target=None if i % 3 else "x" * 500, at="never", document=";a;;b")
            for i, text in enumerate(texts)]
    found = find_slices(some, [i % 2 for i in range(140)], clusters=[str(i) for i in range(140)])
    assert {"turns": "1"} in [dict(one.where) for one in found]
    assert find_slices([], []) == []
    assert find_slices(some[:30], [1.0] * 30) == []
    assert not any(one.worse for one in find_slices(some, [1.0] * 140))
    with pytest.raises(BadInput, match="139 scores for 140 rows"):
        find_slices(some, [1.0] * 139)
    with pytest.raises(BadInput, match="between 0 and 1"):
        find_slices(some, [float("nan")] * 140)


def test_the_same_rows_are_tested_once() -> None:
    rng = np.random.default_rng(6)
    some = [Example(id=str(i), input="hola", target=f"L{i % 4}", source=f"L{i % 4}.csv:{i}") for i in range(200)]
    found = find_slices(some, (rng.random(200) < 0.5).astype(float).tolist())
    assert [one.where.keys() for one in found] == [{"label"}] * 4
