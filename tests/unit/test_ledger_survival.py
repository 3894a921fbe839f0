"""The ledger under a kill, several writers at once, and a disk that is really full."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bucle.core.errors import BadInput, Infrastructure
from bucle.core.ids import file_sha256, sha256_hex
from bucle.core.records import Trace
from bucle.ledger import BlobStore, Ledger, TraceStore

WRITER = """
import sys
from pathlib import Path
from bucle.core.records import Trace
from bucle.ledger import Ledger, TraceStore
who, rounds = sys.argv[2], int(sys.argv[3])
ledger = Ledger(Path(sys.argv[1]))
traces = TraceStore(ledger)
previous = []
for n in range(rounds):
    node = ledger.put("run", {"n": n, "who": who}, parents=previous,
                      blobs={"own": f"{who} {n} ".encode() * 5000, "shared": b"%d" % n * 70000})
    shared = ledger.put("shared", {"n": n})
    ledger.move_alias("latest", node.id, by=who, reason=str(n))
    traces.add_traces([Trace(id=f"trace:{who}{n}{i}", at="2026-03-02T09:00:00+00:00", input="hola", route="r",
                             received_at="2026-03-02T09:00:00+00:00", model="m") for i in range(3)])
    previous = [("previous", node.id)]
    print(node.id, flush=True)
"""


def writer(folder: Path, who: str, rounds: int) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", WRITER, str(folder), who, str(rounds)], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def check_whole(ledger: Ledger) -> None:
    """Every node has its parents and its blobs, and every blob is what its name says."""
    assert ledger.rows("PRAGMA integrity_check") == [("ok",)]
    for node in [*ledger.nodes("run"), *ledger.nodes("shared")]:
        for edge in ledger.parents(node.id):
            assert ledger.get(edge.parent).id == edge.parent
        for digest in node.blobs.values():
            assert file_sha256(ledger.blobs.path(digest)) == digest
    for path in ledger.blobs.root.rglob("*"):
        if path.is_file() and not path.name.startswith(".new-"):
            assert file_sha256(path) == path.name


@pytest.mark.parametrize("after", [1, 9, 30])
def test_a_kill_in_the_middle_of_writing_loses_nothing_that_was_returned(tmp_path: Path, after: int) -> None:
    with writer(tmp_path, "a", 100_000) as process:
        assert process.stdout is not None
        told = [process.stdout.readline().strip() for _ in range(after)]
        time.sleep(after / 1000)  # somewhere inside one of the next writes
        process.send_signal(signal.SIGKILL)
        told += [line for line in process.stdout.read().split("\n")[:-1] if len(line) == 68]
    assert process.returncode == -signal.SIGKILL
    ledger = Ledger(tmp_path)
    check_whole(ledger)
    stored = [node.id for node in ledger.nodes("run")]
    assert stored[: len(told)] == told
    assert len(stored) <= len(told) + 1
    assert TraceStore(ledger).count() >= 3 * len(told)
    with writer(tmp_path, "a", after + 5) as again:  # the same work goes on where it stopped, to the same names
        assert again.stdout is not None
        assert again.stdout.read().split()[: len(told)] == told[: after + 5]
    check_whole(ledger)
    ledger.close()


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    rounds, writers = 25, "abcd"
    processes = [writer(tmp_path / "new", who, rounds) for who in writers]  # all open a ledger that is not there yet
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
        assert len(out.split()) == rounds
    ledger = Ledger(tmp_path / "new")
    check_whole(ledger)
    assert len(ledger.nodes("run")) == rounds * len(writers)
    assert len(ledger.nodes("shared")) == rounds
    assert TraceStore(ledger).count() == rounds * len(writers) * 3
    history = ledger.alias_history("latest")
    assert len(history) == rounds * len(writers)
    assert ledger.alias("latest") == history[-1]["node"]
    ledger.close()


def test_a_blob_is_written_once_and_complete(tmp_path: Path) -> None:
    store, source = BlobStore(tmp_path / "blobs"), tmp_path / "weights"
    source.write_bytes(os.urandom(3 << 20))
    digest = store.put(source)
    written = store.path(digest).stat()
    assert store.put(source.read_bytes()) == digest
    assert store.path(digest).stat() == written
    assert written.st_mode & 0o777 == 0o444
    assert store.path(digest).read_bytes() == source.read_bytes()
    assert store.put(b"") == sha256_hex(b"")


def test_a_file_that_changes_while_it_is_stored_is_refused(tmp_path: Path) -> None:
    store, source = BlobStore(tmp_path / "blobs"), tmp_path / "growing.log"
    os.mkfifo(source)
    shell = subprocess.Popen(["sh", "-c", f"echo one > '{source}'; sleep 0.5; echo two > '{source}'"])
    with pytest.raises(BadInput, match="changed while"):
        store.put(source)
    assert shell.wait(10) == 0
    assert [p for p in store.root.rglob("*") if p.is_file()] == []


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mount = shutil.which("mount")
    if not mount or subprocess.run([mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)],
                                   capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system is not permitted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_told_and_what_was_finished_stays(tiny: Path) -> None:
    ledger = Ledger(tiny / ".bucle")
    kept = ledger.put("run", {"n": 0}, blobs={"a": b"x" * 100_000})
    with pytest.raises(Infrastructure, match=r"disk under .* is full") as caught:
        ledger.put("run", {"n": 1}, blobs={"a": b"y" * 2_000_000})
    assert "nothing finished is lost" in caught.value.hint
    assert caught.value.exit_code == 3
    assert list(ledger.blobs.root.rglob(".new-*")) == []

    def fill() -> None:  # the database itself
        for n in range(1000):
            ledger.put("note", {"n": n, "text": "z" * 20_000})

    with pytest.raises(Infrastructure, match="full") as caught:
        fill()
    assert "Free some space" in caught.value.hint
    assert ledger.get(kept.id) == kept
    assert ledger.read(kept, "a") == b"x" * 100_000
    shutil.rmtree(ledger.blobs.root / kept.blobs["a"][:2])
    notes = len(ledger.nodes("note"))
    ledger.put("note", {"n": -1})  # with some space freed it goes on
    assert len(ledger.nodes("note")) == notes + 1
    assert ledger.rows("PRAGMA integrity_check") == [("ok",)]
    ledger.close()


LIMITED = """
import json, resource, sys
from pathlib import Path
from bucle.core.errors import Infrastructure
from bucle.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]))
ledger.put("run", {"n": 0}, blobs={"a": b"x" * 1000})
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
told = []
for blob, count in ((b"y" * 1_000_000, 1), (b"", 200)):
    try:
        for n in range(count):
            ledger.put("run", {"n": n, "text": "z" * 20_000 * (count > 1)}, blobs={"b": blob})
    except Infrastructure as error:
        told.append([error.message, error.hint])
print(json.dumps(told))
"""


def test_a_file_size_limit_is_told_with_a_next_step(tmp_path: Path) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=True)
    (blob, hint), (database, doctor) = json.loads(done.stdout)
    assert "larger than allowed" in blob
    assert "ulimit" in hint
    assert str(tmp_path) in database
    assert doctor == "bucle doctor"
    ledger = Ledger(tmp_path)
    assert ledger.rows("PRAGMA integrity_check") == [("ok",)]
    assert ledger.read(ledger.nodes("run")[0], "a") == b"x" * 1000
    ledger.close()


def test_a_folder_without_permission_is_told_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(Infrastructure, match="/proc/bucle"):
        Ledger(Path("/proc/bucle"))
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    with pytest.raises(Infrastructure) as caught:
        Ledger(tmp_path / "x")
    assert "Check who owns it" in caught.value.hint


def test_traces_of_two_stores_of_one_process_are_seen_by_each(tmp_path: Path) -> None:
    one, two = Ledger(tmp_path), Ledger(tmp_path)
    at = "2026-03-02T09:00:00+00:00"
    item = Trace(id="trace:1", at=at, received_at=at, route="r", model="m", input="hola")
    assert (TraceStore(one).add_traces([item]), TraceStore(two).add_traces([item])) == (1, 0)
    assert TraceStore(two).trace("trace:1") == item
    one.close()
    two.close()
