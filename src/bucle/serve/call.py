"""One request at work: what it becomes in the ledger, and the pieces of HTTP around it."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from bucle.core.ports import Verdict
from bucle.core.records import Trace, Usage
from bucle.serve.errors import ApiError, from_exception
from bucle.serve.guard import summary
from bucle.serve.routes import Limits, Route

__all__ = ["Call", "Stream", "now", "read_body", "utc"]


MAX_STEPS = 200  # of one answer, kept in its trace


class Call:
    """Gathers what a Trace holds; finishes exactly once. `stepped`: its engine may have acted or paid elsewhere."""

    def __init__(self, route: Route, *, release: str, user: str, text: str, at: str, trace_id: str,
                 forward: Mapping[str, str], on_finish: Callable[[Call], None]) -> None:
        self.route, self.release, self.user, self.text = route, release, user, text
        self.id = trace_id or f"trace:{secrets.token_hex(32)}"
        self.received = now()
        self.at = at or utc(self.received)
        self.forward, self._on_finish, self._started = forward, on_finish, time.perf_counter()
        self.before: list[Verdict] = []
        self.after: list[Verdict] = []
        self.spans: list[Mapping[str, Any]] = []
        self.output, self.status, self.error = "", 200, ""
        self.parts: list[str] = []
        self.score: float | None = None
        self.usage, self.chunks = Usage(), tuple[str, ...]()
        self.ms = self.ms_first = 0.0
        self.done = self.stepped = False

    def span(self, name: str, started: float, **detail: Any) -> None:
        """Record what ran from `started` (perf_counter) until now, in milliseconds of the request."""
        self.spans.append({"name": name, "start_ms": round((started - self._started) * 1000, 3),
                           "ms": round((time.perf_counter() - started) * 1000, 3), **detail})

    def steps(self, spans: Sequence[Mapping[str, Any]], started: float) -> None:
        """Record the steps of a chain that began at `started` (perf_counter), in milliseconds of the request."""
        shift = (started - self._started) * 1000
        for span in spans[:MAX_STEPS]:
            self.spans.append({**span, "start_ms": round(float(span.get("start_ms", 0.0)) + shift, 3)})

    def first(self) -> None:
        """The first piece of the answer is there."""
        self.ms_first = (time.perf_counter() - self._started) * 1000

    def finish(self) -> None:
        if self.done:
            return
        self.done, self.ms = True, (time.perf_counter() - self._started) * 1000
        self._on_finish(self)

    def failed(self, error: BaseException) -> ApiError | asyncio.CancelledError:
        """Finish with an error; returns what to raise or send."""
        if isinstance(error, asyncio.CancelledError):
            self.status, self.error = 499, "the request was cancelled"
            self.finish()
            return error
        known = from_exception(error)
        self.status, self.error = known.status, known.detail or known.message
        self.finish()
        known.traced, known.trace = True, self.id
        known.headers |= self.headers()
        if self.stepped and known.status >= 429:
            known.headers["x-should-retry"] = "false"  # OpenAI's clients would ask again by themselves
        return known

    def head(self) -> dict[str, Any]:
        return {"id": self.id, "created": int(self.received.timestamp()), "model": self.route.name}

    def headers(self) -> dict[str, str]:
        return {"x-bucle-trace": self.id, "x-bucle-release": self.release}

    def extra(self) -> dict[str, Any]:
        """The `bucle` object of the reply."""
        return {"trace": self.id, "release": self.release, "candidate": self.route.candidate,
                "guard": summary(self.before, self.after)}

    def trace(self) -> Trace:
        route = self.route
        output = self.output or "".join(self.parts)  # a stream that was cut off left its parts
        engine = getattr(route.chat or route.embedder, "name", route.name)
        return Trace(id=self.id, at=self.at, received_at=utc(self.received), route=route.name,
                     model=str(engine), release=self.release, candidate=route.candidate, user=self.user,
                     input=self.text, output=output, score=self.score, status=self.status,
                     error=self.error, ms=round(self.ms, 3), ms_first=round(self.ms_first, 3),
                     usage=self.usage, chunks=self.chunks, guard=summary(self.before, self.after),
                     spans=tuple(self.spans))


class Stream(StreamingResponse):
    """Server-sent events; `on_end` runs however the response ends, even if it never began."""

    def __init__(self, content: AsyncIterator[bytes], headers: Mapping[str, str],
                 on_end: Callable[[], None]) -> None:
        super().__init__(content, media_type="text/event-stream",
                         headers={**headers, "cache-control": "no-cache"})
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_end()


async def read_body(request: Request, limits: Limits) -> bytes:
    """The body, within `limits.body_bytes` and `limits.timeout_s`.

    A body that is too long is read on for a while and thrown away, so that the client can read the refusal.
    """
    async def read() -> bytes:
        body, size = bytearray(), 0
        async for piece in request.stream():
            size += len(piece)
            if size <= limits.body_bytes:
                body += piece
            elif size > 16 * limits.body_bytes:
                break
        if size > limits.body_bytes:
            raise ApiError(413, f"the body is longer than {limits.body_bytes} bytes", code="body_too_large")
        return bytes(body)

    try:
        return await asyncio.wait_for(read(), limits.timeout_s)
    except TimeoutError:
        raise ApiError(408, "the body did not arrive in time", code="timeout") from None
    except ClientDisconnect:
        raise ApiError(499, "the client closed the connection", code="client_closed") from None


def now() -> datetime:
    return datetime.now(UTC)


def utc(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")
