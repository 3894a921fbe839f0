"""Intervals against published figures and, by simulation, against their own claim."""

from __future__ import annotations

import numpy as np
import pytest

from bucle.core.errors import BadInput
from bucle.core.records import Interval
from bucle.evaluate.forgetting import forgetting
from bucle.evaluate.statistics import (
    bootstrap_mean,
    holm,
    interval,
    mcnemar,
    minimum_detectable_difference,
    non_inferior,
    paired_difference,
    paired_p,
)


def test_wilson_published() -> None:
    # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3: 81 of 263 and 0 of 20
    found = interval([1.0] * 81 + [0.0] * 182)
    assert (round(found.low, 4), round(found.high, 4)) == (0.2553, 0.3662)
    none = interval([0.0] * 20)
    assert (none.low, round(none.high, 4)) == (0.0, 0.1611)


def test_tango_without_disagreement_is_closed_form() -> None:
    z2 = 1.959963984540054**2
    found = paired_difference([1.0] * 5, [1.0] * 5)
    assert found.high == pytest.approx(z2 / (5 + z2), abs=1e-6)
    assert found.low == pytest.approx(-found.high)


def test_tango_is_where_the_score_statistic_meets_z() -> None:
    # At the bounds the constrained maximum likelihood, found here by brute force, gives |z| = 1.96.
    up, down, n = 20, 5, 100
    found = paired_difference([1.0] * up + [0.0] * down + [1.0] * 75, [0.0] * up + [1.0] * down + [1.0] * 75)
    for bound in (found.low, found.high):
        q = np.linspace(max(0.0, -bound) + 1e-9, (1 - bound) / 2 - 1e-9, 2_000_001)  # P(only b right)
        likelihood = up * np.log(q + bound) + down * np.log(q) + (n - up - down) * np.log(1 - 2 * q - bound)
        best = q[likelihood.argmax()]
        z = (up - down - n * bound) / (n * (2 * best + bound - bound**2)) ** 0.5
        assert abs(z) == pytest.approx(1.96, abs=2e-3)


def test_clusters_widen_and_seed_decides() -> None:
    scores = [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0] * 5
    clusters = [str(i // 4) for i in range(40)]
    wide, narrow = interval(scores, clusters=clusters, seed=1), interval(scores)
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)
    assert wide == interval(scores, clusters=clusters, seed=1)
    assert interval(scores, clusters=[str(i) for i in range(40)]) == narrow


def test_nothing_seen_is_not_certainty() -> None:
    assert interval([1.0] * 40, clusters=["a"] * 20 + ["b"] * 20).low < 0.4
    assert interval([0.5] * 3, clusters=["a"] * 3).high > 0.8
    same = paired_difference([0.5] * 6, [0.5] * 6, clusters=list("aabbcc"))
    assert same.low < -0.5 < 0.5 < same.high


def _coverage(draw, estimate, truth: float, times: int, seed: int) -> float:
    rng = np.random.default_rng(seed)
    hits = 0
    for trial in range(times):
        found = estimate(draw(rng), trial)
        hits += found.low <= truth <= found.high
    return hits / times


def _clustered(rng: np.random.Generator) -> tuple[list[float], list[str]]:
    """40 documents with 1 to 6 questions each, scores that depend on the document; mean 0.6."""
    scores: list[float] = []
    names: list[str] = []
    for document in range(40):
        level, count = rng.beta(3, 2), rng.integers(1, 7)
        scores += list(np.clip(rng.beta(20 * level + 1e-3, 20 * (1 - level) + 1e-3, count), 0, 1))
        names += [str(document)] * int(count)
    return scores, names


def test_coverage_of_the_cluster_bootstrap_and_failure_of_ignoring_clusters() -> None:
    def wide(data, seed: int) -> Interval:
        return interval(data[0], clusters=data[1], seed=seed, draws=1000)

    def naive(data, seed: int) -> Interval:
        return interval(data[0], seed=seed, draws=1000)

    covered = _coverage(_clustered, wide, 0.6, 600, 3)
    assert 0.93 <= covered <= 0.97, covered
    assert _coverage(_clustered, naive, 0.6, 600, 3) < 0.85


def test_coverage_of_wilson_and_of_the_paired_interval() -> None:
    covered = _coverage(
        lambda rng: (rng.random(150) < 0.85).astype(float), lambda x, s: interval(x), 0.85, 1000, 5
    )
    assert 0.93 <= covered <= 0.97, covered

    def pair(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        kind = rng.choice(4, 120, p=[0.75, 0.09, 0.04, 0.12])  # both right, only a, only b, neither
        return np.isin(kind, (0, 1)).astype(float), np.isin(kind, (0, 2)).astype(float)

    covered = _coverage(pair, lambda ab, s: paired_difference(*ab), 0.05, 1000, 7)
    assert 0.93 <= covered <= 0.97, covered


def test_coverage_of_the_paired_bootstrap() -> None:
    def pair(rng: np.random.Generator):
        scores, names = _clustered(rng)
        a = np.asarray(scores)
        return a, np.clip(a - 0.02 * rng.integers(0, 2, len(a)), 0, 1) * (a >= 0.02) + a * (a < 0.02), names

    truth = float(
        np.mean([np.mean(a - b) for a, b, _ in map(pair, [np.random.default_rng(i) for i in range(300)])])
    )
    covered = _coverage(
        pair, lambda d, s: paired_difference(d[0], d[1], clusters=d[2], seed=s, draws=1000), truth, 600, 11
    )
    assert 0.93 <= covered <= 0.975, covered


def test_false_positives_of_the_tests() -> None:
    rng = np.random.default_rng(2)
    exact = sum(mcnemar(*(rng.random((2, 80)) < 0.8)) < 0.05 for _ in range(1000)) / 1000
    assert exact <= 0.055
    flips = 0
    for trial in range(400):
        a, names = _clustered(rng)
        shift = {name: rng.normal(0, 0.1) for name in set(names)}
        b = np.clip(np.asarray(a) + [shift[name] for name in names], 0, 1)
        sign = rng.choice(
            [-1, 1]
        )  # symmetrical null: which is which is a coin flip for each trial's documents
        first, second = (a, b) if sign > 0 else (b, a)
        coin = {name: rng.random() < 0.5 for name in sorted(set(names))}
        swapped = [(y, x) if coin[name] else (x, y) for x, y, name in zip(first, second, names, strict=True)]
        flips += paired_p(*zip(*swapped, strict=True), clusters=names, seed=trial, draws=500) < 0.05
    assert 0.02 <= flips / 400 <= 0.08, flips / 400


def test_mcnemar_by_hand() -> None:
    assert mcnemar([1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0]) == pytest.approx(2 * 0.5**5)
    assert mcnemar([1, 0], [1, 0]) == 1.0
    assert paired_p([1, 1, 1], [0, 0, 0]) == pytest.approx(0.25)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_minimum_detectable_difference_has_its_power() -> None:
    size = minimum_detectable_difference(400, 0.10)
    assert size is not None
    rng, found = np.random.default_rng(4), 0
    for _ in range(1000):
        up = rng.multinomial(400, [0.05 + size / 2, 0.05 - size / 2, 0.90])
        # the normal test that the formula describes
        found += abs(int(up[0]) - int(up[1])) / (up[0] + up[1]) ** 0.5 > 1.96
    assert 0.76 <= found / 1000 <= 0.84
    assert minimum_detectable_difference(20, 0.05) is None
    with pytest.raises(BadInput):
        minimum_detectable_difference(0, 0.1)


def test_non_inferior_is_about_the_bound() -> None:
    assert non_inferior(Interval(value=0.0, low=-0.009, high=0.01, n=10), 0.01)
    assert not non_inferior(Interval(value=0.0, low=-0.01, high=0.01, n=10), 0.01)


def test_forgetting() -> None:
    rng = np.random.default_rng(0)
    base = list(rng.normal(2.0, 0.5, 60))
    found = forgetting(base, [value + 0.1 for value in base], seed=1)
    assert found.value == pytest.approx(0.1)
    assert found.low == pytest.approx(0.1)
    assert forgetting(base, list(np.asarray(base) + rng.normal(0, 0.05, 60)), seed=1).low < 0
    for bad in (([1.0], [1.0]), ([1.0, 2.0], [1.0]), ([1.0, float("nan")], [1.0, 2.0])):
        with pytest.raises(BadInput):
            forgetting(*bad)


@pytest.mark.parametrize("bad", [[], [float("nan")], [1.2], [-0.1]])
def test_bad_scores(bad: list[float]) -> None:
    with pytest.raises(BadInput):
        interval(bad)
    with pytest.raises(BadInput):
        paired_difference(bad, bad)


def test_bad_pairs() -> None:
    with pytest.raises(BadInput, match="same rows"):
        paired_difference([1.0], [1.0, 0.0])
    with pytest.raises(BadInput, match="cluster names"):
        interval([1.0, 0.0], clusters=["a"])
    with pytest.raises(BadInput):
        bootstrap_mean([1.0])
