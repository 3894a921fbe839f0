"""Gates: what they say, and that they can fail."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from bucle.core.errors import ConfigError
from bucle.core.records import Interval
from bucle.evaluate.gate import Gate, GateFacts, Reference, check_gates, junit_xml, parse_gate


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
