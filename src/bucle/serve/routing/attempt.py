"""One target of a route: asked through its breaker, its answer stamped, its outcome told, a span left."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import replace

from bucle.core.engine import AskContext, ChatAnswer, ChatAsk, ChatEngine, Delta
from bucle.core.errors import BadInput
from bucle.models.endpoint import BrokenOff, RateLimited, TimedOut
from bucle.models.engines.queued import NOT_ASKED, Crowded
from bucle.serve.routing.breaker import Breaker
from bucle.serve.routing.facts import TargetFacts
from bucle.serve.routing.opening import Layer, Outcome, Reply

__all__ = ["HEDGED", "Attempt"]

HEDGED = "hedged"
"""The message that a task is cancelled with whose answer came from another target."""

_ABOUT_S = 0.05
"""By how much a request's time may be ended before its deadline."""


class _Run:
    """One request at one target: told once how it ended."""

    def __init__(self, of: Attempt, ctx: AskContext, watch: Outcome | None) -> None:
        self.of, self.ctx, self.watch = of, ctx, watch
        self.began, self.busy, self.over = time.perf_counter(), 0.0, False
        try:
            self.probe = of.breaker.enter()
        except Exception as error:
            self.ended(error, asked=False)
            raise

    def ended(self, error: BaseException | None = None, asked: bool = True) -> None:
        if self.over:
            return
        self.over = True
        of, ms = self.of, self.busy * 1000
        hedged = isinstance(error, asyncio.CancelledError) and HEDGED in error.args
        late = isinstance(error, asyncio.CancelledError) and not hedged and self._took_all()
        gone = isinstance(error, asyncio.CancelledError | GeneratorExit) and not late
        unasked = isinstance(error, Crowded)  # it waited for a place here: that says nothing of the target
        failed = error is not None and not gone and not unasked and not isinstance(error, BadInput)
        if asked and unasked:
            of.breaker.left(self.probe)
        elif asked:
            if failed:
                pause = None if isinstance(of.engine, Layer) else _pause(error)  # a route rests its own targets
                of.breaker.failed(self.probe, pause, limited=isinstance(error, RateLimited))
            elif gone:
                of.breaker.left(self.probe)
            else:
                of.breaker.succeeded(self.probe)
            if not gone or hedged:  # what was given up for a hedge took at least so long
                of.told(of.name, not failed, ms)
        if self.watch is not None and not unasked and (failed or error is None or hedged):
            self.watch(of.name, not failed, ms)
        kind = "" if error is None else type(error).__name__
        kind = HEDGED if hedged else TimedOut.__name__ if late else "cancelled" if gone else kind
        of.outcomes[kind or "ok"] += 1
        told = {"release": of.facts.release, "error": kind}
        self.ctx.span("attempt", self.began, route=of.route, target=of.name, engine_ms=round(ms, 3),
                      **{name: value for name, value in told.items() if value})

    def _took_all(self) -> bool:
        """Whether the time of the request is over, and most of it was spent here: nobody left, this was too slow."""
        return self.ctx.left_s <= _ABOUT_S and self.busy >= (time.perf_counter() - self.ctx.started) / 2


class Attempt(Layer):
    """`engine`, known to `route` as `name`. `told(name, ok, ms)` hears of all that were asked; ms is the time that the
    engine took, without the time in which whoever reads the stream was busy elsewhere."""

    def __init__(self, route: str, name: str, engine: ChatEngine, facts: TargetFacts, breaker: Breaker,
                 told: Callable[[str, bool, float], None]) -> None:
        self.route, self.name, self.engine, self.facts, self.breaker, self.told = (
            route, name, engine, facts, breaker, told)
        self.outcomes: Counter[str] = Counter()

    @property
    def offers(self) -> frozenset[str]:
        return self.engine.offers

    async def open(self, ask: ChatAsk, ctx: AskContext, whole: bool, watch: Outcome | None = None,
                   until: float | None = None) -> Reply:
        """As Layer.open; it raises TimedOut where the reply has not begun by `until` (time.monotonic)."""
        if ctx.left_s <= 0:
            ctx.unsent()
            raise TimedOut(f"{self.route} ran out of time before {self.name} was asked", "raise serve.timeout_s")
        run = _Run(self, ctx, watch)
        if not whole:
            pieces = self._pieces(ask, ctx, run, until)
            return Reply(await anext(pieces), pieces)
        since = time.perf_counter()
        try:
            async with self._by(until):
                answer = await self.engine.complete(ask, ctx)
        except BaseException as error:
            run.busy = time.perf_counter() - since
            run.ended(error)
            raise
        run.busy = time.perf_counter() - since
        run.ended()
        return Reply(self._stamped(answer))

    @contextlib.asynccontextmanager
    async def _by(self, until: float | None) -> AsyncIterator[None]:
        """What is awaited inside ends by `until`, or it raises TimedOut."""
        if until is None:
            yield
            return
        limit = until - time.monotonic()
        try:
            async with asyncio.timeout(limit) as scope:
                yield
        except TimeoutError as error:
            if not scope.expired():
                raise
            if NOT_ASKED in getattr(error.__cause__, "args", ()):
                raise Crowded(f"{self.name} had no place free within {limit:.1f} s",
                              f"raise models.{self.name}.max_parallel") from None
            raise TimedOut(f"{self.name} did not begin to answer within {limit:.1f} s, its share of the request's time",
                           "raise serve.timeout_s, or give this model a shorter timeout_s") from None

    async def _pieces(self, ask: ChatAsk, ctx: AskContext, run: _Run,
                      until: float | None) -> AsyncGenerator[Delta | ChatAnswer, None]:
        source = self.engine.stream(ask, ctx)
        try:
            while True:
                since = time.perf_counter()
                try:
                    if until is None:
                        piece = await anext(source)
                    else:
                        async with self._by(until):
                            piece = await anext(source)
                        until = None  # it has begun
                except StopAsyncIteration:
                    raise BrokenOff(f"{self.name} ended its stream without an answer", "try again") from None
                finally:
                    run.busy += time.perf_counter() - since
                if isinstance(piece, ChatAnswer):
                    run.ended()
                    yield self._stamped(piece)
                    with contextlib.suppress(Exception):
                        await anext(source)  # nothing more comes; an engine may have a connection to give back
                    return
                yield piece
        except BaseException as error:
            run.ended(error)
            raise
        finally:
            if (end := getattr(source, "aclose", None)) is not None:
                await end()

    def _stamped(self, answer: ChatAnswer) -> ChatAnswer:
        """Who answered, said by the innermost route that chose."""
        facts = self.facts
        return replace(answer, route=answer.route or self.name, release=answer.release or facts.release,
                       candidate=answer.candidate or facts.candidate, served_by=answer.served_by or self.engine.name)


def _pause(error: BaseException | None) -> float | None:
    """The pause above a second that a provider asked for."""
    asked = getattr(error, "retry_after", None)
    return float(asked) if asked and asked > 1 else None
