"""A ChatEngine that says what it is told to, deterministic and offering everything: for what is about the wire."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from bucle.core.engine import OFFERS, AskContext, ChatAnswer, ChatAsk, Choice, Delta
from bucle.core.records import Usage

Says = Callable[[ChatAsk], "str | Choice | Exception"]

USD = 0.000_25


def echo(ask: ChatAsk) -> str | Choice:
    """Repeats the question. Uses the first tool where there are tools and no result yet; gives the least object that a
    simple schema takes, `seed` as many letters as a seed, and text with logprobs where they are asked for."""
    if ask.tools and ask.tool_choice != "none" and not any(m["role"] == "tool" for m in ask.messages):
        calls = tuple({"id": f"call_{n}", "type": "function", "function": {
            "name": tool["function"]["name"],
            "arguments": json.dumps(least(tool["function"].get("parameters") or {}), ensure_ascii=False)}}
            for n, tool in enumerate(ask.tools) if n == 0 or ask.parallel_tool_calls)
        return Choice("", "tool_calls", calls)
    if ask.schema is not None or ask.any_json:
        return json.dumps(least(ask.schema or {}))
    result = next((m["content"] for m in reversed(ask.messages) if m["role"] == "tool"), None)
    text = f"The tool says {result}." if result is not None else f"You said: {ask.text}"
    for mark in ask.stop:
        if mark in text:
            return Choice(text.partition(mark)[0], "stop", stopped=mark)
    words = text.split(" ")
    if ask.max_tokens is not None and len(words) > ask.max_tokens:
        return Choice(" ".join(words[:ask.max_tokens]), "length")
    return text


def least(schema: Any) -> Any:
    """A small value that a schema of the simple kind takes; of another, an empty object."""
    if not isinstance(schema, dict):
        return {}
    properties, kind = schema.get("properties"), schema.get("type", "object")
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return schema["enum"][0]
    simple = {"string": "Ávila", "integer": 3, "number": 1.5, "boolean": True, "array": [], "null": None}
    if isinstance(kind, str) and kind in simple:
        return simple[kind]
    return {name: least(one) for name, one in properties.items()} if isinstance(properties, dict) else {}


class Scripted:
    """`asked` are the questions that came."""

    def __init__(self, name: str = "scripted", says: Says = echo, offers: frozenset[str] = OFFERS) -> None:
        self.name, self.offers, self._says = name, offers, says
        self.asked: list[ChatAsk] = []

    async def complete(self, ask: ChatAsk, ctx: AskContext) -> ChatAnswer:
        self.asked.append(ask)
        said = self._says(ask)
        if isinstance(said, Exception):
            raise said
        one = said if isinstance(said, Choice) else Choice(said)
        if ask.top_logprobs is not None:
            rows = [{"token": t, "logprob": -0.5, "bytes": list(t.encode()), "top_logprobs": [
                {"token": t, "logprob": -0.5, "bytes": list(t.encode())}] * min(1, ask.top_logprobs)}
                for t in pieces(one.text)]
            one = Choice(one.text, one.finish, one.tool_calls, {"content": rows}, one.refusal, one.stopped)
        read = sum(len(str(m.get("content")).split()) for m in ask.messages) or len((ask.prompt or "").split())
        return ChatAnswer((one,) * ask.n, Usage(tokens_in=read, tokens_out=len(one.text.split()) * ask.n, usd=USD),
                          served_by=self.name)

    async def stream(self, ask: ChatAsk, ctx: AskContext) -> AsyncIterator[Delta | ChatAnswer]:
        answer = await self.complete(ask, ctx)
        for index, one in enumerate(answer.choices):
            rows = (one.logprobs or {}).get("content")
            for place, piece in enumerate(pieces(one.text)):
                yield Delta(piece, index, logprobs={"content": [rows[place]]} if rows else None)
            for place, call in enumerate(one.tool_calls):
                arguments = call["function"]["arguments"]
                begun = {**call, "index": place, "function": {**call["function"], "arguments": ""}}
                yield Delta(index=index, tool_calls=(begun,))
                for start in range(0, len(arguments), 5):
                    more = {"index": place, "function": {"arguments": arguments[start:start + 5]}}
                    yield Delta(index=index, tool_calls=(more,))
        yield answer

    async def close(self) -> None:
        return None


def pieces(text: str) -> list[str]:
    """Words with the space before them."""
    words = text.split(" ")
    return [w if n == 0 else " " + w for n, w in enumerate(words)] if text else []
