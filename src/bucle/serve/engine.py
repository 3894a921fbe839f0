"""Engines off the event loop: predictors in micro-batches, one thread a route; chat in a small pool."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

from bucle.core.ports import ChatReply, Predictor
from bucle.core.records import Prediction
from bucle.models.ask import without_waiting
from bucle.models.remote import forward_headers

__all__ = ["Answered", "Batcher", "Pump", "with_headers"]

T = TypeVar("T")

MAX_BATCH = 16
"""Requests that wait together are predicted together, up to this many; nobody waits for a batch to fill."""


@dataclass(frozen=True)
class Answered:
    """A prediction, the milliseconds it waited and took, and how many shared its batch."""

    prediction: Prediction
    wait_ms: float
    ms: float
    batch: int


@dataclass(frozen=True)
class _Job:
    text: str
    forward: Mapping[str, str]
    queued: float
    done: Future[Answered]


class Batcher:
    """Owns one predictor, which only its thread calls, so a predictor need not be thread-safe."""

    def __init__(self, predictor: Predictor, name: str) -> None:
        self._predictor = predictor
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name=f"bucle-engine-{name}", daemon=True).start()

    def submit(self, text: str, forward: Mapping[str, str]) -> Future[Answered]:
        """The prediction for `text`; `forward` are headers for the remote models behind the predictor."""
        job = _Job(text, forward, time.perf_counter(), Future())
        self._jobs.put(job)
        return job.done

    def close(self) -> None:
        """End the thread once what waits is answered."""
        self._jobs.put(None)

    def _run(self) -> None:
        while True:
            jobs: list[_Job] = []
            job = self._jobs.get()
            while job is not None:
                jobs.append(job)
                if len(jobs) == MAX_BATCH or self._jobs.empty():
                    break
                job = self._jobs.get()
            alive = [j for j in jobs if j.done.set_running_or_notify_cancel()]
            for headers, group in groupby(alive, key=lambda j: j.forward):
                self._answer(list(group), headers)
            if job is None:
                return

    def _answer(self, jobs: list[_Job], headers: Mapping[str, str]) -> None:
        started = time.perf_counter()
        try:
            with without_waiting():
                found = with_headers(headers, lambda: self._predictor.predict([j.text for j in jobs]))
            if len(found) != len(jobs):
                raise RuntimeError(f"the predictor gave {len(found)} answers to {len(jobs)} inputs")
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].done.set_exception(error)
                return
            for job in jobs:  # one bad input must not fail its neighbours
                self._answer([job], headers)
            return
        ms = (time.perf_counter() - started) * 1000
        for job, prediction in zip(jobs, found, strict=True):
            job.done.set_result(Answered(prediction, (started - job.queued) * 1000, ms, len(jobs)))


class Pump:
    """A model's stream, taken piece by piece from any thread, one at a time. `next` gives None at the end.

    `start()` begins it, at the first `next` and in that thread.
    """

    def __init__(self, start: Callable[[], Iterator[str | ChatReply]], forward: Mapping[str, str]) -> None:
        self._start, self._forward, self._lock = start, forward, threading.Lock()
        self._pieces: Iterator[str | ChatReply] | None = None

    def next(self) -> str | ChatReply | None:
        with self._lock:
            return with_headers(self._forward, self._take)

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


def with_headers(headers: Mapping[str, str], work: Callable[[], T]) -> T:
    """`work()`, with `headers` on the calls it makes to remote models."""
    if not headers:
        return work()
    token = forward_headers.set(headers)
    try:
        return work()
    finally:
        forward_headers.reset(token)
