"""Copies of requests for targets whose answers nobody sees: after the user was answered, never before."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, replace

from bucle.core.engine import AskContext, ChatAnswer, ChatAsk, ChatEngine, Delta, wanted
from bucle.serve.routing.facts import ShadowRun, TargetFacts
from bucle.serve.routing.opening import Layer, Outcome, Reply
from bucle.serve.routing.share import fraction

__all__ = ["Shadowed"]

_LOG = logging.getLogger(__name__)


@dataclass
class _Counts:
    asked: int = 0
    failed: int = 0
    dropped: int = 0
    unfit: int = 0


class Shadowed(Layer):
    """`inner`, and a copy of `share` of what it answers for each of `shadows`, at most `places` at work at once.

    A copy begins when the user's answer is whole, has `seconds` of its own, and is dropped (and counted) where all
    places are taken. One that asks for what a shadow does not offer is not sent to it (`unfit`). What became of each is
    told by `on_shadow`, which pays for it: nothing of it is in the user's usage.
    """

    def __init__(self, inner: Layer, shadows: Mapping[str, ChatEngine], facts: Mapping[str, TargetFacts], share: float,
                 places: int, seconds: float, on_shadow: Callable[[ShadowRun], None] | None) -> None:
        self.inner, self.shadows, self.name = inner, shadows, inner.name
        self._facts, self._share, self._places, self._seconds, self._tell = facts, share, places, seconds, on_shadow
        self._tasks: set[asyncio.Task[None]] = set()
        self.counts = {name: _Counts() for name in shadows}

    @property
    def offers(self) -> frozenset[str]:
        return self.inner.offers

    async def open(self, ask: ChatAsk, ctx: AskContext, whole: bool, watch: Outcome | None = None) -> Reply:
        reply = await self.inner.open(ask, ctx, whole, watch)
        if isinstance(reply.first, ChatAnswer):
            self._copy(ask, ctx, reply.first)
            return reply
        return Reply(reply.first, self._seen(reply, ask, ctx))

    async def _seen(self, reply: Reply, ask: ChatAsk, ctx: AskContext) -> AsyncGenerator[Delta | ChatAnswer, None]:
        try:
            if reply.rest is not None:
                async for piece in reply.rest:
                    if isinstance(piece, ChatAnswer):
                        self._copy(ask, ctx, piece)
                    yield piece
        finally:
            await reply.close()

    def _copy(self, ask: ChatAsk, ctx: AskContext, served: ChatAnswer) -> None:
        if served.cached:
            return
        for name, engine in self.shadows.items():
            if fraction("shadow", self.name, name, ctx.trace or str(time.perf_counter_ns())) >= self._share:
                continue
            counts = self.counts[name]
            if not frozenset(wanted(ask)) <= frozenset(engine.offers):
                counts.unfit += 1
            elif len(self._tasks) >= self._places:
                counts.dropped += 1
            else:
                counts.asked += 1
                task = asyncio.create_task(self._run(name, engine, ask, ctx, served), name=f"shadow {name}")
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _run(self, name: str, engine: ChatEngine, ask: ChatAsk, ctx: AskContext, served: ChatAnswer) -> None:
        own = AskContext(trace=ctx.trace, identity=ctx.identity, user=ctx.user, access=ctx.access, forward=ctx.forward,
                         deadline=time.monotonic() + self._seconds)
        answer, error = None, ""
        try:
            async with asyncio.timeout(self._seconds):
                answer = await engine.complete(replace(ask, stream=False), own)
        except Exception as failed:
            error = type(failed).__name__
            self.counts[name].failed += 1
            await self._late(own)
        except asyncio.CancelledError:
            self._told(name, ask, own, served, None, "cancelled")
            raise
        self._told(name, ask, own, served, answer, error)

    async def _late(self, own: AskContext) -> None:
        """What could not be stopped keeps its place until it has ended, and is paid."""
        if own.late:
            ended, _ = await asyncio.wait(map(asyncio.wrap_future, own.late), timeout=self._seconds)
            for one in ended:
                if (answer := one.result()) is not None:
                    own.spend(answer.usage, estimated=False)

    def _told(self, name: str, ask: ChatAsk, own: AskContext, served: ChatAnswer, answer: ChatAnswer | None,
              error: str) -> None:
        facts, ms = self._facts.get(name, TargetFacts()), (time.perf_counter() - own.started) * 1000
        own.span("attempt", own.started, route=self.name, target=name, role="shadow",
                 **({"error": error} if error else {}))
        if answer is not None:
            answer = replace(answer, route=answer.route or name, release=answer.release or facts.release,
                             candidate=answer.candidate or facts.candidate)
        if self._tell is None:
            return
        try:
            self._tell(ShadowRun(self.name, name, answer.release if answer else facts.release,
                                 answer.candidate if answer else facts.candidate, ask, served, own, answer, error, ms))
        except Exception:
            _LOG.exception("what the shadow %s of %s answered could not be told", name, self.name)

    async def close(self) -> None:
        """End the copies at work."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
