"""One finished small project for all function tests; each that changes something works on a copy."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from command import bucle
from small_project import build


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small project after `bucle run`, undisturbed. Only to be read and copied."""
    folder = build(tmp_path_factory.mktemp("undisturbed") / "soporte")
    done = bucle("run", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Callable[[], Path]:
    """Makes a copy of the finished project that the test may change."""
    return lambda: Path(shutil.copytree(finished, tmp_path / "soporte"))
