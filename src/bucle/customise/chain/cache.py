"""Results of steps, kept by content: in one SQLite file, bounded, never given to another set of access labels.

What is kept stands in it as it is, under a hash, readable by its owner only; who puts sees to it that it holds neither
personal data nor secrets (chain.keep). What has expired, or makes room, is overwritten.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["StepCache"]

log = logging.getLogger("bucle.customise")

_MARK = 0x42756333  # SQLite's application_id: says that a file is this, in this form
_BEFORE = 0x42756332  # the form before, which kept personal data: it is emptied
_SCHEMA = ("CREATE TABLE IF NOT EXISTS kept (key TEXT PRIMARY KEY, expires REAL NOT NULL, used REAL NOT NULL, "
           "size INTEGER NOT NULL, value TEXT NOT NULL) WITHOUT ROWID",
           "CREATE INDEX IF NOT EXISTS by_use ON kept (used)",
           "CREATE INDEX IF NOT EXISTS by_end ON kept (expires)")
MAX_BYTES = 64 * 2**20
_EVERY = 64  # writes between two looks at the size


class StepCache:
    """Keeps step results in the file at `path`, at most `max_bytes` of them, the least recently used going first.

    A key is made of the step's content, its inputs and the asker's access labels, so a result is found again by the
    same labels only. What `put` has returned from survives a kill. A damaged file is set aside as `NAME.damaged`;
    where nothing can be kept, `problem` says why and every look finds nothing. Threads and processes share a file.
    """

    def __init__(self, path: Path, *, max_bytes: int = MAX_BYTES, clock: Callable[[], float] = time.time) -> None:
        self.path, self.problem = path, ""
        self._max, self._clock, self._writes = max_bytes, clock, 0
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None
        self._begin()

    def get(self, key: str) -> dict[str, Any] | None:
        """The result kept under `key`, while it lasts."""
        with self._lock:
            if not self._ready():
                return None
            assert self._db is not None  # noqa: S101 - it is ready
            try:
                now = self._clock()
                row = self._db.execute("SELECT value FROM kept WHERE key = ? AND expires > ?", (key, now)).fetchone()
                if row is not None:
                    self._db.execute("UPDATE kept SET used = ? WHERE key = ?", (now, key))
            except sqlite3.Error as error:
                self._broken(error)
                return None
        try:
            value = json.loads(row[0]) if row else None
        except (ValueError, RecursionError):
            return None
        return value if isinstance(value, dict) else None

    def put(self, key: str, value: Mapping[str, Any], seconds: float) -> None:
        """Keep `value` (JSON) for `seconds`; below 0: for as long as there is room."""
        text = json.dumps(value, ensure_ascii=False)
        now = self._clock()
        expires = now + seconds if seconds >= 0 else 1e12
        if len(text) > self._max // 4:
            return
        with self._lock:
            if not self._ready():
                return
            assert self._db is not None  # noqa: S101 - it is ready
            try:
                size = len(text.encode("utf-8", "surrogatepass"))
                self._db.execute("INSERT OR REPLACE INTO kept VALUES (?, ?, ?, ?, ?)", (key, expires, now, size, text))
                self._writes += 1
                if self._writes % _EVERY == 1 or size > self._max // 64:
                    self._trim(now)
            except (sqlite3.Error, UnicodeEncodeError) as error:
                self._broken(error)

    def size(self) -> int:
        """Bytes of what is kept."""
        with self._lock:
            if not self._ready():
                return 0
            assert self._db is not None  # noqa: S101 - it is ready
            return int(self._db.execute("SELECT coalesce(sum(size), 0) FROM kept").fetchone()[0])

    def close(self) -> None:
        """The file is let go of; whoever looks again opens it again."""
        with self._lock:
            if self._db is not None:
                self._db.close()
                self._rests = True
            self._db = None

    def _ready(self) -> bool:
        if self._rests:
            self._begin()
        return self._db is not None

    def _begin(self) -> None:
        self._rests = False
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = self._open()
        except sqlite3.DatabaseError as error:
            self._recover(error)
        except OSError as error:
            self._told(f"{self.path} cannot be written ({error.strerror}): steps are not kept.")

    def _trim(self, now: float) -> None:
        assert self._db is not None  # noqa: S101 - the callers have looked
        self._db.execute("DELETE FROM kept WHERE expires <= ?", (now,))
        over = int(self._db.execute("SELECT coalesce(sum(size), 0) FROM kept").fetchone()[0]) - self._max
        while over > 0:
            old = self._db.execute("SELECT key, size FROM kept ORDER BY used LIMIT 256").fetchall()
            if not old:
                return
            gone = []
            for key, size in old:
                gone.append((key,))
                over -= size
                if over <= 0:
                    break
            self._db.executemany("DELETE FROM kept WHERE key = ?", gone)

    def _open(self) -> sqlite3.Connection:
        if not self.path.exists():
            self.path.touch(mode=0o600)  # passages and answers stand in it
        db = sqlite3.connect(self.path, timeout=30, check_same_thread=False, isolation_level=None)
        try:
            mark = db.execute("PRAGMA application_id").fetchone()[0]
            if mark not in (_MARK, _BEFORE) and db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise sqlite3.NotSupportedError("it is another database")
            if self.path.stat().st_mode & 0o077:
                self.path.chmod(0o600)
            db.execute("PRAGMA secure_delete=ON")
            if mark == _BEFORE:
                db.execute("DELETE FROM kept")
                db.execute("VACUUM")
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")
            db.execute(f"PRAGMA application_id={_MARK}")
            for statement in _SCHEMA:
                db.execute(statement)
            db.execute("SELECT key, expires, used, size, value FROM kept LIMIT 1").fetchone()
            if db.execute("DELETE FROM kept WHERE expires <= ?", (self._clock(),)).rowcount:
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except BaseException:
            db.close()
            raise
        return db

    def _recover(self, error: sqlite3.Error) -> None:
        """Called when opening failed: a damaged file of ours makes room for a new one."""
        if isinstance(error, sqlite3.NotSupportedError | sqlite3.OperationalError):
            self._told(f"{self.path} cannot be used ({error}): steps are not kept. Move it away to have them kept.")
            return
        aside = self.path.with_name(self.path.name + ".damaged")
        try:
            self.path.replace(aside)
            for suffix in ("-wal", "-shm"):
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
            self._db = self._open()
            log.warning("%s is damaged (%s); it is now %s, and a new one begins.", self.path, error, aside.name)
        except (OSError, sqlite3.Error) as again:
            self._told(f"{self.path} is damaged and cannot be moved ({again}): steps are not kept.")

    def _broken(self, error: Exception) -> None:
        if isinstance(error, sqlite3.DatabaseError) and "malformed" in str(error) and self._db is not None:
            with contextlib.suppress(sqlite3.Error):
                self._db.close()
            self._db = None
            self._recover(error)
            return
        self._told(f"{self.path} cannot be used ({error}): steps are not kept.")

    def _told(self, problem: str) -> None:
        if not self.problem:
            log.warning(problem)
        self.problem = problem
