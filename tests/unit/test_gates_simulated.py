"""Gates keep their promise, by simulation: a candidate that is worse by the margin passes `>= production - margin at
95%` in at most 2.5% of trials (the bound of a two-sided 95% interval), a planted worse one hardly ever, a planted equal
one as often as the rows allow; and the minimum detectable difference tells that power truly.

Binary and graded scores, independent and clustered rows, small and large tests, through `check_gates` as bucle.yaml
writes it. The power is printed (`pytest -s`). The same rates with ten thousand trials: tests/unit/
test_statistics_simulated.py.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest

from bucle.evaluate.gate import Apart, GateFacts, Reference, check_gates
from bucle.evaluate.statistics import minimum_detectable_difference, paired_p

MARGIN = 0.05
GATE = f"accuracy >= production - {MARGIN} at 95%"
TRIALS = 800
NOISE = 3 * (0.05 * 0.95 / TRIALS) ** 0.5  # three standard errors of a rate of 5%
APART = 0.2  # the share of rows on which the two disagree


def scores(rng: np.random.Generator, gap: float, rows: int, size: int, graded: bool
           ) -> tuple[list[float], list[float], list[str] | None]:
    """A candidate and production that differ by `gap` on average, in sources of `size` rows that resemble each
    other."""
    sources = rows // size
    if graded:
        gap *= 2  # where one is ahead, it is by a half on average
    shares = np.array([(APART + gap) / 2, (APART - gap) / 2, 1 - APART])
    drawn = np.broadcast_to(shares, (sources, 3))
    if size > 1:
        drawn = rng.gamma(np.maximum(shares, 1e-9) * 0.85 / 0.15, size=(sources, 3))
        drawn = drawn / drawn.sum(axis=1, keepdims=True)
    source = np.repeat(np.arange(sources), size)
    luck, place = rng.random(len(source)), drawn[source]
    mine = (luck < place[:, 0]).astype(float)
    before = ((luck >= place[:, 0]) & (luck < place[:, 0] + place[:, 1])).astype(float)
    if graded:
        mine, before = mine * rng.random(len(mine)), before * rng.random(len(mine))
    both = (mine == before) * (rng.random(len(mine)) < 0.8)
    return ((mine + both).tolist(), (before + both).tolist(),
            [str(one) for one in source] if size > 1 else None)


def passes(rng: np.random.Generator, gap: float, rows: int, size: int, graded: bool) -> bool:
    mine, before, clusters = scores(rng, gap, rows, size, graded)
    facts = GateFacts(rows=len(mine), metrics={"accuracy": float(np.mean(mine))}, per_row={"accuracy": mine},
                      clusters=clusters, production=Reference("production", {"accuracy": float(np.mean(before))},
                                                              {"accuracy": before}))
    return check_gates([GATE], facts).passed


def rate(gap: float, rows: int, size: int, graded: bool) -> float:
    rng = np.random.default_rng(11)
    return sum(passes(rng, gap, rows, size, graded) for _ in range(TRIALS)) / TRIALS


@pytest.mark.parametrize(("rows", "size", "graded", "least"), [
    (120, 1, False, 0.0), (600, 1, False, 0.7), (2000, 1, False, 0.97), (600, 1, True, 0.95), (600, 5, False, 0.5),
    (600, 5, True, 0.9), (2000, 10, False, 0.6),
])
def test_worse_fails_and_equal_passes(rows: int, size: int, graded: bool, least: float) -> None:
    by_margin, worse = (rate(gap, rows, size, graded) for gap in (-MARGIN, -0.09 if graded else -0.1))
    equal = rate(0.0, rows, size, graded)
    told = f"{rows} {'graded ' if graded else ''}rows in sources of {size}"
    print(f"{told}: worse by the margin passes {by_margin:.1%}, far worse {worse:.1%}, equal {equal:.1%}")
    assert by_margin <= 0.025 + NOISE
    assert worse <= 0.01
    assert equal >= least
    if size == 1 and not graded:  # as often as the normal approximation says for so many rows
        promised = NormalDist().cdf(MARGIN * (rows / APART) ** 0.5 - 1.96)
        assert equal == pytest.approx(promised, abs=3 * (0.25 / TRIALS) ** 0.5)


def test_a_gate_on_a_bound_is_passed_by_a_candidate_just_below_it_in_few_trials() -> None:
    rng, passed = np.random.default_rng(5), 0
    for _ in range(TRIALS):
        hits = (rng.random(300) < 0.05).astype(float).tolist()
        facts = GateFacts(rows=1, metrics={}, apart={"attack_success": Apart(hits)})
        passed += check_gates(["attack_success <= 0.05 at 95%"], facts).passed
    assert passed / TRIALS <= 0.025 + NOISE


@pytest.mark.parametrize(("rows", "discordance"), [(200, 0.2), (600, 0.2), (600, 0.08), (2000, 0.1)])
def test_the_minimum_detectable_difference_is_found_in_four_trials_of_five(rows: int, discordance: float) -> None:
    size = minimum_detectable_difference(rows, discordance)
    assert size is not None
    rng, found, trials = np.random.default_rng(3), 0, 800
    for _ in range(trials):
        luck = rng.random(rows)
        mine = (luck < (discordance + size) / 2).astype(float)
        before = ((luck >= (discordance + size) / 2) & (luck < discordance)).astype(float)
        found += paired_p(mine.tolist(), before.tolist()) < 0.05
    print(f"{rows} rows, {discordance:.0%} apart: a difference of {size:.3f} is found in {found / trials:.1%}")
    assert found / trials == pytest.approx(0.8, abs=0.045)  # three standard errors
