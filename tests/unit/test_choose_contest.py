"""The contest: what it asks, whom it drops and why, and that its promise holds."""

from __future__ import annotations

import numpy as np
import pytest

from bucle.choose.contest import Contest, Standing
from bucle.core.errors import BadInput


def play(table: np.ndarray, **options) -> tuple[Contest, Standing]:
    """The whole contest over `table`, `[rows, candidates]`."""
    contest = Contest([f"c{i}" for i in range(table.shape[1])], len(table), **options)
    while (ask := contest.ask()) is not None:
        contest.tell({name: table[list(ask.rows), int(name[1:])] for name in ask.candidates})
    return contest, contest.standing()


def right(rates: list[float], rows: int, seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).random((rows, len(rates))) < rates).astype(float)


def full(table: np.ndarray, margin: float) -> str:
    means = table.mean(axis=0)
    return f"c{int(np.argmax(means >= means.max() - margin - 1e-12))}"


def test_a_clear_winner_is_found_early_and_the_others_know_why() -> None:
    table = right([0.2, 0.5, 0.9, 0.6], 1000, 0)
    _, found = play(table, seed=3)
    assert (found.chosen, found.done, found.proven, found.live) == ("c2", True, True, ("c2",))
    assert found.samples < 0.3 * table.size
    assert {out.name for out in found.out} == {"c0", "c1", "c3"}
    for out in found.out:
        assert out.why == "worse"
        assert found.means[out.by] > found.means[out.name]
    assert [out.rows for out in found.out] == sorted(out.rows for out in found.out)
    assert found.means["c2"] > 0.8


def test_a_dearer_candidate_within_the_margin_is_out_as_dearer() -> None:
    table = right([0.5, 0.9, 0.0], 1500, 1)
    table[:, 2] = table[:, 1]  # the dear one says the same
    _, found = play(table, margin=0.05)
    assert found.chosen == "c1"
    assert ("c2", "dearer", "c1") in [(out.name, out.why, out.by) for out in found.out]
    assert found.proven
    assert found.samples < 0.5 * table.size


def test_without_a_budget_the_decision_is_the_full_runs() -> None:
    same = wrong = 0
    for seed in range(60):
        margin = 0.02 * (seed % 2)
        table = right([0.6, 0.75, 0.8, 0.8, 0.7], 300, seed)
        _, found = play(table, margin=margin, seed=seed)
        assert found.done
        assert found.proven
        assert found.samples <= table.size
        same += found.chosen == full(table, margin)
        wrong += any(out.name == full(table, margin) for out in found.out)
    assert same >= 57
    assert wrong == 60 - same


def test_half_the_samples_reach_the_full_runs_decision() -> None:
    same = 0
    for seed in range(40):
        table = right([0.3, 0.6, 0.7, 0.75, 0.845, 0.85, 0.8, 0.65], 400, seed)
        _, found = play(table, budget=table.size // 2, seed=seed)
        assert found.samples <= table.size // 2
        same += found.chosen == full(table, 0.0)
    assert same >= 36


def test_what_the_budget_drops_is_not_called_proven() -> None:
    table = right([0.8] * 8, 200, 5)
    _, found = play(table, budget=table.size // 2)
    assert not found.proven
    assert any(out.why == "budget" for out in found.out)
    assert all(out.by == "" for out in found.out if out.why == "budget")


def test_the_promise_holds_under_peeking() -> None:
    """Two equal candidates, a look after every row: the better of the full run is dropped in at most 5%."""
    dropped = 0
    for seed in range(120):
        table = right([0.5, 0.5], 100, 1000 + seed)
        _, found = play(table, batch=1, seed=seed)
        dropped += found.chosen != full(table, 0.0)
    assert dropped / 120 <= 0.05


def test_asking_is_paired_repeatable_and_over_every_row_once() -> None:
    contest = Contest(["a", "b"], 50, batch=7, seed=2)
    seen: list[int] = []
    while (ask := contest.ask()) is not None:
        assert contest.ask() == ask
        assert ask.candidates == ("a", "b")
        seen += ask.rows
        contest.tell({name: [0.5] * len(ask.rows) for name in ask.candidates})
    assert sorted(seen) == list(range(50))
    assert contest.standing().chosen == "a"  # equal: the cheaper
    other = Contest(["a", "b"], 50, batch=7, seed=2)
    assert other.ask().rows == tuple(seen[:7])
    assert Contest(["a", "b"], 50, batch=7, seed=3).ask().rows != tuple(seen[:7])


@pytest.mark.parametrize("rows", [1, 2, 3, 5])
@pytest.mark.parametrize("many", [1, 2, 5])
def test_tiny_contests_end(rows: int, many: int) -> None:
    for budget in (None, many, many * rows // 2 + many):
        contest, found = play(right([0.5] * many, rows, 0), budget=budget, batch=2)
        assert found.done
        assert found.samples <= (many * rows if budget is None else budget)
        with pytest.raises(BadInput, match="over"):
            contest.tell({})


def test_bad_input() -> None:
    for bad in ([], ["a", "a"]):
        with pytest.raises(BadInput):
            Contest(bad, 10)
    for options in ({"rows": 0}, {"rows": 5, "margin": -0.1}, {"rows": 5, "level": 1.0}, {"rows": 5, "budget": 1}):
        with pytest.raises(BadInput):
            Contest(["a", "b"], **options)
    contest = Contest(["a", "b"], 10, batch=2)
    for scores in ({"a": [1, 1]}, {"a": [1, 1], "b": [1]}, {"a": [1, 2], "b": [0, 0]},
                   {"a": [1, float("nan")], "b": [0, 0]}, {"a": [1, 1], "b": [1, 1], "c": [1, 1]}):
        with pytest.raises(BadInput):
            contest.tell(scores)
    assert contest.standing().samples == 0


def test_rows_that_are_a_sample_prove_nothing_by_running_out() -> None:
    """Of two equal candidates the one that was lucky on sixty rows is not proven better; a clear loser still goes."""
    dropped = clear = 0
    for seed in range(60):
        table = np.hstack([right([0.97, 0.97], 60, seed), right([0.4], 60, 1000 + seed)])
        _, found = play(table, margin=0.01, population=10**9, seed=seed)
        dropped += bool({"c0", "c1"} & {out.name for out in found.out})
        clear += "c2" in {out.name for out in found.out}
        assert found.proven == (len(found.live) == 1)
    assert dropped <= 3  # 5% of contests
    assert clear == 60
