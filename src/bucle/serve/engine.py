"""Engines off the event loop: predictors in micro-batches in one thread a route, or side by side; chat in a pool."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

from bucle.core.errors import ModelUnavailable
from bucle.core.ports import ChatReply, Predictor
from bucle.core.records import Prediction
from bucle.models.ask import without_waiting
from bucle.models.remote import forward_headers

__all__ = ["Answered", "Batcher", "Pump", "for_somebody"]

T = TypeVar("T")

MAX_BATCH = 16
"""Requests that wait together are predicted together, up to this many; nobody waits for a batch to fill."""


@dataclass(frozen=True)
class Answered:
    """A prediction, the milliseconds it waited and took, and how many shared its batch. `retry_after` is the pause in
    seconds that a provider asked for meanwhile."""

    prediction: Prediction
    wait_ms: float
    ms: float
    batch: int
    retry_after: float | None = None


@dataclass(frozen=True)
class _Job:
    text: str
    forward: Mapping[str, str]
    queued: float
    done: Future[Answered]


class Batcher:
    """Owns one predictor, which nobody else calls.

    With `parallel` 1 one thread calls it, so it need not be thread-safe, with what waits in one batch; where a batch
    raises, each of its inputs is predicted again alone, so that one bad input does not fail its neighbours. With more
    it is called from up to `parallel` threads with one input each, once: its work costs or changes something elsewhere
    and must not be done twice.
    """

    def __init__(self, predictor: Predictor, name: str, parallel: int = 1) -> None:
        self._predictor, self._name, self._parallel = predictor, name, max(1, parallel)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = self._open = 0  # threads that run, jobs that are not done

    def submit(self, text: str, forward: Mapping[str, str]) -> Future[Answered]:
        """The prediction for `text`; `forward` are headers for the remote models behind the predictor."""
        job = _Job(text, forward, time.perf_counter(), Future())
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
            for headers, group in groupby(alive, key=lambda j: j.forward):
                self._answer(list(group), headers)
            if job is None:
                self._jobs.put(None)  # for the other threads
                return

    def _answer(self, jobs: list[_Job], headers: Mapping[str, str]) -> None:
        started = time.perf_counter()
        try:
            with without_waiting() as told:
                found = _with_headers(headers, lambda: self._predictor.predict([j.text for j in jobs]))
            if len(found) != len(jobs):
                raise RuntimeError(f"the predictor gave {len(found)} answers to {len(jobs)} inputs")
        except Exception as error:
            if len(jobs) == 1 or isinstance(error, ModelUnavailable):  # an outage is everybody's, and asked once
                for job in jobs:
                    job.done.set_exception(error)
                return
            for job in jobs:
                self._answer([job], headers)
            return
        ms = (time.perf_counter() - started) * 1000
        for job, prediction in zip(jobs, found, strict=True):
            waited = (started - job.queued) * 1000
            job.done.set_result(Answered(prediction, waited, ms, len(jobs), told.retry_after))


class Pump:
    """A model's stream, taken piece by piece from any thread, one at a time. `next` gives None at the end.

    `start()` begins it, at the first `next` and in that thread.
    """

    def __init__(self, start: Callable[[], Iterator[str | ChatReply]], forward: Mapping[str, str]) -> None:
        self._start, self._forward, self._lock = start, forward, threading.Lock()
        self._pieces: Iterator[str | ChatReply] | None = None

    def next(self) -> str | ChatReply | None:
        with self._lock:
            return for_somebody(self._forward, self._take)

    def _take(self) -> str | ChatReply | None:
        if self._pieces is None:
            self._pieces = iter(self._start())
        return next(self._pieces, None)

    def close(self) -> None:
        """Ends the model's work: the client has gone, or has all of it."""
        with self._lock:
            close = getattr(self._pieces, "close", None)
            if close is not None:
                close()


def for_somebody(headers: Mapping[str, str], work: Callable[[], T]) -> T:
    """`work()` for somebody who waits for it, with `headers` on the calls it makes to remote models."""
    with without_waiting():
        return _with_headers(headers, work)


def _with_headers(headers: Mapping[str, str], work: Callable[[], T]) -> T:
    if not headers:
        return work()
    token = forward_headers.set(headers)
    try:
        return work()
    finally:
        forward_headers.reset(token)
