"""The recommendation rule, step by step."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bucle.core.errors import BadInput, ConfigError
from bucle.evaluate.compare import Row, Scored, compare

N = 1000


def one(
    name: str, rung: int, right: range | list[range], *, baseline: bool = False, **figures: float
) -> Scored:
    scores = [0.0] * N
    for span in [right] if isinstance(right, range) else right:
        for place in span:
            scores[place] = 1.0
    return Scored(name=name, rung=rung, baseline=baseline, per_row={"accuracy": scores}, **figures)


MAJORITY = one("majority", 0, range(300), baseline=True)
TFIDF = one("tfidf", 10, range(800), baseline=True)


def row(comparison, name: str) -> Row:
    return next(row for row in comparison.rows if row.name == name)


def test_cheapest_as_good_as_the_best_is_recommended() -> None:
    probe = one("encoder-probe", 30, range(900))
    lora = one(
        "lora", 50, [range(901), range(995, 1000)]
    )  # six rows better: 0.6 points, not significant with margin
    worse = one("zero-shot", 20, range(500))
    found = compare([lora, worse, probe, TFIDF, MAJORITY], metric="accuracy", margin=0.02)
    assert found.best_baseline == "tfidf"
    assert found.recommended == "encoder-probe"
    assert found.runner_up == "lora"
    assert found.why["key"] == "cheapest_as_good"
    assert found.why["figures"]["mark"] == "lora"
    assert [r.name for r in found.rows] == ["majority", "tfidf", "zero-shot", "encoder-probe", "lora"]
    assert [r.verdict for r in found.rows] == ["loses", "reference", "loses", "beats", "beats"]
    assert [r.beats_baseline for r in found.rows] == [False, False, False, True, True]
    assert not found.baseline_stands
    assert row(found, "encoder-probe").difference.value == pytest.approx(0.1)
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_dearer_candidate_that_shows_its_gain_is_recommended() -> None:
    found = compare(
        [MAJORITY, TFIDF, one("probe", 30, range(860)), one("lora", 50, range(950))], metric="accuracy"
    )
    assert (found.recommended, found.why["key"], found.runner_up) == ("lora", "best", "probe")


def test_baseline_stands_when_nothing_beats_it() -> None:
    tied = one("lora", 50, [range(790), range(800, 815)])
    found = compare([MAJORITY, TFIDF, tied], metric="accuracy")
    assert tied.per_row["accuracy"].count(1.0) > 800  # a higher mean is not yet a gain
    assert found.baseline_stands
    assert (found.recommended, found.why["key"]) == ("tfidf", "baseline_stands")
    assert row(found, "lora").verdict == "ties"


def test_a_weaker_baseline_is_never_recommended_for_being_cheap() -> None:
    near = one("nearest", 5, range(797), baseline=True)
    assert compare([MAJORITY, near, TFIDF], metric="accuracy").recommended == "tfidf"


def test_constraints_rule_out_with_the_reason() -> None:
    slow = one("lora", 50, range(950), ms_p95=950.0, usd_per_1k=0.2)
    found = compare([MAJORITY, TFIDF, slow], metric="accuracy", constraints={"p95_ms": 800, "usd_per_1k": 1})
    assert row(found, "lora").verdict == "ruled_out"
    assert list(row(found, "lora").reasons) == ["p95_ms 950 > 800"]
    assert row(found, "lora").beats_baseline
    assert found.recommended == "tfidf"
    assert found.baseline_stands


def test_baselines_ruled_out_and_all_ruled_out() -> None:
    dear = [b.model_copy(update={"usd_per_1k": 5.0}) for b in (MAJORITY, TFIDF)]
    lora = one("lora", 50, range(803))
    found = compare([*dear, lora], metric="accuracy", constraints={"usd_per_1k": 1})
    assert (found.recommended, found.why["key"], found.baseline_stands) == (
        "lora",
        "baselines_ruled_out",
        False,
    )
    nothing = compare(dear, metric="accuracy", constraints={"usd_per_1k": 1})
    assert (nothing.recommended, nothing.runner_up, nothing.why["key"]) == (None, None, "all_ruled_out")


def test_measured_latency_and_order_do_not_change_the_recommendation() -> None:
    fast = [MAJORITY, TFIDF, one("a", 30, range(900), ms_p95=5), one("b", 30, range(900), ms_p95=900)]
    slow = [MAJORITY, TFIDF, one("a", 30, range(900), ms_p95=900), one("b", 30, range(900), ms_p95=5)]
    names = {compare(s, metric="accuracy").recommended for s in (fast, slow, fast[::-1], slow[::-1])}
    assert names == {"a"}


def test_pareto_front() -> None:
    found = compare(
        [
            MAJORITY.model_copy(update={"ms_p95": 1.0}),
            TFIDF.model_copy(update={"ms_p95": 2.0}),
            one("dominated", 20, range(790), ms_p95=50),
            one("best", 30, range(900), ms_p95=60, usd_per_1k=0.5),
        ],
        metric="accuracy",
    )
    assert list(found.pareto) == ["majority", "tfidf", "best"]


def test_holm_keeps_lucky_candidates_from_beating() -> None:
    """Twenty candidates no better than the baseline: at most a few percent of comparisons name a winner."""
    rng, named = np.random.default_rng(0), 0
    for _ in range(150):
        rows = rng.random((21, 200)) < 0.8
        pool = [
            Scored(
                name=f"c{i}", rung=i, baseline=i == 0, per_row={"accuracy": rows[i].astype(float).tolist()}
            )
            for i in range(21)
        ]
        named += not compare(pool, metric="accuracy").baseline_stands
    assert named / 150 <= 0.06


def test_clusters_are_used() -> None:
    clusters = [str(place // 100) for place in range(N)]  # ten documents, and the gain is all in one of them
    pool = [TFIDF, one("rag", 40, range(900))]
    assert compare(pool, metric="accuracy").recommended == "rag"
    assert compare(pool, metric="accuracy", clusters=clusters).recommended == "tfidf"


def test_refusals() -> None:
    with pytest.raises(BadInput, match="honest baseline"):
        compare([one("lora", 1, range(5))], metric="accuracy")
    with pytest.raises(BadInput, match="different rows"):
        compare(
            [TFIDF, Scored(name="x", rung=1, baseline=False, per_row={"accuracy": [1.0]})], metric="accuracy"
        )
    with pytest.raises(BadInput, match="same name"):
        compare([TFIDF, TFIDF], metric="accuracy")
    with pytest.raises(BadInput, match="not measured"):
        compare([TFIDF], metric="token_f1")
    with pytest.raises(ConfigError, match="unknown constraint speed"):
        compare([TFIDF], metric="accuracy", constraints={"speed": 1})


def test_a_dearer_candidate_must_be_worth_its_price() -> None:
    plain = one("few-shot", 30, range(850), usd_per_month=0.0)
    dear = one("lora", 50, range(900), usd_per_month=100.0)
    def chosen(price: float | None) -> tuple[str | None, str]:
        found = compare([dear, plain, TFIDF, MAJORITY], metric="accuracy", usd_per_point=price)
        return found.recommended, found.why["key"]

    assert chosen(None) == ("lora", "best")  # five points better, cost without a price
    assert chosen(21.0) == ("lora", "best")  # five points at 21 are worth 105 a month
    assert chosen(19.0) == ("few-shot", "cheapest_as_good")


def test_a_gain_that_does_not_pay_leaves_the_baseline() -> None:
    dear = one("lora", 50, range(900), usd_per_month=100.0)
    found = compare([dear, TFIDF, MAJORITY], metric="accuracy", usd_per_point=9.0)
    assert (found.recommended, found.why["key"]) == ("tfidf", "gain_does_not_pay")
    assert compare([dear, TFIDF, MAJORITY], metric="accuracy", usd_per_point=11.0).recommended == "lora"


def test_the_cheapest_a_month_comes_first() -> None:
    called = one("few-shot", 30, range(900), usd_per_month=500.0)
    hosted = one("lora", 50, range(900), usd_per_month=50.0)
    assert compare([called, hosted, TFIDF], metric="accuracy").recommended == "lora"
    assert compare([called, hosted, TFIDF], metric="accuracy", usd_per_point=100.0).recommended == "lora"
    free = hosted.model_copy(update={"usd_per_month": 500.0})
    assert compare([called, free, TFIDF], metric="accuracy").recommended == "few-shot"  # as dear: the lower rung


def test_a_month_too_dear_is_ruled_out() -> None:
    dear = one("few-shot", 30, range(950), usd_per_month=500.0)
    found = compare([dear, TFIDF], metric="accuracy", constraints={"usd_per_month": 100.0})
    assert (row(found, "few-shot").verdict, found.recommended) == ("ruled_out", "tfidf")


def test_mcnemar_is_told_for_scores_of_right_and_wrong_only() -> None:
    probe = one("encoder-probe", 30, range(900))
    assert row(compare([probe, TFIDF], metric="accuracy"), "encoder-probe").mcnemar < 0.001
    half = probe.model_copy(update={"per_row": {"accuracy": [0.5] * N}})
    assert row(compare([half, TFIDF], metric="accuracy"), "encoder-probe").mcnemar is None
