"""The journal: what a server said it had, it has, whatever kills it; and nothing that was not redacted."""

from __future__ import annotations

import json
import os
import random
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from bucle.core.errors import Infrastructure
from bucle.core.records import Trace, Usage
from bucle.ledger import Ledger, TraceStore
from bucle.ledger.spend import spent
from bucle.serve.journal import Journal, Recovered, recover
from bucle.serve.traces import TraceQueue

AT = "2026-03-02T09:00:00.000+00:00"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TraceStore]:
    ledger = Ledger(tmp_path / "project")
    yield TraceStore(ledger)
    ledger.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def trace(number: int, said: str = "¿cuánto debo?", **more: object) -> Trace:
    fields = {"id": f"trace:{number:064x}", "at": AT, "received_at": AT, "route": "r", "model": "m", "key": "key:1",
              "input": said, "output": "línea\nnueva\r\n\u2028", "usage": Usage(tokens_in=3, tokens_out=4, usd=0.001),
              "team": "ventas", "spans": ({"name": "engine", "ms": 1.5},)}
    return Trace.model_validate(fields | more)


def left(folder: Path) -> None:
    """Leave the journals under `folder` as a killed process does: written, and locked by nobody."""
    for own in folder.glob("server-*"):
        (own / "lock").unlink()  # the lock is the open file's: another one of that name is free


def died(journal: Journal) -> None:
    left(journal.folder)


def test_what_ended_is_whole_and_what_only_began_costs_what_was_reserved(folder: Path, store: TraceStore) -> None:
    journal = Journal(folder)
    for number in range(4):
        assert journal.began(trace(number).id, route="r", at=AT, key="key:1", team="ventas", usd=0.5,
                             tokens_in=300, tokens_out=200, release="release:1")
    for number in range(3):
        assert journal.ended(trace(number))
    died(journal)
    assert recover(folder, store.add_traces) == Recovered(ended=3, began=1, new=4)
    assert store.traces()[:3] == [trace(n) for n in range(3)]
    cut = store.trace(trace(3).id)
    assert (cut.status, cut.estimated, cut.release) == (599, True, "release:1")
    assert cut.usage == Usage(tokens_in=300, tokens_out=200, usd=0.5)
    [row] = spent(store.ledger)
    assert (row.key, row.team, row.requests, row.nano_usd) == ("key:1", "ventas", 4, 503_000_000)
    assert list(folder.glob("server-*")) == []
    assert recover(folder, store.add_traces) == Recovered()


def test_what_the_ledger_has_already_is_not_counted_twice(folder: Path, store: TraceStore) -> None:
    journal = Journal(folder)
    for number in range(3):
        journal.began(trace(number).id, route="r", at=AT, usd=9.0)
        journal.ended(trace(number))
    store.add_traces([trace(0), trace(2)])  # it died between the commit and the word of it
    before = spent(store.ledger)[0].nano_usd
    died(journal)

    def stopped(rows: Sequence[Trace]) -> int:
        store.add_traces(rows)
        raise Infrastructure("killed here")

    with pytest.raises(Infrastructure):
        recover(folder, stopped)
    assert recover(folder, store.add_traces) == Recovered(ended=3, new=0)
    assert (store.count(), spent(store.ledger)[0].nano_usd - before) == (3, 1_000_000)


def test_a_journal_of_a_server_that_lives_is_left_alone(folder: Path, store: TraceStore) -> None:
    mine = Journal(folder)
    mine.ended(trace(1))
    theirs = Journal(folder)
    theirs.ended(trace(2))
    assert recover(folder, store.add_traces) == Recovered()
    assert mine.own != theirs.own
    mine.committed([trace(1).id])
    mine.close()
    mine.close()
    assert not mine.own.exists(), "all of it was committed"
    theirs.close()
    assert recover(folder, store.add_traces) == Recovered(ended=1, new=1)
    assert store.known([trace(1).id, trace(2).id]) == {trace(2).id}


@pytest.mark.parametrize("cut", [1, 2, 40, 300])
def test_a_torn_last_record_costs_only_itself(folder: Path, store: TraceStore, cut: int) -> None:
    journal = Journal(folder)
    for number in range(5):
        journal.ended(trace(number))
    [file] = journal.own.glob("*.log")
    file.write_bytes(file.read_bytes()[:-cut])
    died(journal)
    assert recover(folder, store.add_traces) == Recovered(ended=4, torn=1, new=4)


def test_any_damage_is_seen_and_spares_the_other_records(folder: Path, tmp_path: Path) -> None:
    rng = random.Random(0)
    for turn in range(60):
        journal = Journal(folder)
        for number in range(10):
            journal.began(trace(number).id, route="r", at=AT)
            journal.ended(trace(number))
        [file] = journal.own.glob("*.log")
        data = bytearray(file.read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        file.write_bytes(data)
        died(journal)
        found: list[Trace] = []

        def add(rows: Sequence[Trace], found: list[Trace] = found) -> int:
            found.extend(rows)
            return len(rows)

        told = recover(folder, add)
        whole = [t for t in found if t.status == 200]
        assert told.torn <= 2, turn
        assert len(whole) >= (9 if told.torn else 10), turn  # a flip between two fields changes no record
        assert all(t == trace(int(t.id[6:], 16)) for t in whole), turn
        journal.close()


def test_garbage_in_the_place_of_a_journal_is_counted_and_removed(folder: Path, store: TraceStore) -> None:
    own = folder / "server-1-x"
    own.mkdir(parents=True)
    own.joinpath("00000000.log").write_bytes(b"\x00" * 1000 + b"\nhola\n" + b"\xff\xfe\n\n" + b"zzzzzzzz e {}\n")
    assert recover(folder, store.add_traces).torn == 4
    assert recover(folder / "nowhere", store.add_traces) == Recovered()


def test_files_are_for_their_owner_only(folder: Path) -> None:
    journal = Journal(folder)
    journal.ended(trace(1))
    assert stat.S_IMODE(journal.own.stat().st_mode) == 0o700
    assert {stat.S_IMODE(p.stat().st_mode) for p in journal.own.iterdir()} == {0o600}
    journal.close()


def test_what_is_committed_goes_and_the_rest_stays_small(folder: Path, store: TraceStore) -> None:
    journal = Journal(folder, segment_bytes=4096)
    journal.began("trace:slow", route="r", at=AT)  # one that takes long keeps its own segment and no other
    for number in range(200):
        journal.began(trace(number).id, route="r", at=AT)
        journal.ended(trace(number))
        journal.committed([trace(number).id])
        assert len(list(journal.own.glob("*.log"))) <= 3
        assert journal.bytes == sum(p.stat().st_size for p in journal.own.glob("*.log"))
    journal.committed(["trace:slow", "trace:unknown"])
    died(journal)
    assert recover(folder, store.add_traces).new <= 5
    journal = Journal(folder)
    long = "x" * 10_000
    for number in range(100):
        journal.ended(trace(number, long))
        journal.committed([trace(number).id])
        assert journal.bytes < 300_000
    journal.close()


def test_it_is_bounded_and_counts_what_it_does_not_take(folder: Path) -> None:
    journal = Journal(folder, max_bytes=5000)
    taken = [journal.ended(trace(n)) for n in range(50)]
    assert journal.bytes <= 5000
    assert journal.refused == taken.count(False) > 30
    journal.committed([trace(n).id for n in range(50)])
    journal.close()


def test_a_folder_that_cannot_be_written_is_told_with_its_name() -> None:
    with pytest.raises(Infrastructure, match="/proc/bucle"):
        Journal(Path("/proc/bucle/journal"))


class Held:
    """The real store, whose writes wait until they are let go."""

    def __init__(self, store: TraceStore) -> None:
        self.store, self.go = store, threading.Event()
        self.add_feedback = store.add_feedback

    def add_traces(self, traces: Sequence[Trace]) -> int:
        self.go.wait(10)
        return self.store.add_traces(traces)


def test_what_memory_has_no_place_for_waits_in_the_journal(folder: Path, store: TraceStore) -> None:
    held = Held(store)
    queue = TraceQueue(held, size=20, batch=8, journal=Journal(folder, segment_bytes=4096))
    for number in range(500):
        assert queue.put(trace(number))
    assert queue.waiting > 400
    held.go.set()
    assert queue.close()
    assert (store.count(), queue.written, queue.dropped, queue.lost) == (500, 500, 0, 0)
    assert store.trace(trace(499).id) == trace(499)
    assert list(folder.glob("server-*")) == []


def test_where_both_are_full_traces_are_dropped_and_counted(folder: Path, store: TraceStore) -> None:
    held = Held(store)
    queue = TraceQueue(held, size=5, batch=1, journal=Journal(folder, max_bytes=20_000))
    taken = sum(queue.put(trace(n)) for n in range(200))
    assert queue.dropped == 200 - taken > 0
    held.go.set()
    assert queue.close()
    assert store.count() == taken


def test_nothing_is_on_disk_before_it_is_redacted(folder: Path, store: TraceStore) -> None:
    held = Held(store)
    queue = TraceQueue(held, redact=lambda text: text.replace("m@x.org", "[EMAIL]"), journal=Journal(folder))
    step = {"name": "buscar", "ms": 1.0, "input": "de m@x.org", "output": "a m@x.org", "error": "m@x.org"}
    queue.put(trace(1, "soy m@x.org", output="hola m@x.org", error="m@x.org", spans=(step,)))
    written = b"".join(p.read_bytes() for p in folder.rglob("*.log"))
    assert written.count(b"[EMAIL]") == 6
    assert b"m@x.org" not in written
    held.go.set()
    assert queue.close()
    assert "m@x.org" not in store.trace(trace(1).id).model_dump_json()


def test_a_trace_that_the_ledger_refuses_is_kept_for_the_next_start(folder: Path, store: TraceStore,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Held):
        def add_traces(self, traces: Sequence[Trace]) -> int:
            raise Infrastructure("The disk is full.")

    monkeypatch.setattr("bucle.serve.traces.RETRY_PAUSES_S", (0.01,))
    queue = TraceQueue(Broken(store), journal=Journal(folder))
    queue.put(trace(1))
    assert queue.close()
    assert queue.lost == 1
    assert recover(folder, store.add_traces) == Recovered(ended=1, new=1)


SERVER = """
import os, sys, threading
from pathlib import Path
from bucle.core.records import Trace, Usage
from bucle.ledger import Ledger, TraceStore
from bucle.serve.journal import Journal
from bucle.serve.traces import TraceQueue
folder, who = Path(sys.argv[1]), sys.argv[2]
queue = TraceQueue(TraceStore(Ledger(folder / "project")), batch=64, flush_ms=20,
                   journal=Journal(folder / "journal", segment_bytes=50_000))
at = "2026-03-02T09:00:00.000+00:00"
def client(turn):
    for n in range(1_000_000):
        name = f"trace:{who}-{turn}-{n}"
        queue.began(name, route="r", at=at, key="key:1", usd=0.25, tokens_in=100)
        queue.put(Trace(id=name, at=at, received_at=at, route="r", model="m", input="hola " * 40, key="key:1",
                        usage=Usage(tokens_out=5, usd=0.125), spans=({"name": "engine", "ms": 1.0},) * 10))
        os.write(1, (name + chr(10)).encode())
for turn in range(2):
    threading.Thread(target=client, args=(turn,)).start()
"""


def test_two_servers_killed_at_any_moment_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    Ledger(tmp_path / "project").close()
    servers = [subprocess.Popen([sys.executable, "-c", SERVER, str(tmp_path), who], stdout=subprocess.PIPE, text=True)
               for who in "ab"]
    told: list[str] = []
    for server in servers:
        assert server.stdout is not None
        told += [server.stdout.readline().strip() for _ in range(50)]
    time.sleep(0.02)
    for server in servers:
        server.send_signal(signal.SIGKILL)
    for server in servers:
        with server:
            assert server.stdout is not None
            told += server.stdout.read().split("\n")[:-1]
        assert server.returncode == -signal.SIGKILL
    ledger = Ledger(tmp_path / "project")
    store = TraceStore(ledger)
    committed = store.count()
    found = recover(tmp_path / "journal", store.add_traces)
    assert found.new > 0, "the kill came before the last commit"
    assert committed > 0
    assert set(told) <= store.known(told)
    every = store.traces()
    cut = [t for t in every if t.status == 599]
    assert len(cut) <= 4, "one a client"
    [row] = spent(ledger)
    assert (row.requests, row.nano_usd) == (len(every), 125_000_000 * (len(every) - len(cut)) + 250_000_000 * len(cut))
    assert recover(tmp_path / "journal", store.add_traces) == Recovered()
    assert os.listdir(tmp_path / "journal") == []
    assert json.loads(every[0].model_dump_json())["input"] == "hola " * 40 or every[0].status == 599
    ledger.close()
