"""A task's candidate as a ChatEngine: what it predicts is the answer to the last user message."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import CancelledError, Future
from dataclasses import replace

from bucle.core.engine import AskContext, ChatAnswer, ChatAsk, Choice, Delta, added
from bucle.core.errors import (
    BadInput,
    BucleError,
    ContextOverflow,
    Infrastructure,
    ModelUnavailable,
    SchemaBroken,
    UpstreamTimeout,
)
from bucle.core.ports import Predictor
from bucle.core.records import Prediction, TaskKind, Usage
from bucle.models.endpoint import BrokenOff, NotSetUp, Outlay, RateLimited, Refused, TimedOut
from bucle.serve.engine import Answered, Batcher
from bucle.serve.replies import clean, content_of, finite

__all__ = ["PredictionFailed", "TaskEngine", "failure"]

MAX_STEPS = 200
"""Steps of one answer that its trace keeps."""


class PredictionFailed(BucleError):
    """The candidate failed on this input in a way that nobody else knows."""


_KINDS: Mapping[str, type[BucleError]] = {
    kind.__name__: kind for kind in (BadInput, ContextOverflow, Infrastructure, ModelUnavailable, SchemaBroken,
                                     UpstreamTimeout, RateLimited, Refused, NotSetUp, TimedOut, BrokenOff)}


def failure(found: Prediction, retry_after: float | None = None) -> BucleError:
    """The error that `found.error` tells of, of the class that `error_kind` names, with `prediction` (what it cost) and
    `retry_after` (seconds, or None) as attributes."""
    error = _KINDS.get(found.error_kind, PredictionFailed)(found.error)
    vars(error).update(prediction=found, retry_after=retry_after)
    return error


class TaskEngine:
    """Answers by `predictor`, which nobody else calls, in batches or side by side (Batcher). `places` says where the
    passages it cites stand. The asker's labels reach a predictor whose `predict` takes `access=`.

    It gives one fixed answer, so it offers none of the settings of sampling; any `seed` gives the same. A time-out
    cannot stop it: what it comes to is then in the context's `late`.
    """

    def __init__(self, predictor: Predictor, name: str, kind: TaskKind, *, places: Mapping[str, str] | None = None,
                 parallel: int = 0) -> None:
        self.name, self.kind = name, kind
        self._places = places or {}
        self.parallel = max(1, parallel or int(getattr(predictor, "max_parallel", 1)))
        self._predictor = predictor
        self._batcher = Batcher(predictor, name, self.parallel)
        self._dearest = 0.0  # US dollars of an answer lately
        self.offers = frozenset({"seed", "prompt", *(("conversation",) if kind == "converse" else ())})

    async def complete(self, ask: ChatAsk, ctx: AskContext) -> ChatAnswer:
        """The prediction as an answer. Raises what the predictor raised, or what its Prediction says went wrong."""
        started = time.perf_counter()
        job = self._batcher.submit(self.input_of(ask), ctx.forward, ctx.access)
        ctx.acted = ctx.acted or self.parallel > 1  # what it did elsewhere may be done, whatever comes of it
        try:
            answered = await asyncio.shield(asyncio.wrap_future(job))
        except asyncio.CancelledError:
            if job.cancel():
                ctx.unsent()
            elif not job.done() or job.exception() is None:
                self._goes_on(job, ctx, started)
            raise
        except Exception as error:
            _spent(ctx, getattr(error, "outlay", None))
            raise
        _spent(ctx, answered.outlay)
        self._ran(answered, ctx, started)
        ctx.acted = bool(answered.prediction.spans)
        if answered.prediction.error:
            ctx.spend(answered.prediction.usage, estimated=False)
            raise failure(answered.prediction, answered.retry_after)
        return self._answer(answered.prediction)

    async def stream(self, ask: ChatAsk, ctx: AskContext) -> AsyncIterator[Delta | ChatAnswer]:
        """All of it in one piece."""
        answer = await self.complete(ask, ctx)
        yield Delta(answer.text)
        yield answer

    async def close(self) -> None:
        """End the threads once what waits is answered."""
        self._batcher.close()
        if (close := getattr(self._predictor, "close", None)) is not None:
            await asyncio.to_thread(close)

    def priced(self, tokens_in: int, tokens_out: int) -> Usage:
        """What an answer may cost: the dearest lately, for a candidate asks as often as it likes."""
        return Usage(tokens_in=tokens_in, tokens_out=tokens_out, usd=self._dearest)

    def input_of(self, ask: ChatAsk) -> str:
        """What the candidate is given: the last user message, or of a conversation all of it, as its rows hold it.
        Raises BadInput where the last message is not the user's."""
        if self.kind != "converse" or ask.prompt is not None:
            return ask.text
        if not ask.messages or ask.messages[-1].get("role") != "user":
            raise BadInput("the last message must be the user's")
        return json.dumps([dict(m) for m in ask.messages], ensure_ascii=False)

    def _ran(self, answered: Answered, ctx: AskContext, started: float) -> None:
        found = answered.prediction
        self._dearest = max(found.usage.usd, self._dearest * 0.999)
        failed = {"error_kind": found.error_kind} if found.error_kind else {}
        ctx.span("engine", started, wait_ms=round(answered.wait_ms, 3), batch=answered.batch, **failed)
        shift = (started - ctx.started) * 1000
        for span in found.spans[:MAX_STEPS]:
            ctx.spans.append({**span, "start_ms": round(float(span.get("start_ms", 0.0)) + shift, 3)})

    def _goes_on(self, job: Future[Answered], ctx: AskContext, started: float) -> None:
        late: Future[ChatAnswer | None] = Future()
        ctx.late.append(late)

        def ended(job: Future[Answered]) -> None:
            try:
                answered = job.result()
            except (Exception, CancelledError) as error:
                told: Outlay | None = getattr(error, "outlay", None)
                late.set_result(ChatAnswer((), added(*told.spent)) if told is not None and told.spent else None)
                return
            self._ran(answered, ctx, started)
            ctx.estimated = ctx.estimated or answered.outlay.estimated
            answer = self._answer(answered.prediction)
            late.set_result(replace(answer, usage=added(answer.usage, *answered.outlay.spent)))

        job.add_done_callback(ended)

    def _answer(self, found: Prediction) -> ChatAnswer:
        listed = self.kind == "retrieve"  # what is found is the answer itself: the output names it already
        cited = found.citations or (found.chunks if listed else ())
        places = tuple(dict.fromkeys(self._places.get(c, c) for c in cited))
        content = content_of(found.model_copy(update={"citations": () if listed else places}))
        shown = found.model_copy(update={"output": clean(found.output), "score": finite(found.score),
                                         "citations": places})
        return ChatAnswer((Choice(content),), found.usage, served_by=self.name, prediction=shown)


def _spent(ctx: AskContext, told: Outlay | None) -> None:
    """What the calls behind a candidate cost that gave no reply."""
    if told is not None:
        ctx.spent += told.spent
        ctx.estimated = ctx.estimated or told.estimated
