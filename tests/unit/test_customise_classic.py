"""Baselines and heads: what is loaded predicts what was fitted, alone as in company, and nothing is pickled."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bucle.core.errors import BadInput
from bucle.core.ports import FitContext, LoadContext, Predictor, Technique
from bucle.core.records import Example, Prediction
from bucle.customise.classic import FrozenEncoder, Hybrid, Majority, Nearest, TfidfLogistic
from bucle.customise.classic.features import fit_tfidf, load_tfidf, save_tfidf, tfidf_matrix
from bucle.customise.classic.linear import STRENGTHS

WORDS = {
    "averia": ["No me llega la luz", "Sigo sin luz en casa", "Se fue la luz otra vez", "La luz parpadea sin parar",
               "Apagón de luz en mi calle", "Sin luz desde ayer"],
    "factura": ["¿Cuánto pago este mes?", "Mi factura no cuadra", "Quiero ver la factura de enero",
                "La factura sube demasiado", "Cobro doble en la factura"],
    "baja": ["Quiero darme de baja", "Cancelad mi contrato ya", "Baja del servicio, por favor", "Dejo la compañía"],
}
ASKED = ["sin luz", "la factura de enero", "darme de baja", "", "🦊", "zzzz qqqq", "LUZ!!! " * 300, "a\0b"]


def rows(words: dict[str, list[str]] = WORDS) -> list[Example]:
    return [Example(id=f"{label}{i}", input=text, target=label)
            for label, texts in words.items() for i, text in enumerate(texts)]


def fit(technique: Technique, out: Path, train: Sequence[Example], *, encoder: Path | None = None,
        validation: Sequence[Example] = ()) -> tuple[Predictor, dict[str, Any]]:
    out.mkdir(exist_ok=True)
    labels = sorted({str(e.target) for e in train if e.target})
    said: list[tuple[int, int]] = []
    figures = technique.fit(FitContext(
        out=out, work=out.parent / "work", train=train, validation=validation, labels=labels, params={}, seed=7,
        report=lambda done, total, note="": said.append((done, total)), encoder=encoder))
    assert all(done < total for done, total in said)
    return technique.load(out, LoadContext(labels=labels, params={}, encoder=encoder)), dict(figures)


def plain(predictions: Sequence[Prediction]) -> list[tuple[str, float | None]]:
    return [(p.output, p.score) for p in predictions]


def check_whole(predictor: Predictor, labels: set[str]) -> None:
    """Nothing for nothing; the same answer, to the last digit, alone, in a batch and in another order."""
    assert predictor.predict([]) == []
    batch = plain(predictor.predict(ASKED))
    assert plain(predictor.predict(ASKED[::-1])) == batch[::-1]
    assert [plain(predictor.predict([text]))[0] for text in ASKED] == batch
    assert {label for label, _ in batch} <= labels
    assert all(score is not None and 0 <= score <= 1 for _, score in batch)


def check_files(folder: Path) -> None:
    """Only JSON and safetensors, and no file that Python could run."""
    for path in folder.rglob("*"):
        if path.suffix == ".json":
            json.loads(path.read_text("utf-8"))
        else:
            assert path.suffix == ".safetensors", path
            size = int.from_bytes(path.read_bytes()[:8], "little")
            json.loads(path.read_bytes()[8 : 8 + size])


@pytest.mark.parametrize("technique", [Majority(), Nearest(), TfidfLogistic()], ids=lambda t: t.name)
@pytest.mark.parametrize("labels", [("averia", "factura", "baja"), ("averia", "baja")], ids=["three", "two"])
def test_what_is_loaded_predicts_alone_as_in_company(technique: Technique, labels: tuple[str, ...],
                                                     tmp_path: Path) -> None:
    predictor, figures = fit(technique, tmp_path / "out", rows({label: WORDS[label] for label in labels}))
    json.dumps(figures, allow_nan=False)
    check_whole(predictor, set(labels))
    check_files(tmp_path / "out")
    again = technique.load(tmp_path / "out", LoadContext(labels=labels, params={}))
    assert plain(again.predict(ASKED)) == plain(predictor.predict(ASKED))
    if not isinstance(technique, Majority):
        assert [p.output for p in predictor.predict(["Estoy sin luz", "Baja, por favor"])] == ["averia", "baja"]


@pytest.mark.parametrize("labels", [("averia", "factura", "baja"), ("averia", "baja")], ids=["three", "two"])
def test_stored_heads_give_scikit_learns_own_probabilities(labels: tuple[str, ...], tmp_path: Path) -> None:
    train = rows({label: WORDS[label] for label in labels})
    predictor, figures = fit(TfidfLogistic(), tmp_path / "out", train[2:], validation=train[:2])
    order = [*train[2:], *train[:2]]
    vectorizers = fit_tfidf([e.input for e in order])
    model = TfidfLogistic._model(figures["C"])
    model.fit(tfidf_matrix(vectorizers, [e.input for e in order]), [e.target for e in order])
    expected = model.predict_proba(tfidf_matrix(vectorizers, ASKED))
    found = predictor.predict(ASKED)
    assert [p.output for p in found] == list(model.classes_[expected.argmax(axis=1)])
    np.testing.assert_allclose([p.score for p in found], expected.max(axis=1), atol=1e-5)
    assert figures["rows"] == len(train), "validation rows, on which nothing is tuned, are fitted on too"


def test_fitting_twice_writes_the_same_bytes(tmp_path: Path) -> None:
    for technique in (Nearest(), TfidfLogistic()):
        for name in ("one", "two"):
            fit(technique, tmp_path / name, rows())
        for path in (tmp_path / "one").iterdir():
            assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_the_features_that_are_stored_are_those_that_were_fitted(tmp_path: Path) -> None:
    vectorizers = fit_tfidf([e.input for e in rows()])
    save_tfidf(vectorizers, tmp_path)
    one, two = tfidf_matrix(vectorizers, ASKED), tfidf_matrix(load_tfidf(tmp_path), ASKED)
    assert one.shape == two.shape
    assert (one != two).nnz == 0
    assert tfidf_matrix(vectorizers, []).shape == (0, one.shape[1])
    norms = np.sqrt(one.multiply(one).sum(axis=1))[:3]
    np.testing.assert_allclose(norms, np.sqrt(2), rtol=1e-5)


def test_accents_and_case_do_not_change_an_answer(tmp_path: Path) -> None:
    predictor, _ = fit(TfidfLogistic(), tmp_path / "out", rows())
    ways = ["¿Cuánto pago este mes?", "¿CUANTO PAGO ESTE MES?", "¿Cua\u0301nto pago este mes?"]
    assert len(set(plain(predictor.predict(ways)))) == 1


def test_a_label_with_one_row_is_fitted_and_rare_labels_alone_are_too(tmp_path: Path) -> None:
    extra = Example(id="x", input="Cambio de titular", target="titular")
    predictor, figures = fit(TfidfLogistic(), tmp_path / "a", [*rows(), extra])
    assert predictor.predict([extra.input])[0].output == "titular"
    assert set(figures["cross_validated"]) == {f"{c:g}" for c in STRENGTHS}
    few = [e for e in rows() if e.id.endswith(("0", "1"))]
    predictor, figures = fit(TfidfLogistic(), tmp_path / "b", few)
    assert figures["cross_validated"] == {}
    assert [p.output for p in predictor.predict([e.input for e in few])] == [e.target for e in few]


def test_one_label_is_a_fact_with_a_next_step_for_a_head_and_enough_for_a_baseline(tmp_path: Path) -> None:
    one = rows({"baja": WORDS["baja"]})
    with pytest.raises(BadInput, match="at least two labels; the training rows have 1") as caught:
        fit(TfidfLogistic(), tmp_path / "a", one)
    assert caught.value.hint
    for technique in (Majority(), Nearest()):
        predictor, _ = fit(technique, tmp_path / technique.name, one)
        assert {p.output for p in predictor.predict(ASKED)} == {"baja"}


@pytest.mark.parametrize("train", [
    [], [Example(id="1", input="hola", target=None)],
    [Example(id="1", input="👍", target="a"), Example(id="2", input="?", target="b")],
], ids=["no rows", "no labels", "no words"])
def test_rows_that_teach_nothing_are_told(train: list[Example], tmp_path: Path) -> None:
    for technique in (Nearest(), TfidfLogistic()):
        with pytest.raises(BadInput) as caught:
            fit(technique, tmp_path / technique.name, train)
        assert caught.value.hint
    if not any(e.target for e in train):
        with pytest.raises(BadInput, match="no labelled row"):
            fit(Majority(), tmp_path / "majority", train)


def test_the_majority_is_the_commonest_label_and_ties_are_settled_by_name(tmp_path: Path) -> None:
    predictor, _ = fit(Majority(), tmp_path / "a", rows())
    assert plain(predictor.predict(["x"])) == [("averia", 6 / 15)]
    predictor, _ = fit(Majority(), tmp_path / "b", rows({"b": ["x1"], "a": ["x2"]}))
    assert plain(predictor.predict(["x"])) == [("a", 0.5)]


def test_the_nearest_example_is_found_whole(tmp_path: Path) -> None:
    predictor, _ = fit(Nearest(), tmp_path / "a", rows())
    for example in rows():
        found = predictor.predict([example.input])[0]
        assert found.output == example.target
        assert found.score == pytest.approx(1, abs=1e-5)
    assert all(p.ms > 0 for p in predictor.predict(["hola"]))


@pytest.mark.torch
@pytest.mark.parametrize("technique", [FrozenEncoder(), Hybrid()], ids=lambda t: t.name)
@pytest.mark.parametrize("labels", [("averia", "factura", "baja"), ("averia", "baja")], ids=["three", "two"])
def test_heads_on_an_encoder_predict_alone_as_in_company(technique: Technique, labels: tuple[str, ...],
                                                         tmp_path: Path) -> None:
    from bucle.models.encoder import encoder_folder

    train = rows({label: WORDS[label] for label in labels})
    predictor, _ = fit(technique, tmp_path / "out", train, encoder=encoder_folder())
    check_whole(predictor, set(labels))
    check_files(tmp_path / "out")
    again = technique.load(tmp_path / "out", LoadContext(labels=labels, params={}, encoder=encoder_folder()))
    assert plain(again.predict(ASKED)) == plain(predictor.predict(ASKED))
    assert [p.output for p in predictor.predict([e.input for e in train])] == [e.target for e in train]
    with pytest.raises(BadInput, match="needs an encoder") as caught:
        fit(technique, tmp_path / "no", train)
    assert "models:" in caught.value.hint
