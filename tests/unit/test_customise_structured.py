"""Objects by JSON schema over a real wire: asked for where the provider can, validated all the same, repaired once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from chat_peer import fitted, remote

from bucle.core.errors import BadInput, SchemaBroken
from bucle.core.records import Example
from bucle.customise.prompt import ChainOfThought, ZeroShot
from bucle.customise.prompt.structured import structured, structured_replies
from bucle.models.ask import Ask, ask_all, remembered

SCHEMA = {"type": "object", "properties": {"importe": {"type": "integer"}}, "required": ["importe"],
          "additionalProperties": False}


def asks(*texts: str) -> list[Ask]:
    return [Ask(({"role": "user", "content": text},), 50) for text in texts]


def test_an_object_is_repaired_once_and_then_it_is_a_typed_failure() -> None:
    said = {"a": ['{"importe": 3}'], "b": ['{"importe": "3"}', '{"importe": 3}'], "c": ["no sé", "sigo sin saber"],
            "d": ['CUT {"impor'], "e": ['{"importe": 1, "secreto": "XYZ"}', '{"importe": 2, "otro": 1}'],
            "f": ["", '{"importe": 9}']}

    def says(messages: list[dict[str, str]], body: dict[str, Any]) -> str:
        return said[messages[0]["content"]][len(messages) // 2]

    with remote(says) as (chat, peer):
        a, b, c, d, e, f = structured_replies(chat, asks(*"abcdef"), SCHEMA, language="en")
        assert structured(chat, asks("a", "c"), SCHEMA)[0] == {"importe": 3}
    assert (a.value, a.repaired, b.value, b.repaired) == ({"importe": 3}, False, {"importe": 3}, True)
    assert b.usage.tokens_out == 4, "both attempts are paid for"
    for one, told in ((c, "no JSON object"), (d, "cut off"), (e, "Additional properties"), (f, "empty")):
        assert one.value is None
        assert isinstance(one.error, SchemaBroken)
        assert told in one.error.message
        assert one.error.hint
    assert e.draft == {"importe": 2, "otro": 1}
    shown = [m["messages"][-1]["content"] for m in peer.asked if len(m["messages"]) == 3]
    assert all("corrected JSON object" in text or "corregido" in text for text in shown)
    assert not any("XYZ" in text for text in shown), "the fault names the place, not what stands there"
    assert sum(len(m["messages"]) == 3 for m in peer.asked) == 3 + 1, "cut and empty replies are not asked for again"


def test_a_provider_is_asked_for_the_schema_until_it_refuses() -> None:
    def says(messages: list[dict[str, str]], body: dict[str, Any]) -> str:
        if "response_format" in body and messages[0]["content"] != "able":
            raise BadInput("Unknown parameter: response_format")
        return '{"importe": 1}'

    with remote(says) as (chat, peer):
        assert structured(chat, asks("able"), SCHEMA) == [{"importe": 1}]
        form = peer.asked[-1]["response_format"]
        assert form == {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
        assert structured(chat, asks("x"), SCHEMA) == [{"importe": 1}]
        assert structured(chat, asks("y"), SCHEMA) == [{"importe": 1}]
        assert ["response_format" in body for body in peer.asked] == [True, True, False, False]


def test_the_reply_is_remembered_by_its_schema_too(tmp_path: Path) -> None:
    with remote(lambda messages, body: '{"importe": 1}') as (chat, peer), remembered(tmp_path / "r.db"):
        ask = asks("a")[0]
        plain, formed = [ask], [Ask(ask.messages, 50, schema=SCHEMA)]
        for asked in (plain, formed, plain, formed):
            ask_all(chat, asked)
        assert len(peer.asked) == 2


def test_a_schema_that_is_none_and_replies_that_are_hostile() -> None:
    deep = '{"a":' * 5000 + "1" + "}" * 5000
    with remote(lambda messages, body: deep if messages[0]["content"] == "deep" else '{"n": NaN}') as (chat, _):
        with pytest.raises(BadInput):
            structured(chat, asks("a"), {"type": "nonsense"})
        with pytest.raises(BadInput):
            structured(chat, asks("a"), {"$ref": "https://example.org/x.json"})
        found = structured(chat, asks("deep", "nan"), {})
        assert all(isinstance(one, SchemaBroken) for one in found)


def test_every_technique_that_writes_tells_the_kind_of_its_error(tmp_path: Path) -> None:
    rows = [Example(id="1", input="a", target='{"importe": 1}')]

    def says(messages: list[dict[str, str]], body: dict[str, Any]) -> str:
        if "RESPUESTA" in messages[0]["content"]:
            return "Pienso.\nRESPUESTA: {\"importe\": 4}" if len(messages) > 3 and messages[1]["content"] == "bien" \
                else "Pienso.\nRESPUESTA: nada"
        return "nada"

    with remote(says) as (chat, peer):
        plain, _ = fitted(ZeroShot(), tmp_path / "a", "extract", rows, chat=chat, schema=SCHEMA)
        assert [p.error_kind for p in plain.predict(["x", ""])] == ["SchemaBroken", "BadInput"]
        thought, _ = fitted(ChainOfThought(), tmp_path / "b", "extract", rows, chat=chat, schema=SCHEMA)
        good, bad = thought.predict(["bien", "mal"])
        assert (good.output, good.error, good.error_kind) == ('{"importe": 4}', "", "")
        assert (bad.output, bad.error_kind) == ("", "SchemaBroken")
        label, _ = fitted(ZeroShot(), tmp_path / "c", "classify", [], chat=chat, labels=("alta", "baja"))
        assert label.predict(["x"])[0].error_kind == "BadInput"
        assert all("response_format" in json.dumps(b) for b in peer.asked[:2])
