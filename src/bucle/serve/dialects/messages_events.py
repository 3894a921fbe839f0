"""Anthropic's shapes for what is answered: a message's blocks and end, whole and streamed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from bucle.core.engine import ChatAnswer, Choice, Delta
from bucle.serve.dialects.base import Head, clean, event, extra_of
from bucle.serve.errors import ApiError

__all__ = ["MessageEvents", "blocks_of", "ended", "message_of", "usage_of"]

_STOP = {"length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}


class MessageEvents:
    """message_start, content blocks one after another, message_delta, message_stop."""

    def __init__(self, head: Head, error_body: Callable[[ApiError], dict[str, Any]]) -> None:
        self._head, self._error_body = head, error_body
        self._blocks = -1  # the number of the open block, or of the last one
        self._open = ""  # "text", "call 0", or nothing is open
        self._called: set[int] = set()
        self._said = False

    def begin(self) -> bytes:
        """The tokens that were read are not known yet: `message_delta` has them."""
        message = {**message_of(self._head), "content": [], "stop_reason": None, "stop_sequence": None,
                   "usage": {**usage_of(ChatAnswer(())), "output_tokens": 1}}
        return self._say("message_start", message=message) + self._say("ping")

    def delta(self, piece: Delta) -> bytes:
        sent = b""
        if piece.text:
            self._said = True
            sent += self._turn("text", {"type": "text", "text": "", "citations": None})
            sent += self._more({"type": "text_delta", "text": clean(piece.text)})
        for call in piece.tool_calls:
            place, function = int(call.get("index", 0)), call.get("function") or {}
            if place not in self._called:
                self._called.add(place)
                sent += self._turn(f"call {place}", {"type": "tool_use", "id": call.get("id") or f"call_{place}",
                                                     "name": function.get("name") or "", "input": {}})
            if function.get("arguments") and self._open == f"call {place}":
                sent += self._more({"type": "input_json_delta", "partial_json": clean(function["arguments"])})
        return sent

    def end(self, answer: ChatAnswer, extra: Mapping[str, Any]) -> bytes:
        one = answer.choices[0] if answer.choices else Choice("")
        sent = b""
        if not self._said and (one.text or one.refusal or not one.tool_calls) and not self._called:
            sent += self.delta(Delta(one.text or one.refusal or "")) or self._turn(
                "text", {"type": "text", "text": "", "citations": None})
        for place, call in enumerate(one.tool_calls):
            if place not in self._called:
                sent += self.delta(Delta(tool_calls=({**call, "index": place},)))
        usage = {**usage_of(answer), "output_tokens": answer.usage.tokens_out}
        return sent + self._close() + self._say("message_delta", delta=ended(one), usage=usage,
                                                bucle=extra_of(answer, extra)) + self._say("message_stop")

    def error(self, error: ApiError) -> bytes:
        return event(self._error_body(error), "error")

    def _turn(self, block: str, content: Mapping[str, Any]) -> bytes:
        """`block` is the open one now."""
        if self._open == block:
            return b""
        sent = self._close()
        self._open, self._blocks = block, self._blocks + 1
        return sent + self._say("content_block_start", index=self._blocks, content_block=content)

    def _more(self, delta: Mapping[str, Any]) -> bytes:
        return self._say("content_block_delta", index=self._blocks, delta=delta)

    def _close(self) -> bytes:
        if not self._open:
            return b""
        self._open = ""
        return self._say("content_block_stop", index=self._blocks)

    def _say(self, kind: str, **more: Any) -> bytes:
        return event({"type": kind, **more}, kind)


def blocks_of(one: Choice) -> list[dict[str, Any]]:
    """The content of a whole message: its text, if it says anything, then its calls."""
    text = one.text or one.refusal or ""
    said = [{"type": "text", "text": clean(text), "citations": None}] if text or not one.tool_calls else []
    return said + [_used(call) for call in one.tool_calls]


def message_of(head: Head) -> dict[str, Any]:
    return {"id": head.id, "type": "message", "role": "assistant", "model": head.model}


def ended(one: Choice) -> dict[str, Any]:
    stopped = clean(one.stopped) if one.finish == "stop" and one.stopped else None
    return {"stop_reason": _STOP.get(one.finish, "stop_sequence" if stopped else "end_turn"), "stop_sequence": stopped}


def usage_of(answer: ChatAnswer) -> dict[str, Any]:
    return {"input_tokens": answer.usage.tokens_in, "output_tokens": answer.usage.tokens_out,
            "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}


def _used(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    try:
        given = json.loads(function["arguments"] or "{}")
    except (ValueError, RecursionError):
        given = None
    return {"type": "tool_use", "id": call["id"], "name": function["name"],
            "input": given if isinstance(given, dict) else {"arguments": clean(function["arguments"])}}
