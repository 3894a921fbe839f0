"""One request at work: what it is known by, what it came to, and the trace that it becomes."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from bucle.core.engine import AskContext, ChatAnswer, added
from bucle.core.ports import Verdict
from bucle.core.records import Prediction, Trace, Usage
from bucle.serve.errors import ApiError, from_exception
from bucle.serve.guard import summary
from bucle.serve.routes import Limits, Route
from bucle.serve.traces import TEXTS

if TYPE_CHECKING:
    from starlette.requests import Request

__all__ = ["Call", "now", "read_body", "utc"]


class Call:
    """Gathers what a Trace holds; finishes exactly once.

    `parts` are the pieces of the first choice of a stream so far, `written` the characters of all choices and of calls
    of tools; `asked` says that the engine may have been; `reserved` is what Accounts holds for it, `bound` the tokens
    that its prompt has at most; `ctx` goes to the engines, `arrived` is ISO 8601. `looking` is what guards that only
    flag have yet to do: they look beside the engine, and at the latest when what they say is asked for. `untold`: it
    leaves no trace.
    """

    __slots__ = ("_guard", "after", "answer", "arrived", "asked", "at", "before", "bound", "chunks", "clean", "ctx",
                 "done", "error", "estimated", "id", "key", "looking", "ms", "ms_first", "on_finish", "output", "parts",
                 "received", "release", "reserved", "route", "score", "status", "text", "untold", "usage", "user",
                 "written")

    def __init__(self, route: Route, *, release: str, user: str, text: str, at: str, trace_id: str, ctx: AskContext,
                 key: Any, on_finish: Callable[[Call], None]) -> None:
        self.route, self.release, self.user, self.text, self.key = route, release, user, text, key
        self.id = ctx.trace = trace_id or f"trace:{_random()}"
        self.received = time.time()
        self.arrived = utc(datetime.fromtimestamp(self.received, UTC))
        self._guard: tuple[int, dict[str, Any]] = (-1, {})
        self.at, self.ctx, self.on_finish = at, ctx, on_finish
        self.before: tuple[Verdict, ...] = ()
        self.after: tuple[Verdict, ...] = ()
        self.output, self.status, self.error = "", 200, ""
        self.parts: list[str] = []
        self.score: float | None = None
        self.usage, self.chunks = _NOTHING, tuple[str, ...]()
        self.ms = self.ms_first = 0.0
        self.done = self.estimated = self.asked = self.untold = False
        self.clean: Mapping[str, str] = {}
        self.looking: Callable[[], None] | None = None
        self.answer: ChatAnswer | None = None
        self.reserved: Any = None
        self.bound = self.written = 0

    @property
    def guard(self) -> dict[str, Any]:
        """What the guards said so far, put together once."""
        self.look()
        said = len(self.before) + len(self.after)
        if self._guard[0] != said:
            self._guard = said, summary(self.before, self.after)
        return self._guard[1]

    def look(self) -> None:
        """Let the guards look now that have not yet."""
        looking, self.looking = self.looking, None
        if looking is not None:
            looking()

    def first(self) -> None:
        """The first piece of the answer is there."""
        self.ms_first = (time.perf_counter() - self.ctx.started) * 1000

    def answered(self, answer: ChatAnswer) -> None:
        """What the engine said in the end, as the client gets it, and all that was spent on it."""
        self.answer, self.usage = answer, added(answer.usage, *self.ctx.spent)
        self.estimated = self.estimated or self.ctx.estimated
        self.output = output_of(answer)
        if answer.prediction is not None:
            self.predicted(answer.prediction)

    def predicted(self, found: Prediction) -> None:
        self.chunks, self.score = found.chunks, found.score

    def said(self) -> list[str]:
        """The texts of its trace so far, of its steps too."""
        spans = [str(span[name]) for span in self.ctx.spans for name in TEXTS if name in span]
        return [self.text, self.output or "".join(self.parts), *spans]

    def finish(self) -> None:
        if self.done:
            return
        self.look()
        self.done, self.ms = True, (time.perf_counter() - self.ctx.started) * 1000
        self.on_finish(self)

    def failed(self, error: BaseException) -> ApiError:
        """Finish with an error; returns what to send."""
        if isinstance(error, asyncio.CancelledError):
            known = ApiError(499, "the client closed the connection", code="client_closed")
        else:
            known = from_exception(error)
        self.status, self.error = known.status, known.detail or known.message
        if self.ctx.spent:
            self.usage, self.estimated = added(*self.ctx.spent), self.ctx.estimated
        if (found := getattr(error, "prediction", None)) is not None:
            self.predicted(found)
        self.finish()
        known.traced, known.trace = True, "" if self.untold else self.id
        known.headers |= self.headers()
        if self.ctx.acted and known.status >= 429:
            known.headers["x-should-retry"] = "false"  # OpenAI's clients would ask again by themselves
        return known

    def headers(self) -> dict[str, str]:
        told = {"x-bucle-release": self.release}
        if not self.untold:
            told["x-bucle-trace"] = self.id
        return told if self.reserved is None else told | self.reserved.headers()

    def extra(self) -> dict[str, Any]:
        """The `bucle` object of the reply."""
        answer = self.answer
        told: dict[str, Any] = {"trace": self.id, "release": self.release, "candidate": self.route.candidate,
                                "guard": self.guard}
        if self.estimated:
            told["estimated"] = True
        if answer is not None:
            told["usd"] = self.usage.usd
            if answer.release:
                told["release"] = answer.release
            if answer.candidate:
                told["candidate"] = answer.candidate
            if answer.route:
                told["route"] = answer.route
        return told

    def trace(self) -> Trace:
        route, answer, ctx = self.route, self.answer, self.ctx
        received = self.arrived
        more = {} if answer is None else {"served_by": answer.served_by, "cached": answer.cached}
        return Trace(id=self.id, at=self.at or received, received_at=received, route=route.name, model=route.model,
                     release=(answer and answer.release) or self.release,
                     candidate=(answer and answer.candidate) or route.candidate, user=self.user,
                     input=self.text, output=self.output or "".join(self.parts),  # a stream that was cut left its parts
                     score=self.score, status=self.status, error=self.error, ms=round(self.ms, 3),
                     ms_first=round(self.ms_first, 3), usage=self.usage, chunks=self.chunks,
                     guard=self.guard, spans=tuple(ctx.spans),
                     key=getattr(self.key, "id", ""), team=getattr(self.key, "team", ""), prompt=route.prompt,
                     estimated=self.estimated, **more)


_NOTHING = Usage()
_stock: list[str] = []  # random ids made at once: asking the system for each takes longer than all else about it
os.register_at_fork(after_in_child=_stock.clear)  # a child's are its own


def _random() -> str:
    """64 hexadecimal digits that nobody can guess."""
    try:
        return _stock.pop()
    except IndexError:
        more = secrets.token_bytes(32 * 256).hex()
        _stock.extend(more[n:n + 64] for n in range(64, len(more), 64))
        return more[:64]


def output_of(answer: ChatAnswer) -> str:
    """What a trace keeps of an answer: what a candidate predicted, else the text of each choice, else the calls."""
    if answer.prediction is not None:
        return answer.prediction.output
    texts = [c.text or (msgspec.json.encode([dict(t) for t in c.tool_calls]).decode() if c.tool_calls else "")
             for c in answer.choices]
    text = texts[0] if len(texts) == 1 else "\n\n".join(texts)
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


async def read_body(request: Request, limits: Limits) -> bytes:
    """The body of a framework's request, within `limits.body_bytes` and `limits.timeout_s`, as Exchange.body has it."""
    from bucle.serve.http import Exchange

    return await Exchange(request.scope, request.receive, _nowhere).body(limits)


async def _nowhere(message: Mapping[str, Any]) -> None:
    raise AssertionError  # nothing is answered by who only reads


def now() -> datetime:
    return datetime.now(UTC)


def utc(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")
