"""What was recorded as spent until now, and which traces that covers, read in one snapshot by who enforces budgets."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Collection, Sequence
from typing import Any

from bucle.core.errors import Infrastructure
from bucle.ledger.spend import Spent
from bucle.ledger.store import Ledger

__all__ = ["SpendWatch"]

AT_ONCE = 500


class SpendWatch:
    """Reads over a connection of its own: neither waits for who writes, nor makes them wait."""

    def __init__(self, ledger: Ledger) -> None:
        self._path = ledger.folder / "ledger.db"
        self._lock = threading.Lock()
        self._reader: sqlite3.Connection | None = None

    def read(self, months: Collection[str], settled: Callable[[], Sequence[str]]) -> tuple[list[Spent], set[str]]:
        """The spend of `months` (`2026-11`), and those of the traces in `settled()` that it holds.

        `settled` is called once the snapshot stands: a trace that is settled before it is written is then in the
        spend, or in what `settled` returns and not in the set; never in both, never in neither. Raises Infrastructure.
        """
        with self._lock:
            try:
                return self._read(months, settled)
            except sqlite3.Error as error:
                self._drop()
                raise Infrastructure(f"The spend in {self._path} cannot be read: {error}.", "bucle doctor") from error

    def _read(self, months: Collection[str], settled: Callable[[], Sequence[str]]) -> tuple[list[Spent], set[str]]:
        if self._reader is None:
            self._reader = sqlite3.connect(self._path, timeout=0.2, check_same_thread=False, isolation_level=None)
            self._reader.execute("PRAGMA query_only = 1")
        db = self._reader
        db.execute("BEGIN")
        try:
            marks = ",".join("?" * len(months))
            rows = [Spent(*row) for row in db.execute(
                "SELECT month, key, team, requests, tokens_in, tokens_out, nano_usd FROM spend "
                f"WHERE month IN ({marks})", list(months))]
            traces, known = list[Any](settled()), set[str]()
            for start in range(0, len(traces), AT_ONCE):
                part = traces[start:start + AT_ONCE]
                marks = ",".join("?" * len(part))
                known.update(row[0] for row in db.execute(f"SELECT id FROM traces WHERE id IN ({marks})", part))
        finally:
            db.execute("COMMIT")
        return rows, known

    def _drop(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def close(self) -> None:
        """Close the connection; the ledger stays open."""
        with self._lock:
            self._drop()
