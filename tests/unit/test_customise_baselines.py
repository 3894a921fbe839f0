"""Baselines of the text kinds: they need no model, answer alone as in company, and every kind has one."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, get_args

import pytest
from chat_peer import fitted

from bucle.core.records import Example, TaskKind
from bucle.customise.classic import Copy, Empty, Extractive, Frequent, Lead, NearestText, Pattern
from bucle.customise.classic.summary import central
from bucle.customise.conversation import conversation, gist
from bucle.customise.registry import techniques

ODD = ["", " ", "🦊", "zzzz qqqq", "a\0b", "línea\r\notra línea\r\n", "[", "[{}]", "x" * 50_000, "Uno. Dos. " * 2000]


def rows(*pairs: tuple[str, str | None]) -> list[Example]:
    return [Example(id=str(i), input=text, target=target) for i, (text, target) in enumerate(pairs)]


NEWS = (
    "El ayuntamiento abre el parque nuevo el lunes. Costó dos millones de euros. Habrá un concierto por la tarde. "
    "El alcalde no asistirá. Los vecinos lo pedían desde hace años."
)


def test_every_kind_has_an_honest_baseline_that_needs_no_model_and_rungs_climb() -> None:
    for kind in get_args(TaskKind):
        own = [t for t in techniques().values() if kind in t.kinds]
        assert any(t.baseline and not t.needs - {"index"} for t in own), kind
        assert [t.rung for t in own] == sorted(t.rung for t in own)
        assert kind == "retrieve" or any(not t.baseline and "chat" in t.needs for t in own), kind
        assert all(t.when and t.settings is not None for t in own)


def test_the_length_of_a_lead_is_that_of_the_references(tmp_path: Path) -> None:
    one, two = NEWS.split(". ")[0] + ".", ". ".join(NEWS.split(". ")[:2]) + "."
    for length, reference in ((1, one), (2, two)):
        predictor, figures = fitted(
            Lead(), tmp_path / str(length), "summarise", rows((NEWS, reference), (NEWS, reference))
        )
        assert (figures["sentences"], figures["token_f1"][str(length)]) == (length, 1.0)
        assert predictor.predict([NEWS])[0].output == reference
    _, figures = fitted(Lead(), tmp_path / "none", "summarise", rows((NEWS, None)))
    assert (figures["sentences"], figures["rows"]) == (3, 0)


def test_the_central_sentence_is_the_one_that_shares_most_words(tmp_path: Path) -> None:
    text = (
        "Hoy ha llovido mucho aquí. El parque nuevo abre el lunes con un concierto. El concierto del parque nuevo es "
        "gratis. El lunes abre también la piscina. Mañana nadie sabe nada."
    )
    order = central([s.strip() + "." for s in text.split(".") if s.strip()])
    assert order[0] == 1
    assert sorted(order) == [0, 1, 2, 3, 4]
    reference = "El parque nuevo abre el lunes con un concierto."
    predictor, figures = fitted(Extractive(), tmp_path / "a", "summarise", rows((text, reference)))
    assert figures["sentences"] == 1
    assert predictor.predict([text])[0].output == reference
    assert central([]) == []
    assert central(["¿?", "…"]) == [0, 1]
    assert central(["hola"] * 3) == [0, 1, 2]


def test_fields_take_their_commonest_value_where_they_are_there_more_often_than_not(tmp_path: Path) -> None:
    objects = [{"país": "ES", "n": 1}, {"país": "ES", "n": 2, "raro": 1}, {"país": "FR", "n": 2}]
    predictor, figures = fitted(
        Frequent(),
        tmp_path / "a",
        "extract",
        rows(*((f"texto {i}", json.dumps(o)) for i, o in enumerate(objects)), ("x", "[1]"), ("y", "{rot"), ("z", None)),
    )
    assert json.loads(predictor.predict(["da igual"])[0].output) == {"país": "ES", "n": 2}
    assert figures == {"fields": 2, "rows": 3}
    empty, _ = fitted(Frequent(), tmp_path / "b", "extract", [])
    assert empty.predict(["a"])[0].output == "{}"


def test_the_nearest_texts_answer_is_given_whole(tmp_path: Path) -> None:
    predictor, figures = fitted(
        NearestText(),
        tmp_path / "a",
        "translate",
        rows(("no hay luz", "there is no light"), ("quiero pagar", "I want to pay"), ("x", None)),
    )
    found = predictor.predict(["pagar quiero", "no hay luz"])
    assert [p.output for p in found] == ["I want to pay", "there is no light"]
    assert figures == {"examples": 2}
    assert found[1].score == pytest.approx(1, abs=1e-5)
    nothing, figures = fitted(NearestText(), tmp_path / "b", "instruct", rows(("haz algo", None)))
    assert (nothing.predict(["haz"])[0].output, figures) == ("", {"examples": 0})
    wordless, _ = fitted(NearestText(), tmp_path / "c", "generate", rows(("👍", "sí")))
    assert wordless.predict(["👍"])[0].output == ""


def test_a_conversation_is_compared_by_its_words(tmp_path: Path) -> None:
    def talk(*said: str) -> str:
        return json.dumps([{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)])

    predictor, _ = fitted(
        NearestText(),
        tmp_path / "a",
        "converse",
        rows(
            (talk("hola", "dígame", "no tengo luz"), "Mandamos a un técnico."), (talk("mi factura"), "Se la enviamos.")
        ),
    )
    assert predictor.predict([talk("buenas, sigo sin luz")])[0].output == "Mandamos a un técnico."
    assert gist("converse", talk("a", "b", "c")) == "a\nb\nc\nc"
    assert conversation("[no es JSON") == [{"role": "user", "content": "[no es JSON"}]


@pytest.mark.parametrize(
    ("technique", "kind"),
    [
        (Lead(), "summarise"),
        (Extractive(), "summarise"),
        (Copy(), "translate"),
        (Empty(), "extract"),
        (Empty(), "code"),
        (Frequent(), "extract"),
        (Pattern(), "extract"),
        (NearestText(), "converse"),
        (NearestText(), "generate"),
    ],
    ids=lambda x: str(getattr(x, "name", x)),
)
def test_what_is_odd_is_answered_alone_as_in_company_and_at_once(
    technique: Any, kind: TaskKind, tmp_path: Path
) -> None:
    train = rows((NEWS, NEWS[:40]), ("[]", '{"a": 1}'), ("hola", "adiós"))
    began = time.perf_counter()
    predictor, _ = fitted(technique, tmp_path / "a", kind, train)
    batch = [(p.output, p.score) for p in predictor.predict(ODD)]
    assert time.perf_counter() - began < 2
    assert [(p.output, p.score) for text in ODD for p in predictor.predict([text])] == batch
    assert predictor.predict([]) == []
    if kind == "extract":
        assert all(isinstance(json.loads(output or "{}"), dict) for output, _ in batch)
    if kind == "code":
        assert {output for output, _ in batch} == {"pass\n"}


def test_values_of_one_shape_are_found_after_their_word(tmp_path: Path) -> None:
    def bill(i: int) -> tuple[str, str]:
        text = f"El pedido {500 + i} va. Factura QX-{70 + i} por un total de {10 + i}.5 euros a nombre de Ana Ruiz."
        return text, json.dumps({"factura": f"QX-{70 + i}", "importe": 10.5 + i, "cliente": "Ana Ruiz", "pagada": True})

    predictor, figures = fitted(Pattern(), tmp_path / "a", "extract", rows(*(bill(i) for i in range(8)), ("x", "[]")))
    assert figures["rows"] == 8
    assert figures["found"]["factura"] == 1
    text = "Pedido 9. La Factura ZZ-123 suma un total de 99.25 euros, a nombre de Luis Gil."
    read = json.loads(predictor.predict([text])[0].output)
    assert read == {"factura": "ZZ-123", "cliente": "Luis Gil", "importe": 99.25}
    assert json.loads(predictor.predict(["nada de esto"])[0].output) == {}
    began = time.perf_counter()
    predictor.predict(["a" * 50_000, "1" * 50_000, "QX-" * 20_000, "de " * 20_000, "\n" * 50_000])
    assert time.perf_counter() - began < 2
    none, figures = fitted(Pattern(), tmp_path / "b", "extract", rows(("a", '{"x": "no está"}')))
    assert (none.predict(["a"])[0].output, figures["fields"]) == ("{}", 0)
