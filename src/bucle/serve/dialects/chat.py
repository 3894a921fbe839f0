"""OpenAI's chat completions: `POST /v1/chat/completions`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from bucle.core.engine import ChatAnswer, ChatAsk, Choice, Delta
from bucle.serve.dialects import fields as f
from bucle.serve.dialects.base import DONE, Events, Head, clean, encode, event, extra_of, usage_of
from bucle.serve.dialects.common import (
    EXTRA,
    MAX_PARTS,
    MAX_TOOLS,
    MODEL,
    NAME,
    NOT_TEXT,
    SAMPLING,
    bounded,
    extra_of_body,
    form_of,
    guided,
    sampling_of,
    tag,
    tool_choice,
)
from bucle.serve.dialects.schemas import JsonSchema
from bucle.serve.errors import ApiError
from bucle.serve.routes import Limits

__all__ = ["ChatCompletions"]

_CUSTOM = {"custom": "is custom: only functions are served"}


class ChatCompletions:
    name, path = "chat", "/v1/chat/completions"
    words: Mapping[str, str] = {"json_object": "response_format", "json_schema": "response_format",
                                "regex": "structured_outputs"}
    needs = frozenset[str]()

    def shape(self, limits: Limits) -> f.Shape:
        """What a body may hold."""
        return _shape(limits)

    def parse(self, body: Mapping[str, Any], limits: Limits) -> ChatAsk:
        got = f.read(_shape(limits), body)
        messages = tuple(_message(m) for m in got["messages"])
        bounded(messages, limits)
        tools, form = tuple(got.get("tools", ())), got.get("response_format")
        most = [got[n] for n in ("max_tokens", "max_completion_tokens") if n in got]
        return ChatAsk(
            got["model"], messages, max_tokens=min(most, default=None), top_logprobs=_logprobs(got), tools=tools,
            tool_choice=tool_choice(got, [t["function"]["name"] for t in tools]),
            parallel_tool_calls=got.get("parallel_tool_calls"), extra=extra_of_body(got), **sampling_of(got),
            **form_of("response_format", form, form and form.get("json_schema", {}).get("schema"), guided(got)))

    def whole(self, head: Head, ask: ChatAsk, answer: ChatAnswer, extra: Mapping[str, Any]) -> dict[str, Any]:
        return {"id": head.id, "object": "chat.completion", "created": head.created, "model": head.model,
                "choices": [_choice(place, one) for place, one in enumerate(answer.choices)],
                "usage": usage_of(answer.usage), "bucle": extra_of(answer, extra)}

    def events(self, head: Head, ask: ChatAsk) -> Events:
        return _Chunks(head, ask)

    def error_body(self, error: ApiError) -> dict[str, Any]:
        return error.body()


@lru_cache(16)
def _shape(limits: Limits) -> f.Shape:
    text = f.Text(limits.input_chars, too_long=413)
    part = tag("text", {"text": text}, "text")
    texts = f.ListOf(f.Tagged("type", {"text": part}, NOT_TEXT), MAX_PARTS, 1)
    said = f.ListOf(f.Tagged("type", {"text": part, "refusal": tag("refusal", {"refusal": text}, "refusal")}, NOT_TEXT),
                    MAX_PARTS, 1)
    called = f.Shape({"name": NAME, "arguments": text}, ("name", "arguments"))
    call = f.Tagged("type", {"function": tag("function", {
        "id": f.Text(200, 1), "index": f.Whole(0, MAX_TOOLS), "function": called}, "id", "function")}, _CUSTOM)

    def message(role: str, more: Mapping[str, f.Field], *required: str) -> f.Shape:
        return f.Shape({"role": f.Choice((role,)), "content": f.Either(text, texts), "name": f.Text(64), **more},
                       ("role", *required))

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
    schema = f.Shape({"name": NAME, "description": f.Text(8192), "schema": JsonSchema(), "strict": f.Flag()},
                     ("name", "schema"))
    return f.Shape({
        "model": MODEL, "messages": f.ListOf(messages, limits.messages, 1, 413), **SAMPLING,
        "max_tokens": f.Whole(1, limits.max_tokens), "max_completion_tokens": f.Whole(1, limits.max_tokens),
        "logprobs": f.Flag(), "top_logprobs": f.Whole(0, 20),
        "tools": f.ListOf(f.Tagged("type", {"function": tag("function", {"function": function}, "function")}, _CUSTOM),
                          MAX_TOOLS),
        "tool_choice": f.Either(f.Choice(("none", "auto", "required")), f.Tagged("type", {
            "function": tag("function", {"function": f.Shape({"name": NAME}, ("name",))}, "function")},
            {**_CUSTOM, "allowed_tools": "is not served; send those tools"})),
        "parallel_tool_calls": f.Flag(),
        "response_format": f.Tagged("type", {"text": tag("text", {}), "json_object": tag("json_object", {}),
                                             "json_schema": tag("json_schema", {"json_schema": schema},
                                                                "json_schema")}),
        "functions": f.Exactly(([],), "it is deprecated, send `tools`"),
        "function_call": f.Exactly(("none",), "it is deprecated, send `tool_choice`"),
        "store": f.Exactly((False,), "nothing is stored"), **EXTRA,
        "modalities": f.Exactly((["text"],), "only text is served"), "service_tier": f.Exactly(("auto", "default")),
        "audio": f.Refused("only text is served"), "web_search_options": f.Refused("no model here searches the web"),
        "chat_template": f.Refused("a model's own is used"),
        **{name: f.Refused() for name in (
            "prediction", "prompt_cache_options", "prompt_cache_retention",
            "moderation", "top_k", "min_p", "repetition_penalty", "best_of",
            "chat_template_kwargs", "guided_choice", "guided_grammar")},
    }, ("model", "messages"))


class _Chunks:
    """`chat.completion.chunk`s."""

    def __init__(self, head: Head, ask: ChatAsk) -> None:
        self._ask = ask
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
        sent, last = b"", len(answer.choices) - 1
        for place, one in enumerate(answer.choices):
            if one.tool_calls and place not in self._called:
                calls = [{**call, "index": n} for n, call in enumerate(one.tool_calls)]
                sent += self._chunk(place, {"tool_calls": calls})
            refusal = {"refusal": one.refusal} if one.refusal else {}
            more = {"bucle": extra_of(answer, extra)} if place == last else {}
            sent += self._chunk(place, refusal, one.finish, **more)
        if self._ask.include_usage:
            sent += event({**self._base, "choices": [], "usage": usage_of(answer.usage)})
        return sent + DONE

    def error(self, error: ApiError) -> bytes:
        return event(error.body())

    def _chunk(self, index: int, delta: Mapping[str, Any], finish: str | None = None,
               logprobs: Mapping[str, Any] | None = None, **more: Any) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return event({**self._base, "choices": [choice], **more})


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
    top: int = got.get("top_logprobs", 0)
    if got.get("logprobs"):
        return top
    if top:
        raise ApiError(400, "`top_logprobs` is taken only with logprobs: true", code="invalid_value",
                       param="top_logprobs")
    return None


def _choice(place: int, one: Choice) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": clean(one.text), "refusal": one.refusal}
    if one.tool_calls:
        message |= {"content": clean(one.text) or None, "tool_calls": [dict(c) for c in one.tool_calls]}
    return {"index": place, "message": message, "logprobs": one.logprobs, "finish_reason": one.finish}
