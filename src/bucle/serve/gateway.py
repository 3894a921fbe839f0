"""The gateway: what is served now, who is let in, what is reserved and settled, and how a route is swapped or drained.

An ASGI app for the API's own paths; everything else goes to the app behind it (the studio).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from bucle.core.engine import AskContext, ChatAnswer, ChatAsk, ChatEngine, added
from bucle.core.records import Trace, Usage
from bucle.models.engines.thread import ThreadEngine
from bucle.serve import wire
from bucle.serve.budgets import Accounts
from bucle.serve.call import Call
from bucle.serve.counting import COUNT, Counting
from bucle.serve.dialects import DIALECTS, Messages
from bucle.serve.endpoints import Endpoints
from bucle.serve.errors import ApiError, from_exception
from bucle.serve.http import Exchange, Receive, Scope, Send
from bucle.serve.keys import Key
from bucle.serve.metrics import Metrics
from bucle.serve.people import People
from bucle.serve.pipeline import Chat
from bucle.serve.routes import Limits, Route
from bucle.serve.tasks import TaskEngine
from bucle.serve.traces import TraceQueue

__all__ = ["Gateway", "Live", "engine_of"]

log = logging.getLogger("bucle.serve")
REFUSED_S = 60.0
"""A key that is refused by its limits leaves one trace in this time for each reason; the others are counted."""
T = TypeVar("T")
Handler = Callable[[Exchange], Awaitable[None]]


def engine_of(route: Route) -> ChatEngine | None:
    """The engine of a route: its own, or its predictor or chat model wrapped as one; None of an embedder."""
    if route.engine is not None:
        return route.engine
    if route.predictor is not None:
        return TaskEngine(route.predictor, route.name, route.kind, places=route.places,  # type: ignore[arg-type]
                          parallel=route.at_once)
    return ThreadEngine(route.chat, parallel=route.at_once) if route.chat is not None else None


class Live:
    """A route as it is served: its engine, how many requests are at it, and whether it makes room for another."""

    def __init__(self, route: Route) -> None:
        self.route, self.engine = route, engine_of(route)
        self.at_work, self.retired = 0, False
        self.turns = asyncio.Semaphore(route.at_once)  # of an embedder
        self.dearest = 0.0  # US dollars of the dearest answer lately, where no price is known beforehand

    @property
    def told(self) -> bool:
        """Whether the price of a request's tokens is told beforehand, by the route or its engine."""
        of_route = (self.route.usd_per_million_in, self.route.usd_per_million_out) != (None, None)
        return of_route or hasattr(self.engine, "priced")

    @property
    def chat(self) -> ChatEngine:
        """The engine of a route that chats."""
        assert self.engine is not None  # noqa: S101
        return self.engine

    def priced(self, tokens_in: int, tokens_out: int) -> float | None:
        """US dollars of these tokens, as the route or the engine tells; None where nobody knows."""
        if not self.route.price_known:
            return None
        usd_in, usd_out = self.route.usd_per_million_in, self.route.usd_per_million_out
        if usd_in is not None or usd_out is not None:
            return ((usd_in or 0.0) * tokens_in + (usd_out or 0.0) * tokens_out) / 1e6
        told: Any = getattr(self.engine, "priced", None)
        if told is not None:
            priced = told(tokens_in, tokens_out)
            usd = None if priced is None else float(getattr(priced, "usd", priced))
            return usd or (None if self.route.predictor is not None and self.route.at_once > 1 else usd)
        return None if self.route.engine is None and self.route.at_once > 1 else 0.0


class Gateway:
    """Serves `routes`; what each request did goes to `traces`, what it cost to `accounts`. `guards` look at what
    goes in and out (a GuardSet, or what behaves like one); `read` finds a stored trace by its id."""

    def __init__(self, routes: Mapping[str, Route], traces: TraceQueue, *, release_id: str, limits: Limits,
                 guards: Any = None, replay: bool = False, accounts: Accounts | None = None,
                 read: Callable[[str], Trace] | None = None, people: People | None = None) -> None:
        self.people = people or People(masks=False)
        self.routes = dict(routes)
        self.traces, self.limits, self.guards, self.release_id = traces, limits, guards, release_id
        self.accounts, self.replay, self._read_trace = accounts, replay, read
        checks = getattr(guards, "checks", None)
        self.strict = checks is not None and any(c.action("output") in ("mask", "block") for c in checks("output"))
        self.ready = self.draining = False
        self.active, self.started = 0, int(time.time())
        self._of_keys = Counter[str]()  # requests at work by the key's id
        self._per_key = limits.per_key or max(1, limits.in_flight // 2)
        self._per_route = limits.per_route or max(1, limits.in_flight * 3 // 4)
        self.metrics = Metrics(traces, lambda: self.active, lambda: [
            (name, live.engine) for name, live in tuple(self._live.items())], accounts)
        self._live = {name: Live(route) for name, route in routes.items()}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._late: dict[Call, Live] = {}  # answered with a time-out, while their engine is still at it
        self._settling = threading.Lock()
        self._refusals: dict[tuple[str, str], tuple[float, int]] = {}  # key and code -> since when, how many untold
        self._closing: set[asyncio.Task[None]] = set()
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="bucle-guard")  # a slow model holds no guard up
        self.pool = ThreadPoolExecutor(limits.threads, thread_name_prefix="bucle-embed")
        chat, ends = Chat(self), Endpoints(self)
        self._paths: dict[str, tuple[str, Handler, Any]] = {
            dialect.path: ("POST", partial(chat.answer, dialect=dialect), dialect) for dialect in DIALECTS}
        self._paths |= {path: (method, handler, None) for path, method, handler in ends.paths()}
        self._named = ends.model
        messages = next(d for d in DIALECTS if isinstance(d, Messages))
        self._paths[COUNT] = ("POST", Counting(self, messages).tokens, messages)

    async def open(self) -> None:
        """Begin to serve, on this event loop."""
        self._loop = asyncio.get_running_loop()
        self.ready = True

    def drain(self) -> None:
        """Take nothing new: what is at work is finished, new requests are told to come back."""
        self.draining, self.ready = True, False

    async def close(self) -> None:
        """Stop the engines and write every trace that waits."""
        self.drain()
        engines = {id(live.engine): live for live in self._live.values()}  # one may stand behind several names
        await asyncio.gather(*map(self._shut, engines.values()))
        if self._closing:
            await asyncio.wait(self._closing, timeout=30)
        for pool in (self.pool, self._threads):
            pool.shutdown(wait=False, cancel_futures=True)
        with self._settling:
            late = list(self._late)
        for call in late:
            self._settle_late(call)
        if not await asyncio.to_thread(self.traces.close):
            log.error("not every trace could be written before the end")

    def swap(self, name: str, route: Route) -> None:
        """Serve `name` by `route` from now on, from whatever thread. What is at work finishes on the old engine, which
        is closed after the last of it. A new name is added."""
        if route.name != name:
            raise ValueError(f"the route is called {route.name!r}, not {name!r}")
        old, self._live[name], self.routes[name] = self._live.get(name), Live(route), route
        if old is None:
            return
        old.retired = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._close_if_idle, old)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request for a path of `serves`."""
        exchange = Exchange(scope, receive, send)
        path, dialect = exchange.path, None
        try:
            found = self._paths.get(path)
            if found is not None:
                method, handler, dialect = found
            elif path.startswith("/v1/models/"):
                method, handler = "GET", self._named
            else:
                dialect = self._paths["/v1/messages"][2] if path.startswith("/v1/messages/") else None
                raise ApiError(404, "this path is not served; /openapi.json lists those that are", code="not_found")
            if scope["method"] != method and (method, scope["method"]) != ("GET", "HEAD"):
                raise ApiError(405, "this path takes another method", code="method_not_allowed",
                               headers={"allow": method})
            await handler(exchange)
        except Exception as error:
            known = from_exception(error)
            if known.code == "internal_error":
                log.exception("%s failed", path)
            if not known.traced:
                self.metrics.refused(known.status, known.code)
            if exchange.started:
                raise
            body = dialect.error_body(known) if dialect is not None else known.body()
            await exchange.json(body, known.status, known.headers)

    def serves(self, path: str) -> bool:
        """Whether this path is the gateway's own."""
        return path in self._paths or path.startswith("/v1/")

    async def read(self, exchange: Exchange) -> tuple[dict[str, Any], int]:
        """The request's body as an object, and its bytes."""
        if self.draining:
            raise ApiError(503, "this server is about to end; ask again", code="draining",
                           headers={"retry-after": "1", "connection": "close"})
        data = await exchange.body(self.limits)
        return wire.parse_json(data), len(data)

    def find(self, body: Mapping[str, Any], key: Key | None, *, embeddings: bool = False) -> Live:
        """The route that `model` names. Raises ApiError 400 or 404; one that is not for `key` is not there."""
        name = body.get("model")
        live = self._live.get(name) if isinstance(name, str) and (key is None or key.sees(name)) else None
        if live is None or (live.route.kind == "embed") != embeddings:
            wire.find_route(body, self.seen(key), embeddings=embeddings)  # says what is wrong
            raise ApiError(404, "this model is not served here", code="model_not_found", param="model")
        return live

    def seen(self, key: Key | None) -> dict[str, Route]:
        """The routes that are there for `key`."""
        return {name: route for name, route in tuple(self.routes.items()) if key is None or key.sees(name)}

    def begin(self, exchange: Exchange, live: Live, user: str, text: str, size: int) -> Call:
        """A call at work from now on. Raises ApiError 503 where too many are."""
        at, trace_id, forward = self.replayed(exchange)
        user = self.people.stored(user)
        if self.active >= self.limits.in_flight:
            raise ApiError(503, "too many requests at once; try again", code="overloaded",
                           headers={"retry-after": "1"})
        if live.at_work >= self._per_route and len(self._live) > 1:
            raise ApiError(503, f"too many requests at once for {live.route.name!r}; try again", code="overloaded",
                           headers={"retry-after": "1"})
        key = exchange.key
        who = getattr(key, "id", "")
        if who and self._of_keys[who] >= self._per_key:
            raise ApiError(429, f"this key has {self._per_key} requests at work; ask again when one is answered",
                           code="rate_limit_exceeded", headers={"retry-after": "1"})
        ctx = AskContext(identity=user or who or exchange.client, user=user,
                         access=getattr(key, "labels", None) or frozenset(), forward=forward,
                         deadline=time.monotonic() + self.limits.timeout_s)
        call = Call(live.route, release=live.route.release or self.release_id, user=user, text=text, at=at,
                    trace_id=trace_id, ctx=ctx, key=key, on_finish=partial(self._finished, live))
        call.bound = size
        self.active += 1
        live.at_work += 1
        if who:
            self._of_keys[who] += 1
        return call

    def reserve(self, call: Call, ask: ChatAsk | None) -> None:
        """Hold what the call may cost, and promise its trace. A prompt has at most a token a byte of its request.
        Raises ApiError 429 where a limit or budget says no."""
        live = self._live_of(call)
        out = (ask.max_tokens or live.route.answer_tokens) * ask.n if ask is not None else 0
        usd = live.priced(call.bound, out)
        if not live.told and live.route.price_known:  # what is known to be unknown is not guessed from what was paid
            usd = max(usd or 0.0, live.dearest) or usd
        tokens_in = call.bound // 4
        if self.accounts is not None:
            try:
                call.reserved = self.accounts.reserve(call.key, usd=usd, tokens=tokens_in + out, trace=call.id,
                                                      at=call.received)
            except ApiError as error:
                if self._again(call, error):
                    call.untold, call.looking = True, None
                raise
        self.traces.began(call.id, route=call.route.name, at=call.arrived, usd=usd or 0.0, tokens_in=tokens_in,
                          tokens_out=out, key=getattr(call.key, "id", ""), team=getattr(call.key, "team", ""),
                          release=call.release)
        call.asked = True

    def _again(self, call: Call, error: ApiError) -> bool:
        """Whether this key was refused so already within REFUSED_S: one that hammers on is counted (`bucle_requests`)
        and does not fill the ledger. The next that is traced says how many there were."""
        who, now = (getattr(call.key, "id", ""), error.code), time.monotonic()
        since, more = self._refusals.get(who, (-REFUSED_S, 0))
        if now - since < REFUSED_S:
            self._refusals[who] = (since, more + 1)
            return True
        self._refusals[who] = (now, 0)
        if more:
            error.detail = f"{error.message} ({more:,} more since the last such trace)"
        return False

    def priced(self, call: Call, tokens_in: int, tokens_out: int) -> Usage:
        """These tokens and what they cost on the call's route."""
        return Usage(tokens_in=tokens_in, tokens_out=tokens_out,
                     usd=self._live_of(call).priced(tokens_in, tokens_out) or 0.0)

    async def aside(self, work: Callable[..., T], *values: Any) -> T:
        """`work(*values)` from a thread of the guards', within `timeout_s`."""
        running = asyncio.get_running_loop().run_in_executor(self._threads, partial(work, *values))
        return await asyncio.wait_for(asyncio.shield(running), self.limits.timeout_s)

    async def cleaned(self, call: Call) -> None:
        """Redact a call's long texts in a thread: its trace is written before its last byte, and holds nobody up. This
        goes on whoever has gone meanwhile."""
        working = None if call.done or call.untold else self.traces.redacted(call.said())
        if working is None:
            return
        running = asyncio.wrap_future(working)
        while not running.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([running])
        if not running.cancelled():
            call.clean = running.result()

    def replayed(self, exchange: Exchange) -> tuple[str, str, dict[str, str]]:
        """The time, trace id and forwarded headers of a request that is replayed; nothing of another. Raises ApiError
        400 for a replay's headers outside one."""
        found = {name: value for name, value in exchange.scope["headers"] if name in _REPLAY}
        if not found:
            return "", "", {}
        at, request_id, hold = (found[n].decode("latin-1") if n in found else None for n in _REPLAY)
        for name, value in (("x-bucle-request-id", request_id), ("x-bucle-at", at)):
            if value is not None and not self.replay:
                raise ApiError(400, f"`{name}` is taken only while a log is replayed", code="unsupported_parameter",
                               param=name)
        forward: dict[str, str] = {}
        if hold is not None and self.replay:
            if not hold.isdecimal() or len(hold) > 6:
                raise ApiError(400, "`x-upstream-ms` must be whole milliseconds", code="invalid_value",
                               param="x-upstream-ms")
            forward = {"x-upstream-ms": hold}
        trace_id = wire.replay_trace_id(request_id) if request_id is not None else ""
        return wire.event_time(at) if at is not None else "", trace_id, forward

    async def heard(self, trace_id: str, rating: int) -> None:
        """Tell the route that answered what somebody thought of it, where it wants to know (a canary)."""
        read = self._read_trace
        if read is None or not any(hasattr(live.engine, "heard") for live in self._live.values()):
            return
        trace = await asyncio.to_thread(read, trace_id)
        live = self._live.get(trace.route)
        if (tell := getattr(live.engine if live else None, "heard", None)) is not None:
            tell(trace, rating)

    def _live_of(self, call: Call) -> Live:
        live: Live = call.on_finish.args[0]  # type: ignore[attr-defined]
        return live

    def _finished(self, live: Live, call: Call) -> None:
        self.active -= 1
        live.at_work -= 1
        if who := getattr(call.key, "id", ""):
            self._of_keys[who] -= 1
            if not self._of_keys[who]:
                del self._of_keys[who]
        if live.retired:
            self._close_if_idle(live)
        if not call.ctx.late:
            self._store(call)
            return
        with self._settling:  # it cannot be stopped: its trace waits for what it does, and what that costs
            self._late[call] = live
        for job in tuple(call.ctx.late):
            job.add_done_callback(lambda _: self._settle_late(call, waiting=True))

    def _settle_late(self, call: Call, *, waiting: bool = False) -> None:
        """A late call is over, or the server is: its trace is written with what ran. From any thread."""
        if waiting and not all(job.done() for job in call.ctx.late):
            return
        with self._settling:
            if self._late.pop(call, None) is None:
                return
        for job in call.ctx.late:
            answer: ChatAnswer | None = job.result() if job.done() and not job.cancelled() else None
            if answer is None:
                if not job.done():  # the server ends before it does
                    call.usage = added(call.usage, self.priced(call, call.bound // 4, 0))
                    call.estimated = True
                continue
            call.usage = added(call.usage, answer.usage)
            if (found := answer.prediction) is not None:
                call.chunks = found.chunks
        call.estimated = call.estimated or call.ctx.estimated
        self._store(call)

    def _store(self, call: Call) -> None:
        live, usd = self._live_of(call), call.usage.usd
        live.dearest = max(usd, live.dearest * 0.999)
        if self.accounts is not None and call.reserved is not None:
            self.accounts.settle(call.reserved, call.usage)
        trace = call.trace()
        self.metrics.finished(trace)
        if not call.untold:
            self.traces.put(trace, call.clean)

    def _close_if_idle(self, live: Live) -> None:
        if live.at_work or not live.retired or self._loop is None:
            return
        live.retired = False  # once
        if live.route.engine is not None and any(o.engine is live.engine for o in self._live.values()):
            return  # the new route goes on with the same engine
        task = self._loop.create_task(self._shut(live))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _shut(self, live: Live) -> None:
        if live.engine is None:
            return
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(live.engine.close(), 30)
        except Exception:
            log.exception("the engine of %s could not be closed", live.route.name)


_REPLAY = (b"x-bucle-at", b"x-bucle-request-id", b"x-upstream-ms")
