"""One finished small project for all function tests; each that changes something works on a copy."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from command import bucle
from small_project import build


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small project after `bucle run`, undisturbed. Only to be read and copied. Test processes side by side share
    one: the first makes it, the others wait."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if base.name.startswith("popen-") else base
    folder = shared / "undisturbed" / "soporte"
    with (shared / "undisturbed.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "undisturbed.done").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.parent.mkdir(exist_ok=True)
            build(folder)
            done = bucle("run", folder)
            assert done.returncode == 0, done.stdout + done.stderr
            (shared / "undisturbed.done").touch()
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Callable[[], Path]:
    """Makes a copy of the finished project that the test may change."""
    return lambda: Path(shutil.copytree(finished, tmp_path / "soporte"))
