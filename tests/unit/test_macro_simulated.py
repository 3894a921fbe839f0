"""The promise of macro-F1's interval, by simulation: the mean of the true F1 of the labels that occur, also where some
have a row or two. What no method here can promise is a table in which most labels have so few: the last case says how
far it is off."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from bucle.evaluate.macro import macro_interval
from bucle.evaluate.metrics import Sample, measure
from bucle.evaluate.resample import score_differences, score_intervals

CASES: dict[str, tuple[int, Sequence[float], tuple[float, float]]] = {  # rows, how common each label is, right
    "8 labels of 50": (400, [1] * 8, (0.5, 0.95)),
    "3 labels of 20": (60, [1] * 3, (0.5, 0.95)),
    "8 labels, one with a row or two": (1983, [283] * 7 + [1.5], (0.8, 0.97)),
    "4 labels, one with a row or two": (300, [150, 90, 58, 1.5], (0.6, 0.95)),
    "8 labels, three with 2 to 4 rows": (300, [58] * 5 + [2, 3, 4], (0.6, 0.95)),
    "20 labels, by Zipf": (500, [n**-1.3 for n in range(1, 21)], (0.5, 0.95)),
    "60 labels, by Zipf": (500, [n**-1.2 for n in range(1, 61)], (0.5, 0.95)),
    "2 labels, one of 6 rows": (300, [0.98, 0.02], (0.7, 0.98)),
    "4 labels, nearly always right": (200, [1] * 4, (0.96, 0.999)),
    "4 labels, nearly always wrong": (100, [1] * 4, (0.02, 0.2)),
}


def confusion(rng: np.random.Generator, labels: int, right: float) -> np.ndarray:
    """What is said of each label, `[wanted, said]`: each is right about `right` of the times, by its own luck."""
    luck = np.clip(rng.normal(right, 0.1 * min(right, 1 - right) + 0.02, labels), 0.005, 0.9995)
    found = rng.gamma(0.5, size=(labels, labels)) + 1e-9
    np.fill_diagonal(found, 0)
    found *= ((1 - luck) / found.sum(axis=1))[:, None]
    np.fill_diagonal(found, luck)
    return found


def true_f1(share: np.ndarray, said: np.ndarray) -> np.ndarray:
    joint = share[:, None] * said
    return np.asarray(2 * np.diag(joint) / (joint.sum(axis=0) + joint.sum(axis=1)))


def table(said: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """As `metrics.labels.macro_f1` has it."""
    labels = np.unique(wanted)
    right, spoken = wanted[:, None] == labels, said[:, None] == labels
    return np.concatenate([right & spoken, spoken, right], axis=1).astype(float)


def pick(rng: np.random.Generator, shares: np.ndarray) -> np.ndarray:
    """One place of each row of `shares`."""
    return np.minimum((rng.random(len(shares))[:, None] > np.cumsum(shares, axis=1)).sum(axis=1), shares.shape[1] - 1)


def coverage(name: str, times: int) -> tuple[float, float]:
    """Of the score, and of the difference to a candidate that says the same on half of the rows."""
    rows, common, (low, high) = CASES[name]
    share, rng, hits = np.array(common) / sum(common), np.random.default_rng(1), np.zeros(2)
    for _ in range(times):
        one, other = (confusion(rng, len(share), rng.uniform(low, high)) for _ in range(2))
        wanted = rng.choice(len(share), rows, p=share)
        mine = pick(rng, one[wanted])
        theirs = np.where(rng.random(rows) < 0.5, mine, pick(rng, other[wanted]))
        there = np.unique(wanted)
        truth = true_f1(share, one)[there].mean()
        gap = truth - true_f1(share, (one + other) / 2)[there].mean()
        a, b = table(mine, wanted), table(theirs, wanted)
        found, apart = macro_interval(a, None, None, 0.95), macro_interval(a, b, None, 0.95)
        hits += found.low <= truth <= found.high, apart.low <= gap <= apart.high
    return float(hits[0] / times), float(hits[1] / times)


def clustered(labels: int, many: int, times: int) -> tuple[float, float]:
    """In `many` sources of 1 to 6 rows, each with its own difficulty and its own common labels: with the sources and
    without them."""
    rng, hits, share = np.random.default_rng(2), np.zeros(2), np.ones(labels) / labels
    for _ in range(times):
        right = rng.uniform(0.6, 0.9)
        source = np.repeat(np.arange(many), rng.integers(1, 7, many))
        wanted = pick(rng, rng.dirichlet(share * labels, many)[source])
        wrong = (wanted + rng.integers(1, labels, len(source))) % labels
        mine = np.where(rng.random(len(source)) < rng.beta(right * 4, (1 - right) * 4, many)[source], wanted, wrong)
        said = np.full((labels, labels), (1 - right) / (labels - 1))
        np.fill_diagonal(said, right)
        truth, made = true_f1(share, said)[np.unique(wanted)].mean(), table(mine, wanted)
        for place, clusters in enumerate(([str(one) for one in source], None)):
            found = macro_interval(made, None, clusters, 0.95)
            hits[place] += found.low <= truth <= found.high
    return float(hits[0] / times), float(hits[1] / times)


@pytest.mark.parametrize("name", ["4 labels, one with a row or two", "3 labels of 20",
                                  "8 labels, three with 2 to 4 rows"])
def test_coverage_in_short(name: str) -> None:
    score, difference = coverage(name, 500)
    assert 0.92 <= score <= 0.98
    assert difference >= 0.93


def test_sources_in_short() -> None:
    known, ignored = clustered(5, 60, 500)
    assert 0.92 <= known <= 0.975
    assert ignored < known - 0.02


def test_a_label_of_one_row_leaves_a_gate_possible() -> None:
    """1,983 rows of eight labels, one of which has a single row: one eighth of the score is all that it can move."""
    rng = np.random.default_rng(3)
    wanted = ["raro", *rng.choice(list("abcdefg"), 1982)]
    said = ["raro", *(one if rng.random() < 0.93 else "a" for one in wanted[1:])]
    one = measure(["macro_f1"], [Sample(a, wanted=b) for a, b in zip(said, wanted, strict=True)])
    found = score_intervals(one)["macro_f1"]
    assert found.value == pytest.approx(one["macro_f1"].value) == pytest.approx(0.95, abs=0.01)
    assert 0.80 < found.low < 0.9
    assert found.value < found.high <= 1.0
    same = score_differences(one, one)["macro_f1"]
    assert same.low == -same.high
    assert 0.02 < same.high < 0.125  # what one row that both have right leaves open is all that it counts


def test_all_right_all_wrong_and_one_label() -> None:
    for said, low, high in (("ab" * 20, 0.85, 1.0), ("ba" * 20, 0.0, 0.15)):
        one = measure(["macro_f1"], [Sample(a, wanted=b) for a, b in zip(said, "ab" * 20, strict=True)])
        found = score_intervals(one)["macro_f1"]
        assert low < found.high <= high or low < found.low <= high
        assert found.low <= found.value <= found.high
    alone = score_intervals(measure(["macro_f1"], [Sample("a", wanted="a")] * 2))["macro_f1"]
    assert (alone.value, alone.high) == (1, 1)
    assert 0 < alone.low < 0.6


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_coverage(name: str) -> None:
    score, difference = coverage(name, 4000)
    assert 0.925 <= score <= 0.98
    assert difference >= 0.935


@pytest.mark.slow
@pytest.mark.parametrize(("labels", "many"), [(4, 20), (5, 40), (10, 100)])
def test_coverage_in_sources(labels: int, many: int) -> None:
    assert 0.925 <= clustered(labels, many, 4000)[0] <= 0.975


@pytest.mark.slow
def test_what_it_cannot_do() -> None:
    """A hundred labels of two rows each: the mean of their F1 is itself too low."""
    CASES["100 labels of two"] = (200, [1] * 100, (0.6, 0.95))
    score, difference = coverage("100 labels of two", 2000)
    assert 0.7 <= score <= 0.9
    assert difference >= 0.93
