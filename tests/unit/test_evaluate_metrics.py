"""Metrics against figures worked out by hand and against scikit-learn."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from bucle.core.errors import BadInput
from bucle.core.records import Example, Prediction, TaskKind, Usage
from bucle.evaluate.metrics import (
    Sample,
    calibration_error,
    exact_match,
    metrics,
    normalise,
    token_f1,
)
from bucle.evaluate.metrics.checks import CHECKS, all_checks_passed, checks_passed, followed
from bucle.evaluate.metrics.grounded import groundedness
from bucle.evaluate.metrics.structured import field_f1, json_match, schema_valid
from bucle.evaluate.metrics.toxic import lexicon
from bucle.evaluate.scoring import Scoring, score


def score_rows(
    kind: TaskKind, examples: list[Example], said: list[Prediction], documents: dict[str, str] | None = None
) -> dict[str, list[float]]:
    return score(Scoring(kind, documents=documents or {}), examples, said).per_row


def summarise(
    kind: TaskKind, examples: list[Example], said: list[Prediction], documents: dict[str, str] | None = None
) -> dict[str, Any]:
    return score(Scoring(kind, documents=documents or {}), examples, said).figures


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


@pytest.mark.parametrize(
    ("said", "gold", "f1"),
    [
        ('{"a": 1, "b": "x"}', '{"b": "X", "a": 1.0}', 1.0),
        ('{"a": "1.250,50", "b": null}', '{"a": 1250.5}', 1.0),
        ('```json\n{"a": 1}\n```', '{"a": 1, "b": 2, "c": 3}', 0.5),
        ('Claro: {"a": 1} y listo', '{"a": 1}', 1.0),
        ('{"l": [{"n": 1}, {"n": 2}]}', '{"l": [{"n": 2}, {"n": 1}]}', 1.0),
        ('{"l": [1, 1]}', '{"l": [1]}', 2 / 3),
        ('{"a": {"b": 1}}', '{"b": 1}', 0.0),
        ("no hay", '{"a": 1}', 0.0),
        ("", '{"a": 1}', 0.0),
        ('{"a": NaN}', '{"a": 1}', 0.0),
        ("{}", '{"a": null}', 1.0),
        ('{"a": -5}', '{"a": 5}', 0.0),
        ('{"a": true}', '{"a": 1}', 0.0),
    ],
)
def test_fields_of_json(said: str, gold: str, f1: float) -> None:
    assert field_f1(said, gold) == pytest.approx(f1)


def test_json_is_compared_whole_and_by_schema() -> None:
    assert json_match('{"b": [1, 2], "a": 1}', '{"a": 1, "b": [1, 2]}') == 1
    assert json_match('{"a": [2, 1]}', '{"a": [1, 2]}') == 0
    assert json_match('{"a": true}', '{"a": 1}') == 0
    schema = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}
    texts = ('{"n": 1}', '{"n": "1"}', "{}", "nada")
    assert [schema_valid(Sample(text, schema=schema)) for text in texts] == [1, 0, 0, 0]
    with pytest.raises(BadInput, match="no JSON Schema"):
        schema_valid(Sample("{}", schema={"type": "objeto"}))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "{" * 100_000 + "}" * 100_000, "```\n" * 50_000])
def test_json_that_is_meant_to_hurt(text: str) -> None:
    began = time.monotonic()
    assert field_f1(text, '{"a": 1}') == 0
    assert json_match(text, "[" * 500 + "]" * 500) == 0
    assert time.monotonic() - began < 3


@pytest.mark.parametrize(
    ("check", "passes", "fails"),
    [
        ({"contains": ["Factura", "día"]}, "la factura del DÍA", "la factura"),
        ({"contains": "Factura", "case": True}, "Factura", "factura"),
        ({"contains_any": ["a1", "b2"]}, "un b2", "un c3"),
        ({"not_contains": "lo siento"}, "claro", "Lo siento, no"),
        ({"starts_with": "hola"}, "  Hola, Ana", "Ana, hola"),
        ({"ends_with": ["?", "."]}, "¿Sí?\n", "Sí"),
        ({"one_of": ["sí", "no"]}, " Sí ", "sí, claro"),
        ({"regex": r"\d{2}/\d{2}"}, "el 05/11", "el 5"),
        ({"regex": "(?s)a.b"}, "A\nB", "ab"),
        ({"not_regex": "(a|a)+$"}, "b", "aa"),
        ({"min_words": 3}, "uno dos tres", "uno dos"),
        ({"max_words": 2}, "uno dos", "uno dos tres"),
        ({"min_sentences": 2}, "Es así. Y así.", "Es así"),
        ({"max_sentences": 1}, "El Sr. Pérez llamó.", "Es así. Y así."),
        ({"min_paragraphs": 2}, "a\r\n\r\nb", "a\nb"),
        ({"min_bullets": 2}, "- a\n- b", "a - b"),
        ({"max_characters": 3}, "año", "años"),
        ({"language": "es"}, "Su factura vence el día treinta de este mes", "Your bill is due at the end of the month"),
        ({"json": True}, '{"a": 1}', "a: 1"),
        ({"json": "array"}, "[1]", '{"a": 1}'),
        ({"json": False}, "hola", "[1]"),
        ({"uppercase": True}, "¡SÍ! 3", "Sí"),
        ({"lowercase": True}, "sí", "Sí"),
    ],
)  # fmt: skip
def test_each_check(check: dict[str, object], passes: str, fails: str) -> None:
    assert checks_passed(Sample(passes, checks=json.dumps([check]))) == 1, check
    assert checks_passed(Sample(fails, checks=json.dumps([check]))) == 0, check


def test_every_check_is_tested_and_told() -> None:
    listed = {name for mark in test_each_check.pytestmark for one in mark.args[1] for name in one[0]}  # type: ignore[attr-defined]
    bounds = {name for name in CHECKS if name.startswith(("min_", "max_"))}
    assert set(CHECKS) - bounds == listed - bounds - {"case"}
    told = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert not [name for name in CHECKS if name.removeprefix("min_").removeprefix("max_") not in told]
    assert not [name for name in metrics() if f"`{name}`" not in told]


def test_checks_of_a_row_together_and_bad_ones() -> None:
    three = Sample("uno dos", checks='[{"max_words": 2, "contains": "uno"}, {"contains": "tres"}]')
    assert checks_passed(three) == pytest.approx(2 / 3)
    assert all_checks_passed(three) == 0
    assert followed(Sample("uno dos", ["uno"])) == pytest.approx(2 / 3)
    for bad, said in (('[{"max_word": 2}]', "did you mean max_words"), ("[", "not JSON"), ("[]", "nothing"),
                      ('[{"max_words": "2"}]', "whole number"), ('[{"regex": "("}]', "cannot be read"),
                      ('[{"contains": []}]', "a text"), ("[1]", "list of objects"), ('[{"json": 3}]', "true or false")):
        with pytest.raises(BadInput) as error:
            checks_passed(Sample("x", checks=bad))
        assert said in str(error.value)


def test_a_pattern_that_never_ends_is_stopped() -> None:
    began = time.monotonic()
    assert checks_passed(Sample("a" * 5000 + "b", checks='[{"regex": "^(a|aa)+$"}]')) == 0
    assert time.monotonic() - began < 3


def test_groundedness_by_words_and_numbers() -> None:
    source = "La cuota mensual es de 30 euros. Se paga por domiciliación bancaria. Las bajas se comunican por escrito."
    told = {
        "La cuota mensual es de 30 euros.": 1.0,
        "La cuota mensual es de 35 euros.": 0.0,
        "Las bajas deben comunicarse por escrito.": 1.0,
        "El plazo de entrega son tres semanas laborables.": 0.0,
        "La cuota es de 30 euros. El plazo de entrega es de tres semanas laborables.": 0.5,
        "Así es. La cuota mensual es de 30 euros.": 1.0,
        "Así es.": 0.0,
        "30": 1.0,
        "": 0.0,
    }
    found = groundedness([Sample(text, sources=["Otra cosa.", source]) for text in told])
    assert dict(zip(told, found, strict=True)) == told
    assert groundedness([Sample("La cuota mensual es de 30 euros.", sources=())]) == [0.0]


XQUAD = Path(__file__).parents[3] / "shared" / "data" / "xquad" / "xquad.es.json"


def groundedness_figures(path: Path) -> dict[str, float]:
    """Share of texts that are borne out, by what they are and by what they are held against."""
    from bucle.data.sentences import sentences

    cases: dict[str, list[Sample]] = {}
    for article in json.loads(path.read_text(encoding="utf-8"))["data"]:
        paragraphs = article["paragraphs"]
        for place, paragraph in enumerate(paragraphs):
            right, wrong = paragraph["context"], paragraphs[(place + 1) % len(paragraphs)]["context"]
            texts = [("sentence", one) for one in sentences(right)] + [
                ("answer", question["answers"][0]["text"]) for question in paragraph["qas"]]
            for kind, text in texts:
                cases.setdefault(f"{kind}, its paragraph", []).append(Sample(text, sources=[right]))
                cases.setdefault(f"{kind}, another paragraph of the article", []).append(Sample(text, sources=[wrong]))
                if kind == "sentence" and re.search(r"\d", text):
                    changed = re.sub(r"\d+", lambda found: str(int(found[0]) + 7919), text)
                    cases.setdefault("sentence with another number, its paragraph", []).append(
                        Sample(changed, sources=[right]))
    return {name: sum(scores) / len(scores) for name, samples in cases.items() if (scores := groundedness(samples))}


def test_groundedness_tells_right_from_wrong_paragraphs() -> None:
    """The figures in docs/metrics.md, on real text: sentences of a paragraph against it, and against the next."""
    if not XQUAD.is_file():
        pytest.skip("the XQuAD files are not here")
    found = groundedness_figures(XQUAD)
    assert found["sentence, its paragraph"] > 0.99
    assert found["sentence, another paragraph of the article"] < 0.05
    assert found["sentence with another number, its paragraph"] < 0.05
    assert found["answer, its paragraph"] > 0.95
    assert found["answer, another paragraph of the article"] < 0.25


def test_toxic_words() -> None:
    bad = ("Eres IMBECIL.", "hijo   de puta", "Vete a tomar por culo ya", "you moron!")
    fine = ("El cerdo ibérico", "computadora", "reputación", "a la mierda", "")
    assert [lexicon(text) for text in (*bad, *fine)] == [1] * len(bad) + [0] * len(fine)
