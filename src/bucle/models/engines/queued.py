"""An engine with so many places: who waits for one waits here, and not at the expense of the provider's time."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator
from typing import Any

from bucle.core.engine import AskContext, ChatAnswer, ChatAsk, ChatEngine, Delta
from bucle.core.errors import ModelUnavailable

__all__ = ["NOT_ASKED", "Crowded", "Queued"]

NOT_ASKED = "no place was free"
"""Stands in the CancelledError of one that was given up while it waited for a place."""
BEFORE_S = 0.1
"""By how much a wait ends before the request's deadline, so that it is told what it waited for."""
COME_BACK_S = 1.0
USUAL = 0.1
"""The weight of the last call in what one usually takes."""


class Crowded(ModelUnavailable):
    """No place became free in the request's time: the model was not asked. `retry_after` in seconds."""

    retry_after = COME_BACK_S


class Queued:
    """`engine` with at most `places` calls under way. The others wait in the order they came, within the time of their
    requests alone; who got no place in it, or one so late that a call of the usual length would not end in time, raises
    Crowded, and nothing was sent."""

    def __init__(self, engine: ChatEngine, places: int) -> None:
        self.name, self.places, self._engine = engine.name, places, engine
        self._usual_s = 0.0  # what a call took lately, from its place on
        self._free: asyncio.Semaphore | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def offers(self) -> frozenset[str]:
        return self._engine.offers

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)  # `priced` and what else it tells

    async def complete(self, ask: ChatAsk, ctx: AskContext) -> ChatAnswer:
        async with self._place(ctx):
            began = time.perf_counter()
            answer = await self._engine.complete(ask, ctx)
            self._took(time.perf_counter() - began)
            return answer

    async def stream(self, ask: ChatAsk, ctx: AskContext) -> AsyncIterator[Delta | ChatAnswer]:
        async with self._place(ctx), contextlib.aclosing(self._engine.stream(ask, ctx)) as pieces:  # type: ignore[type-var]
            began = time.perf_counter()
            async for piece in pieces:
                if isinstance(piece, ChatAnswer):
                    self._took(time.perf_counter() - began)
                yield piece

    async def close(self) -> None:
        await self._engine.close()

    def _took(self, seconds: float) -> None:
        self._usual_s += (seconds - self._usual_s) * (USUAL if self._usual_s else 1.0)

    @contextlib.asynccontextmanager
    async def _place(self, ctx: AskContext) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        if self._free is None or self._loop is not loop:
            self._free, self._loop = asyncio.Semaphore(self.places), loop
        free = self._free
        if free.locked():
            await self._wait(free, ctx)
        else:
            await free.acquire()
        try:
            yield
        finally:
            free.release()

    async def _wait(self, free: asyncio.Semaphore, ctx: AskContext) -> None:
        began, left = time.perf_counter(), ctx.left_s
        try:
            async with asyncio.timeout(None if math.isinf(left) else max(0.0, left - BEFORE_S)):
                await free.acquire()
            if ctx.left_s < self._usual_s:
                free.release()
                raise TimeoutError
        except TimeoutError:
            raise Crowded(f"{self.name} has {self.places} calls under way, and none ended in time for another",
                          f"raise models.{self.name}.max_parallel, or serve.timeout_s") from None
        except asyncio.CancelledError as error:
            error.args = (*error.args, NOT_ASKED)
            raise
        finally:
            ctx.span("queue", began, model=self.name)
