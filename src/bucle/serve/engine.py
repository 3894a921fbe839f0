"""Predictors off the event loop: in micro-batches in one thread a route, or side by side."""

from __future__ import annotations

import inspect
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from bucle.core.errors import ModelUnavailable
from bucle.core.ports import Predictor
from bucle.core.records import Prediction
from bucle.models.ask import Told, without_waiting
from bucle.models.endpoint import Outlay
from bucle.models.engines.thread import Pump, with_headers

__all__ = ["Answered", "Batcher", "Pump"]

MAX_BATCH = 16
"""Requests that wait together are predicted together, up to this many; nobody waits for a batch to fill."""


@dataclass(frozen=True)
class Answered:
    """A prediction, the milliseconds it waited and took, and how many shared its batch. `retry_after` is the pause in
    seconds that a provider asked for meanwhile, `outlay` what was spent besides (of a batch, told with its first)."""

    prediction: Prediction
    wait_ms: float
    ms: float
    batch: int
    retry_after: float | None = None
    outlay: Outlay = field(default_factory=Outlay)


@dataclass(frozen=True)
class _Job:
    text: str
    forward: Mapping[str, str]
    access: frozenset[str]
    queued: float
    done: Future[Answered]


class Batcher:
    """Owns one predictor, which nobody else calls.

    With `parallel` 1 one thread calls it, so it need not be thread-safe, with what waits in one batch; where a batch
    raises, each of its inputs is predicted again alone, so that one bad input does not fail its neighbours. With more
    it is called from up to `parallel` threads with one input each, once: its work costs or changes something elsewhere
    and must not be done twice.

    Nothing is predicted together for askers of different labels; a predictor whose `predict` takes `access=` is given
    theirs.
    """

    def __init__(self, predictor: Predictor, name: str, parallel: int = 1) -> None:
        self._predictor, self._name, self._parallel = predictor, name, max(1, parallel)
        self._labelled = _takes_access(predictor)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = self._open = 0  # threads that run, jobs that are not done

    def submit(self, text: str, forward: Mapping[str, str], access: frozenset[str] = frozenset()) -> Future[Answered]:
        """The prediction for `text`; `forward` are headers for the remote models behind the predictor, `access` the
        labels that the asker holds."""
        job = _Job(text, forward, access, time.perf_counter(), Future())
        with self._lock:
            self._open += 1
            more = self._threads < min(self._open, self._parallel)
            self._threads += more
        job.done.add_done_callback(self._done)
        self._jobs.put(job)
        if more:
            threading.Thread(target=self._run, name=f"bucle-engine-{self._name}", daemon=True).start()
        return job.done

    def close(self) -> None:
        """End the threads once what waits is answered."""
        self._jobs.put(None)

    def _done(self, _: Future[Answered]) -> None:
        with self._lock:
            self._open -= 1

    def _run(self) -> None:
        most = MAX_BATCH if self._parallel == 1 else 1
        while True:
            jobs: list[_Job] = []
            job = self._jobs.get()
            while job is not None:
                jobs.append(job)
                if len(jobs) == most or self._jobs.empty():
                    break
                job = self._jobs.get()
            alive = [j for j in jobs if j.done.set_running_or_notify_cancel()]
            for _, group in groupby(alive, key=lambda j: (j.forward, j.access)):
                self._answer(list(group))
            if job is None:
                self._jobs.put(None)  # for the other threads
                return

    def _answer(self, jobs: list[_Job]) -> None:
        started, told = time.perf_counter(), Told()
        try:
            with without_waiting() as told:
                found = with_headers(jobs[0].forward, lambda: self._predict([j.text for j in jobs], jobs[0].access))
            if len(found) != len(jobs):
                raise RuntimeError(f"the predictor gave {len(found)} answers to {len(jobs)} inputs")
        except Exception as error:
            if len(jobs) == 1 or isinstance(error, ModelUnavailable):  # an outage is everybody's, and asked once
                vars(error)["outlay"] = told
                for job in jobs:
                    job.done.set_exception(error)
                return
            for job in jobs:
                self._answer([job])
            return
        ms = (time.perf_counter() - started) * 1000
        for job, prediction in zip(jobs, found, strict=True):
            waited = (started - job.queued) * 1000
            spent = told if job is jobs[0] else Outlay()
            job.done.set_result(Answered(prediction, waited, ms, len(jobs), told.retry_after, spent))

    def _predict(self, texts: list[str], access: frozenset[str]) -> Sequence[Prediction]:
        predict: Any = self._predictor.predict
        found: Sequence[Prediction] = predict(texts, access=access) if self._labelled else predict(texts)
        return found


def _takes_access(predictor: Predictor) -> bool:
    try:
        return "access" in inspect.signature(predictor.predict).parameters
    except (TypeError, ValueError):  # a callable that does not tell
        return False
