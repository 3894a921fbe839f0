"""What would change the choice: every change that is told, made, does change it, and a smaller one does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bucle.choose.explain import detectable, flips, rows_to_tell_apart
from bucle.core.errors import BadInput
from bucle.evaluate.compare import Scored, compare
from bucle.evaluate.statistics import minimum_detectable_difference, paired_p
from bucle.loop.sentences import say

RIGHT = {"majority": 100, "tfidf": 700, "head": 850, "lora": 870, "remote": 905}
COST = {"remote": 4.0, "lora": 0.2}
SPEED = {"majority": 0.1, "tfidf": 1.0, "head": 12.0, "lora": 90.0, "remote": 600.0}
SPREAD = np.random.default_rng(0).permutation(1000)


def ladder(requests: float = 10_000, **right: int) -> list[Scored]:
    """Five candidates on 1,000 rows; the better one is right wherever the worse one is, but for 20 rows."""
    made = []
    for rung, (name, many) in enumerate((RIGHT | right).items()):
        scores = np.zeros(1000)
        scores[SPREAD[:many]] = 1.0
        flipped = SPREAD[10 * rung:10 * rung + 10]
        scores[flipped] = 0.0
        scores[SPREAD[many:many + 10]] = 1.0
        hosted = 20.0 if name == "lora" else 0.0
        per_1k = COST.get(name, 0.0)
        made.append(Scored(name=name, rung=rung, baseline=rung < 2, per_row={"accuracy": scores.tolist()},
                           usd_per_1k=per_1k, ms_p95=SPEED[name], ms_p50=SPEED[name],
                           usd_per_month=hosted + per_1k * requests / 1000))
    return made


def told(scored: list[Scored], margin: float = 0.01, requests: float = 10_000,
         **options: Any) -> tuple[str, dict[str, Any]]:
    found = compare(scored, metric="accuracy", margin=margin, **options)
    listed = flips(found, scored, requests_per_month=requests, **options)
    for one in listed:
        said = say(f"flip.{one['key']}", one["figures"])
        assert set(said) == {"es", "en"}, one
        assert "{" not in said["es"] + said["en"]
    keys = [one["key"] for one in listed]
    assert len(keys) == len(set(keys))
    return found.recommended or "", {one["key"]: one["figures"] for one in listed}


def best(scored: list[Scored], margin: float = 0.01, **options: Any) -> str:
    return compare(scored, metric="accuracy", margin=margin, **options).recommended or ""


def test_the_margin_at_which_a_simpler_one_would_do() -> None:
    scored = ladder()
    now, found = told(scored)
    assert now == "remote"
    flip = found["margin_raised"]
    assert best(scored, flip["at"] + 1e-4) == flip["other"] != now
    assert best(scored, flip["at"] - 1e-4) == now
    wide = flip["at"] + 0.001
    now, found = told(scored, wide)
    assert found["margin_lowered"]["other"] == "remote"
    assert best(scored, found["margin_lowered"]["at"] - 1e-4) == "remote"


def test_the_limit_that_lets_another_in_or_rules_the_choice_out() -> None:
    scored = ladder()
    limits = {"p95_ms": 100.0}
    now, found = told(scored, constraints=limits)
    assert now in ("lora", "head")
    assert found["p95_ms_raised"]["other"] == "remote"
    assert found["p95_ms_raised"]["at"] == 600
    assert best(scored, constraints={"p95_ms": 600.0}) == "remote"
    out = found["p95_ms_lowered"]
    assert best(scored, constraints={"p95_ms": out["at"] - 0.1}) == out["other"] != now
    last = scored[0].model_copy(update={"ms_p95": 40.0})
    assert "p95_ms_lowered_nothing" in told([last])[1]
    assert told([scored[0]])[1] == {}  # a limit of less than 0.1 ms is nobody's


def test_the_price_of_quality_and_the_traffic_at_which_a_dearer_one_pays() -> None:
    scored = ladder(100_000)
    now, found = told(scored, usd_per_point=20.0, requests=100_000)
    assert now != "remote"
    flip = found["rate_raised"]
    assert best(scored, usd_per_point=flip["at"] * 1.01) == flip["other"] != now
    assert best(scored, usd_per_point=flip["at"] * 0.98) == now
    fewer = found["traffic_lowered"]
    assert best(ladder(fewer["at"] * 0.98), usd_per_point=20.0) == fewer["other"] != now
    assert best(ladder(fewer["at"] * 1.02), usd_per_point=20.0) == now
    now, found = told(ladder(), usd_per_point=1000.0)
    assert now == "remote"
    assert found["traffic_raised"]["other"] != "remote"
    assert found["rate_lowered"]["other"] != "remote"
    assert told(ladder())[1]["rate_below"]["other"] != "remote"  # where quality has no price yet


def test_the_rows_that_would_tell_two_apart_are_the_power_calculation_turned_around() -> None:
    rng = np.random.default_rng(2)
    a = (rng.random(400) < 0.9).astype(float)
    b = np.where(rng.random(400) < 0.1, 1 - a, a)
    needed = rows_to_tell_apart(a, b)
    assert needed is not None
    change = a - b
    least = minimum_detectable_difference(needed, float((change != 0).mean()))
    assert least == pytest.approx(abs(change.mean()), rel=0.01)
    assert rows_to_tell_apart(a, a) is None
    four = [str(i // 4) for i in range(400)]
    assert rows_to_tell_apart(np.repeat(a[:100], 4), np.repeat(b[:100], 4), clusters=four) > 3 * (
        rows_to_tell_apart(np.repeat(a[:100], 4), np.repeat(b[:100], 4)) or 0)


def test_as_many_rows_as_told_do_tell_them_apart_in_four_of_five() -> None:
    """Simulated: draws of `needed` rows from the rows measured reject at 5% about 80% of the time."""
    rng = np.random.default_rng(3)
    a = (rng.random(300) < 0.85).astype(float)
    b = np.where(rng.random(300) < 0.12, 1 - a, a)
    needed = rows_to_tell_apart(a, b) or 0
    found = [paired_p(a[some], b[some]) < 0.05 for some in (rng.integers(0, 300, needed) for _ in range(400))]
    assert 0.72 < np.mean(found) < 0.88


def test_a_baseline_that_stands_is_told_with_what_would_show_the_gain() -> None:
    scored = ladder(head=702, lora=704, remote=709)
    now, found = told(scored)
    assert now == "tfidf"
    assert found["rows_baseline"]["other"] == "remote"
    assert found["rows_baseline"]["needed"] > 1000
    assert not {"margin_raised", "rows"} & found.keys()


def test_what_can_be_seen_before_anything_is_run() -> None:
    small, large = detectable(100), detectable(10_000)
    assert small["figures"]["difference"] > 5 * large["figures"]["difference"]
    assert detectable(1000, effect=10)["figures"]["difference"] == small["figures"]["difference"]
    none = detectable(5)
    assert none["key"] == "detectable_none"
    for one in (small, none):
        assert len(say(f"flip.{one['key']}", one["figures"])) == 2
    with pytest.raises(BadInput):
        detectable(0)


def test_nothing_is_told_where_nothing_is_left() -> None:
    scored = ladder()
    now, found = told(scored, constraints={"p95_ms": 0.01})
    assert now == ""
    assert found["p95_ms_raised"]["other"] == "majority"
