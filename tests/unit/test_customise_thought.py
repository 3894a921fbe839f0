"""Chain of thought: reasoning, then the answer after its marker; votes of samples; local models by likelihood."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from chat_peer import fitted, remote

from bucle.core.errors import BadInput
from bucle.core.ports import LoadContext
from bucle.core.records import Example, Usage
from bucle.customise.prompt import ChainOfThought, FewShot, ZeroShot
from bucle.customise.prompt.thought import Thought, vote

LABELS = ("alta", "baja", "avería")


def test_a_label_is_read_after_the_reasoning_and_never_guessed(tmp_path: Path) -> None:
    replies = {
        "a": "No tiene luz, no es una baja.\nRESPUESTA: averia",
        "b": "Es una baja, creo.",
        "c": "x\nRESPUESTA: alta o baja",
        "d": "CUT Veamos: hay tres categorías y",
        "e": "RESPUESTA: Baja.",
        "f": "CUT Pienso.\nRESPUESTA: al",
    }
    with remote(lambda messages, body: replies[messages[-1]["content"]]) as (chat, peer):
        predictor, figures = fitted(ChainOfThought(), tmp_path, "classify", [], chat=chat, labels=LABELS)
        a, b, c, d, e, f = predictor.predict(list(replies))
        assert predictor.predict([]) == []
    assert figures == {"samples": 1, "max_tokens": 400}
    assert (a.output, a.reasoning, a.error, a.score) == ("avería", "No tiene luz, no es una baja.", "", None)
    assert (b.output, b.reasoning) == ("", "Es una baja, creo.")
    assert "no line `RESPUESTA:`" in b.error
    assert "names no label" in c.error
    assert "cut off" in d.error
    assert (e.output, e.reasoning) == ("baja", "")
    assert (f.output, "no label" in f.error or "cut off" in f.error) == ("", True)
    system = peer.asked[0]["messages"][0]["content"]
    assert "alta, baja, avería" in system
    assert "RESPUESTA:" in system
    assert peer.asked[0]["temperature"] == 0


def test_several_samples_vote_and_those_without_an_answer_count_against(tmp_path: Path) -> None:
    said = {7: "RESPUESTA: baja", 8: "Uno.\nRESPUESTA: alta", 9: "no sé", 10: "Dos.\nRESPUESTA: alta"}
    with remote(lambda messages, body: said[body["seed"]]) as (chat, peer):
        predictor, _ = fitted(
            ChainOfThought(), tmp_path, "classify", [], chat=chat, labels=LABELS, samples=4, language="es"
        )
        found = predictor.predict(["hola"])[0]
    assert (found.output, found.score, found.reasoning, found.error) == ("alta", 0.5, "Uno.", "")
    assert {b["temperature"] for b in peer.asked} == {0.7}
    assert found.usage.tokens_out == sum(len(text.split()) for text in said.values())


def test_ties_go_to_the_earliest_and_errors_alone_are_an_error() -> None:
    def one(answer: str, error: str = "") -> Thought:
        return Thought(answer, "", error, Usage(tokens_in=1), 2.0)

    assert (vote([one("b"), one("a")], None).output, vote([one("b"), one("a")], None).score) == ("b", 0.5)  # type: ignore[arg-type]
    lost = vote([one("", "e1"), one("", "e2")], None)  # type: ignore[arg-type]
    assert (lost.output, lost.error, lost.score, lost.usage.tokens_in, lost.ms) == ("", "e1", None, 2, 4.0)


def test_objects_are_voted_on_and_programs_are_kept_apart(tmp_path: Path) -> None:
    objects = {7: 'x\nANSWER: {"n": 1}', 8: 'y\nANSWER:\n```json\n{"n":   2}\n```', 9: 'z\nANSWER: {"n": 2}'}
    with remote(lambda messages, body: objects[body["seed"]]) as (chat, peer):
        predictor, figures = fitted(
            ChainOfThought(), tmp_path / "a", "extract", [], chat=chat, samples=3, language="en"
        )
        found, blank = predictor.predict(["text", " "])
        assert "ANSWER:" in peer.asked[0]["messages"][0]["content"]
    assert (json.loads(found.output), found.reasoning, found.score) == ({"n": 2}, "y", pytest.approx(2 / 3))
    assert blank.error == "the input is empty"
    assert figures["max_tokens"] == 1000, "room for the reasoning beside the object"
    programs = {7: "Primero.\nRESPUESTA:\n```python\n# RESPUESTA: no\nx = 1\n```", 8: "RESPUESTA: nada"}
    with remote(lambda messages, body: programs[body["seed"]]) as (chat, _):
        predictor, _ = fitted(ChainOfThought(), tmp_path / "b", "code", [], chat=chat, samples=2)
        found = predictor.predict(["pon x"])[0]
    assert (found.output, found.others, found.reasoning) == ("# RESPUESTA: no\nx = 1\n", ("",), "Primero.")


def test_a_label_cut_short_is_not_taken_for_a_shorter_one(tmp_path: Path) -> None:
    replies = {"a": "CUT alta", "b": "CUT baja y", "c": "CUT Veamos"}
    with remote(lambda messages, body: replies[messages[-1]["content"]]) as (chat, peer):
        predictor, _ = fitted(ZeroShot(), tmp_path, "classify", [], chat=chat, labels=LABELS, max_tokens=2)
        a, b, c = predictor.predict(list("abc"))
    assert ("cut off" in a.error, b.output, "cut off" in c.error) == (True, "baja", True)
    assert peer.asked[0]["max_tokens"] == 2


def test_without_a_model_it_says_what_to_add(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="needs a model that writes"):
        fitted(ChainOfThought(), tmp_path, "classify", [], labels=LABELS)


@pytest.mark.torch
def test_a_model_too_small_to_reason_still_answers_and_teaches(tmp_path: Path) -> None:
    from bucle.customise.distil import Distilled
    from bucle.customise.pretrain import pretrain
    from bucle.models.encoder import encoder_folder
    from bucle.models.local import LocalModel

    base = tmp_path / "nano"
    base.mkdir()
    rows = [
        Example(id=str(i), input=text, target=label)
        for i, (text, label) in enumerate(
            [("quiero un alta", "alta"), ("dadme de baja", "baja"), ("no hay luz", "avería"), ("sin luz", "avería")] * 3
        )
    ]
    pretrain(
        [f"{row.input}: {row.target}. Caso {i}." for i in range(12) for row in rows],
        base,
        tmp_path / "work",
        steps=3,
        report=lambda done, total, note="": None,
        width=32,
        layers=1,
        context=400,
        batch_tokens=256,
        vocabulary=320,
        threads=1,
    )
    model: Any = LocalModel(base, threads=1)
    predictor, _ = fitted(
        ChainOfThought(), tmp_path / "a", "classify", rows, chat=model, labels=LABELS, instruction="Di"
    )
    asked = ["sin luz en casa", "", "🦊", "baja " * 800]
    batch = predictor.predict(asked)
    assert [p.output for p in batch] == [predictor.predict([text])[0].output for text in asked]
    assert {p.output for p in batch} <= set(LABELS)
    assert all(not p.error and p.score is not None and 0 < p.score <= 1 for p in batch)
    assert batch[0].usage.tokens_out > 0
    assert batch[0].ms > 0
    assert batch[3].reasoning == "", "a message that fills the context leaves no room to reason"
    voting, _ = fitted(
        ChainOfThought(), tmp_path / "b", "classify", rows, chat=model, labels=LABELS, instruction="Di", samples=3
    )
    assert {round((p.score or 0) * 3) for p in voting.predict(asked)} <= {1, 2, 3}

    encoder = {"encoder": encoder_folder()}
    student, figures = fitted(
        Distilled(), tmp_path / "c", "classify", rows, chat=model, labels=LABELS, shots=1, folders=encoder
    )
    assert (figures["taught"], figures["student"]) == (len(rows), "hybrid-head")
    assert figures["tokens_in"] > 0
    assert 0 <= figures["teacher_accuracy"] <= 1
    assert {p.output for p in student.predict([row.input for row in rows])} <= set(LABELS)
    with pytest.raises(BadInput, match="taught on an encoder"):
        Distilled().load(tmp_path / "c", LoadContext(labels=LABELS, params={}))

    writing, _ = fitted(FewShot(), tmp_path / "d", "generate", rows, chat=model, instruction="Di", shots=8)
    found = writing.predict(["sin luz en casa", "baja " * 800])
    assert found[0].usage.tokens_out > 0
    assert writing.shortened == 1, "the long one was asked without examples, and does not fit even so"
    assert "holds 400" in found[1].error
