"""The endpoints: from a checked request through guards and engine to a reply and a trace.

Imports the web framework, so it is imported only where an app is made.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from bucle.core.errors import ModelUnavailable
from bucle.core.ids import content_id
from bucle.core.ports import ChatReply, Guard
from bucle.core.records import Feedback, Prediction, Usage
from bucle.models.engines.thread import Pump, for_somebody
from bucle.serve import replies, wire
from bucle.serve.call import Call, Stream, now, read_body, utc
from bucle.serve.engine import Answered, Batcher
from bucle.serve.errors import ApiError, from_exception, from_prediction
from bucle.serve.guard import inspect
from bucle.serve.metrics import Metrics
from bucle.serve.routes import Limits, Route
from bucle.serve.traces import TraceQueue

__all__ = ["Gateway"]

log = logging.getLogger("bucle.serve")
T = TypeVar("T")


class Gateway:
    """Serves `routes`. Engines run in threads of their own; what each request did goes to `traces`."""

    def __init__(self, routes: Mapping[str, Route], traces: TraceQueue, *, release_id: str, limits: Limits,
                 guards: Sequence[Guard], replay: bool) -> None:
        self.routes, self.traces, self.limits = routes, traces, limits
        self._release, self._guards, self._replay = release_id, guards, replay
        self._active, self.ready, self._started = 0, False, int(time.time())
        self.metrics = Metrics(traces, lambda: self._active)
        self._pool = ThreadPoolExecutor(limits.threads, thread_name_prefix="bucle-chat")
        self._guard_pool = ThreadPoolExecutor(2, thread_name_prefix="bucle-guard")  # a slow model holds no guard up
        self._turns = {n: asyncio.Semaphore(r.at_once)
                       for n, r in routes.items() if r.predictor is None}
        self._late: set[Call] = set()  # answered with a time-out, while their engine is still at it
        self._settling = threading.Lock()
        self._batchers = {n: Batcher(r.predictor, n, r.at_once) for n, r in routes.items() if r.predictor is not None}

    def close(self) -> None:
        """Stop the engines and write every trace that waits."""
        self.ready = False
        for batcher in self._batchers.values():
            batcher.close()
        for pool in (self._pool, self._guard_pool):
            pool.shutdown(wait=False, cancel_futures=True)
        with self._settling:
            late = tuple(self._late)
        for call in late:
            self._settle(call)
        for route in self.routes.values():
            if (close := getattr(route.predictor, "close", None)) is not None:
                close()
        if not self.traces.close():
            log.error("not every trace could be written before the end")

    async def chat(self, request: Request) -> Response:
        body = wire.parse_json(await read_body(request, self.limits))
        route = wire.find_route(body, self.routes)
        asked = wire.parse_chat(body, route, self.limits)
        call = self._begin(request, route, asked.user, asked.text)
        try:
            await self._guard(call, asked.text, call.before)
            if route.chat is None:
                return await self._predict(call, route, asked)
            if asked.stream:
                return await self._stream(call, route, asked)
            turns = await self._turn(call)
            started = time.perf_counter()
            work = partial(route.chat.chat, asked.messages, max_tokens=asked.max_tokens,
                           temperature=asked.temperature, stop=asked.stop, seed=asked.seed)
            reply = await self._in_pool(partial(for_somebody, call.forward, work), turns)
            call.span("engine", started)
            call.output, call.usage = replies.clean(reply.text), reply.usage
            call.first()
            await self._guard(call, call.output, call.after)
            call.finish()
            whole = replies.completion(call.head(), call.output, reply.finish, reply.usage, call.extra())
            return JSONResponse(whole, headers=call.headers())
        except BaseException as error:
            raise call.failed(error) from error

    async def _predict(self, call: Call, route: Route, asked: wire.ChatRequest) -> Response:
        started = time.perf_counter()
        job = self._batchers[route.name].submit(asked.text, call.forward)
        call.stepped = route.at_once > 1  # what it did elsewhere may be done, whatever comes of it
        try:
            answered = await asyncio.wait_for(asyncio.wrap_future(job), self.limits.timeout_s)
        except TimeoutError as error:
            if job.cancelled():
                raise
            with self._settling:  # it cannot be stopped: its trace waits for what it does, and what that costs
                self._late.add(call)
            known = call.failed(error)
            job.add_done_callback(partial(self._settle, call, started))
            raise known from error
        found: Prediction = answered.prediction
        call.stepped = bool(found.spans)
        self._ran(call, answered, started)
        if found.error:
            raise from_prediction(found, answered.retry_after)
        call.output = replies.clean(found.output)
        call.score = replies.finite(found.score)
        call.first()
        await self._guard(call, call.output, call.after)
        call.finish()
        listed = route.kind == "retrieve"  # what is found is the answer itself: the output names it already
        cited = found.citations or (found.chunks if listed else ())
        places = tuple(dict.fromkeys(route.places.get(c, c) for c in cited))
        content = replies.content_of(found.model_copy(update={"citations": () if listed else places}))
        head = call.head()
        extra = {**call.extra(), "score": call.score, "abstained": found.abstained,
                 "chunks": list(found.chunks), "citations": list(places), "quotes": list(found.quotes)}
        if not asked.stream:
            whole = replies.completion(head, content, "stop", found.usage, extra)
            return JSONResponse(whole, headers=call.headers())
        parts = [replies.chunk(head, {"role": "assistant", "content": content}),
                 replies.chunk(head, {}, "stop", bucle=extra)]
        if asked.include_usage:
            parts.append(replies.chunk(head, None, usage=replies.usage_of(found.usage)))
        return Response(b"".join(map(replies.event, parts)) + replies.DONE, media_type="text/event-stream",
                        headers=call.headers())

    def _ran(self, call: Call, answered: Answered, started: float) -> None:
        found = answered.prediction
        failed = {"error_kind": found.error_kind} if found.error_kind else {}
        call.span("engine", started, wait_ms=round(answered.wait_ms, 3), batch=answered.batch, **failed)
        call.steps(found.spans, started)
        call.usage, call.chunks = found.usage, found.chunks

    def _settle(self, call: Call, started: float = 0.0, job: Future[Answered] | None = None) -> None:
        """A late call is over, or the server is: its trace is written with what ran. Called from any thread."""
        with self._settling:
            if call not in self._late:
                return
            self._late.discard(call)
        if job is not None and not job.cancelled() and job.exception() is None:
            self._ran(call, job.result(), started)
        self._store(call)

    async def _stream(self, call: Call, route: Route, asked: wire.ChatRequest) -> Response:
        assert route.chat is not None  # noqa: S101
        pump = Pump(partial(route.chat.stream, asked.messages, max_tokens=asked.max_tokens,
                            temperature=asked.temperature, stop=asked.stop, seed=asked.seed), call.forward)
        turns = await self._turn(call)
        started = time.perf_counter()
        try:
            first = await self._in_pool(pump.next)  # a failure before the first piece is still a status
        except BaseException:
            self._submit(pump.close, turns)
            raise
        call.first()
        return Stream(self._pieces(call, pump, first, started, asked.include_usage), call.headers(),
                      on_end=lambda: self._ended(call, pump, turns))

    async def _pieces(self, call: Call, pump: Pump, piece: str | ChatReply | None, started: float,
                      include_usage: bool) -> AsyncIterator[bytes]:
        head = call.head()
        yield replies.event(replies.chunk(head, {"role": "assistant", "content": ""}))
        try:
            while isinstance(piece, str):
                call.parts.append(replies.clean(piece))
                yield replies.event(replies.chunk(head, {"content": call.parts[-1]}))
                piece = await self._in_pool(pump.next)
            if piece is None:
                raise ModelUnavailable("the model's stream ended before its reply did")
            call.span("engine", started)
            call.output, call.usage = "".join(call.parts), piece.usage
            await self._guard(call, call.output, call.after)
            call.finish()
            yield replies.event(replies.chunk(head, {}, piece.finish, bucle=call.extra()))
            if include_usage:
                yield replies.event(replies.chunk(head, None, usage=replies.usage_of(piece.usage)))
            yield replies.DONE
        except Exception as error:
            known = from_exception(error)
            if known.code == "internal_error":
                log.exception("the stream of %s failed", call.route.name)
            call.failed(known)
            yield replies.event(known.body())

    def _ended(self, call: Call, pump: Pump, turns: asyncio.Semaphore) -> None:
        """The response is over, whole or not: free the model, and record a client that went away."""
        if not call.done:
            call.failed(ApiError(499, "the client closed the connection", code="client_closed"))
        self._submit(pump.close, turns)

    async def embeddings(self, request: Request) -> Response:
        body = wire.parse_json(await read_body(request, self.limits))
        route = wire.find_route(body, self.routes, embeddings=True)
        asked = wire.parse_embed(body, route, self.limits)
        assert route.embedder is not None  # noqa: S101
        call = self._begin(request, route, asked.user, "\n".join(asked.texts)[:self.limits.input_chars])
        try:
            turns = await self._turn(call)
            started = time.perf_counter()
            metered = getattr(route.embedder, "embed_metered", None)
            work = partial(metered or route.embedder.embed, asked.texts)
            found = await self._in_pool(partial(for_somebody, call.forward, work), turns)
            vectors, call.usage = found if metered else (found, Usage())
            call.span("engine", started, texts=len(asked.texts))
            call.first()
            reply = replies.embeddings(route.name, vectors, call.usage, base64=asked.base64)
            call.finish()
            return JSONResponse(reply, headers=call.headers())
        except BaseException as error:
            raise call.failed(error) from error

    async def feedback(self, request: Request) -> Response:
        asked = wire.parse_feedback(wire.parse_json(await read_body(request, self.limits)), self.limits)
        item = Feedback(id=content_id("feedback", asdict(asked)), trace=asked.trace, by=asked.by,
                        at=self._event_time(request) or utc(now()), rating=asked.rating,
                        correction=asked.correction, reason=asked.reason,
                        source="replay" if self._replay else "api")
        try:
            stored = asyncio.wrap_future(self.traces.feedback(item))
            new = await asyncio.wait_for(stored, self.limits.timeout_s)
        except queue.Full:
            raise ApiError(503, "too much is waiting to be stored; try again", code="overloaded",
                           headers={"retry-after": "1"}) from None
        return JSONResponse({"id": item.id, "object": "bucle.feedback", "trace_id": item.trace,
                             "new": bool(new)})

    async def models(self, request: Request) -> Response:
        """Every route, or the one that the path names."""
        rows = [{"id": r.name, "object": "model", "created": self._started, "owned_by": "bucle",
                 "bucle": {"kind": r.kind, "candidate": r.candidate, "release": r.release or self._release}}
                for r in self.routes.values()]
        name = request.path_params.get("name")
        if name is None:
            return JSONResponse({"object": "list", "data": rows})
        for row in rows:
            if row["id"] == name:
                return JSONResponse(row)
        raise ApiError(404, f"the model {replies.clean(name[:100])!r} is not served here",
                       code="model_not_found")

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readiness(self, request: Request) -> Response:
        return JSONResponse({"ready": self.ready}, status_code=200 if self.ready else 503)

    async def prometheus(self, request: Request) -> Response:
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4")

    def answering(self, handler: Callable[[Request], Any]) -> Callable[[Request], Any]:
        """`handler`, with every failure as an OpenAI error; what is unexpected is logged, not told."""
        async def run(request: Request) -> Response:
            try:
                answer: Response = await handler(request)
                return answer
            except Exception as error:
                known = from_exception(error)
                if known.code == "internal_error":
                    log.exception("%s failed", request.url.path)
                if not known.traced:
                    self.metrics.refused(known.status, known.code)
                return JSONResponse(known.body(), status_code=known.status, headers=known.headers)
        return run

    def _begin(self, request: Request, route: Route, user: str, text: str) -> Call:
        at, trace_id, forward = self._event_time(request), "", {}
        request_id, hold = (request.headers.get(h) for h in ("x-bucle-request-id", "x-upstream-ms"))
        if request_id is not None:
            if not self._replay:
                raise _only_in_replay("x-bucle-request-id")
            trace_id = wire.replay_trace_id(request_id)
        if hold is not None and self._replay:
            if not hold.isdecimal() or len(hold) > 6:
                raise ApiError(400, "`x-upstream-ms` must be whole milliseconds", code="invalid_value",
                               param="x-upstream-ms")
            forward = {"x-upstream-ms": hold}
        if self._active >= self.limits.in_flight:
            raise ApiError(503, "too many requests at once; try again", code="overloaded",
                           headers={"retry-after": "1"})
        self._active += 1
        return Call(route, release=route.release or self._release, user=user, text=text, at=at,
                    trace_id=trace_id, forward=forward, on_finish=self._finished)

    def _event_time(self, request: Request) -> str:
        value = request.headers.get("x-bucle-at")
        if value is None:
            return ""
        if not self._replay:
            raise _only_in_replay("x-bucle-at")
        return wire.event_time(value)

    def _finished(self, call: Call) -> None:
        self._active -= 1
        if call not in self._late:
            self._store(call)

    def _store(self, call: Call) -> None:
        trace = call.trace()
        self.metrics.finished(trace)
        self.traces.put(trace)

    async def _guard(self, call: Call, text: str, verdicts: list[Any]) -> None:
        if self._guards and text:
            started = time.perf_counter()
            checking = self._submit(partial(inspect, self._guards, text), pool=self._guard_pool)
            verdicts += await asyncio.wait_for(asyncio.shield(checking), self.limits.timeout_s)
            call.span("guard", started, on="input" if verdicts is call.before else "output")

    async def _turn(self, call: Call) -> asyncio.Semaphore:
        """Wait until the route's engine is free. Whoever gets the turn gives it back when its work has ended."""
        started, turns = time.perf_counter(), self._turns[call.route.name]
        await asyncio.wait_for(turns.acquire(), self.limits.timeout_s)
        call.span("wait", started)
        return turns

    async def _in_pool(self, work: Callable[[], T], turns: asyncio.Semaphore | None = None) -> T:
        """`work()` from a thread, for at most `timeout_s`; one that is late keeps its turn until it has ended."""
        return await asyncio.wait_for(asyncio.shield(self._submit(work, turns)), self.limits.timeout_s)

    def _submit(self, work: Callable[[], T], turns: asyncio.Semaphore | None = None,
                pool: ThreadPoolExecutor | None = None) -> asyncio.Future[T]:
        def ended(future: asyncio.Future[T]) -> None:
            if turns is not None:
                turns.release()
            if not future.cancelled():
                future.exception()  # looked at, so that a late failure is not reported as forgotten

        future = asyncio.get_running_loop().run_in_executor(pool or self._pool, work)
        future.add_done_callback(ended)
        return future


def _only_in_replay(header: str) -> ApiError:
    return ApiError(400, f"`{header}` is taken only while a log is replayed", code="unsupported_parameter",
                    param=header)
