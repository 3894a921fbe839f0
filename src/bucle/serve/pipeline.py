"""A conversation's way through the gateway: guards, budget, engine, guards, settling, journal, answer.

The same for every API (Dialect) and every engine (ChatEngine), whole and streamed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from bucle.core.engine import ChatAnswer, ChatAsk, Choice, Delta, wanted
from bucle.core.errors import ModelUnavailable, UpstreamTimeout
from bucle.core.ports import Verdict
from bucle.serve.call import Call
from bucle.serve.dialects import Dialect, Events, Head, clean, encode
from bucle.serve.errors import ApiError, from_exception
from bucle.serve.guard import refusal
from bucle.serve.http import Exchange

if TYPE_CHECKING:
    from bucle.serve.gateway import Gateway, Live

__all__ = ["Chat"]

log = logging.getLogger("bucle.serve")

INLINE = 8_000
"""Characters that guards look at on the event loop (a tenth of a millisecond a thousand); longer ones in a thread."""

LAST_WORD_S = 1.0
"""How long a client may take to read why its stream ends."""
LOOK_S = 0.5
"""After this long it is looked at whether the client of a whole answer is still there; of a stream, at once."""


class Leaving:
    """Cancels the request's task once its client has gone, from `after_s` on: nobody waits for the answer."""

    def __init__(self, exchange: Exchange, after_s: float) -> None:
        self._exchange, self._task = exchange, asyncio.current_task()
        self._watch: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(after_s, self._start)

    def caught(self, error: BaseException) -> bool:
        """Whether `error` is this cancellation, which ends here."""
        mine = isinstance(error, asyncio.CancelledError) and self._exchange.gone
        if mine and self._task is not None:
            self._task.uncancel()
        return mine

    def stop(self) -> None:
        self._timer.cancel()
        self._task = None
        if self._watch is not None:
            self._watch.cancel()

    def _start(self) -> None:
        self._watch = asyncio.ensure_future(self._exchange.left())
        self._watch.add_done_callback(self._left)

    def _left(self, watch: asyncio.Task[None]) -> None:
        if not watch.cancelled() and not self._exchange.ended and self._task is not None:
            self._task.cancel()


class _Guarded(NamedTuple):
    ask: ChatAsk
    secret: Any


class Chat:
    """Answers the conversations of one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def answer(self, exchange: Exchange, dialect: Dialect) -> None:
        """Read one request, answer it, leave its trace. Raises ApiError where nothing was sent yet."""
        gateway = self._gateway
        body, size = await gateway.read(exchange)
        live = gateway.find(body, exchange.key)
        ask = dialect.parse(body, gateway.limits)
        ask = self._fitting(ask, live, dialect)
        call = gateway.begin(exchange, live, ask.user, _input(live, ask), size)
        leaving = Leaving(exchange, 0.0 if ask.stream else LOOK_S)
        try:
            guarded = await self._before(call, ask)
            gateway.reserve(call, guarded.ask)
            if ask.stream:
                await self._stream(call, exchange, dialect, live, guarded)
                return
            async with asyncio.timeout_at(_at(call)):
                answer = await live.chat.complete(self._told(guarded.ask), call.ctx)
            self._spanned(call)
            call.first()
            answer = await self._after(call, answer, guarded)
            leaving.stop()  # it is answered, whoever has gone
            call.answered(answer)
            await gateway.cleaned(call)
            reply = dialect.whole(_head(call, live), guarded.ask, answer, call.extra())
            call.finish()
        except BaseException as error:
            self._partly(call, error)
            gone = leaving.caught(error)
            await gateway.cleaned(call)
            known = call.failed(error)
            if gone:
                return  # nobody is there to be told
            if isinstance(error, asyncio.CancelledError):
                raise
            raise known from error
        finally:
            leaving.stop()
        await exchange.json(encode(reply), headers=call.headers())

    def _fitting(self, ask: ChatAsk, live: Live, dialect: Dialect) -> ChatAsk:
        """`ask` as the route's engine is asked. Raises ApiError for what the engine does not offer."""
        engine, route = live.chat, live.route
        words = dialect.words
        one = route.kind != "chat"  # a task gives one fixed answer, whatever the temperature 0 means to a model
        if one and ask.temperature == 0:
            ask = replace(ask, temperature=None)
        if one and ask.max_tokens is not None and "max_tokens" in dialect.needs:
            ask = replace(ask, max_tokens=None)  # this API's clients cannot leave it out
        asked = wanted(ask)
        if not engine.offers.issuperset(asked):
            what = next(name for name in asked if name not in engine.offers)
            word = words.get(what, what)
            why = f": a {route.kind} route gives one fixed answer" if one else ""
            raise ApiError(400, f"`{word}` is not served by {route.name!r}{why}; leave it out",
                           code="unsupported_parameter", param=word)
        if "tools" not in engine.offers and any(m["role"] == "tool" or "tool_calls" in m for m in ask.messages):
            raise ApiError(400, f"`messages` hold calls of tools, which {route.name!r} does not serve; leave them out",
                           code="unsupported_parameter", param="messages")
        if one and not ask.text.strip():
            raise ApiError(400, "there is nothing to answer: the user's text is missing or empty", code="empty_input",
                           param="messages" if ask.prompt is None else "prompt")
        if route.kind == "converse" and ask.messages and ask.messages[-1]["role"] != "user":
            raise ApiError(400, "the last message must be the user's", code="invalid_value", param="messages")
        return ask

    def _told(self, ask: ChatAsk) -> ChatAsk:
        """`ask` as engines get it: who asks is told apart, and not named."""
        return replace(ask, user=self._gateway.people.told(ask.user)) if ask.user else ask

    async def _before(self, call: Call, ask: ChatAsk) -> _Guarded:
        guards, secret = self._gateway.guards, None
        if guards is None:
            return _Guarded(ask, None)
        short = guards.inline and (call.bound <= INLINE or _length(ask) <= INLINE)
        if short and guards.flags_only:  # nothing waits for what changes nothing: they look once the engine was asked
            call.looking = partial(_look, call, guards, ask)
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, call.look)  # a turn later: by then the question is on its way
        else:
            started = time.perf_counter()
            ask, checked = guards.check_ask(ask) if short else await self._gateway.aside(guards.check_ask, ask)
            call.before = checked.verdicts
            call.ctx.span("guard", started, on="input")
            if checked.blocked is not None:
                raise refusal(checked.blocked)
            if ask.extra and hasattr(guards, "check_input"):
                ask = await self._gateway.aside(_guarded_extra, call, guards, ask)
        if ask.messages:
            messages, secret = guards.protect(ask.messages)
            if messages is not ask.messages:
                ask = replace(ask, messages=tuple(messages))
        return _Guarded(ask, secret)

    async def _after(self, call: Call, answer: ChatAnswer, guarded: _Guarded) -> ChatAnswer:
        guards = self._gateway.guards
        if guards is None:
            return answer
        started = time.perf_counter()
        if guards.inline and sum(len(c.text) for c in answer.choices) <= INLINE:
            answer, checked = guards.check_answer(answer, guarded.ask, guarded.secret)
        else:
            answer, checked = await self._gateway.aside(guards.check_answer, answer, guarded.ask, guarded.secret)
        call.after = checked.verdicts
        call.ctx.span("guard", started, on="output")
        return _consistent(answer) if checked.masked or checked.blocked else answer

    async def _stream(self, call: Call, exchange: Exchange, dialect: Dialect, live: Live, guarded: _Guarded) -> None:
        """Pieces as they come. Up to the first one a failure is still a status; a client that goes away ends it."""
        ask = guarded.ask
        pieces = live.chat.stream(self._told(ask), call.ctx)
        events = dialect.events(_head(call, live), ask)
        try:
            try:
                async with asyncio.timeout_at(_at(call)):
                    piece = await anext(pieces, None)
                    call.first()
                    await exchange.begin(call.headers())
                    await exchange.piece(events.begin())
                    await self._pieces(call, exchange, events, pieces, piece, guarded)
            finally:
                await _closed(pieces)  # before anybody asks what it cost
        except Exception as error:
            if not exchange.started:
                raise
            self._partly(call, error)
            known = from_exception(error)
            if known.code == "internal_error":
                log.exception("the stream of %s failed", call.route.name)
            vars(known)["prediction"] = getattr(error, "prediction", None)
            await self._gateway.cleaned(call)
            known = call.failed(known)
            with contextlib.suppress(TimeoutError, OSError):  # a client that does not read is not waited for
                async with asyncio.timeout(LAST_WORD_S):
                    await exchange.end(events.error(known))

    async def _pieces(self, call: Call, exchange: Exchange, events: Events,
                      pieces: AsyncIterator[Delta | ChatAnswer], piece: Delta | ChatAnswer | None,
                      guarded: _Guarded) -> None:
        guards: Any = self._gateway.guards
        ask = guarded.ask
        watching = {} if guards is None else {n: guards.stream(ask, guarded.secret) for n in range(ask.n)}
        blocked: set[int] = set()
        strict = self._gateway.strict  # calls of tools wait until they are whole and were looked at
        while isinstance(piece, Delta):
            text = piece.text if piece.text.isascii() else clean(piece.text)
            if piece.index == 0:
                call.parts.append(text)
            call.written += len(text) + (len(str(piece.tool_calls)) if piece.tool_calls else 0)
            guard = watching.get(piece.index)
            if guard is not None and text:
                short = guards.inline and len(text) <= INLINE
                out = guard.feed(text) if short else await self._gateway.aside(guard.feed, text)
                if guard.blocked:
                    blocked.add(piece.index)
            else:
                out = text
            if piece.tool_calls and strict:
                piece = replace(piece, tool_calls=())
            if out == piece.text:
                if piece.index not in blocked and (out or piece.tool_calls or piece.logprobs):
                    await exchange.piece(events.delta(piece))
            elif out or piece.tool_calls:  # what was kept back has no logprobs that would fit it
                await exchange.piece(events.delta(Delta(out, piece.index, piece.tool_calls)))
            if blocked and len(blocked) == len(watching):
                break
            piece = await anext(pieces, None)
        self._spanned(call)
        answer = piece if isinstance(piece, ChatAnswer) else None
        if answer is None and not blocked:
            raise ModelUnavailable("the model's stream ended before its reply did")
        if answer is None:
            await _closed(pieces)  # every choice was blocked half-way: what the engine would have said is not known
        answer = await self._ended(call, exchange, events, watching, answer, ask)
        call.answered(answer)
        await self._gateway.cleaned(call)
        last = events.end(answer, call.extra())
        call.finish()
        await exchange.end(last)

    async def _ended(self, call: Call, exchange: Exchange, events: Events, watching: Mapping[int, Any],
                     answer: ChatAnswer | None, ask: ChatAsk) -> ChatAnswer:
        """The answer as its choices went out: what guards kept back is sent or cut off now."""
        started, verdicts = time.perf_counter(), []
        if answer is None:
            if not call.ctx.spent:
                self._estimate(call)
            answer = ChatAnswer(tuple(Choice("", "content_filter") for _ in watching), call.usage)
        choices = list(answer.choices)
        inline = watching and self._gateway.guards.inline and sum(map(len, call.parts)) <= INLINE
        for index, guard in watching.items():
            rest = guard.end() if inline else await self._gateway.aside(guard.end)
            if rest:
                await exchange.piece(events.delta(Delta(rest, index)))
            checked = guard.checked
            if checked is None:
                continue
            verdicts += checked.verdicts
            if index < len(choices) and guard.blocked:
                choices[index] = replace(choices[index], text="", finish="content_filter", logprobs=None)
            elif index < len(choices) and checked.masked:
                choices[index] = replace(choices[index], text=checked.text)
        if not watching:
            return answer
        changed = replace(answer, choices=tuple(choices))
        if self._gateway.strict and any(c.tool_calls for c in choices):
            silent = replace(changed, choices=tuple(replace(c, text="") for c in choices))
            judged, checked = await self._gateway.aside(self._gateway.guards.check_answer, silent, ask, None)
            verdicts += checked.verdicts
            changed = replace(changed, choices=tuple(
                j if j.finish == "content_filter" else replace(j, text=c.text)
                for j, c in zip(judged.choices, choices, strict=True)))
        call.after = tuple(verdicts)
        call.ctx.span("guard", started, on="output")
        cut = any(g.blocked or (g.checked and g.checked.masked) for g in watching.values())
        return _consistent(changed) if cut else changed

    def _partly(self, call: Call, error: BaseException) -> None:
        """What a call that ended early has used, where its engine does not tell (`ctx.spent`, `ctx.late`): one that was
        asked and not let end has read the prompt, and wrote what came."""
        early = isinstance(error, TimeoutError | UpstreamTimeout | asyncio.CancelledError)
        early = early or getattr(error, "status", 0) == 499
        if not (call.done or call.ctx.spent or call.ctx.late) and (call.written or early) and call.asked:
            self._estimate(call)

    def _estimate(self, call: Call) -> None:
        call.usage, call.estimated = self._gateway.priced(call, call.bound // 4, (call.written + 3) // 4), True

    def _spanned(self, call: Call) -> None:
        if not any(s["name"] in ("engine", "attempt", "cache") for s in call.ctx.spans):
            call.ctx.span("engine", call.ctx.started)


def _length(ask: ChatAsk) -> int:
    """Characters of what guards look at, where it is no more than text."""
    if ask.tools or ask.schema or any("tool_calls" in m for m in ask.messages):
        return INLINE + 1
    if ask.prompt is not None:
        return len(ask.prompt)
    return sum(len(m.get("content") or "") for m in ask.messages if m.get("role") != "system")


def _guarded_extra(call: Call, guards: Any, ask: ChatAsk) -> ChatAsk:
    """`ask` with the texts among its extras (labels for the provider's own lists) as the guards leave them. Raises
    ApiError where one is refused."""
    def seen(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: seen(inner) for name, inner in value.items()}
        if not isinstance(value, str):
            return value
        checked = guards.check_input(value)
        if checked.blocked is not None:
            call.before = checked.verdicts
            raise refusal(checked.blocked)
        return checked.text

    return replace(ask, extra=seen(ask.extra))


def _look(call: Call, guards: Any, ask: ChatAsk) -> None:
    """What guards that only flag say of the input; if they fail, that."""
    started = time.perf_counter()
    try:
        call.before = guards.check_ask(ask)[1].verdicts
    except Exception:
        log.exception("the input's guards failed")
        call.before = (Verdict("guards", False, 0.0, ("guard_failed",)),)
    call.ctx.span("guard", started, on="input")


def _consistent(answer: ChatAnswer) -> ChatAnswer:
    """What guards changed in the text stands nowhere else in the reply."""
    if answer.prediction is None:
        return answer
    return replace(answer, prediction=answer.prediction.model_copy(update={"output": answer.text, "quotes": ()}))


def _input(live: Live, ask: ChatAsk) -> str:
    """What the trace says was asked: what the engine is given, where it takes one text."""
    shown = getattr(live.chat, "input_of", None)
    return str(shown(ask)) if shown is not None else ask.text


def _head(call: Call, live: Live) -> Head:
    return Head(call.id, int(call.received), live.route.name)


def _at(call: Call) -> float:
    """The call's deadline on the loop's clock."""
    return asyncio.get_running_loop().time() + call.ctx.left_s


async def _closed(pieces: Any) -> None:
    """Ends the engine's work, however it is."""
    close = getattr(pieces, "aclose", None)
    if close is None:
        return
    try:
        await close()
    except Exception:
        log.exception("a stream could not be closed")
