"""What each API's words become, what is refused and how it is said, and what streams look like to the byte."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bucle.core.engine import OFFERS, ChatAnswer, ChatAsk, Choice, Delta, wanted
from bucle.core.ports import Verdict
from bucle.core.records import Prediction, Usage
from bucle.models.engines.anthropic import ANTHROPIC_OFFERS
from bucle.models.engines.anthropic_shapes import body_of as anthropic_body
from bucle.models.engines.wire import WIRE_OFFERS
from bucle.models.engines.wire_shapes import body_of as openai_body
from bucle.serve.dialects import (
    DIALECTS,
    Dialect,
    Head,
    embeddings_reply,
    encode,
    moderations_reply,
    parse_embeddings,
    parse_feedback,
    parse_moderations,
)
from bucle.serve.errors import ApiError
from bucle.serve.routes import Limits, Route
from bucle.serve.routing.keys import exact_key
from bucle.serve.wire import find_route, parse_json

LIMITS = Limits()
CHAT, COMPLETIONS, RESPONSES, MESSAGES = DIALECTS
HEAD = Head("trace:50%d", 7, "50%s")
HI = [{"role": "user", "content": "hola"}]
LEAST: dict[str, dict[str, Any]] = {
    "chat": {"model": "m", "messages": HI}, "completions": {"model": "m", "prompt": "hola"},
    "responses": {"model": "m", "input": "hola"}, "messages": {"model": "m", "max_tokens": 9, "messages": HI}}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}


def refused(dialect: Dialect, **more: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        dialect.parse({**LEAST[dialect.name], **more}, LIMITS)
    return caught.value


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.name)
def test_the_least_that_can_be_asked_wants_nothing(dialect: Dialect) -> None:
    ask = dialect.parse(LEAST[dialect.name], LIMITS)
    assert ask.text == "hola"
    assert set(wanted(ask)) <= {"prompt", "max_tokens"}
    assert not ask.stream


def test_parts_are_joined_and_roles_made_plain() -> None:
    ask = CHAT.parse({"model": "m", "messages": [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "ana"},
        {"role": "assistant", "content": None, "tool_calls": [CALL], "refusal": None, "annotations": []},
        {"role": "tool", "tool_call_id": "c1", "content": "42"}]}, LIMITS)
    assert ask.messages == (
        {"role": "system", "content": "be brief"}, {"role": "user", "content": "a\nb", "name": "ana"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "42", "tool_call_id": "c1"})


def test_one_conversation_in_three_apis_is_one_ask() -> None:
    chat = CHAT.parse({"model": "m", "max_completion_tokens": 9, "messages": [
        {"role": "system", "content": "s"}, *HI, {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "42"}, {"role": "user", "content": "and?"}]}, LIMITS)
    responses = RESPONSES.parse({"model": "m", "max_output_tokens": 9, "instructions": "s", "input": [
        *HI, {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a": 1}'},
        {"type": "function_call_output", "call_id": "c1", "output": "42"}, {"role": "user", "content": "and?"}]},
        LIMITS)
    messages = MESSAGES.parse({"model": "m", "max_tokens": 9, "system": "s", "messages": [
        *HI, {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "f", "input": {"a": 1}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "42"},
                                     {"type": "text", "text": "and?"}]}]}, LIMITS)
    assert chat == responses == messages


@pytest.mark.parametrize(("name", "more", "param", "says"), [
    ("chat", {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
     "messages[0].content[0].type", "is an image"),
    ("chat", {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
     "messages[0].content[0].type", "is audio"),
    ("chat", {"messages": [{"role": "function", "content": "x", "name": "f"}]}, "messages[0].role", "deprecated"),
    ("chat", {"messages": [{"role": "king", "content": "x"}]}, "messages[0].role", "must be system, developer, user"),
    ("chat", {"messages": [*HI, {"role": "user", "content": " "}]}, "messages", "empty"),
    ("chat", {"messages": []}, "messages", "at least 1"), ("chat", {"messages": "x"}, "messages", "a list"),
    ("chat", {"functions": [{"name": "f"}]}, "functions", "send `tools`"),
    ("chat", {"top_logprobs": 3}, "top_logprobs", "logprobs: true"),
    ("chat", {"stream_options": {"include_usage": True}}, "stream_options", "only with stream"),
    ("chat", {"tool_choice": "required"}, "tool_choice", "only with tools"),
    ("chat", {"tools": [{"type": "function", "function": {"name": "f"}}] * 2}, "tools", "twice"),
    ("chat", {"tools": [{"type": "function", "function": {"name": "f"}}],
              "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice", "not among"),
    ("chat", {"tools": [{"type": "custom", "custom": {}}]}, "tools[0].type", "only functions"),
    ("chat", {"guided_regex": "a", "response_format": {"type": "json_object"}}, "response_format", "send one"),
    ("chat", {"temperature": math.inf}, "temperature", "from 0 to 2"), ("chat", {"n": 17}, "n", "from 1 to 16"),
    ("chat", {"seed": -9.3e18}, "seed", "whole number"), ("chat", {"n": True}, "n", "whole number"),
    ("chat", {"logit_bias": {"hola": 1}}, "logit_bias.hola", "number of a token"),
    ("chat", {"stop": ["a"] * 5}, "stop", "at most 4"), ("chat", {"model": ""}, "model", "must not be empty"),
    ("chat", {"max_tokens": 1_000_000}, "max_tokens", "from 1 to 131072"), ("chat", {"store": True}, "store", "stored"),
    ("chat", {"tempreature": 1}, "tempreature", "did you mean `temperature`"),
    ("chat", {"messages": [{"role": "user", "contents": "x"}]}, "messages[0].contents", "did you mean `content`"),
    ("chat", {"x" * 500: 1}, "x" * 100, "is not a field"),
    ("completions", {"prompt": ["a", "b"]}, "prompt", "at most 1"), ("completions", {"prompt": [1]}, "prompt", "token"),
    ("completions", {"echo": True}, "echo", "not served"), ("completions", {"prompt": " "}, "prompt", "empty"),
    ("responses", {"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type", "nothing is stored"),
    ("responses", {"input": [{"type": "reasoning", "id": "x"}]}, "input[0].type", "hidden reasoning"),
    ("responses", {"tools": [{"type": "web_search"}]}, "tools[0].type", "only tools of type function"),
    ("responses", {"previous_response_id": "x"}, "previous_response_id", "nothing is stored"),
    ("responses", {"max_tokens": 5}, "max_tokens", "max_output_tokens"),
    ("messages", {"max_tokens": None}, "max_tokens", "missing"),
    ("messages", {"messages": [*HI, {"role": "assistant", "content": "The answer is ("}]}, "messages", "the user's"),
    ("messages", {"temperature": 1.5}, "temperature", "from 0 to 1"), ("messages", {"top_k": -5}, "top_k", "from 0"),
    ("messages", {"messages": [{"role": "user", "content": [{"type": "document", "source": {}}]}]},
     "messages[0].content[0].type", "send its text"),
])
def test_what_is_refused_is_named(name: str, more: dict[str, Any], param: str, says: str) -> None:
    dialect = next(d for d in DIALECTS if d.name == name)
    error = refused(dialect, **more)
    assert (error.status, error.param) == (400, param)
    assert says in error.message
    body = dialect.error_body(error)
    assert body["error"]["message"] == error.message
    if name == "messages":
        assert (body["type"], body["error"]["type"], body["bucle"]["param"]) == (
            "error", "invalid_request_error", param)


def test_too_much_is_413_and_fast() -> None:
    few, started = Limits(input_chars=32_000, messages=200), time.perf_counter()
    for dialect, more in ((CHAT, {"messages": [{"role": "user", "content": "x" * 1_000_000}]}),
                          (CHAT, {"messages": HI * 201}), (CHAT, {"messages": [
                              {"role": "user", "content": "x" * 30_000}] * 2}),
                          (COMPLETIONS, {"prompt": "x" * 1_000_000}), (RESPONSES, {"input": "x" * 40_000}),
                          (MESSAGES, {"system": "x" * 20_000, "messages": [
                              {"role": "user", "content": "y" * 20_000}]})):
        with pytest.raises(ApiError) as caught:
            dialect.parse({**LEAST[dialect.name], **more}, few)
        assert caught.value.status == 413
        dialect.parse({**LEAST[dialect.name], **more}, Limits())
    assert time.perf_counter() - started < 2


def test_json_that_is_none() -> None:
    for body in (b"", b"{", b"[1]", b'"x"', b"null", b'{"a": NaN}', b'{"a": 1e999}', b'{"a": "\\ud800"}', b"\xff\xfe{",
                 b'{"a":' * 5000, b"[" * 100_000):
        with pytest.raises(ApiError) as caught:
            parse_json(body)
        assert (caught.value.status, caught.value.code) == (400, "invalid_json")
    assert parse_json('{"a": "ñ𝔘", "b": 123456789012345678901234567890}'.encode())["a"] == "ñ𝔘"


def test_a_name_with_a_percent_sign_and_a_lone_surrogate_can_be_streamed() -> None:
    for dialect in DIALECTS:
        ask = dialect.parse({**LEAST[dialect.name], "stream": True}, LIMITS)
        events = dialect.events(HEAD, ask)
        answer = ChatAnswer((Choice("50% \ud800"),), Usage(tokens_in=1, tokens_out=2, usd=0.5))
        sent = events.begin() + events.delta(Delta("50% ")) + events.delta(Delta("\ud800")) + events.end(answer, {})
        lines = [json.loads(x[6:]) for x in sent.decode().split("\n") if x.startswith("data: ") and x != "data: [DONE]"]
        assert any(line.get("bucle", line.get("response", {}).get("bucle", {})).get("usd") == 0.5 for line in lines)
        assert "50% " in sent.decode()
        assert json.loads(encode(dialect.whole(HEAD, ask, answer, {})))["model"] == "50%s"


@pytest.mark.parametrize("dialect", [CHAT, RESPONSES, MESSAGES], ids=lambda d: d.name)
def test_a_call_that_was_never_streamed_is_sent_at_the_end(dialect: Dialect) -> None:
    ask = dialect.parse({**LEAST[dialect.name], "stream": True}, LIMITS)
    answer = ChatAnswer((Choice("", "tool_calls", (CALL, {**CALL, "id": "c2"})),))
    events = dialect.events(HEAD, ask)
    sent = (events.begin() + events.end(answer, {})).decode()
    assert sent.index("c1") < sent.index("c2")
    assert "tool_calls" in sent or "tool_use" in sent or "function_call" in sent


def test_a_task_says_what_it_knows_beside_its_answer() -> None:
    found = Prediction(output="bajas", score=0.5, abstained=True, chunks=("c",), citations=("p",), quotes=("q",))
    for dialect in DIALECTS:
        ask = dialect.parse(LEAST[dialect.name], LIMITS)
        answer = ChatAnswer((Choice("bajas\n\n[1] p"),), prediction=found, cached="exact")
        told = dialect.whole(HEAD, ask, answer, {"trace": "t"})["bucle"]
        assert told == {"trace": "t", "usd": 0.0, "cached": "exact", "score": 0.5, "abstained": True,
                        "chunks": ["c"], "citations": ["p"], "quotes": ["q"]}


def test_anthropics_errors_by_status() -> None:
    types = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error",
             404: "not_found_error", 413: "request_too_large", 429: "rate_limit_error", 500: "api_error",
             502: "api_error", 503: "overloaded_error", 504: "timeout_error"}
    for status, kind in types.items():
        error = ApiError(status, "no", code="c", kind="K")
        error.trace = "trace:1"
        body = MESSAGES.error_body(error)
        assert (body["error"]["type"], body["request_id"]) == (kind, "trace:1")
        assert body["bucle"] == {"kind": "K", "trace": "trace:1", "code": "c"}


def test_moderations_tell_what_was_measured() -> None:
    asked = parse_moderations({"input": ["a", {"type": "text", "text": "b"}]}, LIMITS)
    assert asked.texts == ("a", "b")
    verdicts = [[Verdict("abuse", True, 0.9, ("insult",)), Verdict("injection", False, 0.1)], []]
    first, second = moderations_reply(HEAD, verdicts, {})["results"]
    assert (first["flagged"], second["flagged"]) == (True, False)
    assert first["category_scores"] | {"harassment": 0.9, "injection": 0.1, "hate": None} == first["category_scores"]
    assert set(second["categories"].values()) == {None}


def test_embeddings_and_feedback() -> None:
    class Two:
        name, dimensions = "two", 2

        def embed(self, texts: Any) -> list[list[float]]:
            return [[0.0, 1.0]] * len(texts)

    route = Route("two", "embed", embedder=Two())
    assert parse_embeddings({"model": "two", "input": "a", "dimensions": 2}, route, LIMITS).texts == ("a",)
    for body, code in (({"input": ["a", " "]}, "empty_input"), ({"input": [[1, 2]]}, "unsupported_value"),
                       ({"input": "a", "dimensions": 3}, "unsupported_parameter"),
                       ({"input": ["a"] * 2100}, "too_many")):
        with pytest.raises(ApiError) as caught:
            parse_embeddings({"model": "two", **body}, route, LIMITS)
        assert caught.value.code == code
    reply = embeddings_reply("two", [[0.0, 1.0]], Usage(tokens_in=3, usd=0.5), base64=True, extra={})
    assert (reply["data"][0]["embedding"], reply["bucle"]) == ("AAAAAAAAgD8=", {"usd": 0.5})
    assert parse_feedback({"trace_id": "t", "rating": -1}, LIMITS).by == "anonymous"
    with pytest.raises(ApiError, match="give a `rating`"):
        parse_feedback({"trace_id": "t"}, LIMITS)
    with pytest.raises(ApiError, match="did you mean `rating`"):
        parse_feedback({"trace_id": "t", "ratting": 1}, LIMITS)
    with pytest.raises(ApiError, match="is served at /v1/embeddings"):
        find_route({"model": "two"}, {"two": route})


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=12), max_size=8), st.sampled_from(DIALECTS))
def test_what_is_streamed_is_what_is_answered(texts: list[str], dialect: Dialect) -> None:
    """Whatever the pieces, their texts in order are the answer's."""
    ask: ChatAsk = dialect.parse({**LEAST[dialect.name], "stream": True}, LIMITS)
    events = dialect.events(HEAD, ask)
    whole = "".join(texts)
    sent = events.begin() + b"".join(events.delta(Delta(t)) for t in texts if t) + events.end(
        ChatAnswer((Choice(whole),)), {})
    read = ""
    for line in sent.split(b"\n"):
        if line.startswith(b"data: {"):
            one = json.loads(line[6:])
            choice = (one.get("choices") or [{}])[0]
            delta = one.get("delta") or choice.get("delta") or {}
            said = delta if isinstance(delta, str) else delta.get("content") or delta.get("text")
            read += said or choice.get("text") or ""
    assert read == whole


def test_what_only_some_providers_take_reaches_them_in_their_words_and_is_refused_by_others() -> None:
    chat = CHAT.parse({**LEAST["chat"], "reasoning_effort": "low", "verbosity": "high", "prompt_cache_key": "k",
                       "metadata": {"a": "b"}}, LIMITS)
    said = RESPONSES.parse({**LEAST["responses"], "reasoning": {"effort": "low"}, "text": {"verbosity": "high"},
                            "prompt_cache_key": "k", "metadata": {"a": "b"}}, LIMITS)
    assert chat.extra == said.extra == {"reasoning_effort": "low", "verbosity": "high", "prompt_cache_key": "k",
                                        "metadata": {"a": "b"}}
    body = openai_body(chat, "m")
    assert {name: body[name] for name in chat.extra} == chat.extra
    think = MESSAGES.parse({**LEAST["messages"], "thinking": {"type": "enabled", "budget_tokens": 2000}, "top_k": 4},
                           LIMITS)
    sent = anthropic_body(think, "m", 10)
    assert (sent["thinking"], sent["top_k"]) == ({"type": "enabled", "budget_tokens": 2000}, 4)
    assert set(wanted(chat)) <= WIRE_OFFERS
    assert not set(wanted(chat)) & ANTHROPIC_OFFERS
    assert set(wanted(think)) <= ANTHROPIC_OFFERS
    assert not set(think.extra) & (WIRE_OFFERS | OFFERS)
    nothing = {"metadata": {}, "prompt_cache_key": ""}
    assert not CHAT.parse({**LEAST["chat"], **nothing}, LIMITS).extra
    assert not MESSAGES.parse({**LEAST["messages"], "thinking": {"type": "disabled"}}, LIMITS).extra
    assert exact_key(chat, (), "") != exact_key(replace(chat, extra={**chat.extra, "reasoning_effort": "high"}), (), "")


def test_token_ids_are_read_where_it_is_known_whose_they_are() -> None:
    class Two:
        name, dimensions = "two", 2

        def embed(self, texts: Any) -> list[list[float]]:
            return [[0.0, 1.0]] * len(texts)

    known = Route("two", "embed", embedder=Two(), vocabulary="cl100k_base")
    ids = [71, 8083, 11, 29386, 64591, 8374, 30]
    for sent in (ids, [ids]):
        assert parse_embeddings({"model": "two", "input": sent}, known, LIMITS).texts == ("hola, ¿qué tal?",)
    assert parse_embeddings({"model": "two", "input": ["71"]}, known, LIMITS).texts == ("71",)
    for route, sent in ((known, [[100_300]]), (known, [[-1]]), (known, [[True]]), (known, [[]]), (known, [ids, "a"]),
                         (replace(known, vocabulary=""), [ids])):
        with pytest.raises(ApiError, match="check_embedding_ctx_length=False") as caught:
            parse_embeddings({"model": "two", "input": sent}, route, LIMITS)
        assert caught.value.status == 400
    with pytest.raises(ApiError, match="at most 2048"):
        parse_embeddings({"model": "two", "input": [ids] * 3000}, known, LIMITS)
