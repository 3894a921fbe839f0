"""Intervals against published figures and, by simulation, against their own claim."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import false_discovery_control, norm

from bucle.core.errors import BadInput
from bucle.core.records import Interval
from bucle.evaluate.forgetting import forgetting
from bucle.evaluate.statistics import (
    benjamini_hochberg,
    bootstrap_mean,
    design_effect,
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


def test_clusters_widen() -> None:
    scores = [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0] * 5
    clusters = [str(i // 4) for i in range(40)]
    wide, narrow = interval(scores, clusters=clusters), interval(scores)
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)
    assert interval(scores, clusters=[str(i) for i in range(40)]) == narrow


def test_nothing_seen_is_not_certainty() -> None:
    assert interval([1.0] * 40, clusters=["a"] * 20 + ["b"] * 20).low < 0.4
    assert interval([0.5] * 3, clusters=["a"] * 3).high > 0.8
    same = paired_difference([0.5] * 6, [0.5] * 6, clusters=list("aabbcc"))
    assert same.low < -0.5 < 0.5 < same.high


def _coverage(draw, estimate, truth: float, times: int, seed: int) -> float:
    rng = np.random.default_rng(seed)
    hits = 0
    for _ in range(times):
        found = estimate(draw(rng))
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
    def wide(data) -> Interval:
        return interval(data[0], clusters=data[1])

    def naive(data) -> Interval:
        return interval(data[0])

    covered = _coverage(_clustered, wide, 0.6, 600, 3)
    assert 0.93 <= covered <= 0.97, covered
    assert _coverage(_clustered, naive, 0.6, 600, 3) < 0.85


def test_mcnemar_by_hand() -> None:
    # 8 rows better, 1 worse, of 20: z = 7 / 3
    found = mcnemar([1] * 8 + [0] + [1] * 11, [0] * 8 + [1] + [1] * 11)
    assert found == pytest.approx(2 * norm.sf(7 / 3))
    assert mcnemar([1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0]) == pytest.approx(2 * 0.5**5)
    assert mcnemar([1, 0], [1, 0]) == 1.0
    assert paired_p([1, 1, 1], [0, 0, 0]) == pytest.approx(0.25)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_benjamini_hochberg_is_scipys() -> None:
    values = list(np.random.default_rng(0).random(30) ** 3)
    assert benjamini_hochberg(values) == pytest.approx(list(false_discovery_control(values)), abs=1e-12)
    assert benjamini_hochberg([]) == []


def test_interval_and_p_say_the_same() -> None:
    rng, outside = np.random.default_rng(1), 0
    for trial in range(200):
        a, b = rng.random((2, 60)) < rng.choice([0.8, 0.6], (2, 1))
        names = [str(place // 4) for place in range(60)] if trial % 2 else None
        graded = rng.random((2, 60)) if trial % 3 == 0 else np.ones((2, 60))
        first, second = a * graded[0], b * graded[1]
        gap, p = paired_difference(first, second, clusters=names), paired_p(first, second, clusters=names)
        assert (p < 0.05) == (not gap.low <= 0 <= gap.high)
        outside += p < 0.05
    assert 20 < outside < 180


def test_design_effect() -> None:
    same = [float(place // 5 % 2) for place in range(100)]  # five equal rows in each cluster
    assert design_effect(same, [str(place // 5) for place in range(100)]) == pytest.approx(5, rel=0.1)
    assert design_effect(same, [str(place) for place in range(100)]) == pytest.approx(1, rel=0.02)
    assert design_effect([0.5] * 4, list("aabb")) == 1.0


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
