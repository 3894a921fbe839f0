"""A route that remembers its answers: exact ones by key, and where there is an encoder those to similar questions."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

from bucle.core.engine import AskContext, ChatAnswer, ChatAsk, Delta
from bucle.core.ports import Embedder
from bucle.core.records import Usage
from bucle.core.serving import Cache
from bucle.serve.routing.cache import Answers, Similar
from bucle.serve.routing.keys import decided, exact_key, semantic_group
from bucle.serve.routing.opening import Layer, Outcome, Reply, whole_of

__all__ = ["Cached"]

EMBEDDINGS, EMBED_S = 4, 0.5
"""Questions that are embedded at once, those above are not looked up; seconds that one waits for its vector."""
LET_GO_S = 0.05
"""How long who leaves last waits for the call to end, and to say what it came to."""
_LOG = logging.getLogger(__name__)


@dataclass
class _Flight:
    """One call that several wait for."""

    task: asyncio.Task[ChatAnswer]
    ctx: AskContext
    waiting: int = 0
    paid: bool = False


@dataclass
class _Counts:
    exact: int = 0
    semantic: int = 0
    shared: int = 0
    missed: int = 0
    passed: int = 0


class Cached(Layer):
    """`inner`, whose answers are kept by the rule.

    `pool(ctx)` names what may answer this asker (targets and releases), `own(ctx)` the targets themselves: an answer is
    kept only if one of these gave it (no fallback's), and never given where pool, labels or settings differ. Not kept:
    what is drawn at random without a seed, a replay's (`ctx.forward`), answers cut off by a filter. Whole requests with
    the same key that are at work at once share one call; the first to have its answer pays. A stream that misses makes
    a call of its own.
    """

    def __init__(self, inner: Layer, rule: Cache, pool: Callable[[AskContext], str],
                 own: Callable[[AskContext], Collection[str]], encoder: Embedder | None,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self.inner, self.rule, self.name = inner, rule, inner.name
        self._pool, self._own, self._encoder = pool, own, encoder
        self._similar = Similar(rule.entries, rule.similarity) if encoder is not None else None
        forget = self._similar.forget if self._similar is not None else None
        self.answers = Answers(rule.entries, rule.minutes * 60, clock, forget)
        self._flights: dict[bytes, _Flight] = {}
        self._embedding = 0
        self.counts = _Counts()

    @property
    def offers(self) -> frozenset[str]:
        return self.inner.offers

    async def open(self, ask: ChatAsk, ctx: AskContext, whole: bool, watch: Outcome | None = None) -> Reply:
        pool, own = self._pool(ctx), self._own(ctx)
        key = exact_key(ask, ctx.access, pool) if decided(ask) and not ctx.forward else None
        if key is None:
            self.counts.passed += 1
            return await self.inner.open(ask, ctx, whole, watch)
        began = time.perf_counter()
        if (found := self.answers.get(key)) is not None:
            self.counts.exact += 1
            return self._hit(found, "exact", ask, ctx, began, whole)
        group, vector = semantic_group(ask, ctx.access, pool) if self._similar is not None else None, None
        if group is not None:
            vector = await self._vector(ask.text)
            if vector is not None and (near := self._near(group, vector)) is not None:
                self.counts.semantic += 1
                return self._hit(near[0], "semantic", ask, ctx, began, whole, similarity=round(near[1], 4))
        ctx.span("cache", began, hit="")

        def keep(answer: ChatAnswer) -> None:
            if answer.route in own:
                self._keep(key, answer, group, vector)

        if whole:
            return Reply(await self._shared(key, ask, ctx, keep, watch))
        self.counts.missed += 1
        reply = await self.inner.open(ask, ctx, False, watch)
        if isinstance(reply.first, ChatAnswer):
            keep(reply.first)
            return reply
        return Reply(reply.first, _kept(reply, keep))

    async def close(self) -> None:
        """End the calls that nobody waits for any more."""
        tasks = [flight.task for flight in self._flights.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.inner.close()

    async def _shared(self, key: bytes, ask: ChatAsk, ctx: AskContext, keep: Callable[[ChatAnswer], None],
                      watch: Outcome | None) -> ChatAnswer:
        """The answer of the one call for `key`, begun by the first that asks. It ends when nobody waits for it."""
        flight, began = self._flights.get(key), time.perf_counter()
        if flight is None:
            own = replace(ctx, spans=[], late=[], spent=[])  # whoever begins it may leave before it ends
            flight = self._flights[key] = _Flight(asyncio.create_task(self._call(ask, own, keep, watch)), own)
            flight.task.add_done_callback(lambda done: self._landed(key, done))
        flight.waiting += 1
        try:
            answer = await asyncio.shield(flight.task)
        except BaseException:
            if flight.waiting == 1 and not flight.task.done():
                self._flights.pop(key, None)
                flight.task.cancel()
                await asyncio.wait({flight.task}, timeout=LET_GO_S)
            if flight.waiting == 1 or flight.task.done():
                self._pays(flight, ctx)
            else:
                ctx.unsent()  # whoever still waits pays
            raise
        finally:
            flight.waiting -= 1
        if self._pays(flight, ctx):
            self.counts.missed += 1
            return answer
        self.counts.shared += 1
        ctx.span("cache", began, hit="exact", shared=True, target=answer.route)
        return replace(answer, usage=Usage(), cached="exact")

    @staticmethod
    def _pays(flight: _Flight, ctx: AskContext) -> bool:
        """What the call came to is now told of this request, unless it is of another already; whether it is."""
        own, first = flight.ctx, not flight.paid
        ctx.acted = ctx.acted or own.acted
        if first:
            flight.paid = True
            ctx.spans += own.spans
            ctx.late += own.late
            ctx.spent += own.spent
            ctx.estimated = ctx.estimated or own.estimated
        return first

    async def _call(self, ask: ChatAsk, ctx: AskContext, keep: Callable[[ChatAnswer], None],
                    watch: Outcome | None) -> ChatAnswer:
        answer = whole_of(await self.inner.open(ask, ctx, True, watch))
        keep(answer)
        return answer

    def _landed(self, key: bytes, task: asyncio.Task[ChatAnswer]) -> None:
        if (flight := self._flights.get(key)) is not None and flight.task is task:
            del self._flights[key]
        if not task.cancelled():
            task.exception()  # whoever waited has it

    async def _vector(self, text: str) -> Any:
        """The unit vector of `text`, or None: an encoder that fails, hangs or is busy costs a hit, no answer."""
        import numpy as np

        if self._encoder is None or self._embedding >= EMBEDDINGS:
            return None
        self._embedding += 1
        work = asyncio.ensure_future(asyncio.to_thread(self._encoder.embed, [text]))
        work.add_done_callback(self._embedded)
        await asyncio.wait({work}, timeout=EMBED_S)
        if not work.done():
            return None
        try:
            found = np.asarray(work.result()[0], dtype=np.float32)
        except Exception:
            _LOG.warning("the semantic cache of %s could not embed a question", self.name, exc_info=True)
            return None
        length = float(np.linalg.norm(found))
        return found / length if np.isfinite(length) and length > 0 else None

    def _embedded(self, work: asyncio.Future[Any]) -> None:
        self._embedding -= 1
        if not work.cancelled():
            work.exception()

    def _near(self, group: bytes, vector: Any) -> tuple[ChatAnswer, float] | None:
        for key, score in self._similar.nearest(group, vector) if self._similar is not None else ():
            if (found := self.answers.get(key)) is not None:
                return found, score
        return None

    def _keep(self, key: bytes, answer: ChatAnswer, group: bytes | None, vector: Any) -> None:
        if answer.cached or not answer.choices or any(c.finish == "content_filter" for c in answer.choices):
            return
        if answer.prediction is not None and answer.prediction.error:
            return
        kept = self.answers.put(key, answer)
        if kept and self._similar is not None and group is not None and vector is not None:
            self._similar.add(group, key, vector)

    def _hit(self, answer: ChatAnswer, kind: str, ask: ChatAsk, ctx: AskContext, began: float, whole: bool,
             **told: Any) -> Reply:
        ctx.span("cache", began, hit=kind, target=answer.route, **told)
        found = replace(answer, usage=Usage(), cached=kind)
        return Reply(found) if whole else _streamed(found)


async def _kept(reply: Reply, keep: Callable[[ChatAnswer], None]) -> AsyncGenerator[Delta | ChatAnswer, None]:
    try:
        if reply.rest is not None:
            async for piece in reply.rest:
                if isinstance(piece, ChatAnswer):
                    keep(piece)
                yield piece
    finally:
        await reply.close()


def _streamed(answer: ChatAnswer) -> Reply:
    """A kept answer as a stream: each choice in one piece, then the whole."""
    pieces: list[Delta | ChatAnswer] = [
        Delta(choice.text, at, tuple({"index": n, **call} for n, call in enumerate(choice.tool_calls)), choice.logprobs)
        for at, choice in enumerate(answer.choices)]

    async def rest() -> AsyncGenerator[Delta | ChatAnswer, None]:
        for piece in [*pieces[1:], answer]:
            yield piece

    return Reply(pieces[0], rest())
