"""How many threads torch gets: what bucle.yaml or the environment says, else the cores."""

from __future__ import annotations

from pathlib import Path

import pytest

from bucle.loop.workspace import Workspace
from bucle.models.cpu import default_threads


def test_threads_of_bucle_yaml_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUCLE_THREADS", "")  # so that what opening sets is undone afterwards
    assert 1 <= default_threads() <= 8
    (tmp_path / "bucle.yaml").write_text(
        "project: p\nthreads: 3\ntasks: {t: {kind: classify, data: d.csv}}\n", encoding="utf-8")
    Workspace.open(tmp_path).close()
    assert default_threads() == 3


def test_the_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUCLE_THREADS", "5")
    assert default_threads() == 5
