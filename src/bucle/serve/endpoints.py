"""What the gateway answers that is no conversation: embeddings, moderations, feedback, models, health, metrics."""

from __future__ import annotations

import asyncio
import queue
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from bucle.core.engine import AskContext, ChatAnswer, added
from bucle.core.ids import content_id
from bucle.core.ports import Verdict
from bucle.core.records import Feedback, Usage
from bucle.models.ask import without_waiting
from bucle.models.endpoint import Outlay
from bucle.models.engines.thread import with_headers
from bucle.models.tokens import about_text
from bucle.serve.call import now, utc
from bucle.serve.dialects import (
    Head,
    clean,
    embeddings_reply,
    moderations_reply,
    parse_embeddings,
    parse_feedback,
    parse_moderations,
)
from bucle.serve.errors import ApiError
from bucle.serve.guard import refusal
from bucle.serve.http import Exchange
from bucle.serve.pipeline import INLINE

if TYPE_CHECKING:
    from bucle.serve.call import Call
    from bucle.serve.gateway import Gateway, Live

__all__ = ["Endpoints"]

FLAGGED = 0.5
"""The score from which a text counts as flagged."""
_TEXT = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")


class Endpoints:
    """The plain endpoints of one gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def paths(self) -> list[tuple[str, str, Callable[[Exchange], Awaitable[None]]]]:
        """Path, method and handler of each."""
        return [("/v1/embeddings", "POST", self.embeddings), ("/v1/feedback", "POST", self.feedback),
                ("/v1/moderations", "POST", self.moderations),
                ("/v1/models", "GET", self.models), ("/openapi.json", "GET", self.described),
                ("/healthz", "GET", self.health),
                ("/readyz", "GET", self.readiness), ("/metrics", "GET", self.prometheus)]

    async def embeddings(self, exchange: Exchange) -> None:
        gateway = self._gateway
        body, size = await gateway.read(exchange)
        live = gateway.find(body, exchange.key, embeddings=True)
        asked = parse_embeddings(body, live.route, gateway.limits)
        text = "\n".join(asked.texts)[:gateway.limits.input_chars]
        call = gateway.begin(exchange, live, asked.user, text, size)
        try:
            texts = await self._guarded(call, asked.texts)
            gateway.reserve(call, None)
            vectors, used = await self._embed(call, live, texts)
            call.usage, call.estimated = added(used, *call.ctx.spent), call.ctx.estimated
            call.first()
            await gateway.cleaned(call)
            reply = embeddings_reply(live.route.name, vectors, used, base64=asked.base64, extra=call.extra())
            call.finish()
        except BaseException as error:
            await gateway.cleaned(call)
            known = call.failed(error)
            if isinstance(error, asyncio.CancelledError):
                raise
            raise known from error
        await exchange.json(reply, headers=call.headers())

    async def _guarded(self, call: Call, texts: tuple[str, ...]) -> tuple[str, ...]:
        """`texts` as the input's guards let them go on. Raises ApiError for one that they refuse."""
        guards = self._gateway.guards
        if guards is None:
            return texts
        started = time.perf_counter()
        short = guards.inline and call.bound <= INLINE
        texts, checked = (guards.check_texts(texts) if short
                          else await self._gateway.aside(guards.check_texts, texts))
        call.before = checked.verdicts
        call.ctx.span("guard", started, on="input")
        if checked.blocked is not None:
            raise refusal(checked.blocked)
        return texts

    async def _embed(self, call: Call, live: Live, texts: tuple[str, ...]) -> tuple[Any, Usage]:
        """Vectors and usage, from a thread; one that is late keeps its turn until it has ended."""
        embedder: Any = live.route.embedder
        ctx, gateway = call.ctx, self._gateway
        async with asyncio.timeout(ctx.left_s):
            await live.turns.acquire()
            started, told = time.perf_counter(), Outlay()
            running = asyncio.get_running_loop().run_in_executor(
                gateway.pool, _embedded, embedder, texts, ctx.forward, told)
            running.add_done_callback(partial(_turn_over, live))
            try:
                vectors, usage = await asyncio.shield(running)
            except asyncio.CancelledError:
                if not running.done():
                    ctx.late.append(_late(running, ctx, told))
                raise
            except Exception:
                ctx.spent += told.spent
                ctx.estimated = ctx.estimated or told.estimated
                raise
        ctx.span("engine", started, texts=len(texts))
        ctx.spent += told.spent
        ctx.estimated = ctx.estimated or told.estimated
        if not usage.tokens_in:
            ctx.estimated = True
            usage = gateway.priced(call, sum(map(about_text, texts)), 0)
        return vectors, usage

    async def moderations(self, exchange: Exchange) -> None:
        """What the server's own guards say of texts. Nothing is stored of them."""
        gateway = self._gateway
        body, size = await gateway.read(exchange)
        asked = parse_moderations(body, gateway.limits)
        limits = self._counted(exchange, size // 4)
        guards = gateway.guards
        if guards is None:
            raise ApiError(404, "no guards are on here, so there is nothing to moderate by", code="model_not_found",
                           param="model")
        scored = await gateway.aside(guards.moderate, asked.texts)
        verdicts = [[Verdict(name, score >= FLAGGED, score, (name,) if score >= FLAGGED else ())
                     for name, score in one.items()] for one in scored]
        head = Head(f"modr-{secrets.token_hex(12)}", int(time.time()), "bucle-guards")
        await exchange.json(moderations_reply(head, verdicts, {}), headers=limits)

    async def feedback(self, exchange: Exchange) -> None:
        gateway = self._gateway
        body, _ = await gateway.read(exchange)
        asked = parse_feedback(body, gateway.limits)
        asked = replace(asked, by=gateway.people.stored(asked.by))
        limits = self._counted(exchange, 0)
        at, _, _ = gateway.replayed(exchange)
        item = Feedback(id=content_id("feedback", asdict(asked)), trace=asked.trace, by=asked.by, at=at or utc(now()),
                        rating=asked.rating, correction=asked.correction, reason=asked.reason,
                        source="replay" if gateway.replay else "api")
        try:
            stored = asyncio.wrap_future(gateway.traces.feedback(item))
            new = await asyncio.wait_for(stored, gateway.limits.timeout_s)
        except queue.Full:
            raise ApiError(503, "too much is waiting to be stored; try again", code="overloaded",
                           headers={"retry-after": "1"}) from None
        if new and item.rating is not None:
            await gateway.heard(item.trace, item.rating)
        await exchange.json({"id": item.id, "object": "bucle.feedback", "trace_id": item.trace, "new": bool(new)},
                            headers=limits)

    def _counted(self, exchange: Exchange, tokens: int) -> dict[str, str]:
        """Count a request that costs nothing in its key's minute; the headers that tell its limits. Raises ApiError
        429."""
        accounts = self._gateway.accounts
        if accounts is None:
            return {}
        held = accounts.reserve(exchange.key, usd=0.0, tokens=tokens, trace="")
        accounts.settle(held, Usage(tokens_in=tokens))
        return held.headers()

    async def models(self, exchange: Exchange) -> None:
        """Every route that is there for who asks."""
        await exchange.json({"object": "list", "data": self._rows(exchange)})

    async def model(self, exchange: Exchange) -> None:
        """The route that the path names."""
        name = unquote(exchange.path.removeprefix("/v1/models/"))
        row = next((row for row in self._rows(exchange) if row["id"] == name), None)
        if row is None:
            raise ApiError(404, f"the model {clean(name[:100])!r} is not served here", code="model_not_found")
        await exchange.json(row)

    def _rows(self, exchange: Exchange) -> list[dict[str, Any]]:
        gateway = self._gateway
        return [{"id": r.name, "object": "model", "created": gateway.started, "owned_by": "bucle",
                 "bucle": {"kind": r.kind, "candidate": r.candidate, "release": r.release or gateway.release_id}}
                for r in gateway.seen(exchange.key).values()]

    async def described(self, exchange: Exchange) -> None:
        """The API as OpenAPI 3.1."""
        from bucle.serve.openapi import openapi

        await exchange.json(openapi(self._gateway.seen(exchange.key), self._gateway.limits))

    async def health(self, exchange: Exchange) -> None:
        await exchange.json({"status": "ok"})

    async def readiness(self, exchange: Exchange) -> None:
        ready = self._gateway.ready
        await exchange.json({"ready": ready}, 200 if ready else 503)

    async def prometheus(self, exchange: Exchange) -> None:
        await exchange.reply(self._gateway.metrics.text(), 200, [_TEXT])


def _embedded(embedder: Any, texts: tuple[str, ...], forward: Mapping[str, str], told: Outlay) -> tuple[Any, Usage]:
    """In a thread: vectors and usage; what lost calls cost is in `told`, however it ends."""
    metered = getattr(embedder, "embed_metered", None)
    with without_waiting() as heard:
        try:
            found = with_headers(forward, partial(metered or embedder.embed, texts))
        finally:
            told.spent, told.estimated = heard.spent, heard.estimated
    return found if metered else (found, Usage())


def _late(running: asyncio.Future[tuple[Any, Usage]], ctx: AskContext, told: Outlay) -> Future[ChatAnswer | None]:
    """What texts come to whose asker waits no more: they cannot be stopped."""
    late: Future[ChatAnswer | None] = Future()

    def ended(done: asyncio.Future[tuple[Any, Usage]]) -> None:
        used = Usage() if done.cancelled() or done.exception() is not None else done.result()[1]
        ctx.estimated = ctx.estimated or told.estimated
        late.set_result(ChatAnswer((), added(used, *told.spent)))

    running.add_done_callback(ended)
    return late


def _turn_over(live: Live, done: asyncio.Future[Any]) -> None:
    """An embedder is free again; a late failure was looked at, so that nobody reports it as forgotten."""
    live.turns.release()
    if not done.cancelled():
        done.exception()
