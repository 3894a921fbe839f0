"""Vectors already made, in an SQLite file by key."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path

import numpy as np

__all__ = ["look_up", "put"]

LOOK_UP = 500  # keys in one query: SQLite allows 999 variables in its older builds


def look_up(path: Path, keys: Iterable[str], dimensions: int) -> dict[str, np.ndarray]:
    """The vectors in `path` under `keys`, those that are there with `dimensions` numbers (any where 0)."""
    wanted, found = list(keys), {}
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path, timeout=60)) as connection, connection:
        connection.execute("CREATE TABLE IF NOT EXISTS vector (key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID")
        for at in range(0, len(wanted), LOOK_UP):
            some = wanted[at:at + LOOK_UP]
            marks = ",".join("?" * len(some))
            for key, value in connection.execute(f"SELECT key, value FROM vector WHERE key IN ({marks})", some):
                vector = np.frombuffer(value, dtype=np.float32)
                if not dimensions or len(vector) == dimensions:
                    found[key] = vector
    return found


def put(path: Path, vectors: Mapping[str, np.ndarray]) -> None:
    """Keep `vectors` by key, all or none."""
    with closing(sqlite3.connect(path, timeout=60)) as connection, connection:
        connection.executemany("INSERT OR IGNORE INTO vector VALUES (?, ?)",
                               [(key, vector.astype(np.float32).tobytes()) for key, vector in vectors.items()])
