"""Anthropic's messages: `POST /v1/messages`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from bucle.core.engine import ChatAnswer, ChatAsk, Choice
from bucle.serve.dialects import fields as f
from bucle.serve.dialects.base import Events, Head, extra_of
from bucle.serve.dialects.common import (
    MAX_PARTS,
    MAX_STOPS,
    MAX_TOOLS,
    MODEL,
    NAME,
    NOT_TEXT,
    STOP,
    USER,
    bounded,
    form_of,
    tag,
    tool_choice,
)
from bucle.serve.dialects.messages_events import MessageEvents, blocks_of, ended, message_of, usage_of
from bucle.serve.dialects.schemas import FreeObject, JsonSchema
from bucle.serve.errors import ApiError
from bucle.serve.routes import Limits

__all__ = ["Messages", "error_type"]

_TYPES = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
          408: "timeout_error", 409: "conflict_error", 413: "request_too_large", 429: "rate_limit_error",
          502: "api_error", 503: "overloaded_error", 504: "timeout_error", 529: "overloaded_error"}
_THINKING = "holds hidden reasoning, which no model here reads back: leave the block out"
_DISPLAY = f.Choice(("summarized", "omitted"))
_HINT = f.Shape({"type": f.Choice(("ephemeral",)), "ttl": f.Choice(("5m", "1h"))}, ("type",))
"""`cache_control`: a hint that changes no answer. Taken, so that clients need not be changed."""


class Messages:
    name, path = "messages", "/v1/messages"
    words: Mapping[str, str] = {"json_schema": "output_config", "stop": "stop_sequences"}
    needs = frozenset({"max_tokens"})

    def shape(self, limits: Limits) -> f.Shape:
        """What a body may hold."""
        return _shape(limits)

    def counted_shape(self, limits: Limits) -> f.Shape:
        """What a body may hold whose tokens are counted: no length of an answer is needed."""
        whole = _shape(limits)
        return f.Shape(whole.fields, tuple(name for name in whole.required if name != "max_tokens"))

    def parse_counted(self, body: Mapping[str, Any], limits: Limits) -> ChatAsk:
        """The question whose tokens are to be counted."""
        f.read(self.counted_shape(limits), body)
        return self.parse(body if body.get("max_tokens") is not None else {**body, "max_tokens": 1}, limits)

    def parse(self, body: Mapping[str, Any], limits: Limits) -> ChatAsk:
        got = f.read(_shape(limits), body)
        messages: list[Mapping[str, Any]] = []
        if got.get("system"):
            messages.append({"role": "system", "content": _text(got["system"])})
        for place, message in enumerate(got["messages"]):
            messages += _messages(message, place)
        if messages[-1]["role"] == "assistant":
            raise ApiError(400, "the last message must be the user's: an answer that goes on from a given beginning is "
                                "not served", code="unsupported_value", param="messages")
        bounded(messages, limits)
        tools = tuple(_tool(t) for t in got.get("tools", ()))
        chosen = got.get("tool_choice", {})
        kind = chosen.get("type")
        function = {"type": "function", "function": {"name": chosen.get("name")}}
        asked = function if kind == "tool" else {"any": "required"}.get(kind, kind)
        form = got.get("output_config", {}).get("format")
        parallel = chosen.get("disable_parallel_tool_use")
        return ChatAsk(
            got["model"], tuple(messages), max_tokens=got["max_tokens"], temperature=got.get("temperature"),
            top_p=got.get("top_p"), stop=tuple(got.get("stop_sequences", ())), tools=tools,
            tool_choice=tool_choice({"tool_choice": asked}, [t["function"]["name"] for t in tools]),
            parallel_tool_calls=None if parallel is None else not parallel, stream=got.get("stream", False),
            user=got.get("metadata", {}).get("user_id", ""), extra=_extra(got),
            **form_of("output_config", form, form and form["schema"]))

    def whole(self, head: Head, ask: ChatAsk, answer: ChatAnswer, extra: Mapping[str, Any]) -> dict[str, Any]:
        one = answer.choices[0] if answer.choices else Choice("")
        return {**message_of(head), "content": blocks_of(one), **ended(one), "usage": usage_of(answer),
                "bucle": extra_of(answer, extra)}

    def events(self, head: Head, ask: ChatAsk) -> Events:
        return MessageEvents(head, self.error_body)

    def error_body(self, error: ApiError) -> dict[str, Any]:
        """`error.type` by the status, as Anthropic's clients read it; our own code and the field under `bucle`."""
        known = {**error.body().get("bucle", {}), "code": error.code, **({"param": error.param} if error.param else {})}
        return {"type": "error", "error": {"type": error_type(error.status), "message": error.message},
                "request_id": error.trace or None, "bucle": known}


@lru_cache(16)
def _shape(limits: Limits) -> f.Shape:
    text = f.Text(limits.input_chars, too_long=413)
    block = tag("text", {"text": text, "cache_control": _HINT, "citations": f.Exactly(([],))}, "text")
    texts = f.ListOf(f.Tagged("type", {"text": block}, NOT_TEXT), MAX_PARTS, 1)
    result = tag("tool_result", {
        "tool_use_id": f.Text(200, 1), "is_error": f.Flag(), "cache_control": _HINT,
        "content": f.Either(text, f.ListOf(f.Tagged("type", {"text": block}, NOT_TEXT), MAX_PARTS))}, "tool_use_id")
    use = tag("tool_use", {"id": f.Text(200, 1), "name": NAME, "input": FreeObject(limits.input_chars),
                           "cache_control": _HINT, "caller": f.Shape({"type": f.Choice(("direct",))})},
              "id", "name", "input")
    other = ("search_result", "server_tool_use", "web_search_tool_result", "container_upload")
    refused = {**NOT_TEXT, "thinking": _THINKING, "redacted_thinking": _THINKING,
               **dict.fromkeys(other, "is not served: only text, tool_use and tool_result are")}

    def message(role: str, **blocks: f.Shape) -> f.Shape:
        parts = f.ListOf(f.Tagged("type", {"text": block, **blocks}, refused), MAX_PARTS, 1)
        return f.Shape({"role": f.Choice((role,)), "content": f.Either(text, parts)}, ("role", "content"))

    own = f.Tagged("type", {"custom": f.Shape({
        "type": f.Choice(("custom",)), "name": NAME, "description": f.Text(8192), "input_schema": JsonSchema(),
        "strict": f.Flag(), "cache_control": _HINT}, ("name", "input_schema"))}, _Hosted(), default="custom")
    alone = {"disable_parallel_tool_use": f.Flag()}
    return f.Shape({
        "model": MODEL, "max_tokens": f.Whole(1, limits.max_tokens),
        "messages": f.ListOf(f.Tagged("role", {
            "user": message("user", tool_result=result), "assistant": message("assistant", tool_use=use),
            "system": message("system")}), limits.messages, 1, 413),
        "system": f.Either(text, texts), "stop_sequences": f.ListOf(STOP, MAX_STOPS), "stream": f.Flag(),
        "temperature": f.Number(0, 1), "top_p": f.Number(0, 1), "tools": f.ListOf(own, MAX_TOOLS),
        "tool_choice": f.Tagged("type", {"auto": tag("auto", alone), "any": tag("any", alone),
                                         "tool": tag("tool", {"name": NAME, **alone}, "name"),
                                         "none": tag("none", {})}),
        "metadata": f.Shape({"user_id": USER}),
        "output_config": f.Shape({"effort": f.Refused(), "format": f.Tagged("type", {
            "json_schema": tag("json_schema", {"schema": JsonSchema()}, "schema")})}),
        "thinking": f.Tagged("type", {
            "disabled": tag("disabled", {}),
            "enabled": tag("enabled", {"budget_tokens": f.Whole(1024, limits.max_tokens), "display": _DISPLAY},
                           "budget_tokens"),
            "adaptive": tag("adaptive", {"display": _DISPLAY})}),
        "top_k": f.Whole(0, 100_000), "service_tier": f.Exactly(("auto", "standard_only")),
        "speed": f.Exactly(("standard",)), "cache_control": _HINT,
        **{name: f.Refused() for name in ("container", "context_management", "mcp_servers", "inference_geo",
                                          "diagnostics", "user_profile_id", "output_format")},
    }, ("model", "max_tokens", "messages"))


class _Hosted(dict[str, str]):
    """Tools with a version in their type run at Anthropic."""

    def __contains__(self, kind: object) -> bool:
        return isinstance(kind, str)

    def __missing__(self, kind: str) -> str:
        return "is a tool that runs at Anthropic: only your own (type custom, or none) are served"


def error_type(status: int) -> str:
    """What Anthropic calls an error of this status."""
    return _TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")


def _tool(got: Mapping[str, Any]) -> dict[str, Any]:
    named = {"name": got["name"], "parameters": got["input_schema"]}
    return {"type": "function", "function": {**named, **{n: got[n] for n in ("description", "strict") if n in got}}}


def _messages(message: Mapping[str, Any], place: int) -> list[Mapping[str, Any]]:
    """One message as chat messages: the results of tools become messages of their own, before what the user says."""
    role, content = message["role"], message["content"]
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    found: list[Mapping[str, Any]] = []
    for block in content:
        if block["type"] == "tool_result":
            text = _text(block.get("content", ""))
            failed = block.get("is_error") and not text.lower().startswith("error")
            found.append({"role": "tool", "tool_call_id": block["tool_use_id"],
                          "content": f"Error: {text}" if failed else text})
    text = _text([b for b in content if b["type"] == "text"])
    calls = [{"id": b["id"], "type": "function", "function": {
        "name": b["name"], "arguments": json.dumps(b["input"], ensure_ascii=False)}}
        for b in content if b["type"] == "tool_use"]
    if calls:
        found.append({"role": role, "content": text, "tool_calls": calls})
    elif text or not found:
        found.append({"role": role, "content": text})
    return found


def _extra(got: Mapping[str, Any]) -> dict[str, Any]:
    """What Anthropic's models take and others have no word for; thinking that is off asks for nothing."""
    on = {"thinking": got["thinking"]} if got.get("thinking", {}).get("type", "disabled") != "disabled" else {}
    return on | ({"top_k": got["top_k"]} if "top_k" in got else {})


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "\n".join(block["text"] for block in content)
