"""A local stand-in for a provider, for demonstrations and tests: it speaks the OpenAI API on this machine.

It is not a provider's model. By default its replies come from `TemplateDrafter`, which fills a fixed text;
any ChatModel can be put in its place. It holds a reply for the milliseconds in the header `x-upstream-ms`, so
a log can be replayed with the latency it was recorded with, and what is measured is a real wait on a real
connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from bucle.core.ports import ChatModel, ChatReply, Message
from bucle.core.records import Usage
from bucle.serve.app import create_app
from bucle.serve.routes import Limits, Route

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["MAX_HOLD_MS", "TemplateDrafter", "create_upstream"]

MAX_HOLD_MS = 30_000

_TEMPLATES = {
    "es": "Gracias por escribirnos. Hemos recibido su mensaje: «{said}». Le respondemos hoy mismo.",
    "en": "Thank you for writing to us. We have received your message: “{said}”. We will answer today.",
}


class TemplateDrafter:
    """A ChatModel that drafts an acknowledgement from a fixed text. It understands nothing, and says so here.

    Deterministic; a token is a word between spaces. `language` is `es` or `en`.
    """

    max_parallel = 16

    def __init__(self, name: str = "template-drafter", language: str = "es") -> None:
        self.name, self._template = name, _TEMPLATES[language]

    def chat(self, messages: Sequence[Message], *, max_tokens: int, temperature: float = 0.0,
             stop: Sequence[str] = (), seed: int = 0) -> ChatReply:
        *_, reply = self.stream(messages, max_tokens=max_tokens, stop=stop)
        assert isinstance(reply, ChatReply)  # noqa: S101
        return reply

    def stream(self, messages: Sequence[Message], *, max_tokens: int, temperature: float = 0.0,
               stop: Sequence[str] = (), seed: int = 0) -> Iterator[str | ChatReply]:
        said = next((m["content"] for m in reversed(messages) if m["role"] == "user"), "")
        text = self._template.format(said=" ".join(said.split())[:120])
        for mark in stop:
            text = text.partition(mark)[0]
        words = text.split(" ") if text else []
        kept = words[:max_tokens]
        pieces = [word if place == 0 else " " + word for place, word in enumerate(kept)]
        yield from pieces
        usage = Usage(tokens_in=sum(len(m["content"].split()) for m in messages), tokens_out=len(kept))
        yield ChatReply("".join(pieces), usage, "length" if len(words) > len(kept) else "stop")


def create_upstream(chat: ChatModel | None = None, *, model: str = "draft") -> FastAPI:
    """The stand-in as an app that serves `model` at `/v1/chat/completions`; nothing it sees is stored."""
    route = Route(model, "chat", chat=chat or TemplateDrafter())
    app = create_app({model: route}, writer=None, limits=Limits(timeout_s=120), api_keys=())
    app.add_middleware(_Hold)
    return app


class _Hold:
    """Waits `x-upstream-ms` before the request goes on, as a slow provider would; 0 to MAX_HOLD_MS."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            value = dict(scope["headers"]).get(b"x-upstream-ms", b"0")
            if value.isdigit() and len(value) < 10:
                await asyncio.sleep(min(int(value), MAX_HOLD_MS) / 1000)
        await self._app(scope, receive, send)
