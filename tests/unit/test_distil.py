"""Distillation over a real connection: the student learns what its teacher says, and serves without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from chat_peer import fitted, remote

from bucle.core.errors import BadInput
from bucle.core.ports import LoadContext
from bucle.core.records import Example
from bucle.customise.classic import TfidfLogistic
from bucle.customise.distil import Distilled

LABELS = ("averia", "baja")
TEXTS = [f"{text} {i}" for i in range(8) for text in ("no tengo luz en casa", "quiero la baja del contrato")]
ROWS = [Example(id=str(i), input=text, target="averia" if "luz" in text else "baja") for i, text in enumerate(TEXTS)]


def teach(messages: list[dict[str, str]], body: dict[str, Any]) -> str:
    """Right about everything but `casa 3`, which it calls a baja, and `casa 5`, of which it knows nothing."""
    text = messages[-1]["content"]
    if text.endswith("casa 5"):
        return "ni idea"
    return "averia" if "luz" in text and not text.endswith("casa 3") else "Baja."


def test_the_student_learns_the_teachers_labels_and_never_sees_peoples(tmp_path: Path) -> None:
    with remote(teach) as (chat, peer):
        _, figures = fitted(Distilled(), tmp_path, "classify", ROWS, chat=chat, labels=LABELS, shots=2)
    assert (figures["taught"], figures["teacher_errors"], figures["student"]) == (15, 1, "tfidf")
    assert figures["teacher_accuracy"] == pytest.approx(14 / 16)
    assert figures["tokens_out"] == sum(len(teach(b["messages"], b).split()) for b in peer.asked)
    for body in peer.asked:
        shown = [m["content"] for m in body["messages"][1:-1]]
        assert len(shown) == 4
        assert body["messages"][-1]["content"] not in shown, "a row's own label would teach nothing but itself"
    student = Distilled().load(tmp_path, LoadContext(labels=LABELS, params={}))  # no teacher
    assert [p.output for p in student.predict(["sin luz", "la baja, por favor"])] == ["averia", "baja"]
    wrong = [e.model_copy(update={"target": {"averia": "baja", "baja": "averia"}[str(e.target)]}) for e in ROWS]
    with remote(teach) as (chat, _):
        contrary, _ = fitted(Distilled(), tmp_path / "b", "classify", wrong, chat=chat, labels=LABELS, shots=0)
    assert contrary.predict(["sin luz"])[0].output == "averia"


def test_a_teacher_that_says_one_thing_or_nothing_is_told(tmp_path: Path) -> None:
    for i, reply in enumerate(("averia", "???")):
        with (
            remote(lambda messages, body, reply=reply: reply) as (chat, _),
            pytest.raises(BadInput, match="different labels to 16 rows") as caught,
        ):
            fitted(Distilled(), tmp_path / str(i), "classify", ROWS, chat=chat, labels=LABELS)
        assert caught.value.hint
    with pytest.raises(BadInput, match="as teacher"):
        fitted(Distilled(), tmp_path / "none", "classify", ROWS, labels=LABELS)


def test_weights_move_the_fit_and_equal_ones_do_not(tmp_path: Path) -> None:
    from test_customise_classic import plain

    odd = [
        *ROWS,
        *(
            Example(id=f"x{i}", input="mensaje ambiguo", target=label)
            for i, label in enumerate(("averia", "baja", "averia", "baja"))
        ),
    ]

    def student(name: str, weights: list[float] | None) -> Any:
        from bucle.core.ports import FitContext

        out = tmp_path / name
        out.mkdir()
        TfidfLogistic().fit_rows(
            FitContext(
                out=out,
                work=out,
                train=(),
                validation=(),
                labels=LABELS,
                params={},
                seed=7,
                report=lambda done, total, note="": None,
            ),
            odd,
            weights,
        )
        return TfidfLogistic().load(out, LoadContext(labels=LABELS, params={}))

    asked = ["mensaje ambiguo", "sin luz"]
    plainly, equal = student("a", None).predict(asked), student("b", [1.0] * len(odd)).predict(asked)
    assert [p.output for p in plainly] == [p.output for p in equal]
    assert plain(plainly)[1][1] == pytest.approx(plain(equal)[1][1], abs=1e-4)
    sure = [1.0] * len(ROWS)
    assert student("c", [*sure, 5, 0.01, 5, 0.01]).predict(asked)[0].output == "averia"
    assert student("d", [*sure, 0.01, 5, 0.01, 5]).predict(asked)[0].output == "baja"
