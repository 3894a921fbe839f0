"""Metrics against figures worked out by hand and against scikit-learn."""

from __future__ import annotations

import json

import pytest

from bucle.core.errors import BadInput
from bucle.core.records import Example, Prediction, Usage
from bucle.evaluate.metrics import (
    PRIMARY,
    calibration_error,
    exact_match,
    normalise,
    score_rows,
    summarise,
    token_f1,
)


def rows(*targets: str | None, document: str = "tarifas.pdf") -> list[Example]:
    return [
        Example(id=f"e{i}", input="?", target=target, document=document if target else "")
        for i, target in enumerate(targets)
    ]


@pytest.mark.parametrize(
    ("said", "gold"),
    [
        ("El Ángel", "angel"),
        ("¡Sí, la factura!", "si factura"),
        ("The bill.", "bill"),
        ("1.250,50 €", "1,250.50 euros"),
        ("ANGEL", "Ángel"),
        ("N\u0303andu\u0301", "ñandú"),
        ("la", "La"),
        ("12,5", "12.5"),
        ("100.000", "100000"),
    ],
)
def test_normalised_equal(said: str, gold: str) -> None:
    assert exact_match(said, gold) == 1.0
    assert token_f1(said, gold) == 1.0


@pytest.mark.parametrize(
    ("said", "gold"),
    [("año", "ano"), ("12,50", "1250"), ("0,125", "125"), ("", "algo"), ("1,25 €", "125 €"), ("la", "el")],
)
def test_normalised_different(said: str, gold: str) -> None:
    assert exact_match(said, gold) == 0.0


def test_token_f1_by_hand() -> None:
    # said: 3 words, gold: 2 words, 2 in common: precision 2/3, recall 1
    assert token_f1("treinta días naturales", "los treinta días") == pytest.approx(0.8)
    assert token_f1("sol sol", "sol") == pytest.approx(2 / 3)
    assert token_f1("", "") == 1.0
    assert token_f1("nada", "todo") == 0.0


def test_normalise_bounded_time() -> None:
    assert len(normalise("1." * 50_000 + "a")) >= 1


def test_classify_rows_and_summary() -> None:
    examples = rows("alta", "alta", "baja", "baja")
    said = [
        Prediction(output="alta", score=0.9, ms=10, usage=Usage(tokens_in=3, tokens_out=1, usd=0.001)),
        Prediction(output="una alta, creo", score=0.5, ms=20),
        Prediction(output="baja", score=0.8, ms=30),
        Prediction(output="baja", score=0.7, ms=40, error="timeout"),
    ]
    assert score_rows("classify", examples, said) == {"accuracy": [1.0, 0.0, 1.0, 0.0]}
    found = summarise("classify", examples, said)
    assert found["accuracy"] == 0.5
    assert found["confusion"] == {
        "labels": ["alta", "baja"],
        "columns": ["alta", "baja", "(other)"],
        "matrix": [[1, 0, 1], [0, 1, 1]],
    }
    assert found["macro_f1"] == pytest.approx(2 / 3)
    assert found["per_label"][0] == {
        "label": "alta",
        "precision": 1.0,
        "recall": 0.5,
        "f1": pytest.approx(2 / 3),
        "rows": 2,
    }
    assert found["errors"] == 1
    assert found["usd_per_1k"] == pytest.approx(0.25)
    assert found["p50_ms"] == 25
    assert found["ece"] == pytest.approx((0.1 + 0.5 + 0.2 + 0.7) / 4)
    json.dumps(found, allow_nan=False)


def test_answer_rows() -> None:
    examples = [*rows("30 días", "30 días", None, None), *rows("10 €")]
    said = [
        Prediction(output="30 días", citations=("c1",)),
        Prediction(output="30 días", citations=("c2",)),
        Prediction(output="", abstained=True),
        Prediction(output="sí"),
        Prediction(output="", abstained=True),
    ]
    scores = score_rows("answer", examples, said, {"c1": "tarifas.pdf", "c2": "bajas.pdf"})
    assert scores == {
        "exact_match": [1, 1, 1, 0, 0],
        "token_f1": [1, 1, 1, 0, 0],
        "abstention": [1, 1, 1, 0, 0],
        "citation_hit": [1, 0, 1, 0, 0],
        "citation_precision": [1, 0, 1, 0, 0],
        "citation_recall": [1, 0, 1, 0, 0],
    }
    found = summarise("answer", examples, said, {"c1": "tarifas.pdf", "c2": "bajas.pdf"})
    assert found["answerable"] == {"rows": 3, "decided_rightly": pytest.approx(2 / 3)}
    assert found["unanswerable"] == {"rows": 2, "decided_rightly": 0.5}
    assert set(PRIMARY.values()) <= {*scores, "accuracy"}


def test_citation_needs_a_document_on_every_row() -> None:
    examples = [*rows("a"), *rows("b", document="")]
    assert "citation_hit" not in score_rows(
        "answer", examples, [Prediction(output="a"), Prediction(output="b")]
    )


def test_an_error_never_scores() -> None:
    said = [Prediction(output="x", error="boom"), Prediction(output="", abstained=True, error="boom")]
    assert all(
        value == 0 for values in score_rows("answer", rows("x", None), said).values() for value in values
    )


def test_bad_input() -> None:
    with pytest.raises(BadInput, match="1 predictions for 2"):
        score_rows("classify", rows("a", "b"), [Prediction(output="a")])
    with pytest.raises(BadInput, match="no label"):
        score_rows("classify", rows(None), [Prediction(output="a")])
    with pytest.raises(BadInput):
        calibration_error([], [])
    assert summarise("classify", [], []) == {"rows": 0}


def test_calibration_of_a_perfect_and_an_overconfident_model() -> None:
    assert calibration_error([1.0] * 8 + [0.0] * 2, [0.8] * 10) == pytest.approx(0.0)
    assert calibration_error([0.0] * 10, [1.0] * 10) == pytest.approx(1.0)
