"""Anthropic's shapes: a ChatAsk as the body of `/v1/messages`, and what comes back, whole or in pieces."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from bucle.core.engine import ChatAnswer, ChatAsk, Choice, Delta, Finish
from bucle.core.errors import BadInput, ModelUnavailable
from bucle.core.records import Usage
from bucle.models.endpoint import BrokenOff

__all__ = ["Gathered", "body_of", "tokens_of", "whole_answer"]

_FINISH: Mapping[str, Finish] = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length",
                                 "model_context_window_exceeded": "length", "tool_use": "tool_calls",
                                 "refusal": "content_filter"}
MOST_BLOCKS = 1_000
HOTTEST = 1.0
"""The highest temperature that Anthropic takes."""


def body_of(ask: ChatAsk, model: str, default_tokens: int) -> dict[str, Any]:
    """The request's body. `max_tokens`, which this API needs, is `default_tokens` where none is asked for. Raises
    BadInput for a temperature over 1."""
    if ask.temperature is not None and ask.temperature > HOTTEST:
        raise BadInput(f"Anthropic takes a temperature from 0 to 1, and {ask.temperature:g} was asked for")
    body: dict[str, Any] = {"model": model, "max_tokens": ask.max_tokens or default_tokens,
                            "messages": _messages(ask.messages)}
    system = "\n\n".join(str(m["content"]) for m in ask.messages if m["role"] == "system" and m["content"])
    if system:
        body["system"] = system
    for name, value in (("temperature", ask.temperature), ("top_p", ask.top_p)):
        if value is not None:
            body[name] = value
    if ask.stop:
        body["stop_sequences"] = list(ask.stop)
    if ask.tools:
        body["tools"] = [_tool(t["function"]) for t in ask.tools]
        if (chosen := _tool_choice(ask)) is not None:
            body["tool_choice"] = chosen
    if ask.schema is not None:
        body["output_config"] = {"format": {"type": "json_schema", "schema": dict(ask.schema)}}
    if ask.user:
        body["metadata"] = {"user_id": ask.user}
    body.update(ask.extra)
    if ask.stream:
        body["stream"] = True
    return body


def whole_answer(name: str, reply: Mapping[str, Any], usage: Usage) -> ChatAnswer:
    """A plain reply as an answer. Raises ModelUnavailable where it is none."""
    blocks = reply.get("content")
    if reply.get("type") != "message" or not isinstance(blocks, list):
        raise ModelUnavailable(f"{name} answered without a message")
    known = [b for b in blocks[:MOST_BLOCKS] if isinstance(b, dict)]
    text = "".join(b["text"] for b in known if b.get("type") == "text" and isinstance(b.get("text"), str))
    calls = tuple(_call(str(b.get("id")), str(b.get("name")), json.dumps(b.get("input") or {}, ensure_ascii=False))
                  for b in known if b.get("type") == "tool_use")
    return ChatAnswer((_choice(text, calls, reply),), usage, served_by=_printable(reply.get("model")))


def tokens_of(usage: Any) -> tuple[int, int]:
    """Tokens in, of which some may have been cached, and tokens out."""
    raw = usage if isinstance(usage, Mapping) else {}
    read = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    return sum(_count(raw.get(n)) for n in read), _count(raw.get("output_tokens"))


class Gathered:
    """Puts together what a stream sends: `take` each event, then `answer`."""

    def __init__(self, name: str) -> None:
        self._name, self._model = name, ""
        self._usage: dict[str, Any] = {}
        self._end: dict[str, Any] = {}
        self._text: list[str] = []
        self._calls: dict[int, dict[str, str]] = {}  # by the number of their block
        self._over = False

    @property
    def tokens(self) -> tuple[int, int]:
        """In and out, so far."""
        return tokens_of(self._usage)

    def take(self, event: Mapping[str, Any]) -> Iterator[Delta]:
        """The pieces in one event."""
        kind, block = event.get("type"), event.get("index")
        if kind == "message_start" and isinstance(message := event.get("message"), dict):
            self._model = _printable(message.get("model"))
            self._count(message.get("usage"))
        elif kind == "content_block_start" and isinstance(begun := event.get("content_block"), dict):
            if begun.get("type") == "tool_use" and isinstance(block, int) and len(self._calls) < MOST_BLOCKS:
                self._calls[block] = {"id": str(begun.get("id")), "name": str(begun.get("name")), "arguments": ""}
                yield self._called(block, "", begin=True)
            elif begun.get("type") == "text" and (text := begun.get("text")) and isinstance(text, str):
                self._text.append(text)
                yield Delta(text)
        elif kind == "content_block_delta" and isinstance(delta := event.get("delta"), dict):
            if isinstance(text := delta.get("text"), str) and delta.get("type") == "text_delta" and text:
                self._text.append(text)
                yield Delta(text)
            more = delta.get("partial_json")
            if isinstance(more, str) and more and isinstance(block, int) and block in self._calls:
                self._calls[block]["arguments"] += more
                yield self._called(block, more)
        elif kind == "message_delta":
            if isinstance(delta := event.get("delta"), dict):
                self._end |= delta
            self._count(event.get("usage"))
        elif kind == "message_stop":
            self._over = True

    def answer(self, usage: Usage) -> ChatAnswer:
        """All of it. Raises BrokenOff where the stream ended before the message did."""
        if not self._over:
            raise BrokenOff(f"{self._name} broke off its reply before the end", "try again")
        calls = tuple(_call(c["id"], c["name"], c["arguments"] or "{}") for _, c in sorted(self._calls.items()))
        return ChatAnswer((_choice("".join(self._text), calls, self._end),), usage, served_by=self._model)

    def _called(self, block: int, arguments: str, begin: bool = False) -> Delta:
        known, place = self._calls[block], sorted(self._calls).index(block)
        if not begin:
            return Delta(tool_calls=({"index": place, "function": {"arguments": arguments}},))
        return Delta(tool_calls=({"index": place, **_call(known["id"], known["name"], "")},))

    def _count(self, usage: Any) -> None:
        if isinstance(usage, Mapping):
            self._usage |= {n: v for n, v in usage.items() if _count(v)}


def _choice(text: str, calls: tuple[Mapping[str, Any], ...], end: Mapping[str, Any]) -> Choice:
    reason, stopped = end.get("stop_reason"), end.get("stop_sequence")
    return Choice(text, _FINISH.get(reason, "stop") if isinstance(reason, str) else "stop", calls,
                  stopped=stopped if isinstance(stopped, str) else "")


def _call(own: str, name: str, arguments: str) -> dict[str, Any]:
    return {"id": own, "type": "function", "function": {"name": name, "arguments": arguments}}


def _tool(function: Mapping[str, Any]) -> dict[str, Any]:
    schema = function.get("parameters") or {"type": "object", "properties": {}}
    also = {n: function[n] for n in ("description", "strict") if function.get(n) is not None}
    return {"name": function["name"], "input_schema": dict(schema), **also}


def _tool_choice(ask: ChatAsk) -> dict[str, Any] | None:
    chosen = ask.tool_choice
    found: dict[str, Any] | None = None
    if isinstance(chosen, Mapping):
        found = {"type": "tool", "name": chosen["function"]["name"]}
    elif chosen is not None:
        found = {"type": {"required": "any"}.get(chosen, chosen)}
    if ask.parallel_tool_calls is not None and (found or {}).get("type") != "none":
        found = {**(found or {"type": "auto"}), "disable_parallel_tool_use": not ask.parallel_tool_calls}
    return found


def _messages(messages: tuple[Mapping[str, Any], ...]) -> list[dict[str, Any]]:
    """Turns of user and assistant; what tools answered is the user's, with what the user then says."""
    found: list[dict[str, Any]] = []
    for message in messages:
        role, content = message["role"], message["content"] or ""
        if role == "system":
            continue
        blocks: list[dict[str, Any]] = [{"type": "text", "text": content}] if content else []
        if role == "tool":
            blocks = [{"type": "tool_result", "tool_use_id": message["tool_call_id"], "content": content}]
        for call in message.get("tool_calls", ()):
            blocks.append({"type": "tool_use", "id": call["id"], "name": call["function"]["name"],
                           "input": _input(call["function"]["arguments"])})
        turn = "assistant" if role == "assistant" else "user"
        if not blocks:
            continue  # an empty turn, which this API refuses
        if found and found[-1]["role"] == turn:
            found[-1]["content"] += blocks
        else:
            found.append({"role": turn, "content": blocks})
    return found


def _input(arguments: str) -> dict[str, Any]:
    try:
        value = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {"arguments": arguments}


def _printable(value: Any) -> str:
    return "".join(c for c in value if c.isprintable())[:200] if isinstance(value, str) else ""


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
