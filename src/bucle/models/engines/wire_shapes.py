"""The OpenAI wire's shapes: what is asked, and what comes back, whole or in pieces, read as a stranger's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bucle.core.engine import ChatAnswer, ChatAsk, Choice, Delta, Finish
from bucle.core.errors import ModelUnavailable
from bucle.core.records import Usage
from bucle.models.endpoint import BrokenOff

__all__ = ["Gathered", "body_of", "is_completion", "whole_answer"]

_FINISH: Mapping[str, Finish] = {"stop": "stop", "length": "length", "tool_calls": "tool_calls",
                                 "function_call": "tool_calls", "content_filter": "content_filter"}
MOST_CALLS = 128
"""Tool calls of one answer."""


def is_completion(ask: ChatAsk) -> bool:
    """Whether raw text is to be continued, without a chat template."""
    return ask.prompt is not None


def body_of(ask: ChatAsk, model: str, limit_field: str = "max_tokens") -> dict[str, Any]:
    """The request's body. Only what was asked for is in it: several servers refuse fields that they do not know."""
    body: dict[str, Any] = {"model": model}
    if ask.prompt is not None:
        body["prompt"] = ask.prompt
    else:
        body["messages"] = ask.messages
    if ask.max_tokens is not None:
        body["max_tokens" if ask.prompt is not None else limit_field] = ask.max_tokens
    for name in ("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "tool_choice",
                 "parallel_tool_calls"):
        if (value := getattr(ask, name)) is not None:
            body[name] = value
    if ask.stop:
        body["stop"] = ask.stop
    if ask.n > 1:
        body["n"] = ask.n
    if ask.logit_bias:
        body["logit_bias"] = dict(ask.logit_bias)
    if ask.tools:
        body["tools"] = ask.tools
    if ask.top_logprobs is not None:
        if ask.prompt is not None:
            body["logprobs"] = ask.top_logprobs
        else:
            body["logprobs"] = True
            if ask.top_logprobs:
                body["top_logprobs"] = ask.top_logprobs
    if ask.schema is not None:
        form = {"name": "answer", "schema": dict(ask.schema), "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": form}
    elif ask.any_json:
        body["response_format"] = {"type": "json_object"}
    if ask.regex is not None:
        body["structured_outputs"] = {"regex": ask.regex}  # vLLM's word for it
    if ask.user:
        body["user"] = ask.user
    body.update(ask.extra)
    if ask.stream:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    return body


def whole_answer(name: str, reply: Mapping[str, Any], usage: Usage, *, raw: bool) -> ChatAnswer:
    """A plain reply as an answer. Raises ModelUnavailable where it is none."""
    rows = reply.get("choices")
    found = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    if not found:
        raise ModelUnavailable(f"{name} answered without a message")
    choices = []
    for row in sorted(found, key=_place) if len(found) > 1 else found:
        message = {"content": row.get("text")} if raw else row.get("message")
        if not isinstance(message, dict):
            raise ModelUnavailable(f"{name} answered without a message")
        calls = _calls(message.get("tool_calls"))
        finish = _finish(row.get("finish_reason")) or ("tool_calls" if calls else "stop")
        refusal = message.get("refusal")
        choices.append(Choice(_text(message.get("content")), finish, calls, _logprobs(row.get("logprobs"), raw),
                              refusal if isinstance(refusal, str) else None, _stopped(row)))
    return ChatAnswer(tuple(choices), usage, served_by=_served_by(reply))


class Gathered:
    """Puts together what a stream sends: `take` each event, then `answer`."""

    def __init__(self, name: str, n: int, *, raw: bool) -> None:
        self._name, self._n, self._raw, self._served_by = name, n, raw, ""
        self._texts: dict[int, list[str]] = {}
        self._finish: dict[int, Finish] = {}
        self._calls: dict[int, dict[int, dict[str, Any]]] = {}
        self._logprobs: dict[int, list[Any]] = {}
        self._refusals: dict[int, str] = {}
        self._stops: dict[int, str] = {}

    def take(self, event: Mapping[str, Any]) -> Iterator[Delta]:
        """The pieces in one event."""
        if not self._served_by:
            self._served_by = _served_by(event)
        rows = event.get("choices")
        for row in rows if isinstance(rows, list) else ():
            if not isinstance(row, dict):
                continue
            at = _place(row)
            if not 0 <= at < self._n:
                raise ModelUnavailable(f"{self._name} streamed more answers than were asked for")
            delta = {"content": row.get("text")} if self._raw else row.get("delta")
            if finish := _finish(row.get("finish_reason")):
                self._finish[at] = finish
                self._stops[at] = _stopped(row)
            if not isinstance(delta, dict):
                continue
            text, calls = _text(delta.get("content")), self._pieces(at, delta.get("tool_calls"))
            chances = _logprobs(row.get("logprobs"), self._raw)
            if isinstance(said := delta.get("refusal"), str):
                self._refusals[at] = self._refusals.get(at, "") + said
            if text:
                self._texts.setdefault(at, []).append(text)
            if chances:
                self._logprobs.setdefault(at, []).extend(chances["content"])
            if text or calls or chances:
                yield Delta(text, at, calls, chances)

    def answer(self, usage: Usage) -> ChatAnswer:
        """All of it. Raises BrokenOff where a choice never ended."""
        if len(self._finish) < self._n:
            raise BrokenOff(f"{self._name} broke off its reply before the end", "try again")
        choices = []
        for at in range(self._n):
            calls = tuple(self._calls.get(at, {}).values())
            chances = {"content": self._logprobs[at]} if at in self._logprobs else None
            choices.append(Choice("".join(self._texts.get(at, ())), self._finish[at], calls, chances,
                                  self._refusals.get(at), self._stops[at]))
        return ChatAnswer(tuple(choices), usage, served_by=self._served_by)

    def _pieces(self, at: int, value: Any) -> tuple[Mapping[str, Any], ...]:
        """Pieces of tool calls, remembered."""
        if not isinstance(value, list):
            return ()
        known, found = self._calls.setdefault(at, {}), []
        for order, piece in enumerate(value):
            if not isinstance(piece, dict):
                continue
            index = piece.get("index", order)  # some servers number none
            function = piece.get("function")
            function = function if isinstance(function, dict) else {}
            if not isinstance(index, int) or len(known) >= MOST_CALLS:
                raise ModelUnavailable(f"{self._name} streamed tool calls that are none")
            call = known.setdefault(index, {"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
            call["id"] = call["id"] or _text(piece.get("id"))
            call["function"]["name"] += _text(function.get("name"))
            call["function"]["arguments"] += _text(function.get("arguments"))
            found.append({**piece, "index": index})
        return tuple(found)


def _calls(value: Any) -> tuple[Mapping[str, Any], ...]:
    rows = value if isinstance(value, list) else []
    return tuple(call for call in rows[:MOST_CALLS]
                 if isinstance(call, dict) and isinstance(f := call.get("function"), dict)
                 and isinstance(f.get("name"), str) and isinstance(f.get("arguments"), str))


def _text(value: Any) -> str:
    """Content as text: a string, or a list of parts."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(p["text"] for p in value if isinstance(p, dict) and isinstance(p.get("text"), str))
    return ""


def _finish(value: Any) -> Finish | None:
    """None where there is none yet; a reason that nobody knows is an end all the same."""
    return (_FINISH.get(value, "stop") if isinstance(value, str) else "stop") if value else None


def _stopped(row: Mapping[str, Any]) -> str:
    """The stop string that ended it, where the server says so (vLLM, and an engine's own process); a number there is a
    token's."""
    value = row.get("stop_reason")
    return value if isinstance(value, str) else ""


def _place(row: Mapping[str, Any]) -> int:
    index = row.get("index", 0)
    return index if isinstance(index, int) else 0


def _logprobs(value: Any, raw: bool) -> dict[str, Any] | None:
    """OpenAI's chat shape, from either API's."""
    if not isinstance(value, dict):
        return None
    if not raw:
        return {"content": value["content"]} if isinstance(value.get("content"), list) else None
    tokens, chances, tops = value.get("tokens"), value.get("token_logprobs"), value.get("top_logprobs")
    if isinstance(value.get("content"), list):
        return {"content": value["content"]}
    if not isinstance(tokens, list) or not isinstance(chances, list):
        return None
    tops = tops if isinstance(tops, list) and len(tops) == len(tokens) else [None] * len(tokens)
    content = []
    for token, chance, top in zip(tokens, chances, tops, strict=False):
        if not isinstance(token, str):
            continue
        rows = top if isinstance(top, dict) else {}
        content.append({"token": token, "logprob": chance, "bytes": list(token.encode(errors="replace")),
                        "top_logprobs": [{"token": t, "logprob": p, "bytes": list(t.encode(errors="replace"))}
                                         for t, p in rows.items() if isinstance(t, str)]})
    return {"content": content}


def _served_by(reply: Mapping[str, Any]) -> str:
    """`model fingerprint`, as far as the server says either."""
    model, print_ = reply.get("model"), reply.get("system_fingerprint")
    told = [part for part in (model, print_) if isinstance(part, str) and part]
    text = " ".join(told)[:400]
    return text if text.isprintable() else "".join(c for c in text if c.isprintable())
