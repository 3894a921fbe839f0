"""Text tasks by prompt over a real connection: what is asked, what is read, and what is an error of its row."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from chat_peer import fitted, remote

from bucle.core.errors import BadInput, ConfigError
from bucle.core.records import Example, TaskKind
from bucle.customise.distil import Distilled
from bucle.customise.prompt import ChainOfThought, FewShot, ZeroShot
from bucle.customise.prompt.parsing import answer_after, json_object, python_block
from bucle.customise.retrieve import Bm25, ClosedBook

ROWS = [
    Example(id=str(i), input=a, target=b)
    for i, (a, b) in enumerate(
        [
            ("no hay luz en casa", "there is no light at home"),
            ("quiero pagar", "I want to pay"),
            ("buenos días", "good day"),
            ("hasta luego", "see you"),
            ("no hay agua en casa", "there is no water at home"),
        ]
    )
]


@pytest.mark.parametrize(
    ("kind", "params", "said"),
    [
        ("summarise", {}, ["Resume"]),
        ("summarise", {"language": "en"}, ["Summarise"]),
        ("summarise", {"language": "fr"}, ["Summarise"]),
        ("translate", {"source": "es", "target": "en"}, ["de español a inglés"]),
        ("translate", {"source": "es", "target": "quechua", "language": "en"}, ["from Spanish to quechua"]),
        ("translate", {}, ["Traduce el texto."]),
        ("generate", {"voice": "cercana, sin exclamaciones"}, ["voz de la marca: cercana, sin exclamaciones"]),
        ("generate", {"instruction": "Escribe un titular", "voice": "sobria"}, ["Escribe un titular", "sobria"]),
        ("extract", {"schema": {"type": "object", "properties": {"importe": {}}}}, ['"importe"', "esquema"]),
        ("instruct", {}, ["exactamente"]),
        ("code", {"language": "en"}, ["```python"]),
    ],
)
def test_each_kind_is_told_what_it_needs(
    kind: TaskKind, params: dict[str, Any], said: list[str], tmp_path: Path
) -> None:
    with remote(lambda messages, body: "```python\npass\n```" if kind == "code" else "{}") as (chat, peer):
        predictor, _ = fitted(ZeroShot(), tmp_path, kind, [], chat=chat, **params)
        found = predictor.predict(["Texto {raro} con llaves %s"])[0]
        system, user = peer.asked[0]["messages"]
        assert all(part in system["content"] for part in said), system
        assert user == {"role": "user", "content": "Texto {raro} con llaves %s"}
        assert (found.error, found.output) == ("", {"extract": "{}", "code": "pass\n"}.get(kind, "{}"))
        assert found.ms > 0
        assert found.usage.tokens_in > 0


def test_the_nearest_examples_are_shown_and_the_farthest_go_where_they_do_not_fit(tmp_path: Path) -> None:
    def says(messages: list[dict[str, str]], body: dict[str, Any]) -> str:
        if len(messages) > 4:
            raise BadInput("context_length_exceeded")
        return "yes"

    with remote(says) as (chat, peer):
        predictor, figures = fitted(FewShot(), tmp_path, "translate", ROWS, chat=chat)
        assert figures == {"shots": 3}
        assert [p.output for p in predictor.predict(["no hay luz en casa ya"] * 2)] == ["yes"] * 2
        sizes = sorted(len(body["messages"]) for body in peer.asked)
        assert sizes == [4, 4, 6, 6, 8, 8]
        last = next(body["messages"] for body in peer.asked if len(body["messages"]) == 4)
        assert [m["content"] for m in last[1:3]] == ["no hay luz en casa", "there is no light at home"]
        assert predictor.shortened == 2


def test_a_refusal_that_is_not_about_length_is_told_and_not_asked_for_ever(tmp_path: Path) -> None:
    def says(messages: list[dict[str, str]], body: dict[str, Any]) -> str:
        raise BadInput("content policy")

    with remote(says) as (chat, peer):
        predictor, _ = fitted(FewShot(), tmp_path, "translate", ROWS, chat=chat, shots=5)
        found = predictor.predict(["hola"])[0]
        assert (found.output, "content policy" in found.error) == ("", True)
        assert len(peer.asked) == 4


def test_what_was_cut_or_empty_is_an_error_that_keeps_what_there_was(tmp_path: Path) -> None:
    replies = {"largo": "CUT Esto es solo el princ", "nada": "  ", "bien": " Vale. "}
    with remote(lambda messages, body: replies[messages[-1]["content"]]) as (chat, peer):
        predictor, _ = fitted(ZeroShot(), tmp_path, "generate", [], chat=chat, max_tokens=5)
        cut, empty, fine, blank = predictor.predict(["largo", "nada", "bien", " \n"])
    assert (cut.output, "cut off after" in cut.error, "max_tokens" in cut.error) == (
        "Esto es solo el princ",
        True,
        True,
    )
    assert (empty.output, empty.error) == ("", "the reply is empty")
    assert (fine.output, fine.error) == ("Vale.", "")
    assert (blank.output, blank.error) == ("", "the input is empty")
    assert {body["max_tokens"] for body in peer.asked} == {5}
    assert len(peer.asked) == 3


SCHEMA = {"type": "object", "properties": {"importe": {"type": "number"}}, "required": ["importe"]}


def test_an_object_is_repaired_once_with_the_error_shown(tmp_path: Path) -> None:
    second = {"a": '{"importe": 3}', "b": "sigo sin saber", "c": '{"importe": "tres"}', "e": '{"importe": 5}'}

    def says(messages: list[dict[str, str]], body: dict[str, Any]) -> str:
        text = messages[1]["content"]
        if len(messages) == 2:
            return {
                "a": "{'importe': 3}",
                "b": "no sé",
                "c": '{"importe": "tres"}',
                "d": 'Aquí: ```json\n{"importe": 4}\n```',
                "e": 'CUT {"importe',
            }[text]
        assert messages[2]["role"] == "assistant"
        assert messages[3]["role"] == "user"
        return second[text]

    with remote(says) as (chat, peer):
        predictor, _ = fitted(ZeroShot(), tmp_path, "extract", [], chat=chat, schema=SCHEMA)
        a, b, c, d, e = predictor.predict(list("abcde"))
    assert (a.output, a.error) == ('{"importe": 3}', "")
    assert (b.output, b.error) == ("", "the reply holds no JSON object")
    assert c.output == '{"importe": "tres"}'
    assert "does not fit the schema: importe" in c.error
    assert (d.output, d.error) == ('{"importe": 4}', "")
    assert "cut off" in e.error, "a cut reply is no mistake that can be repaired"
    assert len(peer.asked) == 5 + 3
    shown = {
        body["messages"][1]["content"]: body["messages"][3]["content"]
        for body in peer.asked
        if len(body["messages"]) > 2
    }
    assert "is not JSON" in shown["a"]
    assert "importe" in shown["c"]
    assert a.usage.tokens_out == 2 + 2, "the repair is paid for too"


def test_fields_of_the_training_rows_stand_in_for_a_schema_and_a_schema_that_is_none_is_told(tmp_path: Path) -> None:
    train = [Example(id="1", input="a", target='{"fecha": 1, "nombre": 2}')]
    with remote(lambda messages, body: "[1, 2]") as (chat, peer):
        predictor, _ = fitted(ZeroShot(), tmp_path / "a", "extract", train, chat=chat)
        assert "no JSON object" in predictor.predict(["x"])[0].error
        assert "fecha, nombre" in peer.asked[0]["messages"][0]["content"]
        with pytest.raises(BadInput):
            fitted(ZeroShot(), tmp_path / "b", "extract", train, chat=chat, schema={"type": "nonsense"})


def test_a_conversation_keeps_its_turns_and_its_examples_stand_apart(tmp_path: Path) -> None:
    talk = json.dumps(
        [
            {"role": "system", "content": "Eres de Luz S.A."},
            {"role": "user", "content": "hola"},
            {"role": "assistant", "content": "dígame"},
            {"role": "user", "content": "no tengo luz"},
        ]
    )
    train = [Example(id="1", input=talk, target="Vamos"), Example(id="2", input='[{"role": "x"}]', target="no")]
    with remote(lambda messages, body: "Ya vamos.") as (chat, peer):
        predictor, _ = fitted(FewShot(), tmp_path, "converse", train, chat=chat)
        good, bad, plain = predictor.predict([talk, '[{"role": "boss", "content": "x"}]', "hola"])
    assert (good.output, plain.output) == ("Ya vamos.", "Ya vamos.")
    assert "not a list of messages" in bad.error
    messages = next(b["messages"] for b in peer.asked if len(b["messages"]) == 4)
    assert [m["role"] for m in messages] == ["system", "user", "assistant", "user"]
    assert "Asistente: Vamos" in messages[0]["content"]
    assert messages[0]["content"].endswith("Eres de Luz S.A.")
    assert len(peer.asked) == 2


def test_code_is_sampled_with_its_own_seeds(tmp_path: Path) -> None:
    def says(messages: list[dict[str, str]], body: dict[str, Any]) -> str:
        return "Nada" if body["seed"] == 7 else f"Aquí:\n```python\nx = {body['seed']}\n```\nListo."

    with remote(says) as (chat, peer):
        predictor, _ = fitted(ZeroShot(), tmp_path, "code", [], chat=chat, samples=3)
        found = predictor.predict(["pon x"])[0]
    assert (found.output, found.error, set(found.others)) == ("x = 8\n", "", {"", "x = 9\n"})
    assert sorted((b["seed"], b["temperature"]) for b in peer.asked) == [(7, 0.7), (8, 0.7), (9, 0.7)]
    assert not {"code"} & FewShot().kinds, "its rows hold tests, and no program to show"


def test_rows_are_asked_side_by_side(tmp_path: Path) -> None:
    together = threading.Barrier(8, timeout=5)

    def says(messages: list[dict[str, str]], body: dict[str, Any]) -> str:
        together.wait()
        return messages[-1]["content"].upper()

    with remote(says) as (chat, _):
        predictor, _ = fitted(ZeroShot(), tmp_path, "instruct", [], chat=chat)
        asked = [f"fila {i}" for i in range(8)]
        assert [p.output for p in predictor.predict(asked)] == [text.upper() for text in asked]


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ('{"a": 1}', {"a": 1}),
        ('Claro: {"a": {"b": [1, "}"]}} y más', {"a": {"b": [1, "}"]}}),
        ('```json\r\n{"ñ": "\\u00e1"}\r\n```', {"ñ": "á"}),
        ("", None),
        ("[1]", None),
        ('{"a": NaN}', None),
        ("{" * 100_000, None),
        ('{"a":' * 100_000, None),
        ("{'a': 1}", None),
        ('{"a": ' + "9" * 5000 + "}", None),
    ],
)
def test_objects_are_read_or_refused(reply: str, value: dict[str, Any] | None) -> None:
    if value is not None:
        assert json_object(reply) == value
        return
    with pytest.raises(BadInput):
        json_object(reply)


@pytest.mark.parametrize(
    ("reply", "program"),
    [
        ("```python\nx = 1\n```", "x = 1\n"),
        ("```\r\nx = 1\r\n```", "x = 1\n"),
        ("```py\nx = 1", "x = 1\n"),
        ("```bash\nls\n```\n```python\nx = 2\n```\n```python\nx = 3\n```", "x = 2\n"),
        ("def f():\n    return '\\d'", None),
        ("```bash\nls\n```", ""),
        ("No sé.", ""),
        ("", ""),
        ("```python\n\n```", ""),
        ("((((" * 5000, ""),
    ],
)
def test_programs_are_read_or_refused(reply: str, program: str | None) -> None:
    if program == "":
        with pytest.raises(BadInput):
            python_block(reply)
    else:
        assert python_block(reply).replace("\r", "") == (program or reply + "\n")


@pytest.mark.parametrize(
    ("reply", "last", "found"),
    [
        ("Veo luz.\nRESPUESTA: avería", True, ("Veo luz.", "avería")),
        ("a\n**Respuesta:** x\nNo, mejor:\n### ANSWER: y", True, ("a\n**Respuesta:** x\nNo, mejor:", "y")),
        ("a\nRESPUESTA:\nuno\nRespuesta: dos", False, ("a", "uno\nRespuesta: dos")),
        ("Por eso, RESPUESTA: baja", True, ("Por eso,", "baja")),
        ("Final answer: z", True, ("", "z")),
        ("la respuesta es baja", True, None),
        ("x\nRESPUESTA:  \n", True, None),
        ("", True, None),
    ],
)
def test_the_answer_is_what_follows_the_marker(reply: str, last: bool, found: tuple[str, str] | None) -> None:
    if found is not None:
        assert answer_after(reply, last=last) == found
        return
    with pytest.raises(BadInput):
        answer_after(reply, last=last)


@pytest.mark.parametrize("wrong", ["many", -1, 2.5, True, 10**9, [3]])
def test_a_setting_that_cannot_be_meant_is_told(wrong: object, tmp_path: Path) -> None:
    for technique, name in (
        (FewShot(), "shots"), (ZeroShot(), "max_tokens"), (ChainOfThought(), "samples"), (ClosedBook(), "max_tokens"),
        (Bm25(), "k"), (Distilled(), "shots")):
        with pytest.raises(ConfigError, match=name) as caught:
            fitted(technique, tmp_path, "classify", ROWS, chat=object(), labels=("a", "b"), folders={"index": tmp_path},
                   **{name: wrong})
        assert "choose.techniques" in caught.value.hint
