"""A ChatModel of this process as a ChatEngine: its calls run in threads, so many at once as it can take."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

from bucle.core.engine import AskContext, ChatAnswer, ChatAsk, Choice, Delta, Finish
from bucle.core.errors import ModelUnavailable, UpstreamTimeout
from bucle.core.ports import ChatModel, ChatReply
from bucle.core.records import Usage
from bucle.models.ask import without_waiting
from bucle.models.endpoint import forward_headers
from bucle.models.engines.meter import Meter
from bucle.models.tokens import about

__all__ = ["Pump", "ThreadEngine", "for_somebody", "with_headers"]

T = TypeVar("T")

DEFAULT_TOKENS = 512
"""The length of an answer where nobody says one."""


class ThreadEngine:
    """Answers by `chat`, from up to `parallel` threads (0: its own `max_parallel`, else 1).

    Offers what a ChatModel can be told. A call that is too late cannot be stopped: it keeps its turn until it has
    ended, and what it came to is in the context's `late`.
    """

    def __init__(self, chat: ChatModel, *, parallel: int = 0, name: str = "") -> None:
        self.name = name or str(getattr(chat, "name", "model"))
        self.parallel = max(1, parallel or int(getattr(chat, "max_parallel", 1)))
        schema = {"json_schema"} if getattr(chat, "takes_schema", False) else set[str]()
        self.offers = frozenset({"temperature", "max_tokens", "stop", "seed", "conversation"} | schema)
        self._chat = chat
        self._turns = asyncio.Semaphore(self.parallel)
        self._pool = ThreadPoolExecutor(self.parallel, thread_name_prefix=f"bucle-chat-{self.name[:40]}")

    async def complete(self, ask: ChatAsk, ctx: AskContext) -> ChatAnswer:
        await self._turn(ctx)
        started = time.perf_counter()
        settings = _settings(ask) | ({"schema": dict(ask.schema)} if ask.schema is not None else {})
        work = self._pool.submit(lambda: for_somebody(ctx.forward, lambda: self._chat.chat(ask.messages, **settings)))
        work.add_done_callback(self._back())
        with self._meter(ask, ctx) as meter:
            try:
                reply = await asyncio.shield(asyncio.wrap_future(work))
            except asyncio.CancelledError:
                if not work.cancel():
                    self._goes_on(work, ask, ctx, started)
                raise
            except UpstreamTimeout:
                meter.sent = True
                raise
            ctx.span("engine", started, model=self.name)
            return meter.answered(_answer(reply))

    async def stream(self, ask: ChatAsk, ctx: AskContext) -> AsyncIterator[Delta | ChatAnswer]:
        await self._turn(ctx)
        give_back = self._back()
        if ask.schema is not None:
            give_back(None)
            answer = await self.complete(replace(ask, stream=False), ctx)
            yield Delta(answer.text)
            yield answer
            return
        started = time.perf_counter()
        pump = Pump(lambda: self._chat.stream(ask.messages, **_settings(ask)), ctx.forward)
        try:
            with self._meter(ask, ctx) as meter:
                meter.sent = True
                while isinstance(piece := await asyncio.shield(asyncio.wrap_future(self._pool.submit(pump.next))), str):
                    if piece:
                        yield meter.took(Delta(piece))
                if piece is None:
                    raise ModelUnavailable("the model's stream ended before its reply did")
                ctx.span("engine", started, model=self.name)
                yield meter.answered(_answer(piece))
        finally:  # the thread may be at work on the next piece: the model is free once it is closed
            try:
                self._pool.submit(pump.close).add_done_callback(give_back)
            except RuntimeError:  # the pool was shut down meanwhile
                give_back(None)

    def priced(self, tokens_in: int, tokens_out: int) -> Usage:
        """What these tokens cost, where the model knows."""
        used = Usage(tokens_in=tokens_in, tokens_out=tokens_out)
        priced: Any = getattr(self._chat, "priced", None)
        return used if priced is None else priced(used)

    async def close(self) -> None:
        """Take nothing more; what runs is let go of."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _meter(self, ask: ChatAsk, ctx: AskContext) -> Meter:
        return Meter(self if hasattr(self._chat, "priced") else None, ask, ctx)

    async def _turn(self, ctx: AskContext) -> None:
        if not self._turns.locked():
            await self._turns.acquire()
            return
        started = time.perf_counter()
        try:
            await self._turns.acquire()
        except asyncio.CancelledError:
            ctx.unsent()
            raise
        ctx.span("wait", started)

    def _back(self) -> Callable[[object], None]:
        """Gives the turn back, once, from whatever thread."""
        loop, left = asyncio.get_running_loop(), [1]

        def back(_: object) -> None:
            if left:
                left.clear()
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits for a turn
                    loop.call_soon_threadsafe(self._turns.release)

        return back

    def _goes_on(self, work: Future[ChatReply], ask: ChatAsk, ctx: AskContext, started: float) -> None:
        late: Future[ChatAnswer | None] = Future()
        ctx.late.append(late)

        def ended(work: Future[ChatReply]) -> None:
            try:
                reply = work.result()
            except UpstreamTimeout:  # it was asked all the same
                ctx.estimated = True
                late.set_result(ChatAnswer((), self.priced(about(ask), 0)))
                return
            except (Exception, CancelledError):
                late.set_result(None)
                return
            ctx.span("engine", started, model=self.name)
            late.set_result(_answer(reply))

        work.add_done_callback(ended)


class Pump:
    """A model's stream, taken piece by piece from any thread, one at a time. `next` gives None at the end.

    `start()` begins it, at the first `next` and in that thread.
    """

    def __init__(self, start: Callable[[], Iterator[str | ChatReply]], forward: Mapping[str, str]) -> None:
        self._start, self._forward, self._lock = start, forward, threading.Lock()
        self._pieces: Iterator[str | ChatReply] | None = None

    def next(self) -> str | ChatReply | None:
        with self._lock:
            return for_somebody(self._forward, self._take)

    def _take(self) -> str | ChatReply | None:
        if self._pieces is None:
            self._pieces = iter(self._start())
        return next(self._pieces, None)

    def close(self) -> None:
        """Ends the model's work: the client has gone, or has all of it."""
        with self._lock:
            close = getattr(self._pieces, "close", None)
            if close is not None:
                close()


def for_somebody(headers: Mapping[str, str], work: Callable[[], T]) -> T:
    """`work()` for somebody who waits for it, with `headers` on the calls it makes to remote models."""
    with without_waiting():
        return with_headers(headers, work)


def with_headers(headers: Mapping[str, str], work: Callable[[], T]) -> T:
    """`work()` with `headers` on the calls it makes to remote models."""
    if not headers:
        return work()
    token = forward_headers.set(headers)
    try:
        return work()
    finally:
        forward_headers.reset(token)


def _settings(ask: ChatAsk) -> dict[str, Any]:
    return {"max_tokens": ask.max_tokens or DEFAULT_TOKENS, "temperature": ask.temperature or 0.0, "stop": ask.stop,
            "seed": ask.seed or 0}


def _answer(reply: ChatReply) -> ChatAnswer:
    finish: Finish = "length" if reply.finish == "length" else "stop"
    return ChatAnswer((Choice(reply.text, finish),), reply.usage, served_by=reply.served_by)
