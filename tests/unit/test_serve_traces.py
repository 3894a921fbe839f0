"""The trace queue over the real ledger: order, bounds, retries, redaction, idempotence."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from bucle.core.errors import Infrastructure, NotFound
from bucle.core.records import Feedback, Trace
from bucle.ledger.store import Ledger
from bucle.ledger.traces import TraceStore
from bucle.serve.traces import TraceQueue

AT = "2026-03-02T09:00:00.000+00:00"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TraceStore]:
    ledger = Ledger(tmp_path)
    yield TraceStore(ledger)
    ledger.close()


def trace(number: int, text: str = "hola") -> Trace:
    return Trace(id=f"trace:{number:064x}", at=AT, received_at=AT, route="r", model="m", input=text)


def rating(number: int) -> Feedback:
    return Feedback(id=f"feedback:{number}", trace=f"trace:{number:064x}", at=AT, by="ana", rating=1,
                    reason="m@x.org")


class Stuck:
    """A real store whose writes wait until they are let go, or fail a number of times."""

    def __init__(self, store: TraceStore, failures: int = 0, poison: str = "") -> None:
        self.store, self.failures, self.poison, self.go = store, failures, poison, threading.Event()
        self.go.set()

    def add_traces(self, traces: Sequence[Trace]) -> int:
        self.go.wait(10)
        if self.failures > 0 or any(t.input == self.poison for t in traces):
            self.failures -= 1
            raise Infrastructure("The disk is full.")
        return self.store.add_traces(traces)

    def add_feedback(self, items: Sequence[Feedback]) -> int:
        return self.store.add_feedback(items)


def test_everything_put_is_stored_once(store: TraceStore) -> None:
    traces = TraceQueue(store, batch=7)
    for number in [*range(50), *range(50)]:
        assert traces.put(trace(number))
    assert traces.flush()
    assert store.count() == 50
    assert traces.close()
    assert traces.close()
    assert not traces.put(trace(99))
    assert traces.dropped == 1


def test_a_trace_is_stored_soon_without_a_flush(store: TraceStore) -> None:
    traces = TraceQueue(store, flush_ms=20)
    traces.put(trace(1))
    end = time.monotonic() + 5
    while not store.count() and time.monotonic() < end:
        time.sleep(0.01)
    assert store.count() == 1
    traces.close()


def test_a_full_queue_drops_counts_and_never_blocks(store: TraceStore) -> None:
    slow = Stuck(store)
    slow.go.clear()
    traces = TraceQueue(slow, size=5, batch=1)
    started = time.monotonic()
    taken = sum(traces.put(trace(n)) for n in range(100))
    assert time.monotonic() - started < 1
    assert traces.dropped == 100 - taken
    assert 5 <= taken <= 7
    slow.go.set()
    assert traces.close()
    assert store.count() == traces.written == taken


def test_a_ledger_that_fails_for_a_while_loses_nothing(store: TraceStore) -> None:
    traces = TraceQueue(Stuck(store, failures=2))
    for number in range(10):
        traces.put(trace(number))
    assert traces.flush()
    assert (store.count(), traces.lost) == (10, 0)
    traces.close()


def test_one_bad_row_does_not_take_its_batch_along(store: TraceStore) -> None:
    traces = TraceQueue(Stuck(store, poison="bad"))
    for number in range(10):
        traces.put(trace(number, "bad" if number == 4 else "good"))
    assert traces.flush()
    assert (store.count(), traces.written, traces.lost) == (9, 9, 1)
    traces.close()


def test_feedback_comes_after_the_traces_before_it(store: TraceStore) -> None:
    traces = TraceQueue(store, flush_ms=5000, redact=lambda text: text.replace("m@x.org", "[EMAIL]"))
    step = {"name": "buscar", "start_ms": 0.0, "ms": 1.5, "input": '{"query": "m@x.org"}', "chunks": ["c"]}
    traces.put(trace(1, "soy m@x.org\x00").model_copy(update={"spans": (step,)}))
    assert traces.feedback(rating(1)).result(5) == 1
    assert traces.feedback(rating(1)).result(5) == 0
    with pytest.raises(NotFound):
        traces.feedback(rating(2)).result(5)
    assert store.trace(trace(1).id).input == "soy [EMAIL]�"
    assert store.trace(trace(1).id).spans == ({**step, "input": '{"query": "[EMAIL]"}'},)
    assert [f.reason for f in store.feedback()] == ["[EMAIL]"]
    traces.close()


def test_text_that_cannot_be_redacted_is_not_stored(store: TraceStore) -> None:
    def broken(text: str) -> str:
        raise RuntimeError(text)

    traces = TraceQueue(store, redact=broken)
    traces.put(trace(1, "secreto"))
    traces.close()
    assert "secreto" not in store.trace(trace(1).id).model_dump_json()
