"""Replies remembered by content: what was asked once is not paid for again, also after a kill."""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from bucle.core.ids import canonical_json, sha256_hex
from bucle.core.ports import ChatReply
from bucle.core.records import Usage

if TYPE_CHECKING:
    from bucle.models.ask import Ask

__all__ = ["Replies", "memory", "remembered", "reply_key"]

log = logging.getLogger("bucle.models")

_MARK = 0x42756331  # SQLite's application_id: says that a file is this, in this form
_SCHEMA = "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, model TEXT NOT NULL, reply TEXT NOT NULL, \
at TEXT NOT NULL) WITHOUT ROWID"
_AT_ONCE = 500  # keys in one query

memory: ContextVar[Replies | None] = ContextVar("bucle_replies", default=None)
"""The replies that are remembered in this context; None: none are."""


def reply_key(identity: str, ask: Ask) -> str:
    """The name of what is asked: the model's identity, the messages and every parameter that can change the reply. The
    seed is one where the temperature is above 0."""
    return sha256_hex(canonical_json([
        identity, [dict(message) for message in ask.messages], ask.max_tokens, ask.temperature, list(ask.stop),
        ask.seed if ask.temperature > 0 else 0, *([ask.schema] if ask.schema else [])]))


class Replies:
    """An SQLite file of replies (write-ahead log: what `put` has returned from survives a kill). Threads share it.

    A file that is damaged is set aside as `NAME.damaged`; one that is something else is left alone and nothing is
    remembered. Either is logged and stands in `problem`, and never stops an evaluation.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.problem = path, ""
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = self._open()
        except sqlite3.DatabaseError as error:
            self._recover(error)
        except OSError as error:
            self._told(f"{path} cannot be written ({error.strerror}): replies are not remembered.")

    def get(self, keys: Sequence[str]) -> dict[str, ChatReply]:
        """The replies that are known, by key, marked `cached`."""
        found: dict[str, ChatReply] = {}
        with self._lock:
            if self._db is None:
                return {}
            try:
                for start in range(0, len(keys), _AT_ONCE):
                    some = keys[start:start + _AT_ONCE]
                    marks = ", ".join("?" * len(some))
                    for key, text in self._db.execute(f"SELECT key, reply FROM replies WHERE key IN ({marks})", some):
                        if (reply := _read(text)) is not None:
                            found[key] = reply
            except sqlite3.DatabaseError as error:
                self._broken(error)
        return found

    def put(self, key: str, model: str, reply: ChatReply) -> None:
        """Remember one reply, at once."""
        text = json.dumps({"text": reply.text, "finish": reply.finish, "ms": reply.ms, "served_by": reply.served_by,
                           "usage": reply.usage.model_dump()}, ensure_ascii=False)
        with self._lock:
            if self._db is None:
                return
            try:
                self._db.execute("INSERT OR REPLACE INTO replies VALUES (?, ?, ?, ?)",
                                 (key, model, text, datetime.now(UTC).isoformat()))
            except (sqlite3.Error, UnicodeEncodeError) as error:
                self._broken(error)

    def forget(self, model: str) -> int:
        """Drop every reply of the model with this identity (its provider changed it); how many there were."""
        with self._lock:
            if self._db is None:
                return 0
            return self._db.execute("DELETE FROM replies WHERE model = ?", (model,)).rowcount

    def close(self) -> None:
        with self._lock:
            if self._db is not None:
                self._db.close()
            self._db = None

    def _open(self) -> sqlite3.Connection:
        with contextlib.suppress(FileExistsError):
            self.path.touch(mode=0o600, exist_ok=False)  # what models were asked and answered
        db = sqlite3.connect(self.path, timeout=30, check_same_thread=False, isolation_level=None)
        try:
            mark = db.execute("PRAGMA application_id").fetchone()[0]
            if mark != _MARK and db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise sqlite3.NotSupportedError("it is another database")
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")
            db.execute(f"PRAGMA application_id={_MARK}")
            db.execute(_SCHEMA)
            db.execute("SELECT key, model, reply, at FROM replies LIMIT 1").fetchone()
        except BaseException:
            db.close()
            raise
        return db

    def _recover(self, error: sqlite3.DatabaseError) -> None:
        """Called when opening failed: a damaged file of ours makes room for a new one."""
        damaged = isinstance(error, sqlite3.DatabaseError) and "malformed" in str(error)
        if not damaged:
            self._told(f"{self.path} is not a file of replies ({error}): replies are not remembered. "
                       "Move it away to have them remembered.")
            return
        aside = self.path.with_name(self.path.name + ".damaged")
        try:
            self.path.replace(aside)
            for suffix in ("-wal", "-shm"):
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
            self._db = self._open()
            self._told(f"{self.path} is damaged ({error}); it is now {aside.name}, and its replies are asked again.")
        except (OSError, sqlite3.Error) as again:
            self._told(f"{self.path} is damaged and cannot be replaced ({again}): replies are not remembered.")

    def _broken(self, error: Exception) -> None:
        """Called with the lock held: one failure while working."""
        if "malformed" in str(error) and self._db is not None:
            self._db.close()
            self._db = None
            self._recover(sqlite3.DatabaseError(str(error)))
        elif not self.problem:
            self._told(f"{self.path}: {error}. The reply is used, but not remembered.")

    def _told(self, text: str) -> None:
        self.problem = text
        log.warning(text)


@contextlib.contextmanager
def remembered(path: Path) -> Iterator[Replies]:
    """Inside, `ask_all` looks up in the file `path` what was asked before and stores each new reply at once. Outside
    nothing is remembered: a served answer is always the model's own."""
    replies = Replies(path)
    token = memory.set(replies)
    try:
        yield replies
    finally:
        memory.reset(token)
        replies.close()


def known(replies: Replies | None, keys: Iterable[str]) -> dict[str, ChatReply]:
    """What `replies` knows of `keys`; nothing without it."""
    return replies.get(sorted(set(keys))) if replies is not None else {}


def _read(text: str) -> ChatReply | None:
    try:
        value = json.loads(text)
        reply = ChatReply(str(value["text"]), Usage.model_validate(value["usage"]), str(value["finish"]),
                          float(value["ms"]), cached=True, served_by=str(value["served_by"]))
    except (ValueError, KeyError, TypeError):
        return None  # a row that cannot be read is asked again
    return replace(reply, cached=True)
