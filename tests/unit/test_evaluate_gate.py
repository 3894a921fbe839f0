"""Gates: what they say, and that they can fail."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import numpy as np
import pytest

from bucle.core.errors import ConfigError
from bucle.core.records import Interval
from bucle.evaluate.gate import (
    Agreed,
    Apart,
    Check,
    Gate,
    GateFacts,
    Reference,
    check_gates,
    gate_metrics,
    junit_xml,
    parse_gate,
)
from bucle.evaluate.metrics import Metric, Sample, measure


def facts(right: int = 80, rows: int = 100, **more) -> GateFacts:
    scores = [1.0] * right + [0.0] * (rows - right)
    return GateFacts(
        rows=rows,
        metrics={"accuracy": right / rows, "p95_ms": 700.0, "forgetting": 0.06},
        per_row={"accuracy": scores},
        **more,
    )


def reference(right: int, rows: int = 100) -> Reference:
    return Reference("v1", {"accuracy": right / rows}, {"accuracy": [1.0] * right + [0.0] * (rows - right)})


@pytest.mark.parametrize(
    ("text", "gate"),
    [
        ("accuracy >= 0.75", ("accuracy", ">=", 0.75, "", None)),
        (" accuracy>=0.75 at 95% ", ("accuracy", ">=", 0.75, "", 0.95)),
        ("accuracy >= production - 0.01 at 95%", ("accuracy", ">=", -0.01, "production", 0.95)),
        ("token_f1 >= baseline", ("token_f1", ">=", 0.0, "baseline", None)),
        ("token_f1 >= baseline + 0.02 at 90 %", ("token_f1", ">=", 0.02, "baseline", 0.90)),
        ("p95_ms <= 800", ("p95_ms", "<=", 800.0, "", None)),
        ("usd_per_1k <= 0.5", ("usd_per_1k", "<=", 0.5, "", None)),
        ("forgetting <= 0.10", ("forgetting", "<=", 0.1, "", None)),
    ],
)
def test_parse(text: str, gate: tuple) -> None:
    found = parse_gate(text)
    assert found == Gate(text.strip(), *gate)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("acuracy >= 0.75", "did you mean accuracy"),
        ("speed >= 1", "known metrics: accuracy"),
        ("accuracy > 0.75", "should say `accuracy >="),
        ("p95_ms >= 800", "should say `p95_ms <="),
        ("accuracy >= 75", "0.75 for 75%"),
        ("accuracy >= 0.75 at 5%", "outside 50%"),
        ("accuracy >= best", "compares with best"),
        ("accuracy >= 0.7.5", "no number"),
        ("accuracy", "cannot be read"),
        ("", "cannot be read"),
        ("accuracy >= 0.75 at 95% or so", "cannot be read"),
        ("x" * 10_000, "cannot be read"),
        ("accuracy >= " + "9" * 500, "cannot be read"),
    ],
)
def test_parse_says_what_is_wrong(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_gate(text)
    assert says in str(caught.value)


def test_point_and_bound() -> None:
    result = check_gates(["accuracy >= 0.75", "accuracy >= 0.75 at 95%", "p95_ms <= 800"], facts())
    assert [check.passed for check in result.checks] == [True, False, True]
    assert result.checks[1].measured == pytest.approx(0.7112, abs=1e-4)  # Wilson's lower bound for 80 of 100
    assert not result.passed
    assert check_gates(["accuracy >= 0.75 at 95%"], facts(800, 1000)).passed


def test_against_production_and_baseline() -> None:
    gate = "accuracy >= production - 0.01 at 95%"
    first = check_gates([gate], facts())
    assert first.passed
    assert "no production yet" in first.checks[0].note
    assert check_gates([gate], facts(800, 1000, production=reference(800, 1000))).passed
    worse = check_gates([gate], facts(770, 1000, production=reference(800, 1000)))
    assert not worse.passed
    assert worse.checks[0].measured < -0.03
    assert check_gates(["accuracy >= baseline + 0.1"], facts(80, baseline=reference(60))).passed
    assert not check_gates(["accuracy >= baseline"], facts()).passed
    # few rows cannot show that nothing was lost
    assert not check_gates([gate], facts(8, 10, production=reference(8, 10))).passed


def test_production_on_other_rows_fails_with_the_reason() -> None:
    check = check_gates(["accuracy >= production at 95%"], facts(production=reference(8, 10))).checks[0]
    assert not check.passed
    assert "same rows" in check.note


def test_forgetting_and_its_bound() -> None:
    bound = Interval(value=0.06, low=0.01, high=0.12, n=30)
    result = check_gates(
        ["forgetting <= 0.10", "forgetting <= 0.10 at 95%", "forgetting <= 0.10 at 90%"],
        facts(intervals={"forgetting": bound}),
    )
    assert [check.passed for check in result.checks] == [True, False, False]
    assert "no interval at 0.9" in result.checks[2].note


def test_empty_and_unmeasured_fail() -> None:
    empty = GateFacts(rows=0, metrics={"accuracy": 1.0})
    assert not check_gates([], empty).passed
    assert not check_gates(["accuracy >= 0.1"], empty).passed
    result = check_gates(
        ["token_f1 >= 0.5", "macro_f1 >= 0.1"], GateFacts(rows=3, metrics={"macro_f1": float("nan")})
    )
    assert [check.note for check in result.checks] == [
        "token_f1 was not measured",
        "macro_f1 was not measured",
    ]
    assert not result.passed
    assert check_gates([], facts()).passed


def test_clusters_count() -> None:
    clustered = facts(800, 1000, clusters=[str(i // 100) for i in range(1000)])
    assert not check_gates(["accuracy >= 0.75 at 95%"], clustered).passed


def test_json_and_junit() -> None:
    result = check_gates(["accuracy >= 0.75", "accuracy >= 0.9"], facts())
    json.dumps(result.to_dict(), allow_nan=False)
    suite = ElementTree.fromstring(junit_xml(result))  # noqa: S314 -- our own text
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    assert [case.find("failure") is not None for case in suite] == [False, True]
    assert suite[1].get("name") == "accuracy >= 0.9"


class TestWholeRegistry:
    @pytest.mark.parametrize(("text", "metric", "op"), [
        ("recall@5 >= 0.8", "recall@5", ">="), ("bleu >= 30 at 95%", "bleu", ">="), ("brier <= 0.2", "brier", "<="),
        ("judge:tono-amable >= 0.7", "judge:tono-amable", ">="), ("rouge1_words>=0.4", "rouge1_words", ">="),
        ("my_metrics:same_length >= 0.5", "my_metrics:same_length", ">="),
        ("my_metrics:distance <= 3", "my_metrics:distance", "<="), ("attack_success <= 0.02 at 95%",
        "attack_success", "<="), ("over_refusal <= 0.1", "over_refusal", "<="), ("forgetting_bpb <= 0.5",
        "forgetting_bpb", "<="), ("chrf >= production - 1.5 at 95%", "chrf", ">="), ("errors <= 0", "errors", "<="),
    ])
    def test_parse(self, text: str, metric: str, op: str) -> None:
        assert (parse_gate(text).metric, parse_gate(text).op) == (metric, op)

    @pytest.mark.parametrize(("text", "says"), [
        ("bleu >= 0.3", "write 30 for 0.3"), ("bleu >= 101", "between 0 and 100"), ("brier >= 0.2", "`brier <="),
        ("attack_succes <= 0.02", "did you mean attack_success"), ("attack_success <= 2", "between 0 and 1"),
        ("recal@5 >= 0.5", "did you mean recall@"), ("licence: comercial", "did you mean commercial"),
        ("licence: unknown", "no class of licences"), ("licence", "cannot be read"),
    ])
    def test_what_is_wrong(self, text: str, says: str) -> None:
        with pytest.raises(ConfigError) as caught:
            parse_gate(text)
        assert says in str(caught.value)

    def test_judges_and_own_metrics_that_are_known(self) -> None:
        with pytest.raises(ConfigError, match="did you mean judge:tone"):
            parse_gate("judge:tune >= 0.5", judges=["tone"])
        own = {"m:far": Metric("m:far", "", (), lambda samples: None, "<=", None)}  # type: ignore[arg-type, return-value]
        with pytest.raises(ConfigError, match="m:far <="):
            parse_gate("m:far >= 2", own=own)

    def test_what_scoring_has_to_measure(self) -> None:
        assert gate_metrics(["bleu >= 30", "p95_ms <= 9", "bleu >= baseline", "judge:tone >= 0.5", "licence: open",
                             "forgetting <= 0.02", "attack_success <= 0.02"]) == ("bleu", "judge:tone")


def texts(good: float, rows: int = 60, seed: int = 0) -> list[Sample]:
    """Outputs that keep `good` of their reference's words."""
    rng = np.random.default_rng(seed)
    words = [f"palabra{number}" for number in range(80)]
    found = []
    for _ in range(rows):
        gold = [str(one) for one in rng.choice(words, 12)]
        said = [one if rng.random() < good else "otra" for one in gold]
        found.append(Sample(" ".join(said), [" ".join(gold)]))
    return found


def test_corpus_metrics_have_intervals_and_differences_in_their_own_unit() -> None:
    good, bad = measure(["bleu", "chrf"], texts(0.9)), measure(["bleu", "chrf"], texts(0.6))
    value = good["bleu"].value
    assert 40 < value < 100
    shares = {name: [score / 100 for score in one.per_row] for name, one in good.items()}
    seen = GateFacts(60, {"bleu": value}, shares, measured=good, production=Reference("v1", {}, measured=bad))
    gates = [f"bleu >= {value - 1:.3f}", f"bleu >= {value - 1:.3f} at 95%", "bleu >= 30 at 95%",
             "chrf >= production - 1 at 95%", "chrf >= production"]
    checks = check_gates(gates, seen).checks
    assert [check.passed for check in checks] == [True, False, True, True, True], checks
    low = checks[2].measured
    assert low is not None
    assert value - 15 < low < value - 1  # the bound of the corpus score, not of the mean of its rows
    worse = GateFacts(60, {}, measured=bad, production=Reference("v1", {}, measured=good))
    assert not check_gates(["chrf >= production - 1 at 95%"], worse).passed


def test_red_team_and_forgetting_have_rows_of_their_own() -> None:
    hits = Apart([0.0] * 400, [str(number // 4) for number in range(400)])
    some = Apart([1.0] * 4 + [0.0] * 396, [str(number // 4) for number in range(400)])
    gates = ["attack_success <= 0.02", "attack_success <= 0.02 at 95%"]
    assert [c.passed for c in check_gates(gates, facts(apart={"attack_success": some})).checks] == [True, False]
    # a hundred templates that all fail do not yet show 2%; two hundred do
    assert not check_gates(gates, facts(apart={"attack_success": hits})).passed
    many = Apart([0.0] * 800, [str(number // 4) for number in range(800)])
    assert check_gates(gates, facts(apart={"attack_success": many})).passed
    lost = Apart([1.0] * 50, minus=[1.0] * 40 + [0.0] * 10)
    check = check_gates(["forgetting <= 0.02"], facts(apart={"forgetting": lost})).checks[0]
    assert (check.passed, check.measured) == (False, pytest.approx(0.2))
    assert not check_gates(["forgetting <= 0.3 at 99.9%"], facts(apart={"forgetting": lost})).passed
    bits = Apart([2.0, 2.1, 1.9, 2.2], minus=[1.9, 1.95, 1.8, 2.0], bounded=False)
    assert check_gates(["forgetting_bpb <= 0.5 at 90%"], facts(apart={"forgetting_bpb": bits})).passed
    spared = {"forgetting": "nothing_known", "forgetting_bpb": "not_tuned"}
    untuned = check_gates(["forgetting <= 0.02 at 95%", "forgetting_bpb <= 0.5"], facts(spared=spared))
    assert untuned.passed
    assert "nothing to forget" in untuned.checks[0].note
    assert not check_gates(["attack_success <= 0.02"], facts(apart={"attack_success": Apart([])})).passed


@pytest.mark.parametrize(("licences", "gate", "passed", "says"), [
    ({"m": "open"}, "licence: commercial", True, "m: open"),
    ({"m": "commercial"}, "licence: open", False, "not open: m: commercial"),
    ({"m": "open", "e": "research"}, "licence: commercial", False, "not commercial: e: research"),
    ({"m": "unknown"}, "license = commercial", False, "m: unknown"),
    ({"m": ""}, "licence: commercial", False, "unknown"),
    ({}, "licence: open", True, "no model"), (None, "licence: open", False, "not looked up"),
])
def test_licences(licences: dict[str, str] | None, gate: str, passed: bool, says: str) -> None:
    check = check_gates([gate], facts(licences=licences)).checks[0]
    assert check.passed is passed
    assert says in check.note


def test_a_judge_that_does_not_agree_with_people_may_not_gate() -> None:
    def judged(agreed: dict[str, Agreed]) -> Check:
        seen = GateFacts(50, {"judge:tone": 0.9}, {"judge:tone": [0.9] * 50}, judges=agreed)
        return check_gates(["judge:tone >= 0.5"], seen).checks[0]

    assert "never measured" in judged({}).note
    assert "judges.tone.agreement" in judged({"tone": Agreed(None, 0.6)}).note
    low = judged({"tone": Agreed(Interval(value=0.7, low=0.5, high=0.85, n=60), 0.6)})
    assert not low.passed
    assert "more rows scored" in low.note
    fine = Interval(value=0.8, low=0.65, high=0.9, n=100)
    assert judged({"tone": Agreed(fine, 0.6)}).passed
    swapped = judged({"tone": Agreed(fine, 0.6, "gpt", "gpt is no longer the model it was.")})
    assert not swapped.passed
    assert "gpt is no longer the model it was. bucle evaluate canary gpt --accept" in swapped.note


@pytest.mark.parametrize(("gate", "told"), [
    ("p95_ms <= 800 at 95%", "write `p95_ms <= 800`"), ("errors <= 0 at 95%", "can never be checked"),
    ("p95_ms <= -1", "can never hold"), ("accuracy >= 0", "holds whatever is measured"),
    ("attack_success <= 1", "holds whatever is measured"),
    ("accuracy >= production - 1", "accuracy >= production - 0.01"),
    ("bleu >= production - 0.01", "bleu >= production - 1"),
])
def test_gates_that_can_never_fail_or_hold_are_refused(gate: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_gate(gate)
    assert told in f"{caught.value} {caught.value.hint}"
