"""A converted model's folder, made beside its place and put there whole: other processes see all of it or nothing."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from pathlib import Path

__all__ = ["PREFIX", "settle", "sweep"]

PREFIX = ".making-"
"""How the name of a folder begins that is not whole yet."""
ABANDONED_S = 86_400.0


def settle(making: Path, final: Path) -> None:
    """Put the files of `making`, written to the disk, at `final`; where another process was first, its stay. Raises
    OSError."""
    for path in making.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    try:
        making.rename(final)
    except OSError:
        if not (final / "meta.json").is_file():  # not because another process was first
            raise


def sweep(root: Path) -> None:
    """Remove what killed conversions left under `root` a day ago."""
    for old in root.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if old.stat().st_mtime < time.time() - ABANDONED_S:
                shutil.rmtree(old, ignore_errors=True)
