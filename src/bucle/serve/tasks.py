"""A task's candidate as a ChatEngine: what it predicts is the answer to the last user message."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import CancelledError, Future

from bucle.core.engine import AskContext, ChatAnswer, ChatAsk, Choice, Delta
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
from bucle.core.records import Prediction, TaskKind
from bucle.models.endpoint import RateLimited, Refused, TimedOut
from bucle.serve.engine import Answered, Batcher
from bucle.serve.replies import clean, content_of, finite

__all__ = ["PredictionFailed", "TaskEngine", "failure"]

MAX_STEPS = 200
"""Steps of one answer that its trace keeps."""


class PredictionFailed(BucleError):
    """The candidate failed on this input in a way that nobody else knows."""


_KINDS: Mapping[str, type[BucleError]] = {
    kind.__name__: kind for kind in (BadInput, ContextOverflow, Infrastructure, ModelUnavailable, SchemaBroken,
                                     UpstreamTimeout, RateLimited, Refused, TimedOut)}


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
            except (Exception, CancelledError):
                late.set_result(None)
                return
            self._ran(answered, ctx, started)
            late.set_result(self._answer(answered.prediction))

        job.add_done_callback(ended)

    def _answer(self, found: Prediction) -> ChatAnswer:
        listed = self.kind == "retrieve"  # what is found is the answer itself: the output names it already
        cited = found.citations or (found.chunks if listed else ())
        places = tuple(dict.fromkeys(self._places.get(c, c) for c in cited))
        content = content_of(found.model_copy(update={"citations": () if listed else places}))
        shown = found.model_copy(update={"output": clean(found.output), "score": finite(found.score),
                                         "citations": places})
        return ChatAnswer((Choice(content),), found.usage, served_by=self.name, prediction=shown)
