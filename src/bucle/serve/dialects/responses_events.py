"""A response as items, whole and streamed: the events in the official order, numbered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bucle.core.engine import ChatAnswer, Delta
from bucle.serve.dialects.base import Head, clean, event, extra_of
from bucle.serve.errors import ApiError

__all__ = ["ResponseEvents", "item_id", "outputs_of"]


def item_id(head: Head) -> str:
    """What the ids of a response's items end in."""
    return head.id.rpartition(":")[2][:32]


def outputs_of(own: str, answer: ChatAnswer) -> list[tuple[dict[str, Any], int]]:
    """The finished items of an answer: its message, if it says anything, then its calls; each with its place among the
    calls (-1: the message)."""
    if not answer.choices:
        return []
    one = answer.choices[0]
    status = "incomplete" if one.finish in ("length", "content_filter") else "completed"
    found: list[tuple[dict[str, Any], int]] = []
    if one.text or one.refusal or not one.tool_calls:
        part = {"type": "refusal", "refusal": one.refusal} if one.refusal else _part(one.text, one.logprobs)
        found.append(({"type": "message", "id": f"msg_{own}", "status": status, "role": "assistant",
                       "content": [part]}, -1))
    for place, call in enumerate(one.tool_calls):
        found.append((_call(own, place, call, status), place))
    return found


class ResponseEvents:
    """`described` is the response as it begins, `finished(answer)` what its end adds."""

    def __init__(self, head: Head, described: Mapping[str, Any],
                 finished: Callable[[ChatAnswer], dict[str, Any]]) -> None:
        self._own, self._described, self._finished = item_id(head), described, finished
        self._number = -1
        self._open: list[str] = []  # the items so far: "message", or a call's place in text
        self._text: list[str] = []
        self._logprobs: list[Any] = []
        self._calls: dict[int, dict[str, str]] = {}
        self._done: set[str] = set()  # items that ended: each before the next begins

    def begin(self) -> bytes:
        return self._say("response.created", response=self._described) + self._say(
            "response.in_progress", response=self._described)

    def delta(self, piece: Delta) -> bytes:
        sent = b""
        if piece.text:
            sent += self._begun()
            self._text.append(piece.text)
            given = list((piece.logprobs or {}).get("content") or ())
            self._logprobs += given
            sent += self._say("response.output_text.delta", item_id=f"msg_{self._own}", delta=clean(piece.text),
                              output_index=self._open.index("message"), content_index=0, logprobs=given)
        for call in piece.tool_calls:
            sent += self._called(call)
        return sent

    def end(self, answer: ChatAnswer, extra: Mapping[str, Any]) -> bytes:
        sent = b""
        for item, place in outputs_of(self._own, answer):
            if place < 0 and "message" not in self._open:
                sent += self._whole_message(item)
            elif place >= 0 and place not in self._calls:
                sent += self._called({"index": place, "id": item["call_id"], "function": {
                    "name": item["name"], "arguments": item["arguments"]}})
        one = answer.choices[0] if answer.choices else None
        cut = one is not None and one.finish in ("length", "content_filter")
        sent += self._close("incomplete" if cut else "completed")
        items = {("message" if place < 0 else str(place)): item for item, place in outputs_of(self._own, answer)}
        output = [items[key] for key in self._open if key in items]
        response = {**self._described, **self._finished(answer), "output": output}
        kind = "response.incomplete" if response["status"] == "incomplete" else "response.completed"
        return sent + self._say(kind, response={**response, "bucle": extra_of(answer, extra)})

    def error(self, error: ApiError) -> bytes:
        code = "rate_limit_exceeded" if error.status == 429 else "server_error"
        failed = {**self._described, "status": "failed", "error": {"code": code, "message": error.message}}
        known = error.body().get("bucle")
        return self._say("error", code=error.code, message=error.message, param=error.param) + self._say(
            "response.failed", response={**failed, **({"bucle": known} if known else {})})

    def _begun(self) -> bytes:
        if "message" in self._open:
            return b""
        sent = self._close()
        self._open.append("message")
        at = {"output_index": len(self._open) - 1}
        item = {"type": "message", "id": f"msg_{self._own}", "status": "in_progress", "role": "assistant",
                "content": []}
        return sent + self._say("response.output_item.added", item=item, **at) + self._say(
            "response.content_part.added", item_id=item["id"], content_index=0, part=_part(""), **at)

    def _close(self, status: str = "completed") -> bytes:
        """End the item that is open."""
        key = self._open[-1] if self._open else ""
        if not key or key in self._done:
            return b""
        self._done.add(key)
        at: dict[str, Any] = {"output_index": len(self._open) - 1}
        if key != "message":
            item = self._item(int(key), status)
            return self._say("response.function_call_arguments.done", item_id=item["id"], name=item["name"],
                             arguments=item["arguments"], **at) + self._say("response.output_item.done", item=item,
                                                                            **at)
        text = clean("".join(self._text))
        own: dict[str, Any] = {"item_id": f"msg_{self._own}", "content_index": 0, **at}
        part = _part(text, {"content": self._logprobs})
        item = {"type": "message", "id": own["item_id"], "status": status, "role": "assistant", "content": [part]}
        return (self._say("response.output_text.done", text=text, logprobs=self._logprobs, **own)
                + self._say("response.content_part.done", part=part, **own)
                + self._say("response.output_item.done", item=item, **at))

    def _whole_message(self, item: Mapping[str, Any]) -> bytes:
        """A message of which nothing was streamed: all of its events at once."""
        part = item["content"][0]
        if part["type"] == "output_text":
            return self._begun() + (self.delta(Delta(part["text"])) if part["text"] else b"")
        self._open.append("message")
        self._done.add("message")
        at: dict[str, Any] = {"output_index": len(self._open) - 1}
        own = {"item_id": item["id"], "content_index": 0, **at}
        return b"".join((
            self._say("response.output_item.added", item={**item, "status": "in_progress", "content": []}, **at),
            self._say("response.content_part.added", part={"type": "refusal", "refusal": ""}, **own),
            self._say("response.refusal.delta", delta=part["refusal"], **own),
            self._say("response.refusal.done", refusal=part["refusal"], **own),
            self._say("response.content_part.done", part=part, **own),
            self._say("response.output_item.done", item=item, **at)))

    def _called(self, piece: Mapping[str, Any]) -> bytes:
        place, function = int(piece.get("index", 0)), piece.get("function") or {}
        sent = b""
        if place not in self._calls:
            self._calls[place] = {"id": str(piece.get("id") or ""), "name": str(function.get("name") or ""),
                                  "arguments": ""}
            sent += self._close()
            self._open.append(str(place))
            item = {**self._item(place, "in_progress"), "arguments": ""}
            sent += self._say("response.output_item.added", output_index=len(self._open) - 1, item=item)
        known = self._calls[place]
        known["id"] = known["id"] or str(piece.get("id") or "")
        if more := function.get("arguments"):
            known["arguments"] += more
            sent += self._say("response.function_call_arguments.delta", item_id=f"fc_{self._own}_{place}",
                              output_index=self._open.index(str(place)), delta=more)
        return sent

    def _item(self, place: int, status: str) -> dict[str, Any]:
        known = self._calls[place]
        return _call(self._own, place, {"id": known["id"], "function": known}, status)

    def _say(self, kind: str, **more: Any) -> bytes:
        self._number += 1
        return event({"type": kind, "sequence_number": self._number, **more}, kind)


def _part(text: str, logprobs: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {"type": "output_text", "text": clean(text), "annotations": [],
            "logprobs": list((logprobs or {}).get("content") or ())}


def _call(own: str, place: int, call: Mapping[str, Any], status: str) -> dict[str, Any]:
    function = call["function"]
    return {"type": "function_call", "id": f"fc_{own}_{place}", "call_id": call["id"], "status": status,
            "name": function["name"], "arguments": function["arguments"]}
