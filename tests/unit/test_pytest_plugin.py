"""Gates as tests: what a user of pytest sees, in a pytest of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import bucle

WORDS = {"luz": "electricidad", "router": "internet", "factura": "pagos"}
TESTS = """
import pytest
from bucle.pytest_plugin import assert_gate

def test_fixture(bucle_project):
    found = assert_gate("accuracy >= 0.5", data="fresh.csv", project=bucle_project)
    assert found["rows"] == 12

@pytest.mark.bucle_gate("accuracy >= 0.5", "p95_ms <= 2000", data="fresh.csv")
def test_mark_that_holds():
    pass

@pytest.mark.bucle_gate("accuracy >= 0.999 at 95%", data="fresh.csv", task="t")
def test_mark_that_fails():
    raise SystemExit("the body must not run")

@pytest.mark.bucle_gate("acuracy >= 0.5", data="fresh.csv")
def test_unknown_metric():
    pass

@pytest.mark.bucle_gate("accuracy >= 0.5", file="fresh.csv")
def test_unknown_word():
    pass

@pytest.mark.bucle_gate("accuracy >= 0.5", data="gone.csv")
def test_no_file():
    pass
"""


def rows(many: int, start: int = 0) -> str:
    lines = [f"tengo {start + i} dudas de mi {word} número {i * 7 + start},{label}"
             for i in range(many) for word, label in WORDS.items()]
    return "text,label\n" + "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A released project of one task, with a gate that holds, one that a file cannot tell, and tests beside it."""
    folder = tmp_path_factory.mktemp("gates")
    (folder / "rows.csv").write_text(rows(25), "utf-8")
    (folder / "fresh.csv").write_text(rows(4, 1000), "utf-8")
    (folder / "test_gates.py").write_text(TESTS)
    (folder / "bucle.yaml").write_text(
        "project: p\ntasks:\n  t: {kind: classify, data: rows.csv, text: text, label: label,\n"
        "      gates: [accuracy >= 0.6 at 95%, p95_ms <= 2000, forgetting <= 0.5]}\n")
    opened = bucle.Project(folder)
    opened.run()
    opened.close()
    return folder


def run(folder: Path, *args: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "bucle.pytest_plugin", "-p", "no:cacheprovider", "-W", "error", *args],
        cwd=folder, capture_output=True, text=True, timeout=120,
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "160"})
    return done.returncode, done.stdout + done.stderr


def test_a_test_for_each_gate_of_the_latest_run(project: Path) -> None:
    code, said = run(project, "--bucle", ".", "-v", "bucle.yaml", "--deselect", "test_gates.py")
    assert code == 0, said
    assert re.findall(r"bucle.yaml::t: (.+?) PASSED", said) == [
        "accuracy >= 0.6 at 95%", "p95_ms <= 2000", "forgetting <= 0.5"]


def test_on_fresh_rows_a_gate_that_fails_says_its_figures(project: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.csv"
    wrong.write_text(rows(4, 2000).replace("electricidad", "pagos2"), "utf-8")
    code, said = run(project, "--bucle", ".", "--bucle-data", str(wrong), "-rs", "-k", "bucle", "bucle.yaml")
    assert code == 1, said
    assert re.search(r"t: gate failed: accuracy >= 0\.6 at 95%\n  measured 0\.\d+, needed 0\.6\n  0\.66", said), said
    assert "1 failed, 1 passed, 1 skipped" in said
    assert "a file of rows cannot tell" in said
    assert "Traceback" not in said


def test_mark_fixture_and_function(project: Path) -> None:
    code, said = run(project, "test_gates.py", "--strict-markers")
    assert code == 1, said
    assert "4 failed, 2 passed" in said
    assert "gate failed: accuracy >= 0.999 at 95%\n  measured" in said
    assert "did you mean accuracy?" in said
    assert "bucle_gate does not know file" in said
    assert "gone.csv does not exist" in said
    assert "During handling" not in said
    assert "the body must not run" not in said


def test_what_cannot_be_collected_is_told(project: Path, tmp_path: Path) -> None:
    code, said = run(tmp_path, "--bucle", str(tmp_path))
    assert code == 4
    assert "there is no bucle.yaml there" in said
    (tmp_path / "bucle.yaml").write_text("project: p\ntasks: {t: {kind: classify, data: x.csv}}\n")
    code, said = run(tmp_path, "--bucle", str(tmp_path))
    assert code == 2
    assert "has no gates" in said
    assert "Traceback" not in said
    (tmp_path / "bucle.yaml").write_text("project: p\ntasks: {t: {kind: clasify, data: x.csv}}\n")
    code, said = run(tmp_path, "--bucle", str(tmp_path))
    assert code == 2
    assert "bucle.yaml" in said
    assert "Traceback" not in said


def test_another_projects_pytest_loads_nothing_of_it(tmp_path: Path) -> None:
    """Whoever has Bucle installed pays for a small file and no more: not even pydantic."""
    (tmp_path / "test_one.py").write_text(
        "import sys\ndef test_one():\n"
        "    mine = sorted(m for m in sys.modules if m.startswith('bucle'))\n"
        "    assert mine == ['bucle', 'bucle.pytest_plugin'], mine\n"
        "    assert not {'pydantic', 'numpy', 'click', 'torch'} & set(sys.modules)\n")
    (tmp_path / "bucle.yaml").write_text("not: [a project")
    code, said = run(tmp_path)
    assert code == 0, said
