"""Engines that do as they are told, for tests of what is made of engines (nothing here is about a wire)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from bucle.core.engine import OFFERS, AskContext, ChatAnswer, ChatAsk, ChatEngine, Choice, Delta
from bucle.core.records import Usage
from bucle.core.serving import RouteRule
from bucle.serve.routing import Alias, TargetFacts, build_routes


class Told:
    """Answers `NAME: TEXT` in three pieces. `fails` are raised first, one a request (None: no error); `waits` seconds
    pass before an answer begins, `breaks` after its first piece."""

    def __init__(self, name: str, *, fails: list[BaseException | None] | None = None, waits: float = 0.0,
                 usd: float = 0.001, breaks: BaseException | None = None, always: BaseException | None = None,
                 offers: frozenset[str] = OFFERS, acts: bool = False) -> None:
        self.name, self.offers, self.fails, self.waits, self.usd = name, offers, list(fails or []), waits, usd
        self.breaks, self.always, self.acts = breaks, always, acts
        self.asked: list[ChatAsk] = []
        self.contexts: list[AskContext] = []
        self.cancelled = self.open = 0

    async def _begin(self, ask: ChatAsk, ctx: AskContext) -> ChatAnswer:
        self.asked.append(ask)
        self.contexts.append(ctx)
        ctx.acted = ctx.acted or self.acts
        try:
            if self.waits:
                await asyncio.sleep(self.waits)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        error = self.always or (self.fails.pop(0) if self.fails else None)
        if error is not None:
            raise error
        return ChatAnswer((Choice(f"{self.name}: {ask.text}"),), Usage(tokens_in=10, tokens_out=5, usd=self.usd))

    async def complete(self, ask: ChatAsk, ctx: AskContext) -> ChatAnswer:
        return await self._begin(ask, ctx)

    async def stream(self, ask: ChatAsk, ctx: AskContext) -> AsyncIterator[Delta | ChatAnswer]:
        self.open += 1
        try:
            answer = await self._begin(ask, ctx)
            yield Delta(f"{self.name}: ")
            if self.breaks is not None:
                raise self.breaks
            yield Delta(ask.text)
            yield answer
        finally:
            self.open -= 1

    async def close(self) -> None:
        return


def say(text: str, **settings: Any) -> ChatAsk:
    return ChatAsk("m", ({"role": "user", "content": text},), **settings)


def one(rule: Mapping[str, Any], *engines: ChatEngine, facts: Mapping[str, TargetFacts] | None = None,
        **more: Any) -> Alias:
    """The route `r` of this rule over these engines, by their names."""
    rules = {"r": RouteRule.model_validate(rule)}
    return build_routes(rules, {e.name: e for e in engines}, facts or {}, seed=1, **more)["r"]


async def pieces_of(engine: ChatEngine, ask: ChatAsk, ctx: AskContext | None = None) -> list[Delta | ChatAnswer]:
    return [piece async for piece in engine.stream(ask, ctx or AskContext(trace="t"))]


def attempts(ctx: AskContext) -> list[tuple[str, str]]:
    return [(s["target"], s.get("error", "")) for s in ctx.spans if s["name"] == "attempt"]
