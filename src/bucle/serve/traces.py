"""Traces to the ledger through a bounded queue and one thread, in batches; no request waits for the disk."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Protocol

from bucle.core.records import Feedback, Trace

__all__ = ["TraceQueue", "TraceWriter"]

log = logging.getLogger("bucle.serve")

RETRY_PAUSES_S = (0.05, 0.2, 1.0)
"""A batch that the ledger refuses is tried again after each of these, then row by row, then lost."""


TEXTS = ("input", "output", "error")  # what users and models wrote, of a trace and of each step of a chain

class TraceWriter(Protocol):
    """Where traces and feedback go, such as the ledger. Both are idempotent by id; return how many were new.

    `add_feedback` raises NotFound for a trace that is not stored.
    """

    def add_traces(self, traces: Sequence[Trace]) -> int: ...

    def add_feedback(self, items: Sequence[Feedback]) -> int: ...


_Job = Trace | tuple[Feedback, "Future[int]"] | threading.Event | None


class TraceQueue:
    """Takes traces without blocking and writes them from one thread, in the order they came.

    At most `size` wait; one more is dropped and counted. A batch goes out when it holds `batch` traces or is
    `flush_ms` old. `redact` is applied to what users and models wrote, here and not in the request; if it
    fails the text is not stored.
    """

    def __init__(self, writer: TraceWriter | None, *, size: int = 10_000, batch: int = 256,
                 flush_ms: float = 50.0, redact: Callable[[str], str] | None = None) -> None:
        self._writer, self._batch, self._flush_s, self._redact = writer, batch, flush_ms / 1000, redact
        self._jobs: queue.Queue[_Job] = queue.Queue(size)
        self._closed = False
        self.written = self.dropped = self.lost = 0
        self._thread = threading.Thread(target=self._run, name="bucle-traces", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        return self._jobs.qsize()

    def put(self, trace: Trace) -> bool:
        """Whether `trace` was taken; False counts it as dropped."""
        if self._closed:
            self.dropped += 1
            return False
        try:
            self._jobs.put_nowait(trace)
        except queue.Full:
            self.dropped += 1
            return False
        return True

    def feedback(self, item: Feedback) -> Future[int]:
        """Resolves once `item` is stored, after every trace put before it; 1 if new, 0 if it was there.

        Raises NotFound through the future for an unknown trace; queue.Full where nothing more can wait.
        """
        done: Future[int] = Future()
        if self._closed:
            raise queue.Full
        self._jobs.put_nowait((item, done))
        return done

    def flush(self, timeout_s: float = 30.0) -> bool:
        """Whether everything put so far was handed to the writer within `timeout_s`."""
        if self._closed:
            return not self._thread.is_alive()
        reached = threading.Event()
        end = time.monotonic() + timeout_s
        try:
            self._jobs.put(reached, timeout=timeout_s)
        except queue.Full:
            return False
        return reached.wait(max(0.0, end - time.monotonic()))

    def close(self, timeout_s: float = 30.0) -> bool:
        """Flush, then end the thread. Whether all of it happened in time; calling it again is harmless."""
        if self._closed:
            return not self._thread.is_alive()
        flushed = self.flush(timeout_s)
        self._closed = True
        try:
            self._jobs.put(None, timeout=1.0)
        except queue.Full:
            return False
        self._thread.join(timeout_s)
        return flushed and not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            job = self._jobs.get()
            rows: list[Trace] = []
            end = time.monotonic() + self._flush_s
            while isinstance(job, Trace):
                rows.append(job)
                left = end - time.monotonic()
                if len(rows) >= self._batch or left <= 0:
                    break
                try:
                    job = self._jobs.get(timeout=left)
                except queue.Empty:
                    break
            if rows:
                self._write([self._clean(row) for row in rows])
            if isinstance(job, threading.Event):
                job.set()
            elif isinstance(job, tuple):
                self._rate(*job)
            elif job is None:
                return

    def _write(self, rows: list[Trace]) -> None:
        if self._writer is None:
            return
        for pause in (*RETRY_PAUSES_S, None):
            try:
                self._writer.add_traces(rows)
            except Exception as error:
                log.warning("the ledger refused %d traces (%s)", len(rows), type(error).__name__)
                if pause is not None:
                    time.sleep(pause)
                continue
            self.written += len(rows)
            return
        for row in rows:
            try:
                self._writer.add_traces([row])
                self.written += 1
            except Exception as error:
                self.lost += 1
                log.error("trace %s is lost: %s", row.id, type(error).__name__)

    def _rate(self, item: Feedback, done: Future[int]) -> None:
        try:
            clean = item.model_copy(update={
                "correction": None if item.correction is None else self._redacted(item.correction),
                "reason": self._redacted(item.reason)})
            done.set_result(0 if self._writer is None else self._writer.add_feedback([clean]))
        except Exception as error:
            done.set_exception(error)

    def _clean(self, trace: Trace) -> Trace:
        spans = tuple({name: self._redacted(value) if name in TEXTS and isinstance(value, str) else value
                       for name, value in span.items()} for span in trace.spans)
        return trace.model_copy(update={"spans": spans, **{name: self._redacted(getattr(trace, name))
                                                           for name in TEXTS}})

    def _redacted(self, text: str) -> str:
        text = text.replace("\x00", "�")  # PostgreSQL stores no NUL
        if self._redact is None or not text:
            return text
        try:
            return self._redact(text)
        except Exception as error:
            log.error("redaction failed (%s): the text is not stored", type(error).__name__)
            return "[not stored: redaction failed]"
