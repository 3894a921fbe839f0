"""An engine within what its provider allows a minute, shared with everybody in this process who asks the same one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from bucle.core.engine import AskContext, ChatAnswer, ChatAsk, ChatEngine, Delta
from bucle.models.endpoint import HURRIED_WAIT_S, LONGEST_PAUSE_S, RateLimited
from bucle.models.limits import Reserved, limits_of

__all__ = ["Limited"]

_CHARS_A_TOKEN = 3


class _Later(Exception):
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds


class Limited:
    """`engine`, asked no more than `requests` and `tokens` a minute (0: no limit) by all who know it by `identity`, and
    not at all while its provider asks for a pause. Who would have to wait longer than a second is refused with
    RateLimited and the seconds to wait."""

    def __init__(self, engine: ChatEngine, identity: str, requests: int, tokens: int) -> None:
        self.name, self._engine = engine.name, engine
        self._limits = limits_of(identity, requests, tokens)

    @property
    def offers(self) -> frozenset[str]:
        return self._engine.offers

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)  # `priced` and what else it tells

    async def complete(self, ask: ChatAsk, ctx: AskContext) -> ChatAnswer:
        place = await self._place(ask, ctx)
        try:
            answer = await self._engine.complete(ask, ctx)
        except RateLimited as error:
            self._pause(error)
            raise
        self._limits.settle(place, answer.usage.tokens_in + answer.usage.tokens_out)
        return answer

    async def stream(self, ask: ChatAsk, ctx: AskContext) -> AsyncIterator[Delta | ChatAnswer]:
        place = await self._place(ask, ctx)
        pieces = self._engine.stream(ask, ctx)
        try:
            async for piece in pieces:
                if isinstance(piece, ChatAnswer):
                    self._limits.settle(place, piece.usage.tokens_in + piece.usage.tokens_out)
                yield piece
        except RateLimited as error:
            self._pause(error)
            raise
        finally:
            await pieces.aclose()  # type: ignore[attr-defined]

    async def close(self) -> None:
        await self._engine.close()

    async def _place(self, ask: ChatAsk, ctx: AskContext) -> Reserved:
        def later(seconds: float) -> None:
            raise _Later(seconds)

        about = len(ask.text) // _CHARS_A_TOKEN + (ask.max_tokens or 0) + 1
        while True:
            try:
                return self._limits.wait(about, later)
            except _Later as told:
                if told.seconds > HURRIED_WAIT_S:
                    raise RateLimited(f"{self.name} takes no more for now: bucle.yaml's limits a minute, or its pause",
                                      f"raise models.{self.name}.requests_per_minute or tokens_per_minute",
                                      told.seconds) from None
                try:
                    await asyncio.sleep(told.seconds)
                except asyncio.CancelledError:
                    ctx.unsent()
                    raise

    def _pause(self, error: RateLimited) -> None:
        if error.retry_after:
            self._limits.pause(error.retry_after, longest=LONGEST_PAUSE_S)
