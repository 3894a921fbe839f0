"""OpenAI's chat completions: `POST /v1/chat/completions`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from bucle.core.engine import ChatAnswer, ChatAsk, Choice, Delta
from bucle.serve.dialects import fields as f
from bucle.serve.dialects.base import DONE, Events, Head, clean, encode, event, extra_of, usage_of
from bucle.serve.dialects.schemas import JsonSchema, Pattern
from bucle.serve.errors import ApiError
from bucle.serve.routes import Limits

__all__ = ["MODEL", "SAMPLING", "TOOL_NAME", "ChatCompletions", "characters", "openai_format", "tool_choice_of",
           "words_of"]

MAX_N = 16
MAX_TOOLS = 128
MAX_PARTS = 100
TOOL_NAME = r"^[a-zA-Z0-9_-]{1,64}$"
MODEL = f.Text(200, 1)

NOT_TEXT = {"image_url": "is an image: only text is served", "input_audio": "is audio: only text is served",
            "file": "is a file: only text is served", "video_url": "is a video: only text is served",
            "audio_url": "is audio: only text is served"}


class _Name:
    """The name of a tool."""

    _fits = re.compile(TOOL_NAME)

    def read(self, value: Any) -> str:
        if not isinstance(value, str) or not self._fits.fullmatch(value):
            raise f.Wrong("must be 1 to 64 letters, digits, _ or -")
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": TOOL_NAME}


NAME = _Name()
SAMPLING: dict[str, f.Field] = {
    "temperature": f.Number(0, 2), "top_p": f.Number(0, 1), "presence_penalty": f.Number(-2, 2),
    "frequency_penalty": f.Number(-2, 2), "seed": f.Whole(-2**63, 2**63 - 1), "n": f.Whole(1, MAX_N),
    "stop": f.Either(f.Text(500, 1), f.ListOf(f.Text(500, 1), 4)),
    "logit_bias": f.MapOf(f.Number(-100, 100), 300),
    "stream": f.Flag(),
    "stream_options": f.Shape({"include_usage": f.Flag(), "include_obfuscation": f.Exactly((False,))}),
    "user": f.Text(512), "safety_identifier": f.Text(512),
    "guided_regex": Pattern(), "guided_json": JsonSchema(),
    "structured_outputs": f.Shape({"regex": Pattern(), "json": JsonSchema(), "json_object": f.Flag()}),
}
"""What chat completions and completions share."""


@lru_cache(16)
def _shape(limits: Limits) -> f.Shape:
    text = f.Text(limits.input_chars, too_long=413)
    texts = f.ListOf(f.Tagged("type", {"text": f.Shape({"type": f.Choice(("text",)), "text": text}, ("type", "text"))},
                              NOT_TEXT), MAX_PARTS, 1)
    said = f.ListOf(f.Tagged("type", {
        "text": f.Shape({"type": f.Choice(("text",)), "text": text}, ("type", "text")),
        "refusal": f.Shape({"type": f.Choice(("refusal",)), "refusal": text}, ("type", "refusal"))}, NOT_TEXT),
        MAX_PARTS, 1)
    call = f.Tagged("type", {"function": f.Shape({
        "id": f.Text(200, 1), "type": f.Choice(("function",)), "index": f.Whole(0, MAX_TOOLS),
        "function": f.Shape({"name": NAME, "arguments": text}, ("name", "arguments"))}, ("id", "type", "function"))},
        {"custom": "is custom: only functions are served"})
    name = f.Text(64)

    def message(role: str, more: Mapping[str, f.Field], *must: str) -> f.Shape:
        return f.Shape({"role": f.Choice((role,)), "content": f.Either(text, texts), "name": name, **more},
                       ("role", *must))

    messages = f.Tagged("role", {
        "system": message("system", {}, "content"), "developer": message("developer", {}, "content"),
        "user": message("user", {}, "content"),
        "assistant": message("assistant", {
            "content": f.Either(text, said), "refusal": text, "tool_calls": f.ListOf(call, MAX_TOOLS),
            "audio": f.Refused("only text is served"), "function_call": f.Refused("send `tool_calls`"),
            "annotations": f.Exactly(([],))}),
        "tool": message("tool", {"tool_call_id": f.Text(200, 1)}, "content", "tool_call_id"),
    }, {"function": "is deprecated: send role tool with `tool_call_id`"})
    function = f.Shape({"name": NAME, "description": f.Text(8192), "parameters": JsonSchema(), "strict": f.Flag()},
                       ("name",))
    return f.Shape({
        "model": MODEL, "messages": f.ListOf(messages, limits.messages, 1, 413), **SAMPLING,
        "max_tokens": f.Whole(1, limits.max_tokens), "max_completion_tokens": f.Whole(1, limits.max_tokens),
        "logprobs": f.Flag(), "top_logprobs": f.Whole(0, 20),
        "tools": f.ListOf(f.Tagged("type", {"function": f.Shape(
            {"type": f.Choice(("function",)), "function": function}, ("type", "function"))},
            {"custom": "is custom: only functions are served"}), MAX_TOOLS),
        "tool_choice": f.Either(f.Choice(("none", "auto", "required")), f.Tagged("type", {"function": f.Shape(
            {"type": f.Choice(("function",)), "function": f.Shape({"name": NAME}, ("name",))}, ("type", "function"))},
            {"custom": "is custom: only functions are served", "allowed_tools": "is not served; send those tools"})),
        "parallel_tool_calls": f.Flag(),
        "response_format": f.Tagged("type", {
            "text": f.Shape({"type": f.Choice(("text",))}, ("type",)),
            "json_object": f.Shape({"type": f.Choice(("json_object",))}, ("type",)),
            "json_schema": f.Shape({"type": f.Choice(("json_schema",)), "json_schema": f.Shape({
                "name": NAME, "description": f.Text(8192), "schema": JsonSchema(), "strict": f.Flag()},
                ("name", "schema"))}, ("type", "json_schema"))}),
        "functions": f.Exactly(([],), "it is deprecated, send `tools`"),
        "function_call": f.Exactly(("none",), "it is deprecated, send `tool_choice`"),
        "store": f.Exactly((False,)), "modalities": f.Exactly((["text"],), "only text is served"),
        "metadata": f.Exactly(({},)), "service_tier": f.Exactly(("auto", "default")),
        "audio": f.Refused("only text is served"), "prediction": f.Refused(), "reasoning_effort": f.Refused(),
        "verbosity": f.Refused(), "web_search_options": f.Refused("no model here searches the web"),
        "prompt_cache_key": f.Refused(), "prompt_cache_retention": f.Refused(), "moderation": f.Refused(),
        "top_k": f.Refused(), "min_p": f.Refused(), "repetition_penalty": f.Refused(), "best_of": f.Refused(),
        "chat_template": f.Refused("a model's own template is used"), "chat_template_kwargs": f.Refused(),
    }, ("model", "messages"))


class ChatCompletions:
    name, path = "chat", "/v1/chat/completions"

    def shape(self, limits: Limits) -> f.Shape:
        """The request, for the OpenAPI document."""
        return _shape(limits)

    def parse(self, body: Mapping[str, Any], limits: Limits) -> ChatAsk:
        got = f.read(_shape(limits), body)
        messages = tuple(_message(m) for m in got["messages"])
        if sum(map(characters, messages)) > limits.input_chars:
            raise f.Wrong(f"is longer than {limits.input_chars} characters", "input_too_long", 413, "messages").error()
        last = next((m for m in reversed(messages) if m["role"] == "user"), None)
        if last is None or not last["content"].strip():
            raise ApiError(400, "the last user message is missing or empty", code="empty_input", param="messages")
        tools = tuple(got.get("tools", ()))
        return ChatAsk(
            got["model"], messages,
            max_tokens=min((got[n] for n in ("max_tokens", "max_completion_tokens") if n in got), default=None),
            top_logprobs=_logprobs(got), tools=tools, tool_choice=tool_choice_of(got, tools),
            parallel_tool_calls=got.get("parallel_tool_calls"), **openai_format(got), **words_of(got))

    def whole(self, head: Head, ask: ChatAsk, answer: ChatAnswer, extra: Mapping[str, Any]) -> dict[str, Any]:
        return {"id": head.id, "object": "chat.completion", "created": head.created, "model": head.model,
                "choices": [_choice(place, one) for place, one in enumerate(answer.choices)],
                "usage": usage_of(answer.usage), "bucle": extra_of(answer, extra)}

    def events(self, head: Head, ask: ChatAsk) -> Events:
        return _Chunks(head, ask)

    def error_body(self, error: ApiError) -> dict[str, Any]:
        return error.body()


class _Chunks:
    def __init__(self, head: Head, ask: ChatAsk) -> None:
        self._head, self._ask = head, ask
        self._base = {"id": head.id, "object": "chat.completion.chunk", "created": head.created, "model": head.model}
        self._start = b"data: " + encode(self._base)[:-1] + b',"choices":[{"index":'
        self._called: set[int] = set()  # choices whose tool calls went out as deltas

    def begin(self) -> bytes:
        return b"".join(self._chunk(n, {"role": "assistant", "content": ""}) for n in range(self._ask.n))

    def delta(self, piece: Delta) -> bytes:
        if piece.tool_calls:
            self._called.add(piece.index)
            text = {"content": piece.text} if piece.text else {}
            return self._chunk(piece.index, {**text, "tool_calls": list(piece.tool_calls)}, logprobs=piece.logprobs)
        logprobs = encode(piece.logprobs) if piece.logprobs is not None else b"null"
        return b"".join((self._start, b"%d" % piece.index, b',"delta":{"content":', encode(piece.text),
                         b'},"logprobs":', logprobs, b',"finish_reason":null}]}\n\n'))

    def end(self, answer: ChatAnswer, extra: Mapping[str, Any]) -> bytes:
        sent, told = b"", {"bucle": extra_of(answer, extra)}
        for place, one in enumerate(answer.choices):
            calls = [{**c, "index": n} for n, c in enumerate(one.tool_calls)] if place not in self._called else []
            if calls:
                sent += self._chunk(place, {"tool_calls": calls})
            refusal = {"refusal": one.refusal} if one.refusal else {}
            sent += self._chunk(place, refusal, one.finish, **(told if place == len(answer.choices) - 1 else {}))
        if self._ask.include_usage:
            sent += event({**self._base, "choices": [], "usage": usage_of(answer.usage)})
        return sent + DONE

    def error(self, error: ApiError) -> bytes:
        return event(error.body())

    def _chunk(self, index: int, delta: Mapping[str, Any], finish: str | None = None,
               logprobs: Mapping[str, Any] | None = None, **more: Any) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return event({**self._base, "choices": [choice], **more})


def words_of(got: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that OpenAI's two oldest APIs share, as ChatAsk names them."""
    stream, options = got.get("stream", False), got.get("stream_options")
    if options is not None and not stream:
        raise ApiError(400, "`stream_options` is taken only with stream", code="unsupported_parameter",
                       param="stream_options")
    stop = got.get("stop", ())
    return {"temperature": got.get("temperature"), "top_p": got.get("top_p"), "seed": got.get("seed"),
            "presence_penalty": got.get("presence_penalty"), "frequency_penalty": got.get("frequency_penalty"),
            "logit_bias": got.get("logit_bias", {}), "n": got.get("n", 1), "stream": stream,
            "stop": (stop,) if isinstance(stop, str) else tuple(stop),
            "include_usage": bool(options and options.get("include_usage")),
            "user": got.get("safety_identifier") or got.get("user") or ""}


def openai_format(got: Mapping[str, Any]) -> dict[str, Any]:
    """`schema`, `any_json` and `regex` of response_format, guided_* and structured_outputs; one form at most."""
    form = got.get("response_format", {})
    also = got.get("structured_outputs", {})
    asked: list[tuple[str, dict[str, Any]]] = []
    if form.get("type") == "json_object":
        asked.append(("response_format", {"any_json": True}))
    if form.get("type") == "json_schema":
        asked.append(("response_format", {"schema": form["json_schema"]["schema"]}))
    if "guided_regex" in got:
        asked.append(("guided_regex", {"regex": got["guided_regex"]}))
    if "guided_json" in got:
        asked.append(("guided_json", {"schema": got["guided_json"]}))
    if "regex" in also:
        asked.append(("structured_outputs", {"regex": also["regex"]}))
    if "json" in also:
        asked.append(("structured_outputs", {"schema": also["json"]}))
    if also.get("json_object"):
        asked.append(("structured_outputs", {"any_json": True}))
    if len(asked) > 1:
        raise ApiError(400, f"`{asked[1][0]}` asks for one form of answer and `{asked[0][0]}` for another; send one",
                       code="invalid_value", param=asked[1][0])
    return asked[0][1] if asked else {}


def tool_choice_of(got: Mapping[str, Any], tools: Sequence[Mapping[str, Any]]) -> Any:
    """The checked `tool_choice`: what it names must be among the tools."""
    names = [t["function"]["name"] for t in tools]
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice:
        raise ApiError(400, f"`tools` holds {twice!r} twice", code="invalid_value", param="tools")
    chosen = got.get("tool_choice")
    if not tools:
        if chosen not in (None, "none", "auto"):
            raise ApiError(400, "`tool_choice` is taken only with tools", code="invalid_value", param="tool_choice")
        if "parallel_tool_calls" in got:
            raise ApiError(400, "`parallel_tool_calls` is taken only with tools", code="invalid_value",
                           param="parallel_tool_calls")
        return None
    if isinstance(chosen, dict) and chosen["function"]["name"] not in names:
        raise ApiError(400, "`tool_choice` names a function that is not among the tools", code="invalid_value",
                       param="tool_choice")
    return chosen


def characters(message: Mapping[str, Any]) -> int:
    """How much a model has to read of a message."""
    return len(message["content"] or "") + sum(
        len(c["function"]["name"]) + len(c["function"]["arguments"]) for c in message.get("tool_calls", ()))


def _message(got: Mapping[str, Any]) -> Mapping[str, Any]:
    role = got["role"]
    found: dict[str, Any] = {"role": "system" if role == "developer" else role, "content": _text(got.get("content"))}
    if role == "assistant" and not found["content"] and got.get("refusal"):
        found["content"] = got["refusal"]
    for name in ("name", "tool_call_id"):
        if got.get(name):
            found[name] = got[name]
    if got.get("tool_calls"):
        found["tool_calls"] = [{n: c[n] for n in ("id", "type", "function")} for c in got["tool_calls"]]
    return found


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(p["text"] if "text" in p else p["refusal"] for p in content)
    return content or ""


def _logprobs(got: Mapping[str, Any]) -> int | None:
    if not got.get("logprobs"):
        if got.get("top_logprobs"):
            raise ApiError(400, "`top_logprobs` is taken only with logprobs: true", code="invalid_value",
                           param="top_logprobs")
        return None
    top: int = got.get("top_logprobs", 0)
    return top


def _choice(place: int, one: Choice) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": clean(one.text), "refusal": one.refusal}
    if one.tool_calls:
        message |= {"content": clean(one.text) or None, "tool_calls": [dict(c) for c in one.tool_calls]}
    return {"index": place, "message": message, "logprobs": one.logprobs, "finish_reason": one.finish}
