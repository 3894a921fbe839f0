"""What a route remembers, for whom, and what it never does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from routing_engines import Told, one, pieces_of, say

from bucle.core.engine import AskContext, ChatAnswer, ChatAsk, Choice, Delta
from bucle.core.errors import ModelUnavailable
from bucle.core.records import Usage
from bucle.core.serving import RouteRule
from bucle.serve.routing import Alias, TargetFacts, build_routes, cached
from bucle.serve.routing.cache import Answers, Similar
from bucle.serve.routing.keys import semantic_group
from bucle.serve.routing.telling import telling

EXACT = {"to": [{"to": "a"}], "cache": {"kind": "exact", "minutes": 10, "entries": 3}}


class Words:
    """A bag of words as an encoder: near where the words are the same."""

    name, dimensions = "words", 64

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.fails = False

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        self.texts += texts
        if self.fails:
            raise RuntimeError("no encoder")
        rows = []
        for text in texts:
            row = [0.0] * self.dimensions
            for word in text.lower().replace("?", "").split():
                row[sum(map(ord, word)) % self.dimensions] += 1.0
            rows.append(row)
        return rows


def ask(route: Alias, asked: ChatAsk | str, *labels: str, user: str = "ana", **ctx: Any) -> ChatAnswer:
    asked = say(asked) if isinstance(asked, str) else asked
    return asyncio.run(route.complete(asked, AskContext(trace="t", identity=user, access=frozenset(labels), **ctx)))


def test_the_same_question_costs_nothing_the_second_time_and_says_so() -> None:
    engine = Told("a")
    route = one(EXACT, engine, facts={"a": TargetFacts(release="r1", candidate="c1")})
    first, ctx = ask(route, "hola"), AskContext(trace="t2", identity="berta")
    second = asyncio.run(route.complete(say("hola"), ctx))
    assert (first.cached, second.cached, len(engine.asked)) == ("", "exact", 1)
    assert (second.text, second.usage, second.route, second.release) == (first.text, Usage(), "a", "r1")
    assert [s["hit"] for s in ctx.spans if s["name"] == "cache"] == ["exact"]
    assert route.standing()["cache"] == {"exact": 1, "semantic": 0, "shared": 0, "missed": 1, "passed": 0, "kept": 1,
                                         "bytes": route.standing()["cache"]["bytes"]}


@pytest.mark.parametrize("other", [
    say("hola "), say("Hola"), say("hola", max_tokens=5), say("hola", stop=("x",)), say("hola", seed=1),
    say("hola", schema={"type": "object"}), say("hola", n=2), say("hola", top_logprobs=0), say("hola", regex="a+"),
    say("hola", tools=({"type": "function"},)), say("hola", temperature=0.0), ChatAsk("m", prompt="hola"),
    ChatAsk("other", ({"role": "user", "content": "hola"},)),
    ChatAsk("m", ({"role": "system", "content": "s"}, {"role": "user", "content": "hola"})),
])
def test_what_differs_in_anything_that_decides_is_another_question(other: ChatAsk) -> None:
    route = one(EXACT, Told("a"))
    ask(route, "hola")
    assert ask(route, other).cached == ""
    assert ask(route, other).cached == "exact"


def test_who_asks_and_how_it_is_sent_decide_nothing() -> None:
    route = one(EXACT, Told("a"))
    ask(route, "hola")
    assert ask(route, say("hola", user="otra", stream=True, include_usage=True)).cached == "exact"


def test_no_answer_crosses_labels_users_targets_or_releases() -> None:
    route = one({**EXACT, "cache": {"entries": 100}}, Told("a"))
    ask(route, "secreto", "staff")
    assert [ask(route, "secreto", *labels).cached for labels in ((), ("staff", "board"), ("board",), ("staff",))] == [
        "", "", "", "exact"]

    split = one({**EXACT, "to": [{"to": "a"}, {"to": "b"}]}, Told("a"), Told("b"))
    users = {ask(split, f"{n}", user=f"u{n}").route: f"u{n}" for n in range(40)}
    assert set(users) == {"a", "b"}
    assert ask(split, "hola", user=users["a"]).route == "a"
    answer = ask(split, "hola", user=users["b"])
    assert (answer.route, answer.cached) == ("b", "")
    split.roll_back("b")
    again = ask(split, "hola", user=users["b"])
    assert (again.route, again.cached) == ("a", "exact"), "a rolled back user gets the first target's answers"

    pools = [one(EXACT, Told("a"), facts={"a": TargetFacts(release=r)}).pool(AskContext()) for r in ("r1", "r2")]
    assert pools[0] != pools[1]


def test_an_inner_canary_is_told_apart_by_the_outer_cache() -> None:
    rules = {"outer": {"to": [{"to": "inner"}], "cache": {}}, "inner": {"to": [{"to": "a"}, {"to": "b"}]}}
    route = build_routes({k: RouteRule.model_validate(v) for k, v in rules.items()}, {"a": Told("a"), "b": Told("b")},
                         {})["outer"]
    found = [ask(route, "hola", user=f"u{n}") for n in range(30)]
    assert {(f.route, f.text) for f in found} == {("a", "a: hola"), ("b", "b: hola")}
    assert sum(not f.cached for f in found) == 2


def test_chance_replays_errors_and_stand_ins_are_not_kept() -> None:
    engine = Told("a", fails=[ModelUnavailable("gone")])
    route = one({**EXACT, "fallback": ["b"], "retries": 0}, engine, Told("b"))
    assert (ask(route, "hola").route, ask(route, "hola").route) == ("b", "a"), "a stand-in's answer is not the route's"
    for _ in range(2):
        assert ask(route, say("azar", temperature=0.7)).cached == ""
        assert ask(route, "otra", forward={"x-at": "3"}).cached == ""
    ask(route, say("azar", temperature=0.7, seed=3))
    assert ask(route, say("azar", temperature=0.7, seed=3)).cached == "exact"


def test_time_and_room_end_what_is_kept() -> None:
    now = [0.0]
    route = one(EXACT, Told("a"), clock=lambda: now[0])
    for text in "1234":
        ask(route, text)
    assert [ask(route, t).cached for t in "432"] == ["exact"] * 3, "the least lately used went"
    assert ask(route, "1").cached == ""
    now[0] = 599.0
    assert ask(route, "1").cached == "exact"
    now[0] = 601.0
    assert ask(route, "1").cached == ""


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 3000)), max_size=60), st.integers(1, 5))
def test_room_is_bounded_and_counted_right(puts: list[tuple[int, int]], entries: int) -> None:
    gone: list[bytes] = []
    kept = Answers(entries, 60, lambda: 0.0, gone.append)
    for key, length in puts:
        kept.put(bytes([key]), ChatAnswer((Choice("x" * length),)))
        assert len(kept) <= entries
    assert kept.size == sum(kept._kept[k].size for k in kept._kept)
    assert not kept.put(b"huge", ChatAnswer((Choice("x" * 9_000_000),)))


def test_a_kept_answer_streams_and_a_stream_is_kept() -> None:
    route = one(EXACT, engine := Told("a"))
    first = asyncio.run(pieces_of(route, say("hola")))
    again = asyncio.run(pieces_of(route, say("hola")))
    assert len(engine.asked) == 1
    assert "".join(p.text for p in first[:-1]) == "".join(p.text for p in again[:-1]) == "a: hola"  # type: ignore[union-attr]
    assert isinstance(again[0], Delta)
    assert isinstance(again[-1], ChatAnswer)
    assert again[-1].cached == "exact"


def test_tool_calls_and_several_choices_stream_from_the_cache() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    engine = Told("a")

    async def both(ask: ChatAsk, ctx: AskContext) -> ChatAnswer:
        return ChatAnswer((Choice("uno"), Choice("", "tool_calls", (call,))), Usage(usd=1.0))

    engine.complete = both  # type: ignore[method-assign]
    route = one(EXACT, engine)
    asked = say("hola", n=2, tools=({"type": "function"},))
    ask(route, asked)
    pieces = asyncio.run(pieces_of(route, asked))
    assert pieces[:-1] == [Delta("uno"), Delta("", 1, ({"index": 0, **call},))]


def test_those_who_ask_the_same_at_once_share_one_call_and_one_pays() -> None:
    engine = Told("a", waits=0.02)
    route = one(EXACT, engine)

    async def at_once() -> list[ChatAnswer]:
        return await asyncio.gather(*(route.complete(say("hola"), AskContext(trace=str(n))) for n in range(8)))

    answers = asyncio.run(at_once())
    assert len(engine.asked) == 1
    assert sorted(a.usage.usd for a in answers) == [0.0] * 7 + [0.001]
    assert [a.cached for a in answers].count("exact") == 7
    failing = one(EXACT, Told("a", waits=0.01, always=ModelUnavailable("gone")))

    async def all_fail() -> list[Any]:
        asks = (failing.complete(say("hola"), AskContext(trace=str(n))) for n in range(3))
        return await asyncio.gather(*asks, return_exceptions=True)

    assert all(isinstance(e, ModelUnavailable) for e in asyncio.run(all_fail()))


def test_the_call_goes_on_for_those_who_stay_and_ends_with_the_last() -> None:
    engine = Told("a", waits=0.05)
    route = one(EXACT, engine)

    async def leave() -> ChatAnswer:
        first = asyncio.ensure_future(route.complete(say("hola"), AskContext(trace="1")))
        await asyncio.sleep(0.01)
        second = asyncio.ensure_future(route.complete(say("hola"), AskContext(trace="2")))
        await asyncio.sleep(0.01)
        first.cancel()
        stays = await second
        for text in ("a", "b"):
            alone = asyncio.ensure_future(route.complete(say(text), AskContext(trace=text)))
            await asyncio.sleep(0.01)
            alone.cancel()
        await asyncio.sleep(0.01)
        return stays

    stays = asyncio.run(leave())
    assert (stays.usage.usd, stays.cached) == (0.001, ""), "whoever stayed pays"
    assert engine.cancelled == 2


SEMANTIC = {"to": [{"to": "a"}], "cache": {"kind": "semantic", "similarity": 0.8, "entries": 50}}


def test_a_question_that_means_the_same_is_answered_from_memory() -> None:
    words = Words()
    route = one(SEMANTIC, engine := Told("a"), encoder=words)
    ask(route, "cómo cambio de tarifa en mi línea")
    near = ask(route, "¿cómo cambio de tarifa en mi línea pronto?")
    assert (near.cached, near.text, near.usage.usd) == ("semantic", "a: cómo cambio de tarifa en mi línea", 0.0)
    assert ask(route, "cómo cambio de tarifa en mi línea").cached == "exact"
    assert ask(route, "quiero una factura").cached == ""
    assert len(engine.asked) == 2
    words.fails = True
    assert ask(route, "cómo cambio de tarifa en mi línea ya").cached == "", "an encoder that fails costs a hit only"


def test_an_encoder_that_hangs_holds_nobody_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hangs(Words):
        def embed(self, texts: Sequence[str]) -> list[list[float]]:
            self.texts += texts
            go.wait(5)
            return super().embed(texts)

    monkeypatch.setattr(cached, "EMBED_S", 0.02)
    go, words, engine = threading.Event(), Hangs(), Told("a")
    route = one(SEMANTIC, engine, encoder=words)

    async def many() -> list[ChatAnswer]:
        asks = (route.complete(say(f"pregunta {n}"), AskContext(trace=str(n))) for n in range(20))
        answers = await asyncio.gather(*asks)
        go.set()
        return answers

    assert len(asyncio.run(many())) == len(engine.asked) == 20
    assert len(words.texts) <= 2 * cached.EMBEDDINGS


BASE = "cómo cambio la tarifa de 10 GB en mi línea de casa"


@pytest.mark.parametrize(("asked", "labels"), [
    (say(BASE.replace("10", "20")), ()), (say(BASE.replace("cambio", "no cambio")), ()), (say(BASE), ("staff",)),
    (say(BASE + " ya", max_tokens=3), ()), (say(BASE + " ya", tools=({"type": "function"},)), ()),
    (ChatAsk("m", prompt=BASE + " ya"), ()),
    (ChatAsk("m", ({"role": "system", "content": "inglés"}, {"role": "user", "content": BASE + " ya"})), ()),
    (ChatAsk("m", tuple({"role": "user", "content": text} for text in ("x", BASE + " ya"))), ()),
    (say(BASE + " ya" + "\n" * 700 + "."), ()),
])
def test_near_is_not_enough_where_something_else_decides(asked: ChatAsk, labels: tuple[str, ...]) -> None:
    route = one(SEMANTIC, Told("a"), encoder=Words())
    ask(route, BASE)
    assert ask(route, BASE + " ya").cached == "semantic"
    assert ask(route, asked, *labels).cached == ""


def test_similar_questions_are_forgotten_with_their_answers() -> None:
    route = one({**SEMANTIC, "cache": {**SEMANTIC["cache"], "entries": 2}}, Told("a"), encoder=Words())
    for text in ("uno dos tres cuatro cinco", "perro gato pez loro rana", "sol luna mar cielo nube"):
        ask(route, text)
    assert ask(route, "uno dos tres cuatro cinco seis").cached == ""
    layer: Any = route.engine
    assert len(layer._similar) == 2


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 2), st.booleans()), max_size=80))
def test_rows_are_reused_and_groups_kept_apart(steps: list[tuple[int, int, bool]]) -> None:
    import numpy as np

    rows = np.eye(21, dtype=np.float32)
    index, truth = Similar(21, 0.9), {}
    for key, group, add in steps:
        if add:
            index.add(bytes([group]), bytes([key]), rows[key])
            truth[key] = group
        else:
            index.forget(bytes([key]))
            truth.pop(key, None)
    assert len(index) == len(truth)
    for key in range(21):
        for group in range(3):
            expected = [bytes([key])] if truth.get(key) == group else []
            assert [k for k, _ in index.nearest(bytes([group]), rows[key])] == expected


@pytest.mark.parametrize(("one_text", "other"), [
    ("una mesa para dos personas", "una mesa para tres personas"), ("cuesta doce euros", "cuesta trece euros"),
    ("veintidós plazas", "veintiuna plazas"), ("treinta y un días", "treinta días"), ("en mayo", "en junio"),
    ("quinientos gramos", "setecientos gramos"), ("pide cita el lunes", "pide cita el MIÉRCOLES"),
    ("la primera factura", "la última factura"), ("qué tiempo hará hoy", "qué tiempo hará mañana"),
    ("con nada de sal", "con sal"), ("de dos a tres", "de tres a dos"), ("a table for two", "a table for three"),
    ("twenty-one days", "twenty-two days"), ("the third of March", "the fourth of March"), ("on Monday", "on Tuesday"),
    ("it doesn't work", "it works"), ("anyone except Ana", "anyone and Ana"), ("a half portion", "a double portion"),
])
def test_numbers_dates_and_negations_in_words_are_other_questions(one_text: str, other: str) -> None:
    assert telling(one_text) != telling(other)
    assert semantic_group(say(one_text), (), "") != semantic_group(say(other), (), "")


def test_the_same_said_otherwise_is_the_same_group() -> None:
    for one_text, other in (("¿Quiero una cita?", "quiero cita"), ("el MIÉRCOLES, a las 3", "miercoles a las 3"),
                            ("cómo cambio mi tarifa", "¿cómo puedo cambiarla?"), ("a table", "one day a table")):
        assert (telling(one_text) == telling(other)) == ("one" not in other)
