"""Queries that a model writes for a question: read from a real wire, fused by reciprocal rank, or done without."""

from __future__ import annotations

from typing import Any

import pytest
from chat_peer import remote

from bucle.core.errors import BadInput, ConfigError
from bucle.core.ports import Hit
from bucle.core.records import Chunk, Usage
from bucle.customise.retrieve.passages import search_settings
from bucle.customise.retrieve.queries import PROMPTS, by_reciprocal_rank, mode_of, searched_for


def asked(reply: str | Exception, mode: str, question: str = "¿cuánto cuesta?", language: str = "es") -> Any:
    def says(messages: list[dict[str, str]], body: dict[str, Any]) -> str:
        assert messages[-1]["content"] == question, "the question and nothing else"
        if isinstance(reply, Exception):
            raise reply
        return reply

    with remote(says) as (chat, peer):
        found = searched_for(chat, [question], mode, language=language, seed=7)[0]
    return found, peer.asked


@pytest.mark.parametrize(("mode", "reply", "queries"), [
    ("rewrite", "precio de la tarifa", ("precio de la tarifa",)),
    ("rewrite", "  Consulta: «precio»\nOtra cosa", ("precio",)),
    ("multi", "1. precio\n2) coste\n- precio\n\n* importe\n9: cuota",
     ("¿cuánto cuesta?", "precio", "coste", "importe")),
    ("multi", "¿cuánto cuesta?", ("¿cuánto cuesta?",)),
    ("multi", "CUT precio\ncoste\ncuota men", ("¿cuánto cuesta?", "precio", "coste")),
    ("rewrite", "x" * 5000, ("x" * 300,)),
])
def test_a_models_queries_are_read(mode: str, reply: str, queries: tuple[str, ...]) -> None:
    found, bodies = asked(reply, mode)
    assert (found.queries, found.error) == (queries, "")
    assert found.usage.tokens_in > 0
    assert found.usage.tokens_out > 0
    assert bodies[0]["messages"][0]["content"] == PROMPTS["es"][mode].format(n=3)


@pytest.mark.parametrize("reply", ["", "...\n¿?", BadInput("no")])
def test_where_the_model_fails_the_question_serves(reply: Any) -> None:
    for mode in ("rewrite", "multi"):
        found, _ = asked(reply, mode)
        assert found.queries == ("¿cuánto cuesta?",)
        assert found.error


def test_the_prompt_is_in_the_projects_language_and_an_empty_question_is_not_asked() -> None:
    _, bodies = asked("price", "rewrite", "how much?", "en")
    assert "search" in bodies[0]["messages"][0]["content"]
    with remote(lambda messages, body: "nada") as (chat, peer):
        found = searched_for(chat, ["", "  "], "multi", language="es", seed=7)
    assert [one.queries for one in found] == [("",), ("  ",)]
    assert peer.asked == []
    assert searched_for(None, ["a"], "plain", language="es", seed=7)[0].usage == Usage()


def test_ranks_are_fused() -> None:
    def hits(*names: str) -> list[Hit]:
        return [Hit(Chunk(id=n, document_id=n, path=n, text=n), 1.0) for n in names]

    found = by_reciprocal_rank([hits("a", "b", "c"), hits("b", "d"), hits("b", "a")])
    assert [h.chunk.id for h in found] == ["b", "a", "d", "c"]
    assert found[0].score == pytest.approx((1 / 62 + 2 / 61) / (3 / 61))
    assert by_reciprocal_rank([hits("x", "y")])[0].score == 1.0
    assert by_reciprocal_rank([[], []]) == []


def test_settings_that_cannot_be_are_refused() -> None:
    for params, says in (({"queries": "mucho"}, "plain, rewrite, multi"), ({"queries": "multi"}, "needs a model"),
                         ({"rerank": 1}, "true or false"), ({"rerank": True}, "needs a reranker"),
                         ({"depth": 1}, "from 5 to 1000"), ({"queries": ["plain"]}, "plain, rewrite")):
        with pytest.raises(ConfigError, match=says):
            search_settings(params, None, None)
    assert search_settings({}, None, None) == {"queries": "plain", "rerank": False, "depth": 50, "language": "es"}
    assert mode_of({"queries": None}, None) == "plain"
