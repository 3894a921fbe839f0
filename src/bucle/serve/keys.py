"""Whose request it is: a secret's key, looked up in microseconds, as the ledger and the environment have it now."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from bucle.core.errors import Infrastructure
from bucle.ledger.keys import SCOPES, Key, KeyStore, digest
from bucle.serve.errors import ApiError

__all__ = ["SCOPES", "Key", "Keys", "keys_from_environment", "studio_keys_from_environment"]

log = logging.getLogger("bucle.serve")

FRESH_S = 0.5
"""How old what is known of the ledger's keys may be: a change is in force within that and the time of one request."""
MAX_SECRET = 4096

_ASKER = Key("key:environment", "BUCLE_API_KEYS", scopes=frozenset(SCOPES) - {"studio"})
_TEAM = Key("key:studio", "BUCLE_STUDIO_KEYS", scopes=frozenset(SCOPES))


def keys_from_environment(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The keys in BUCLE_API_KEYS, comma-separated; none means none are asked for."""
    return _listed(environment.get("BUCLE_API_KEYS", ""))


def studio_keys_from_environment(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The team's own keys, in BUCLE_STUDIO_KEYS: they open the studio, which shows what everybody asked and was
    answered, and the API too."""
    return _listed(environment.get("BUCLE_STUDIO_KEYS", ""))


def _listed(keys: str) -> tuple[str, ...]:
    return tuple(k.strip() for k in keys.split(",") if k.strip())


@dataclass(frozen=True, slots=True)
class _Known:
    key: Key
    ends_at: float | None = None
    revoked: bool = False


class Keys:
    """The keys that are let in: `api` open the API, `studio` everything; those of `store` what they say. Threads may
    share it.

    A secret is looked up by its SHA-256, so the time that takes tells nothing about the keys there are. What the ledger
    says is read again when it is older than FRESH_S (0.5 s): one indexed number, and the keys where that has changed.
    Where it cannot be read, what was known stays in force.
    """

    def __init__(self, api: Sequence[str] = (), studio: Sequence[str] = (), store: KeyStore | None = None, *,
                 clock: Callable[[], float] = time.time) -> None:
        self._fixed = {digest(k): _Known(_ASKER) for k in api} | {digest(k): _Known(_TEAM) for k in studio}
        self._store, self._clock, self._lock = store, clock, threading.Lock()
        self._known: Mapping[bytes, _Known] = self._fixed
        self._changes, self._read_at, self._told = -1, 0.0, False
        self._asked = bool(self._fixed)
        if store is not None:
            self._load(store)

    def __bool__(self) -> bool:
        """Whether callers need a key: there is one, or there ever was. Revoking the last one opens nothing."""
        self._freshen()
        return self._asked

    def find(self, secret: str | bytes) -> Key | None:
        """The key that `secret` opens now; None for an unknown, ended, expired or revoked one."""
        try:
            return self.check(secret)
        except ApiError:
            return None

    def check(self, secret: str | bytes) -> Key:
        """The key that `secret` opens now. Raises ApiError 401 that says what is wrong with it."""
        self._freshen()
        known = self._known.get(digest(secret)) if secret and len(secret) <= MAX_SECRET else None
        if known is None:
            raise ApiError(401, "a valid API key is needed: send `Authorization: Bearer KEY`", code="invalid_api_key")
        key = known.key
        if known.revoked:
            raise ApiError(401, "this API key was revoked", code="key_revoked")
        if key.expires_at is not None or known.ends_at is not None:
            now = self._clock()
            if key.expires_at is not None and key.expires_at <= now:
                raise ApiError(401, f"this API key has expired on {_day(key.expires_at)}", code="key_expired")
            if known.ends_at is not None and known.ends_at <= now:
                raise ApiError(401, f"this API key was replaced by a new one, and ended on {_day(known.ends_at)}",
                               code="key_expired")
        return key

    def refresh(self) -> None:
        """Read what changed in the ledger, now."""
        if self._store is None or not self._lock.acquire(blocking=False):
            return  # another thread is at it
        try:
            self._load(self._store)
            self._told = False
        except Infrastructure as error:
            self._read_at = time.monotonic()
            if not self._told:
                log.warning("%s The keys known so far stay in force.", error.message)
                self._told = True
        finally:
            self._lock.release()

    def _freshen(self) -> None:
        if self._store is not None and time.monotonic() - self._read_at > FRESH_S:
            self.refresh()

    def _load(self, store: KeyStore) -> None:
        if (changes := store.changes()) != self._changes:
            stored = store.stored()
            known = {s.hash: _Known(one.key, s.ends_at, bool(one.revoked_at)) for one in stored for s in one.secrets}
            self._known = known | self._fixed
            self._asked = self._asked or bool(stored)
            self._changes = changes
        self._read_at = time.monotonic()


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
