"""What must be right for Bucle to work: the machine, the libraries, the project, the ledger."""

from __future__ import annotations

import platform
import shutil
import sqlite3
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from bucle.core.errors import BucleError
from bucle.core.ids import file_sha256
from bucle.ledger import Ledger
from bucle.loop.workspace import Workspace

__all__ = ["examine"]

MIN_DISK_GB = 2.0
LIBRARIES = ("torch", "transformers", "trl", "peft", "scikit-learn", "sentence-transformers", "lancedb", "fastapi")


def examine(folder: str = "") -> list[dict[str, Any]]:
    """Checks in order, each `{name, ok, found, hint}`. Nothing is changed."""
    free = shutil.disk_usage(folder if folder and Path(folder).exists() else ".").free / 1e9
    checks = [
        _check("python", sys.version_info >= (3, 11), platform.python_version(), "Install Python 3.11 or newer."),
        _check("disk", free >= MIN_DISK_GB, f"{free:.1f} GB free", f"Free at least {MIN_DISK_GB:g} GB."),
        _check(
            "sqlite",
            sqlite3.sqlite_version_info >= (3, 35),
            sqlite3.sqlite_version,
            "Use a Python with SQLite 3.35 or newer.",
        ),
    ]
    for name in LIBRARIES:
        try:
            checks.append(_check(name, True, metadata.version(name), ""))
        except metadata.PackageNotFoundError:
            checks.append(_check(name, False, "not installed", f"pip install {name}"))
    if folder:
        checks += _project(Path(folder))
    return checks


def _project(folder: Path) -> list[dict[str, Any]]:
    try:
        ws = Workspace.open(folder)
    except BucleError as error:
        return [_check("bucle.yaml", False, error.message, error.hint)]
    missing = [t.data for t in ws.config.tasks.values() if isinstance(t.data, str) and not (ws.root / t.data).is_file()]
    sound = ws.ledger.rows("PRAGMA quick_check")[0][0]
    lost, spoilt = _blobs(ws.ledger)
    return [
        _check(
            "bucle.yaml", True, f"{ws.config.project}: {len(ws.config.tasks)} tasks, {len(ws.config.models)} models", ""
        ),
        _check(
            "files",
            not missing,
            ", ".join(missing) + " missing" if missing else "all there",
            "Correct the names in bucle.yaml.",
        ),
        _check("ledger", sound == "ok", str(sound), f"Restore {ws.ledger.folder / 'ledger.db'} from a backup."),
        _check(
            "blobs",
            not lost and not spoilt,
            f"{lost} missing, {spoilt} changed" if lost or spoilt else "all there, all unchanged",
            "Restore .bucle/blobs from a backup, or delete .bucle and run again.",
        ),
    ]


def _blobs(ledger: Ledger) -> tuple[int, int]:
    import json

    names = {digest for row in ledger.rows("SELECT blobs FROM nodes") for digest in json.loads(row[0]).values()}
    lost = spoilt = 0
    for digest in names:
        path = ledger.blobs.path(digest, must_exist=False)
        if not path.exists():
            lost += 1
        elif file_sha256(path) != digest:
            spoilt += 1
    return lost, spoilt


def _check(name: str, ok: bool, found: str, hint: str) -> dict[str, Any]:
    return {"name": name, "ok": ok, "found": found, "hint": "" if ok else hint}
