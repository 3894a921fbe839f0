"""What a server has promised and not yet committed: one write() a record, which survives the server's death.

A record is a line `CRC32 KIND JSON` in an append-only file of the process's own folder, which holds a lock for as long
as the process lives. A write() that returned is with the operating system, so `kill -9` loses nothing; a power cut may
lose what the ledger has not committed yet (150 ms, as the queue is set).
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import shutil
import tempfile
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from bucle.core.errors import Infrastructure
from bucle.core.records import Trace, Usage
from bucle.ledger.trace_json import trace_json

__all__ = ["Journal", "Recovered", "recover"]

log = logging.getLogger("bucle.serve")

BEGAN, ENDED = b"b", b"e"
CUT_OFF = 599
"""The status of a request that a server died over: no HTTP status, and no client saw it."""
SEGMENT = 8 << 20
TIDY = 256 << 10
AT_ONCE = 512
HEAD = 11  # bytes before a record's JSON: `0a1b2c3d e `


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a server that died left behind: traces that had `ended`, requests that only `began` (they are in the ledger
    as status 599, with what was reserved for them), `torn` records, and how many of all were `new` to the ledger."""

    ended: int = 0
    began: int = 0
    torn: int = 0
    new: int = 0


@dataclass(slots=True)
class _Segment:
    path: Path
    size: int = 0
    live: int = 0


class Journal:
    """This process's journal under `folder` (mode 0700, its files 0600). Threads may share it.

    At most `max_bytes` are kept; what is beyond is not taken, and counted in `refused`. Raises Infrastructure where the
    folder cannot be written.
    """

    def __init__(self, folder: Path, *, max_bytes: int = 256 << 20, segment_bytes: int = SEGMENT) -> None:
        self.folder, self._max, self._segment_bytes = folder, max_bytes, segment_bytes
        self._lock = threading.Lock()
        self._where: dict[str, list[_Segment]] = {}  # id -> the segments that must stay until it is committed
        self._later: deque[tuple[_Segment, int, int]] = deque()  # (segment, first byte, bytes) of records put off
        self._segments: list[_Segment] = []
        self._fd, self._torn, self._number, self.bytes, self.refused = -1, False, 0, 0, 0
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            made = Path(tempfile.mkdtemp(dir=folder, prefix=".new-"))
            self._held = _lock_file(made / "lock")
            self.own = folder / f"server-{os.getpid()}-{secrets.token_hex(4)}"
            made.rename(self.own)  # only now others look at it, and find it locked
            self._next()
        except OSError as error:
            raise Infrastructure(f"{folder} cannot be written: {error.strerror}.", "Check who owns it.") from error

    @property
    def later(self) -> int:
        """Ended traces that wait here and not in memory."""
        return len(self._later)

    def began(self, trace_id: str, *, route: str, at: str, key: str = "", team: str = "", usd: float = 0.0,
              tokens_in: int = 0, tokens_out: int = 0, release: str = "") -> bool:
        """An engine is about to be asked, with `usd` and so many tokens reserved. Whether it was written."""
        said = {"id": trace_id, "route": route, "at": at, "key": key, "team": team, "usd": usd,
                "tokens_in": tokens_in, "tokens_out": tokens_out, "release": release}
        with self._lock:
            return self._append(trace_id, BEGAN, msgspec.json.encode(said)) is not None

    def ended(self, trace: Trace, *, later: bool = False) -> bool:
        """`trace`, redacted, whole: from here on it reaches the ledger. `later`: memory has no place for it, so it is
        read again by `take`. Whether it was written."""
        body = trace_json(trace)
        with self._lock:
            found = self._append(trace.id, ENDED, body)
            if found is not None and later:
                self._later.append(found)
            return found is not None

    def take(self, most: int) -> list[Trace]:
        """The oldest ended traces that were put off; whoever takes them commits them."""
        with self._lock:
            places = [self._later.popleft() for _ in range(min(most, len(self._later)))]
        found: list[Trace] = []
        for segment, first, size in places:
            with segment.path.open("rb") as file:
                file.seek(first)
                found.append(Trace.model_validate_json(file.read(size)))
        return found

    def committed(self, ids: Sequence[str]) -> None:
        """These are in the ledger (or no longer wanted): segments that hold nothing else go."""
        with self._lock:
            for name in ids:
                for segment in self._where.pop(name, ()):
                    segment.live -= 1
            now = self._segments[-1]
            for segment in [s for s in self._segments if not s.live and s is not now]:
                self._segments.remove(segment)
                self.bytes -= segment.size
                segment.path.unlink(missing_ok=True)
            if len(self._segments) == 1 and not now.live and now.size > TIDY and self._fd >= 0:
                os.ftruncate(self._fd, 0)
                self.bytes -= now.size
                now.size, self._torn = 0, False

    def close(self) -> None:
        """Leave nothing where all is committed; else leave it for the next start. Calling it again is harmless."""
        with self._lock:
            if self._fd < 0:
                return
            os.close(self._fd)
            self._fd = -1
            if not self._where:
                shutil.rmtree(self.own, ignore_errors=True)
            os.close(self._held)

    def _append(self, name: str, kind: bytes, body: bytes) -> tuple[_Segment, int, int] | None:
        line = b"%08x %b %b\n" % (zlib.crc32(kind + body), kind, body)
        if self._fd < 0 or self.bytes + len(line) > self._max:
            self.refused += 1
            return None
        try:
            if self._segments[-1].size >= self._segment_bytes:
                self._next()
            segment = self._segments[-1]
            if self._torn:
                line = b"\n" + line
            wrote = os.write(self._fd, line)
        except OSError as error:
            wrote = 0
            log.error("the journal cannot be written: %s", error.strerror)
        first, segment = self._segments[-1].size + len(line) - len(body) - 1, self._segments[-1]
        segment.size += wrote
        self.bytes += wrote
        self._torn = wrote < len(line) and (self._torn or wrote > 0)
        if wrote < len(line):
            self.refused += 1
            return None
        held = self._where.setdefault(name, [])
        if segment not in held:
            held.append(segment)
            segment.live += 1
        return segment, first, len(body)

    def _next(self) -> None:
        """Begin the next segment."""
        path = self.own / f"{self._number:08d}.log"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._torn = fd, False
        self._number += 1
        self._segments.append(_Segment(path))


def recover(folder: Path, add: Callable[[Sequence[Trace]], int]) -> Recovered:
    """Hand what dead servers left under `folder` to `add` (TraceStore.add_traces, idempotent), then delete it. Journals
    of processes that live are left alone; killed half-way, the next call does all of it again. What `add` raises is
    raised, and the journal stays."""
    total = [0, 0, 0, 0]
    for own in sorted(folder.glob("server-*")):
        try:
            held = _lock_file(own / "lock")
        except OSError:
            continue  # its server lives, or another one recovers it now
        try:
            for place, more in enumerate(_recover(own, add)):
                total[place] += more
            shutil.rmtree(own)
        finally:
            os.close(held)
    return Recovered(*total)


def _recover(own: Path, add: Callable[[Sequence[Trace]], int]) -> tuple[int, int, int, int]:
    ended = torn = new = 0
    begun: dict[str, Trace] = {}
    rows: list[Trace] = []
    for kind, said in _records(own):
        try:
            trace = _cut_off(said) if kind == BEGAN else Trace.model_validate(said)
        except (ValueError, TypeError, KeyError):
            torn += 1
            continue
        if kind == BEGAN:
            begun[trace.id] = trace
            continue
        begun.pop(trace.id, None)
        rows.append(trace)
        ended += 1
        if len(rows) >= AT_ONCE:
            new += add(rows)
            rows = []
    rows += begun.values()
    for start in range(0, len(rows), AT_ONCE):
        new += add(rows[start : start + AT_ONCE])
    return ended, len(begun), torn, new


def _cut_off(said: dict[str, Any]) -> Trace:
    return Trace(id=said["id"], at=said["at"], received_at=said["at"], route=said["route"], model=said["route"],
                 input="", status=CUT_OFF, error="the server ended before this request did", key=said["key"],
                 team=said["team"], release=said["release"], estimated=True,
                 usage=Usage(tokens_in=said["tokens_in"], tokens_out=said["tokens_out"], usd=said["usd"]))


def _records(own: Path) -> Iterator[tuple[bytes, Any]]:
    """Kind and content of each record in the order they were written; None as the content of a torn one."""
    for path in sorted(own.glob("*.log")):
        with path.open("rb") as file:
            for line in file:
                if line == b"\n":
                    continue
                kind, body = line[9:10], line[HEAD:-1]
                try:
                    whole = line.endswith(b"\n") and int(line[:8], 16) == zlib.crc32(kind + body)
                    yield kind, msgspec.json.decode(body) if whole else None
                except ValueError:
                    yield kind, None


def _lock_file(path: Path) -> int:
    """A descriptor that holds `path` locked until it is closed. Raises OSError where somebody else does."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd
