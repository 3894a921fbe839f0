"""Running a step: its key, reuse when finished, continuing when interrupted.

A step's key is the hash of Bucle's version, its name, its version, its parameters and its inputs' ids. A finished key
is reused; an interrupted one finds its scratch folder (`.bucle/work/KEY`) as it was left and continues from its
checkpoints.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bucle import __version__
from bucle.core.errors import BucleError, Infrastructure
from bucle.core.ids import canonical_json, sha256_hex
from bucle.core.ports import Report
from bucle.execute.progress import Display, QuietDisplay
from bucle.ledger import Ledger, now
from bucle.ledger.blobs import disk_error, is_full

_LONG = 5.0
"""Seconds from which a step is long."""

__all__ = ["Outcome", "Runner", "StepContext", "StepRecord", "project_lock"]


@dataclass(frozen=True)
class Outcome:
    """What a step made: node ids by role, and figures (JSON) that later steps and the report read."""

    outputs: Mapping[str, str]
    figures: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class StepContext:
    """What a step's function gets. `work` survives a kill and is removed when the step has finished."""

    ledger: Ledger
    work: Path
    report: Report


@dataclass(frozen=True)
class StepRecord:
    """A finished step, from this run or an earlier one."""

    key: str
    name: str
    stage: str
    outputs: Mapping[str, str]
    figures: Mapping[str, Any]
    seconds: float
    cached: bool

    def __getitem__(self, role: str) -> str:
        return self.outputs[role]


class Runner:
    """Runs the steps of one run in order and writes down what each made."""

    def __init__(self, ledger: Ledger, display: Display | None = None) -> None:
        self.ledger = ledger
        self.display = display or QuietDisplay()
        self.records: list[StepRecord] = []
        with ledger.transaction() as db:
            self._run = db.execute("INSERT INTO runs (started_at) VALUES (?)", (now(),)).lastrowid

    def step(
        self,
        name: str,
        function: Callable[[StepContext], Outcome],
        *,
        stage: str,
        version: int = 1,
        params: Mapping[str, Any] | None = None,
        inputs: Mapping[str, str | list[str]] | None = None,
    ) -> StepRecord:
        """The finished step: reused, continued or run. Raises what the function raises; disk errors become
        Infrastructure."""
        key = sha256_hex(
            canonical_json(
                {"bucle": __version__, "name": name, "version": version, "params": params or {}, "inputs": inputs or {}}
            )
        )
        self.display.start(stage, name)
        began = time.monotonic()
        if record := self._finished(key):
            self.records.append(record)
            self.display.finish("cached", 0.0, "")
            return record
        work = self.ledger.folder / "work" / key[:32]
        try:
            work.mkdir(parents=True, exist_ok=True)
            outcome = function(StepContext(self.ledger, work, self.display.update))
            record = self._commit(key, name, stage, outcome, time.monotonic() - began)
        except OSError as error:
            self.display.finish("failed", time.monotonic() - began)
            if error.errno is None or isinstance(error, (ConnectionError, TimeoutError)):
                raise
            raise disk_error(error, self.ledger.folder) from error
        except sqlite3.Error as error:
            self.display.finish("failed", time.monotonic() - began)
            raise Infrastructure(f"The ledger in {self.ledger.folder}: {error}.", "bucle doctor") from error
        except Exception as error:
            self.display.finish("failed", time.monotonic() - began)
            if is_full(error) and not isinstance(error, BucleError):
                raise disk_error(error, self.ledger.folder) from error
            raise
        shutil.rmtree(work, ignore_errors=True)
        self.records.append(record)
        self.display.finish("done", record.seconds, outcome.note)
        if record.seconds > _LONG:
            _give_back_memory()
        return record

    def finish(self) -> None:
        """Write down the order of this run's steps; `latest_run` then finds it."""
        steps = canonical_json(
            [{"key": r.key, "name": r.name, "stage": r.stage, "cached": r.cached} for r in self.records]
        )
        with self.ledger.transaction() as db:
            db.execute("UPDATE runs SET finished_at = ?, steps = ? WHERE seq = ?", (now(), steps, self._run))

    def _commit(self, key: str, name: str, stage: str, outcome: Outcome, seconds: float) -> StepRecord:
        with self.ledger.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO steps VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    key,
                    name,
                    stage,
                    canonical_json(dict(outcome.outputs)),
                    canonical_json(dict(outcome.figures)),
                    seconds,
                    now(),
                ),
            )
        return StepRecord(
            key, name, stage, outcome.outputs, json.loads(canonical_json(dict(outcome.figures))), seconds, False
        )

    def _finished(self, key: str) -> StepRecord | None:
        rows = self.ledger.rows("SELECT name, stage, outputs, figures, seconds FROM steps WHERE key = ?", (key,))
        if not rows:
            return None
        name, stage, outputs, figures, seconds = rows[0]
        return StepRecord(key, name, stage, json.loads(outputs), json.loads(figures), seconds, True)


def _give_back_memory() -> None:
    """What a long step has freed goes back to the system: glibc keeps it otherwise, and the next step's peak comes on
    top of it."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def project_lock(folder: Path) -> Iterator[None]:
    """One run at a time in a project; released by the system if the process dies. Raises Infrastructure if taken."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / "run.lock", os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise disk_error(error, folder) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Infrastructure(
                f"Another bucle run is working in {folder.parent}.", "Wait for it, or stop it, then try again."
            ) from None
        yield
    finally:
        os.close(handle)
