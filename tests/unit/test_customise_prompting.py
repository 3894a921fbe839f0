"""The task's own prompt in every prompting technique: its text, voice, examples, reasoning and form of answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from chat_peer import fitted, remote

from bucle.core.errors import TemplateError
from bucle.core.prompting import PromptSpec
from bucle.core.records import Example
from bucle.customise.prompt import ChainOfThought, FewShot, ZeroShot

LABELS = ("alta", "baja")
ROWS = [Example(id="1", input="quiero contratar", target="alta"), Example(id="2", input="quiero irme", target="baja"),
        Example(id="3", input="contratar la luz", target="alta")]


def prompt(**said: Any) -> dict[str, Any]:
    """As it reaches a technique: a PromptSpec as a mapping."""
    return PromptSpec.model_validate({"name": "p", **said}).model_dump(mode="json")


def asked(technique: Any, kind: Any, folder: Path, inputs: list[str], reply: str = "alta", rows: Any = ROWS,
          labels: Any = (), **params: Any) -> tuple[list[Any], list[list[dict[str, str]]]]:
    with remote(lambda messages, body: reply) as (chat, peer):
        predictor, _ = fitted(technique, folder, kind, rows, chat=chat, labels=labels, **params)
        found = predictor.predict(inputs)
    return found, [body["messages"] for body in peer.asked]


def test_its_text_labels_and_examples_stand_in_the_prompt(tmp_path: Path) -> None:
    own = prompt(system="Clasifica para {{ empresa }}.", user="Mensaje: {{ input }}", role="Eres de atención.",
                 inputs={"empresa": {"default": "Luz {{ 1 }}"}}, shots={"count": 2, "choose": "fixed"})
    (one,), ((system, *turns, last),) = asked(FewShot(), "classify", tmp_path / "a", ["hola {{ x }}"], labels=LABELS,
                                              prompt=own)
    assert one.output == "alta"
    assert system["content"] == "Eres de atención.\nClasifica para Luz {{ 1 }}.\nalta, baja"
    assert [m["content"] for m in turns] == ["Mensaje: quiero contratar", "alta", "Mensaje: quiero irme", "baja"]
    assert last["content"] == "Mensaje: hola {{ x }}", "what the user wrote is no template"
    _, (plain,) = asked(ZeroShot(), "classify", tmp_path / "b", ["x"], labels=LABELS, prompt=own)
    assert len(plain) == 2, "zero-shot shows none"
    listed = prompt(system="Una de: {% for l in labels %}[{{ l }}]{% endfor %}", inputs={"labels": {"type": "list"}})
    _, ((system, _),) = asked(ZeroShot(), "classify", tmp_path / "c", ["x"], labels=LABELS, prompt=listed)
    assert system["content"] == "Una de: [alta][baja]", "where the template says the labels, they are not said again"


def test_thinking_and_samples_make_a_vote_and_the_examples_follow_the_form(tmp_path: Path) -> None:
    own = prompt(system="Clasifica.", thinking=True, samples=3, shots={"count": 1, "rows": ["2"]}, language="es")
    said = iter(["Pienso.\nRESPUESTA: alta", "Pienso más.\nRESPUESTA: baja", "RESPUESTA: alta"])
    lines = list(said)
    with remote(lambda messages, body: lines[body["seed"] - 7]) as (chat, peer):
        predictor, _ = fitted(FewShot(), tmp_path / "a", "classify", ROWS, chat=chat, labels=LABELS, prompt=own)
        (one,) = predictor.predict(["hola"])
    assert (one.output, one.score) == ("alta", pytest.approx(2 / 3))
    assert len(peer.asked) == 3
    assert peer.asked[0]["temperature"] > 0
    assert peer.asked[0]["messages"][2] == {"role": "assistant", "content": "RESPUESTA: baja"}
    assert peer.asked[0]["messages"][0]["content"].count("RESPUESTA:") == 1
    (thought,), _ = asked(ChainOfThought(), "classify", tmp_path / "b", ["x"], "Veamos.\nRESPUESTA: baja",
                          labels=LABELS, prompt=prompt(system="Clasifica."))
    assert (thought.output, thought.reasoning) == ("baja", "Veamos.")
    silent = prompt(system="Resume.", samples=3)
    texts = iter(["b", "a", "a"])
    with remote(lambda messages, body: next(texts)) as (chat, _):
        predictor, _ = fitted(ZeroShot(), tmp_path / "c", "summarise", ROWS, chat=chat, prompt=silent)
        assert predictor.predict(["x"])[0].output == "a", "the vote needs no reasoning"


def test_voice_and_tone_stand_in_generation_and_conversation(tmp_path: Path) -> None:
    own = prompt(system="Atiende.", voice={"description": "Cercana.", "examples": [
        {"plain": "Su solicitud fue recibida.", "ours": "¡Recibido!"}]})
    talk = json.dumps([{"role": "system", "content": "Es martes."}, {"role": "user", "content": "hola"},
                       {"role": "assistant", "content": "buenas"}, {"role": "user", "content": "¿abrís?"}])
    _, (generated,) = asked(ZeroShot(), "generate", tmp_path / "a", ["una nota"], prompt=own, voice="Seria.")
    assert "Cercana." in generated[0]["content"]
    assert "¡Recibido!" in generated[0]["content"]
    assert "Seria." not in generated[0]["content"], "the prompt's own voice stands in the task's place"
    _, (system_turns,) = asked(ZeroShot(), "converse", tmp_path / "b", [talk], prompt=own)
    system, *turns = system_turns
    assert "Es martes." in system["content"]
    assert "¡Recibido!" in system["content"]
    assert [m["role"] for m in turns] == ["user", "assistant", "user"]
    assert [m["content"] for m in turns] == ["hola", "buenas", "¿abrís?"]
    _, ((plain, *_),) = asked(ZeroShot(), "converse", tmp_path / "c", [talk], voice="Cálida y breve.")
    assert "Cálida y breve." in plain["content"], "a task's voice is heard in conversations too"
    (wrong,), _ = asked(ZeroShot(), "converse", tmp_path / "d", ['[{"role": "user"}]'], prompt=own)
    assert wrong.error_kind == "BadInput"


def test_any_prompt_with_an_output_gives_objects_that_fit(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"titulo": {"type": "string"}}, "required": ["titulo"]}
    own = prompt(system="Escribe.", output=schema)
    fenced = '```json\n{"titulo": "ñ"}\n```'
    (good,), (messages,) = asked(ZeroShot(), "generate", tmp_path / "a", ["x"], fenced, prompt=own)
    assert good.output == '{"titulo": "ñ"}'
    assert messages[0]["content"].count('"titulo"') == 2, "the schema stands in it once (properties and required)"
    (bad,), twice = asked(ZeroShot(), "generate", tmp_path / "b", ["x"], "texto libre", prompt=own)
    assert (bad.error_kind, len(twice)) == ("SchemaBroken", 2)
    label = prompt(system="Clasifica.", output={"type": "object", "required": ["label"]})
    (one,), _ = asked(ZeroShot(), "classify", tmp_path / "c", ["x"], '{"label": "BAJA"}', labels=LABELS, prompt=label)
    assert one.output == "baja"
    (none,), _ = asked(ZeroShot(), "classify", tmp_path / "d", ["x"], '{"label": "otra"}', labels=LABELS, prompt=label)
    assert none.error_kind == "SchemaBroken"


def test_extraction_says_its_fields_or_its_schema_once(tmp_path: Path) -> None:
    rows = [Example(id="1", input="a", target='{"fecha": 1, "nombre": 2}')]
    own = prompt(system="Extrae.", max_tokens=77)
    with remote(lambda messages, body: "{}") as (chat, peer):
        fitted(ZeroShot(), tmp_path / "a", "extract", rows, chat=chat, prompt=own)[0].predict(["x"])
        assert "fecha, nombre" in peer.asked[0]["messages"][0]["content"]
        assert peer.asked[0]["max_tokens"] == 77
        within = prompt(system="Extrae según {{ schema }}", inputs={"schema": {"max_characters": 9000}})
        fitted(ZeroShot(), tmp_path / "b", "extract", rows, chat=chat, prompt=within,
               schema={"type": "object", "title": "Ficha"})[0].predict(["x"])
        assert peer.asked[1]["messages"][0]["content"].count("Ficha") == 1


def test_an_input_that_nobody_gives_is_told_when_fitting(tmp_path: Path) -> None:
    own = prompt(system="{{ sede }}", inputs={"sede": {"type": "text"}})
    with remote(lambda messages, body: "alta") as (chat, _):
        with pytest.raises(TemplateError, match="`sede`") as caught:
            fitted(ZeroShot(), tmp_path / "a", "classify", ROWS, chat=chat, labels=LABELS, prompt=own)
        assert "default" in caught.value.hint
        with pytest.raises(TemplateError):
            fitted(ZeroShot(), tmp_path / "b", "classify", ROWS, chat=chat, prompt={"name": "p", "no": 1})


@pytest.mark.torch
def test_a_local_model_scores_labels_after_the_own_prompt_and_an_overflow_is_that_rows_error(tmp_path: Path) -> None:
    from bucle.customise.pretrain import pretrain
    from bucle.models.local import LocalModel

    base = tmp_path / "nano"
    base.mkdir()
    texts = [f"{row.input}: {row.target}. Caso {i}." for i in range(12) for row in ROWS]
    pretrain(texts, base, tmp_path / "work", steps=3, report=lambda done, total, note="": None, width=32, layers=1,
             context=160, batch_tokens=256, vocabulary=320, threads=1)
    model = LocalModel(base, threads=1)
    own = prompt(system="Di una.", shots={"count": 3})
    for technique, name in ((FewShot(), "a"), (ChainOfThought(), "b")):
        predictor, _ = fitted(technique, tmp_path / name, "classify", ROWS, chat=model, labels=LABELS, prompt=own,
                              max_tokens=8)
        good, far, again = predictor.predict(["contratar", "baja " * 900, "contratar"])
        assert good.output in LABELS
        assert (far.output, far.error_kind) == ("", "ContextOverflow")
        assert again.output == good.output
