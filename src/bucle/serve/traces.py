"""Traces to the ledger through a journal, a bounded queue and one thread, in batches; no request waits for the disk."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from bucle.core.records import Feedback, Trace
from bucle.serve.journal import Journal

__all__ = ["TraceQueue", "TraceSink", "TraceWriter"]

log = logging.getLogger("bucle.serve")

RETRY_PAUSES_S = (0.05, 0.2, 1.0)
"""A batch that the ledger refuses is tried again after each of these, then row by row, then lost (with a journal: left
in it for the next start)."""
PRUNE_EVERY_S = 3600.0
FLUSH_MS = 150.0
"""A commit costs as much as ten traces in it, and holds requests up on a machine of one core."""
LONG = 8_000
"""Characters from which redaction is a thread's work: phone numbers one after another take 15 ms a thousand."""
TEXTS = ("input", "output", "error")  # what users and models wrote, of a trace and of each step of a chain


class TraceWriter(Protocol):
    """Where traces and feedback go, such as the ledger. Both are idempotent by id; return how many were new.

    `add_feedback` raises NotFound for a trace that is not stored. With `keep_days` its `prune(days)` is called too.
    """

    def add_traces(self, traces: Sequence[Trace]) -> int: ...

    def add_feedback(self, items: Sequence[Feedback]) -> int: ...


class TraceSink(Protocol):
    """Where traces go besides the ledger, such as `bucle.serve.otlp.TraceExport`: `put` never blocks, and what it
    could not send is in `dropped`."""

    sent: int
    dropped: int

    def put(self, trace: Trace) -> bool: ...

    def close(self) -> bool: ...


_Job = Trace | tuple[Feedback, "Future[int]"] | threading.Event


class TraceQueue:
    """Takes traces without blocking and writes them from one thread, in the order they came.

    `redact` is applied to what users and models wrote before anything of it is stored anywhere; if it fails the text is
    not stored. Then the trace is written to `journal`, waits with at most `size` others, and goes out in a batch when
    `batch` traces wait or the first is `flush_ms` old. One more than `size` waits in the journal; without a journal, or
    where that is full too, it is dropped and counted. `also` gets each redacted trace, and is closed at the end. Traces
    older than `keep_days` (0: none) are deleted, at the start and every hour.
    """

    def __init__(self, writer: TraceWriter | None, *, size: int = 10_000, batch: int = 1024,
                 flush_ms: float = FLUSH_MS, redact: Callable[[str], str] | None = None, journal: Journal | None = None,
                 also: TraceSink | None = None, keep_days: float = 0.0) -> None:
        self._writer, self._size, self._batch, self._flush_s = writer, size, batch, flush_ms / 1000
        self._redact, self._journal, self.also = redact, journal, also
        self._jobs: deque[_Job] = deque()
        self._cleaners = ThreadPoolExecutor(2, thread_name_prefix="bucle-redact")
        self._some, self._now, self._closed = threading.Event(), threading.Event(), False
        self.written = self.dropped = self.lost = 0
        self._thread = threading.Thread(target=self._run, name="bucle-traces", daemon=True)
        self._thread.start()
        self._over = threading.Event()
        if keep_days and writer is not None and hasattr(writer, "prune"):
            threading.Thread(target=self._keep, args=(writer.prune, keep_days), name="bucle-keep", daemon=True).start()

    def redacted(self, texts: Sequence[str]) -> Future[Mapping[str, str]] | None:
        """Long `texts` as they may be stored, from a thread: what `put` is to be given beside their trace, so that
        nobody waits for it. None: they are short, or kept as they are."""
        if self._redact is None or self._closed or sum(map(len, texts)) <= LONG:
            return None
        return self._cleaners.submit(lambda: {text: self._redacted(text) for text in texts})

    def put_aside(self, trace: Trace) -> None:
        """`put` for a trace whose answer nobody waits for: from a thread where it is long."""
        if self._redact is None or self._closed or len(trace.input) + len(trace.output) <= LONG:
            self.put(trace)
        else:
            self._cleaners.submit(self.put, trace)

    @property
    def waiting(self) -> int:
        return len(self._jobs) + (self._journal.later if self._journal else 0)

    def began(self, trace_id: str, *, route: str, at: str, key: str = "", team: str = "", usd: float = 0.0,
              tokens_in: int = 0, tokens_out: int = 0, release: str = "") -> None:
        """An engine is about to be asked, with `usd` and so many tokens reserved: should the server die, this much is
        told of the request. Nothing without a journal."""
        if self._journal is not None:
            self._journal.began(trace_id, route=route, at=at, key=key, team=team, usd=usd, tokens_in=tokens_in,
                                tokens_out=tokens_out, release=release)

    def put(self, trace: Trace, clean: Mapping[str, str] | None = None) -> bool:
        """Whether `trace` was taken; False counts it as dropped. With a journal, what was taken survives a kill.
        `clean` are those of its texts that `redacted` has done."""
        if self._closed:
            self.dropped += 1
            return False
        trace = self._clean(trace, clean or {})
        if self.also is not None:
            self.also.put(trace)
        full = len(self._jobs) >= self._size
        kept = self._journal is not None and self._journal.ended(trace, later=full)
        if full:
            self.dropped += not kept
            return kept
        self._add(trace)
        return True

    def feedback(self, item: Feedback) -> Future[int]:
        """Resolves once `item` is stored, after every trace put before it; 1 if new, 0 if it was there.

        Raises NotFound through the future for an unknown trace; queue.Full where nothing more can wait.
        """
        done: Future[int] = Future()
        if self._closed or len(self._jobs) >= self._size:
            raise queue.Full
        self._add((item, done), at_once=True)
        return done

    def flush(self, timeout_s: float = 30.0) -> bool:
        """Whether everything put so far was handed to the writer within `timeout_s`."""
        if self._closed:
            return not self._thread.is_alive()
        reached = threading.Event()
        self._add(reached, at_once=True)
        return reached.wait(timeout_s)

    def close(self, timeout_s: float = 30.0) -> bool:
        """Flush, then end the thread. Whether all of it happened in time; calling it again is harmless."""
        self._cleaners.shutdown()  # what is put aside is put
        self._closed = True
        self._over.set()
        self._now.set()
        self._some.set()
        self._thread.join(timeout_s)
        if self.also is not None:
            self.also.close()
        return not self._thread.is_alive()

    def _add(self, job: _Job, at_once: bool = False) -> None:
        self._jobs.append(job)
        if (at_once or len(self._jobs) >= self._batch) and not self._now.is_set():
            self._now.set()
        if not self._some.is_set():
            self._some.set()

    def _run(self) -> None:
        while True:
            self._some.wait()
            self._now.wait(self._flush_s)  # let a batch come together
            self._now.clear()
            self._some.clear()
            closing = self._closed  # read after the clearing: what comes later sets them again
            self._drain()
            if closing:
                break
        if self._journal is not None:
            self._journal.close()

    def _drain(self) -> None:
        """Write what waits, then what waits in the journal."""
        rows: list[Trace] = []
        while self._jobs:
            job = self._jobs.popleft()
            if isinstance(job, Trace):
                rows.append(job)
            if rows and (len(rows) >= self._batch or not self._jobs or not isinstance(job, Trace)):
                self._write(rows)
                rows = []
            if isinstance(job, threading.Event | tuple):
                self._later()
                if isinstance(job, threading.Event):
                    job.set()
                else:
                    self._rate(*job)
        self._later()

    def _later(self) -> None:
        while self._journal is not None and self._journal.later:
            self._write(self._journal.take(self._batch))

    def _write(self, rows: list[Trace]) -> None:
        if self._writer is None:
            self._settled(rows)
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
            self._settled(rows)
            return
        for row in rows:
            try:
                self._writer.add_traces([row])
                self.written += 1
                self._settled([row])
            except Exception as error:
                self.lost += 1
                log.error("trace %s is %s: %s", row.id, "lost" if self._journal is None else "left in the journal",
                          type(error).__name__)

    def _settled(self, rows: Sequence[Trace]) -> None:
        if self._journal is not None:
            self._journal.committed([row.id for row in rows])

    def _keep(self, prune: Callable[[float], Any], days: float) -> None:
        while True:
            try:
                gone = prune(days)
                if gone.traces:
                    log.info("%d traces older than %g days deleted, with %d verdicts", gone.traces, days, gone.feedback)
            except Exception as error:
                log.error("old traces cannot be deleted now: %s", error)
            if self._over.wait(PRUNE_EVERY_S):
                return

    def _rate(self, item: Feedback, done: Future[int]) -> None:
        try:
            clean = item.model_copy(update={
                "correction": None if item.correction is None else self._redacted(item.correction),
                "reason": self._redacted(item.reason)})
            done.set_result(0 if self._writer is None else self._writer.add_feedback([clean]))
        except Exception as error:
            done.set_exception(error)

    def _clean(self, trace: Trace, known: Mapping[str, str]) -> Trace:
        changed: dict[str, Any] = {} if trace.user.isascii() else {"user": _text(trace.user)}
        for name in TEXTS:
            said = getattr(trace, name)
            if said and (clean := known.get(said) or self._redacted(said)) != said:
                changed[name] = clean
        for span in trace.spans:
            if not span.keys().isdisjoint(TEXTS):
                changed["spans"] = tuple(
                    {name: (known.get(value) or self._redacted(value)) if name in TEXTS and isinstance(value, str)
                     else value for name, value in one.items()} for one in trace.spans)
                break
        return trace.model_copy(update=changed) if changed else trace

    def _redacted(self, text: str) -> str:
        text = _text(text)
        if self._redact is None or not text:
            return text
        try:
            return self._redact(text)
        except Exception as error:
            log.error("redaction failed (%s): the text is not stored", type(error).__name__)
            return "[not stored: redaction failed]"


def _text(text: str) -> str:
    """`text` as any store takes it: PostgreSQL has no NUL, and half of a surrogate pair is no text."""
    if text.isascii() and "\x00" not in text:
        return text
    return text.replace("\x00", "�").encode("utf-8", "replace").decode()
