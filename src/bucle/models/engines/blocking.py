"""An engine asked from plain threads: what techniques, judges and the bake-off take for a ChatModel."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from bucle.core.engine import AskContext, ChatAnswer, ChatAsk, ChatEngine, Delta
from bucle.core.errors import BadInput, BucleError, ContextOverflow, ModelUnavailable
from bucle.core.ports import ChatReply, Message
from bucle.core.records import Usage
from bucle.models.endpoint import (
    HURRIED_WAIT_S,
    LONGEST_PAUSE_S,
    MAX_WAIT_S,
    BrokenOff,
    RateLimited,
    Refused,
    TimedOut,
    backoff,
    come_back,
    forward_headers,
    hurried,
    outlay,
    span_of,
    troubles,
)
from bucle.models.limits import limits_of

__all__ = ["BlockingChat"]

T = TypeVar("T")
_DROPPED = ("temperature", "seed", "json_schema")
"""What a plain reply can do without: an engine that does not take it is asked again without it."""


class BlockingChat:
    """A ChatModel (core.ports) over `engine`, with the manners of models.remote.OpenAIChat.

    Calls may come from many threads, up to `max_parallel` by `ask_all`; they share one event loop in a thread of its
    own, in which nobody else may use `engine`. `max_retries` follow what asking again may help, after the pause that
    the provider asks for (no more than a second where somebody waits, `hurried`). The limits a minute (0: none) are
    kept for all who call the same `identity` from this process. A `temperature`, `seed` or `schema` that the engine
    does not take is left out from then on.
    """

    def __init__(self, engine: ChatEngine, *, identity: str = "", max_parallel: int = 16, max_retries: int = 2,
                 timeout_s: float = 60.0, requests_per_minute: int = 0, tokens_per_minute: int = 0,
                 context: int | None = None, sleep: Callable[[float], None] = time.sleep) -> None:
        self.name, self.engine, self.max_parallel, self.context = engine.name, engine, max_parallel, context
        model, address = getattr(engine, "model", engine.name), getattr(engine, "base_url", type(engine).__name__)
        self.identity = identity or f"{address} {model}"
        self.takes_schema = "json_schema" in engine.offers
        self._retries, self._timeout, self._sleep = max_retries, timeout_s, sleep
        self._limits = limits_of(self.identity, requests_per_minute, tokens_per_minute)
        self._without = frozenset(_DROPPED) - engine.offers
        weakref.finalize(self, _let_go, engine)  # whoever forgets to close it leaves no connection open

    def chat(self, messages: Sequence[Message], *, max_tokens: int, temperature: float = 0.0,
             stop: Sequence[str] = (), seed: int = 0, schema: Mapping[str, Any] | None = None) -> ChatReply:
        """The reply. Raises RateLimited, TimedOut, Refused, ModelUnavailable, BadInput or ContextOverflow."""
        def once(ctx: AskContext) -> tuple[ChatAnswer, float]:
            ask, began = self._ask(messages, max_tokens, temperature, stop, seed, schema), time.monotonic()
            return self._within(self.engine.complete(ask, ctx)), (time.monotonic() - began) * 1000

        answer, ms = self._tried(once, messages, max_tokens)
        return self._reply(answer, ms)

    def stream(self, messages: Sequence[Message], *, max_tokens: int, temperature: float = 0.0,
               stop: Sequence[str] = (), seed: int = 0) -> Iterator[str | ChatReply]:
        """Pieces as they come, then the reply; tried again only before the first piece."""
        began, asked = time.monotonic(), list[AskContext]()

        def once(ctx: AskContext) -> tuple[AsyncIterator[Delta | ChatAnswer], Delta | ChatAnswer | None]:
            asked.append(ctx)
            pieces = self.engine.stream(self._ask(messages, max_tokens, temperature, stop, seed, None), ctx)
            try:
                return pieces, _run(_next(pieces))
            except BaseException:
                _run(_closed(pieces))
                raise

        pieces, piece = self._tried(once, messages, max_tokens)
        parts: list[str] = []
        try:
            while isinstance(piece, Delta):
                if piece.text and not piece.index:
                    parts.append(piece.text)
                    yield piece.text
                piece = _run(_next(pieces))
        finally:
            _run(_closed(pieces))
            _told(asked[-1])
        if piece is None:
            raise BrokenOff(f"{self.name} broke off its reply before the end", "try again")
        yield self._reply(piece, (time.monotonic() - began) * 1000)

    def priced(self, usage: Usage) -> Usage:
        """`usage` at the price of today, where the engine knows one."""
        priced: Callable[[int, int], Usage] | None = getattr(self.engine, "priced", None)
        return usage if priced is None else priced(usage.tokens_in, usage.tokens_out)

    def close(self) -> None:
        """Close the engine's connections."""
        _run(self.engine.close())

    def _ask(self, messages: Sequence[Message], max_tokens: int, temperature: float, stop: Sequence[str], seed: int,
             schema: Mapping[str, Any] | None) -> ChatAsk:
        said = {"temperature": temperature, "seed": seed or None, "json_schema": schema or None}
        said |= dict.fromkeys(self._without)
        return ChatAsk(self.name, tuple(dict(m) for m in messages), max_tokens=max_tokens, stop=tuple(stop),
                       temperature=said["temperature"], seed=said["seed"],  # type: ignore[arg-type]
                       schema=said["json_schema"])  # type: ignore[arg-type]

    def _within(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return _run(asyncio.wait_for(work, self._timeout))
        except TimeoutError as error:
            raise TimedOut(f"{self.name} did not answer within {self._timeout:g} s",
                           f"raise models.{self.name}.timeout_s, or use a smaller model") from error

    def _tried(self, once: Callable[[AskContext], T], messages: Sequence[Message], max_tokens: int) -> T:
        """`once`, again after what may pass, and without what the engine does not take."""
        size = len(json.dumps([dict(m) for m in messages], ensure_ascii=False).encode(errors="replace")) // 4 + 1
        longest = HURRIED_WAIT_S if hurried.get() else MAX_WAIT_S
        attempt, waited = 0, False
        while True:
            if not waited and self._limits.paused() > longest:
                left = self._limits.asked_for()
                raise RateLimited(f"{self.name} asked for a pause: {span_of(left)} of it are left", come_back(left),
                                  left)
            place = self._limits.wait(size + max_tokens, self._sleep, pause=not waited)
            waited, ctx = False, _context()
            try:
                found = once(ctx)
            except (Refused, TimedOut):
                raise
            except ModelUnavailable as error:
                wait = getattr(error, "retry_after", None)
                if isinstance(error, RateLimited) and wait:
                    self._limits.pause(wait, longest=LONGEST_PAUSE_S)
                    waited = True
                if (told := troubles.get()) is not None:
                    told.append(error.message)
                if attempt >= self._retries or (wait or 0) > longest:
                    raise
                self._sleep(wait if wait is not None else backoff(attempt))
                attempt += 1
            except BadInput as error:
                what = str(getattr(error, "what", ""))
                if isinstance(error, ContextOverflow) or what not in _DROPPED or what in self._without:
                    raise
                self._without |= {what}
            else:
                if isinstance(found, tuple) and isinstance(found[0], ChatAnswer):
                    used = found[0].usage
                    self._limits.settle(place, used.tokens_in + used.tokens_out)
                return found
            finally:
                _told(ctx)

    def _reply(self, answer: ChatAnswer, ms: float) -> ChatReply:
        finish = "length" if answer.choices and answer.choices[0].finish == "length" else "stop"
        return ChatReply(answer.text, answer.usage, finish, ms, served_by=answer.served_by)


def _context() -> AskContext:
    """What is spent in it is told to whoever pays (models.endpoint.outlay)."""
    told = outlay.get()
    return AskContext(forward=forward_headers.get() or {}, spent=[] if told is None else told.spent)


def _told(ctx: AskContext) -> None:
    if (told := outlay.get()) is not None:
        told.estimated = told.estimated or ctx.estimated


async def _next(pieces: AsyncIterator[Delta | ChatAnswer]) -> Delta | ChatAnswer | None:
    return await anext(pieces, None)


async def _closed(pieces: AsyncIterator[Any]) -> None:
    with contextlib.suppress(BucleError):
        close = getattr(pieces, "aclose", None)
        if close is not None:
            await close()


def _let_go(engine: ChatEngine) -> None:
    if _loop is not None and _loop.is_running():
        asyncio.run_coroutine_threadsafe(engine.close(), _loop)


_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def _forget() -> None:
    global _loop
    _loop = None  # its thread stayed in the parent


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def _run(work: Coroutine[Any, Any, T]) -> T:
    """`work` in the one background loop. Ctrl-C here ends it there."""
    global _loop
    with _lock:
        if _loop is None or _loop.is_closed():
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="bucle-engines", daemon=True).start()
    future = asyncio.run_coroutine_threadsafe(work, _loop)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise
