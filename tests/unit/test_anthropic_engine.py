"""Anthropic's models as an engine, and any engine asked from plain threads, against a peer as strict as their API."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anthropic
import pytest
from anthropic_peer import KEY, Failure, Peer, Says, anthropic_peer

from bucle.core.engine import AskContext, ChatAnswer, ChatAsk, ChatEngine, Delta
from bucle.core.errors import BadInput, ContextOverflow, ModelUnavailable, UpstreamTimeout
from bucle.core.ports import ChatModel, ChatReply
from bucle.models.ask import Ask, ask_all, without_waiting
from bucle.models.endpoint import RateLimited, Refused, TimedOut, forward_headers, troubles
from bucle.models.engines.anthropic import AnthropicEngine
from bucle.models.engines.blocking import BlockingChat
from bucle.models.engines.wire_errors import Unsupported

TOOL = {"type": "function", "function": {"name": "weather", "description": "of a town", "parameters": {
    "type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]}}}
USE = [{"type": "text", "text": "I look."},
       {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"town": "León", "days": [1, 2]}}]
HI = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "hola"})


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)


@contextmanager
def engine_of(says: Says, **settings: Any) -> Iterator[tuple[AnthropicEngine, Peer]]:
    with anthropic_peer(says, settings.pop("unsupported", ())) as peer:
        yield AnthropicEngine("haiku", settings.pop("model", "claude-test"), base_url=peer.url, timeout_s=5,
                              usd_per_million_in=1.0, usd_per_million_out=5.0, **settings), peer


def asked(engine: ChatEngine, **ask: Any) -> tuple[list[Delta], ChatAnswer]:
    async def go() -> tuple[list[Delta], ChatAnswer]:
        question = ChatAsk(**{"model": "haiku", "messages": HI, **ask})
        try:
            if not question.stream:
                return [], await engine.complete(question, AskContext())
            *pieces, answer = [p async for p in engine.stream(question, AskContext())]
            return pieces, answer  # type: ignore[return-value]
        finally:
            await engine.close()

    return asyncio.run(go())


def test_the_peer_is_what_the_official_client_expects() -> None:
    def says(body: dict[str, Any]) -> Any:
        said = body["messages"][-1]["content"]
        return USE if body.get("tools") and isinstance(said, str) else Failure(
            529, "overloaded_error", "Overloaded") if said == "busy" else f"You said {said}"

    with anthropic_peer(says) as peer:
        client = anthropic.Anthropic(base_url=peer.url, api_key=KEY, max_retries=0)
        plain = client.messages.create(model="claude-test", max_tokens=9, messages=[{"role": "user", "content": "hi"}])
        assert plain.content[0].text == "You said hi"
        assert plain.stop_reason == "end_turn"
        with client.messages.stream(
                model="claude-test", max_tokens=9, messages=[{"role": "user", "content": "hi"}],
                tools=[{"name": "weather", "input_schema": {"type": "object"}}]) as stream:
            assert "".join(stream.text_stream) == "I look."
            final = stream.get_final_message()
        assert final.content[1].input == USE[1]["input"]
        assert final.usage.output_tokens > 1
        assert final.stop_reason == "tool_use"
        with pytest.raises(anthropic.BadRequestError):
            client.messages.create(model="claude-test", max_tokens=9, messages=[])
        with pytest.raises(anthropic.AuthenticationError):
            client.with_options(api_key="wrong").messages.create(
                model="claude-test", max_tokens=9, messages=[{"role": "user", "content": "hi"}])
        with pytest.raises(anthropic.NotFoundError):
            client.messages.create(model="no-such", max_tokens=9, messages=[{"role": "user", "content": "hi"}])
        with pytest.raises(anthropic.APIStatusError, match="Overloaded"):
            client.messages.create(model="claude-test", max_tokens=9, messages=[{"role": "user", "content": "busy"}])
        client.close()


@pytest.mark.parametrize("stream", [False, True])
def test_answers_stop_strings_and_cost(stream: bool) -> None:
    with engine_of(lambda body: "uno dos STOP tres") as (engine, peer):
        assert isinstance(engine, ChatEngine)
        pieces, answer = asked(engine, stream=stream, stop=("STOP",), max_tokens=50, temperature=0.5, user="u1")
        one = answer.choices[0]
        assert (one.text, one.finish, one.stopped) == ("uno dos ", "stop", "STOP")
        assert "".join(p.text for p in pieces) == (one.text if stream else "")
        assert answer.served_by == "claude-test-20260101"
        used = answer.usage
        assert used.tokens_in > 2  # the cached ones too
        assert used.usd == pytest.approx((used.tokens_in + 5 * used.tokens_out) / 1e6)
        body = peer.asked[0]
        assert body["system"] == "Be brief."
        assert body["messages"] == [{"role": "user", "content": [{"type": "text", "text": "hola"}]}]
        assert (body["stop_sequences"], body["max_tokens"], body["metadata"]) == (["STOP"], 50, {"user_id": "u1"})
        assert "authorization" not in peer.headers[0]


@pytest.mark.parametrize("stream", [False, True])
def test_tools_there_and_back(stream: bool) -> None:
    with engine_of(lambda body: USE if len(body["messages"]) == 1 else "18 degrees") as (engine, peer):
        pieces, answer = asked(engine, stream=stream, tools=(TOOL,), tool_choice="required", parallel_tool_calls=False)
        one = answer.choices[0]
        assert one.finish == "tool_calls"
        (call,) = one.tool_calls
        assert call["function"]["name"] == "weather"
        assert json.loads(call["function"]["arguments"]) == USE[1]["input"]
        assert peer.asked[0]["tool_choice"] == {"type": "any", "disable_parallel_tool_use": True}
        if stream:
            sent = [c for p in pieces for c in p.tool_calls]
            assert sent[0]["id"] == "toolu_1"
            assert "".join(c["function"]["arguments"] for c in sent) == call["function"]["arguments"]
        said = (*HI, {"role": "assistant", "content": "", "tool_calls": [dict(call)]},
                {"role": "tool", "tool_call_id": "toolu_1", "content": "18"}, {"role": "user", "content": "and?"})
        _, answer = asked(engine, stream=stream, messages=said, tools=(TOOL,))
        assert answer.text == "18 degrees"
        assert [b["type"] for b in peer.asked[1]["messages"][2]["content"]] == ["tool_result", "text"]


def test_a_schema_is_asked_for_in_their_words() -> None:
    with engine_of(lambda body: '{"a": 1}') as (engine, peer):
        asked(engine, schema={"type": "object"})
        assert peer.asked[0]["output_config"] == {"format": {"type": "json_schema", "schema": {"type": "object"}}}


@pytest.mark.parametrize(("failure", "kind"), [
    (Failure(429, "rate_limit_error", "slow down", {"retry-after": "7"}), RateLimited),
    (Failure(529, "overloaded_error", "Overloaded"), ModelUnavailable),
    (Failure(500, "api_error", "Internal server error"), ModelUnavailable),
    (Failure(403, "permission_error", "no"), Refused),
    (Failure(400, "invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"), ContextOverflow),
    (Failure(400, "invalid_request_error", "messages: nonsense"), BadInput),
])
@pytest.mark.parametrize("stream", [False, True])
def test_errors_have_their_classes(failure: Failure, kind: type[Exception], stream: bool) -> None:
    with engine_of(lambda body: failure) as (engine, _), pytest.raises(kind) as caught:
        asked(engine, stream=stream)
    assert KEY not in str(caught.value)
    if kind is RateLimited:
        assert caught.value.retry_after == 7  # type: ignore[attr-defined]


def test_a_stream_that_fails_or_breaks_off_half_way() -> None:
    with engine_of(lambda body: Failure(200, "overloaded_error", "Overloaded", midway=1)) as (engine, _), \
            pytest.raises(ModelUnavailable, match="while streaming: Overloaded"):
        asked(engine, stream=True)
    with engine_of(lambda body: Failure(200, "rate_limit_error", "later", midway=1)) as (engine, _), \
            pytest.raises(RateLimited):
        asked(engine, stream=True)
    for stream in (True, False):
        with engine_of(lambda body: "DROP one two three four five six") as (engine, _), \
                pytest.raises(UpstreamTimeout):
            asked(engine, stream=stream)


def test_no_key_a_wrong_key_an_unknown_model_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with engine_of(lambda body: "x") as (engine, peer):
        monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-wrong")
        with pytest.raises(Refused, match="refused the key"):
            asked(engine)
        monkeypatch.delenv("ANTHROPIC_API_KEY")
        with pytest.raises(Refused, match="refused the key"):
            asked(engine)
        assert "x-api-key" not in peer.headers[1], "to a server of this machine none is sent"
        with pytest.raises(Refused, match="ANTHROPIC_API_KEY is not set"):
            asked(AnthropicEngine("haiku", "claude-test", base_url="https://api.example.invalid"))
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    with engine_of(lambda body: "x", model="no-model") as (engine, _), pytest.raises(Refused, match="no-model"):
        asked(engine)
    with pytest.raises(ModelUnavailable, match="cannot be reached"):
        asked(engine)


def test_a_temperature_that_they_do_not_take_is_refused_not_changed() -> None:
    with engine_of(lambda body: "x", unsupported=("temperature",)) as (engine, peer):
        with pytest.raises(BadInput, match="from 0 to 1"):
            asked(engine, temperature=1.5)
        assert not peer.asked
        with pytest.raises(Unsupported) as caught:
            asked(engine, temperature=0.5)
        assert caught.value.what == "temperature"


def test_cancelling_lets_go_of_the_connection() -> None:
    async def go(engine: AnthropicEngine) -> float:
        pieces = engine.stream(ChatAsk("haiku", HI, stream=True), AskContext())
        await anext(pieces)
        began = time.monotonic()
        await pieces.aclose()  # type: ignore[attr-defined]
        await engine.close()
        return time.monotonic() - began

    with engine_of(lambda body: "SLOW one two three four five six seven") as (engine, _):
        assert asyncio.run(go(engine)) < 0.5


# From plain threads.


def blocking(engine: ChatEngine, **settings: Any) -> BlockingChat:
    return BlockingChat(engine, **{"max_retries": 2, "sleep": lambda seconds: None, **settings})


def test_a_blocking_chat_is_a_chat_model_for_many_threads() -> None:
    busy, most, lock = [0], [0], threading.Lock()

    def says(body: dict[str, Any]) -> str:
        with lock:
            busy[0] += 1
            most[0] = max(most[0], busy[0])
        time.sleep(0.02)
        with lock:
            busy[0] -= 1
        return f"<{body['messages'][-1]['content'][0]['text']}>"

    with engine_of(says) as (engine, _):
        chat = blocking(engine, max_parallel=8)
        assert isinstance(chat, ChatModel)
        found = ask_all(chat, [Ask([{"role": "user", "content": str(n)}], 20) for n in range(24)])
        assert [r.text for r in found if isinstance(r, ChatReply)] == [f"<{n}>" for n in range(24)]
        assert 1 < most[0] <= 8
        reply = chat.chat(HI, max_tokens=20, stop=["STOP"])
        assert reply.served_by == "claude-test-20260101"
        assert reply.ms >= 20
        assert chat.priced(reply.usage) == reply.usage
        assert chat.identity == f"{engine.base_url} claude-test"
        *pieces, whole = chat.stream(HI, max_tokens=20)
        assert isinstance(whole, ChatReply)
        assert "".join(str(p) for p in pieces) == whole.text == "<hola>"
        chat.close()


def test_retries_pauses_and_what_was_told() -> None:
    answers: list[Any] = [Failure(529, "overloaded_error", "Overloaded"),
                          Failure(429, "rate_limit_error", "wait", {"retry-after": "2"}), "done"]
    slept: list[float] = []
    with engine_of(lambda body: answers.pop(0)) as (engine, peer):
        told: list[str] = []
        token = troubles.set(told)
        try:
            assert blocking(engine, sleep=slept.append).chat(HI, max_tokens=9).text == "done"
        finally:
            troubles.reset(token)
        assert len(peer.asked) == 3
        assert slept[1] == 2
        assert len(told) == 2
    with engine_of(lambda body: Failure(429, "rate_limit_error", "wait", {"retry-after": "9"})) as (engine, peer):
        chat = blocking(engine, sleep=slept.append)
        with without_waiting(), pytest.raises(RateLimited):  # somebody waits: nine seconds are not waited
            chat.chat(HI, max_tokens=9)
        assert len(peer.asked) == 1
        with without_waiting(), pytest.raises(RateLimited, match="asked for a pause"):
            list(chat.stream(HI, max_tokens=9))
        assert len(peer.asked) == 1


def test_a_setting_that_is_not_taken_is_left_out_from_then_on() -> None:
    with engine_of(lambda body: "x", unsupported=("temperature", "output_config")) as (engine, peer):
        chat = blocking(engine)
        assert chat.chat(HI, max_tokens=9, seed=4, schema={"type": "object"}).text == "x"
        assert chat.chat(HI, max_tokens=9, schema={"type": "object"}).text == "x"
        assert next(iter(chat.stream(HI, max_tokens=9))) == "x"
        assert len(peer.asked) == 5
        assert "seed" not in peer.asked[0]


def test_the_limits_a_minute_are_shared_by_all_who_ask_the_same_model() -> None:
    class Slept(Exception):
        pass

    def sleep(seconds: float) -> None:
        assert 50 < seconds <= 60
        raise Slept

    with engine_of(lambda body: "x") as (engine, peer):
        first, second = (blocking(engine, requests_per_minute=2, sleep=sleep) for _ in range(2))
        first.chat(HI, max_tokens=9)
        list(second.stream(HI, max_tokens=9))
        with pytest.raises(Slept):
            first.chat(HI, max_tokens=9)
        assert len(peer.asked) == 2


def test_headers_of_the_context_go_with_each_call() -> None:
    with engine_of(lambda body: "x") as (engine, peer):
        token = forward_headers.set({"x-upstream-ms": "5"})
        try:
            blocking(engine).chat(HI, max_tokens=9)
        finally:
            forward_headers.reset(token)
        assert peer.headers[0]["x-upstream-ms"] == "5"


def test_a_late_answer_and_a_stream_let_go() -> None:
    with engine_of(lambda body: "SLOW one two three four five") as (engine, peer):
        chat = blocking(engine, timeout_s=0.2)
        with pytest.raises(TimedOut):
            chat.chat(HI, max_tokens=9)
        pieces = chat.stream(HI, max_tokens=9)
        assert "SLOW one two three".startswith(next(pieces))  # what came at once comes as one
        began = time.monotonic()
        pieces.close()  # type: ignore[attr-defined]
        assert time.monotonic() - began < 0.5
        assert len(peer.asked) == 2
