"""Agreement against the published worked examples, and what it says where it cannot be measured."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from bucle.data.label import agreement, alpha_interval, krippendorff_alpha

# Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011): B, two observers, nominal; C, four, missing; A,
# two, binary. And the three coders of the article on alpha in Wikipedia.
BINARY = ["0100000010", "1110010000"]
TWO = ["aabbdcccedda", "babbbccceddd"]
FOUR = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]
THREE = [".....34121133.3", "1.213343.......", "..21344.21133.4"]


def units(coders: list[str]) -> list[list[str]]:
    assert len({len(c) for c in coders}) == 1, [len(c) for c in coders]
    return [[v for v in column if v != "."] for column in zip(*coders, strict=True)]


@pytest.mark.parametrize(("coders", "alpha"), [(BINARY, 0.095), (TWO, 0.692), (FOUR, 0.743), (THREE, 0.691)])
def test_alpha_is_the_published_one(coders: list[str], alpha: float) -> None:
    assert krippendorff_alpha(units(coders)) == pytest.approx(alpha, abs=0.0006)


def test_perfect_chance_and_systematic() -> None:
    assert krippendorff_alpha([["a", "a"], ["b", "b"]]) == 1
    rng = random.Random(3)
    coin = [[rng.choice("ab"), rng.choice("ab")] for _ in range(4000)]
    assert krippendorff_alpha(coin) == pytest.approx(0, abs=0.05)
    assert (krippendorff_alpha([["a", "b"], ["b", "a"]]) or 0) < 0


@pytest.mark.parametrize("none", [[], [["a"]], [["a"], ["b"]], [["a", "a"], ["a", "a"]]])
def test_alpha_is_none_where_it_is_not_defined(none: list[list[str]]) -> None:
    assert krippendorff_alpha(none) is None
    assert alpha_interval(none) is None


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """Two people right 80% of the time on two even labels: alpha is 0.36 (0.68 equal against 0.5 by chance)."""
    rng = random.Random(1)
    held = 0
    for trial in range(100):
        rows = []
        for _ in range(120):
            truth = rng.choice("ab")
            rows.append([truth if rng.random() < 0.8 else ("a" if truth == "b" else "b") for _ in range(2)])
        found = alpha_interval(rows, seed=trial, draws=300)
        assert found is not None
        held += found.low <= 0.36 <= found.high
    assert held >= 88


def test_kappa_who_confuses_what_and_which_label() -> None:
    """Cohen's kappa of the 2x2 table 20 5 10 15 is 0.4 (0.7 equal, 0.5 by chance)."""
    cells = [("si", "si")] * 20 + [("si", "no")] * 5 + [("no", "si")] * 10 + [("no", "no")] * 15
    said = {f"r{n}": {"ana": a, "bea": b} for n, (a, b) in enumerate(cells)} | {"alone": {"ana": "si"}}
    told = agreement(said, draws=400)
    pair = told["pairs"][0]
    assert (pair["a"], pair["b"], pair["rows"], pair["equal"]) == ("ana", "bea", 50, 0.7)
    assert pair["kappa"]["value"] == pytest.approx(0.4)
    assert 0.1 < pair["kappa"]["low"] < 0.4 < pair["kappa"]["high"] < 0.7
    assert (told["rows"], told["rows_with_two_answers"], told["rows_in_agreement"]) == (51, 50, 35)
    assert told["confusions"][0] == {"a": "ana", "says": "no", "b": "bea", "instead": "si", "rows": 10}
    assert {one["label"] for one in told["labels"]} == {"si", "no"}
    assert "Too low" in told["verdict"]
    assert agreement(said, draws=400) == told


def test_a_label_that_nobody_reads_alike_is_first() -> None:
    said = {f"r{n}": {"a": "x", "b": "x"} for n in range(20)} | {f"s{n}": {"a": "y", "b": "y"} for n in range(20)}
    said |= {"t1": {"a": "z", "b": "x"}, "t2": {"a": "y", "b": "z"}, "t3": {"a": "x", "b": "z"}}
    told = agreement(said, draws=100)
    assert told["labels"][0]["label"] == "z"
    values = [one["alpha"]["value"] for one in told["labels"]]
    assert all(a <= b for a, b in pairwise(values))


def test_nothing_to_measure_is_said() -> None:
    assert "cannot be measured" in agreement({"r": {"ana": "a"}})["verdict"]
    assert agreement({})["alpha"] is None
    same = agreement({"r": {"ana": "a", "bea": "a"}, "s": {"ana": "a", "bea": "a"}})
    assert same["alpha"] is None
    assert "not defined" in same["verdict"]
    assert same["pairs"][0]["kappa"] is None


def test_high_agreement_on_few_rows_is_not_called_proven() -> None:
    said = {f"r{n}": {"a": "xy"[n % 2], "b": "xy"[n % 2]} for n in range(7)} | {"q": {"a": "x", "b": "y"}}
    verdict = agreement(said, draws=300)["verdict"]
    assert "Only 8 rows" in verdict
    assert "can be relied on" not in verdict
