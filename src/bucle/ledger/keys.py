"""API keys in the ledger: what each may do and spend, hashed secrets, and who changed what when.

A secret is 256 random bits, shown once; its SHA-256 is what is kept (a hash that is slow to compute protects passwords
that people choose, not these). Rotating gives a key another secret and keeps its id: its spend and limits go on.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import secrets
import sqlite3
import threading
import time
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from bucle.core.errors import BadInput, Infrastructure, NotFound
from bucle.ledger.store import Ledger, now

__all__ = ["ASKING", "SCOPES", "Key", "KeyStore", "Secret", "StoredKey", "digest"]

ASKING = ("chat", "embeddings", "feedback", "moderations")
"""What a new key may do unless it is told otherwise."""
SCOPES = (*ASKING, "metrics", "studio")
"""`metrics` and `studio` show what everybody asked."""

_SETS = ("scopes", "labels", "models")
_LABEL = re.compile(r"[\w][\w .:@/+-]{0,99}")  # as documents' access labels are
_TABLES = (
    "CREATE TABLE IF NOT EXISTS api_keys (id TEXT PRIMARY KEY, body TEXT NOT NULL, created_at TEXT NOT NULL, "
    "by TEXT NOT NULL, revoked_at TEXT NOT NULL DEFAULT '') WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS api_key_secrets (hash BLOB PRIMARY KEY, key TEXT NOT NULL, prefix TEXT NOT NULL, "
    "made_at TEXT NOT NULL, ends_at REAL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS api_key_history (seq INTEGER PRIMARY KEY, key TEXT NOT NULL, at TEXT NOT NULL, "
    "by TEXT NOT NULL, what TEXT NOT NULL, detail TEXT NOT NULL)",
)


@dataclass(frozen=True, slots=True)
class Key:
    """Who asks, without the secret. `labels` are the documents' access labels that its holder may see; `expires_at`
    epoch seconds; None: no limit. `team` shares the team's budget of bucle.yaml (`serve.teams`).
    `models` are the names in /v1/models that are there for it; none: all."""

    id: str
    name: str
    team: str = ""
    scopes: frozenset[str] = frozenset(ASKING)
    labels: frozenset[str] = frozenset()
    expires_at: float | None = None
    usd_per_month: float | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    models: frozenset[str] = frozenset()

    def sees(self, model: str) -> bool:
        """Whether the model called so is there for its holder."""
        return not self.models or model in self.models

    def described(self) -> dict[str, Any]:
        """All fields as JSON has them: sets as sorted lists."""
        told = {f.name: getattr(self, f.name) for f in fields(self)}
        return told | {name: sorted(told[name]) for name in _SETS}


@dataclass(frozen=True, slots=True)
class Secret:
    """One secret of a key: its SHA-256, its first characters, and when it ends (epoch seconds, None: with the key)."""

    hash: bytes
    prefix: str
    made_at: str
    ends_at: float | None


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key with its secrets, newest first, and what became of it."""

    key: Key
    secrets: tuple[Secret, ...]
    created_at: str
    by: str
    revoked_at: str

    def status(self, at: float) -> str:
        """`active`, `expired` or `revoked`, at epoch seconds."""
        if self.revoked_at:
            return "revoked"
        return "expired" if self.key.expires_at is not None and self.key.expires_at <= at else "active"


def digest(secret: str | bytes) -> bytes:
    """The SHA-256 by which a secret is known."""
    given = secret.encode("utf-8", "surrogateescape") if isinstance(secret, str) else secret
    return hashlib.sha256(given).digest()


class KeyStore:
    """The keys of one ledger. What it reads, it reads over a connection of its own, so that a server never waits for
    whoever writes."""

    def __init__(self, ledger: Ledger, *, clock: Callable[[], float] = time.time) -> None:
        self.ledger, self._clock = ledger, clock
        self._lock = threading.Lock()
        self._reader: sqlite3.Connection | None = None
        made = "SELECT 1 FROM sqlite_master WHERE name = 'api_key_history'"
        if not ledger.rows(made):
            with ledger.transaction() as db:
                for table in _TABLES:
                    db.execute(table)

    def close(self) -> None:
        """Close the reading connection; the ledger stays open."""
        with self._lock:
            if self._reader is not None:
                self._reader.close()
                self._reader = None

    # what a server reads -----------------------------------------------------------------------------------

    def changes(self) -> int:
        """A number that is another one after every change, by whichever process; 0: there never was a key."""
        return int(self._read("SELECT coalesce(max(seq), 0) FROM api_key_history")[0][0])

    def stored(self) -> list[StoredKey]:
        """Every key ever made, oldest first."""
        known: dict[str, list[Secret]] = {}
        # one statement, so that a change between two cannot show a key without its secret
        rows = self._read(
            "SELECT k.id, k.body, k.created_at, k.by, k.revoked_at, s.hash, s.prefix, s.made_at, s.ends_at "
            "FROM api_keys k JOIN api_key_secrets s ON s.key = k.id ORDER BY k.created_at, k.id, s.made_at DESC"
        )
        heads = {}
        for id_, body, created_at, by, revoked_at, *secret in rows:
            try:
                key = _key(id_, json.loads(body))
            except (ValueError, KeyError, TypeError) as error:
                raise Infrastructure(f"The key {id_} in {self.ledger.folder} cannot be understood.",
                                     "bucle doctor") from error
            heads[id_] = (key, created_at, by, revoked_at)
            known.setdefault(id_, []).append(Secret(bytes(secret[0]), *secret[1:]))
        return [StoredKey(key, tuple(known[id_]), *rest) for id_, (key, *rest) in heads.items()]

    def _read(self, sql: str) -> list[tuple[Any, ...]]:
        with self._lock:
            try:
                if self._reader is None:
                    path = self.ledger.folder / "ledger.db"
                    self._reader = sqlite3.connect(path, timeout=0.2, check_same_thread=False, isolation_level=None)
                    self._reader.execute("PRAGMA query_only = 1")
                return self._reader.execute(sql).fetchall()
            except sqlite3.Error as error:
                raise Infrastructure(f"The keys in {self.ledger.folder} cannot be read: {error}.",
                                     "bucle doctor") from error

    # what people do -----------------------------------------------------------------------------------------

    def get(self, name: str) -> StoredKey:
        """The key with this name (of several with it, the one not revoked), id, or beginning of an id. Raises NotFound
        or BadInput where it is more than one."""
        stored = self.stored()
        found = [s for s in stored if s.key.name == name or s.key.id == name]
        if len(alive := [s for s in found if not s.revoked_at]) == 1:
            found = alive
        if not found and len(name) >= 3:
            found = [s for s in stored if s.key.id.startswith((name, f"key:{name}"))]
        if len(found) == 1:
            return found[0]
        if found:
            ids = ", ".join(s.key.id for s in found[:5])
            raise BadInput(f"`{name[:80]}` is more than one key: {ids}.", "Give the id.")
        raise NotFound(f"No key is called `{name[:80]}`.", "bucle keys list")

    def create(self, name: str, *, by: str, team: str = "", scopes: Iterable[str] = ASKING,
               labels: Iterable[str] = (), expires_at: float | None = None, usd_per_month: float | None = None,
               requests_per_minute: int | None = None, tokens_per_minute: int | None = None,
               models: Iterable[str] = ()) -> tuple[Key, str]:
        """A new key and its secret, which nobody can show again. Raises BadInput for what cannot be meant, or a name
        that a key that is not revoked has."""
        key = _checked(Key(f"key:{secrets.token_hex(8)}", name, team, frozenset(scopes), frozenset(labels), expires_at,
                           usd_per_month, requests_per_minute, tokens_per_minute, frozenset(models)),
                       self._clock())
        secret = _new_secret()
        with self.ledger.transaction() as db:
            self._free(key)
            at = now()
            db.execute("INSERT INTO api_keys (id, body, created_at, by) VALUES (?, ?, ?, ?)",
                       (key.id, _body(key), at, by))
            _add_secret(db, key.id, secret, at)
            _history(db, key.id, at, by, "created", {**key.described(), "prefix": secret[:8]})
        return key, secret

    def change(self, name: str, *, by: str, **settings: Any) -> Key:
        """The key with other `settings` (fields of Key, not its id). A running server takes them within a second.
        Raises NotFound, or BadInput."""
        with self.ledger.transaction() as db:
            before = self._alive(name).key
            wanted: dict[str, Any] = {n: frozenset(v) if n in _SETS else v for n, v in settings.items()}
            after = _checked(replace(before, **wanted), self._clock() if "expires_at" in settings else 0.0)
            self._free(after)
            old, new = before.described(), after.described()
            changed = {n: [old[n], new[n]] for n in old if old[n] != new[n]}
            if changed:
                db.execute("UPDATE api_keys SET body = ? WHERE id = ?", (_body(after), after.id))
                _history(db, after.id, now(), by, "changed", changed)
        return after

    def revoke(self, name: str, *, by: str, reason: str = "") -> Key:
        """From now on nobody is let in by it; revoking again changes nothing. Raises NotFound."""
        with self.ledger.transaction() as db:
            found = self.get(name)
            if not found.revoked_at:
                at = now()
                db.execute("UPDATE api_keys SET revoked_at = ? WHERE id = ?", (at, found.key.id))
                _history(db, found.key.id, at, by, "revoked", {"reason": reason[:500]} if reason else {})
        return found.key

    def rotate(self, name: str, *, by: str, grace_s: float = 0.0) -> tuple[Key, str]:
        """The key and a new secret; those before are valid for `grace_s` seconds more, or until they end. Raises
        NotFound, BadInput for one that was revoked or has expired."""
        if not 0 <= grace_s <= 366 * 86400:
            raise BadInput("An old secret stays valid for a year at most.", "--grace 24h")
        at, ends = now(), self._clock() + grace_s
        secret = _new_secret()
        with self.ledger.transaction() as db:
            found = self._alive(name)
            if found.status(self._clock()) == "expired":
                raise BadInput(f"`{found.key.name}` has expired.",
                               f"bucle keys change '{found.key.name}' --expires 90d")
            db.execute("UPDATE api_key_secrets SET ends_at = min(coalesce(ends_at, ?), ?) WHERE key = ?",
                       (ends, ends, found.key.id))
            _add_secret(db, found.key.id, secret, at)
            _history(db, found.key.id, at, by, "rotated", {"prefix": secret[:8], "grace_s": grace_s})
        return found.key, secret

    def history(self, name: str = "") -> list[dict[str, Any]]:
        """Everything that was done to a key (to all, if none is named), oldest first: key, at, by, what, detail."""
        where, values = ("WHERE key = ?", (self.get(name).key.id,)) if name else ("", ())
        rows = self.ledger.rows(f"SELECT key, at, by, what, detail FROM api_key_history {where} ORDER BY seq", values)
        return [{"key": k, "at": at, "by": by, "what": what, "detail": json.loads(d)} for k, at, by, what, d in rows]

    def _alive(self, name: str) -> StoredKey:
        found = self.get(name)
        if found.revoked_at:
            raise BadInput(f"`{found.key.name}` was revoked on {found.revoked_at[:10]}.", "bucle keys create NAME")
        return found

    def _free(self, key: Key) -> None:
        if any(s.key.name == key.name and s.key.id != key.id and not s.revoked_at for s in self.stored()):
            raise BadInput(f"There is a key called `{key.name}`.",
                           f"bucle keys rotate '{key.name}' gives it a new secret; or choose another name.")


def _new_secret() -> str:
    return "bk_" + secrets.token_urlsafe(32)


def _add_secret(db: sqlite3.Connection, key: str, secret: str, at: str) -> None:
    db.execute("INSERT INTO api_key_secrets VALUES (?, ?, ?, ?, NULL)", (digest(secret), key, secret[:8], at))


def _history(db: sqlite3.Connection, key: str, at: str, by: str, what: str, detail: Mapping[str, Any]) -> None:
    db.execute("INSERT INTO api_key_history (key, at, by, what, detail) VALUES (?, ?, ?, ?, ?)",
               (key, at, by, what, json.dumps(detail, ensure_ascii=False)))


def _body(key: Key) -> str:
    return json.dumps({n: v for n, v in key.described().items() if n != "id"}, ensure_ascii=False)


def _key(id_: str, body: Mapping[str, Any]) -> Key:
    known = {n: v for n, v in body.items() if n in Key.__slots__}
    return Key(id=id_, **known | {name: frozenset(body.get(name, ())) for name in _SETS})


def _checked(key: Key, at: float) -> Key:
    """`key` with its texts in Unicode's form C. Raises BadInput for what cannot be meant."""
    name, team = (unicodedata.normalize("NFC", text.strip()) for text in (key.name, key.team))
    for what, text in (("name", name), ("team", team)):
        if len(text) > 80 or not text.isprintable() or (what == "name" and not text):
            raise BadInput(f"A key's {what} is 1 to 80 printable characters.", "bucle keys create app-support")
    if name.startswith(("key:", "bk_", "-")):
        raise BadInput("A key's name does not begin with `key:`, `bk_` or `-`.", "bucle keys create app-support")
    if unknown := sorted(key.scopes - set(SCOPES)):
        raise BadInput(f"`{unknown[0][:40]}` is no scope.", f"The scopes are {', '.join(SCOPES)}.")
    if not key.scopes:
        raise BadInput("A key without a scope opens nothing.", f"The scopes are {', '.join(SCOPES)}.")
    if wrong := [label for label in key.labels if not _LABEL.fullmatch(label)]:
        raise BadInput(f"{wrong[0][:60]!r} is no access label.", "Labels are what documents' `access` says.")
    if wrong := [model for model in key.models if not (0 < len(model) <= 200 and model.isprintable())]:
        raise BadInput(f"{wrong[0][:60]!r} is no name of a model.", "The names are those of /v1/models.")
    if key.expires_at is not None and not at < key.expires_at < 253402300800:  # the year 10000
        raise BadInput("A key's end lies in the future.", "--expires 30d")
    for what, value, most in (("usd_per_month", key.usd_per_month, 1e9),
                              ("requests_per_minute", key.requests_per_minute, 10**9),
                              ("tokens_per_minute", key.tokens_per_minute, 10**12)):
        if value is not None and not (math.isfinite(value) and 0 <= value <= most):
            raise BadInput(f"`{what}` lies between 0 and {most:,.0f}.", "Leave it out for no limit.")
    return replace(key, name=name, team=team)
