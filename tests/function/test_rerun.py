"""A finished project whose data change: what is untouched is kept, and a run from the files is not judged by what
feedback taught the version after it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from command import bucle
from small_project import SAMPLE, build_tiny


@pytest.mark.slow
def test_new_rows_make_new_versions(copy: Callable[[], Path]) -> None:
    project = copy()
    before = json.loads(bucle("release", "list", "-p", project, "--json").stdout)["releases"]
    assert [r["version"] for r in before] == [1, 2]
    path = project / "bucle.yaml"
    path.write_text(path.read_text().replace("accuracy >= baseline - 0.1", "accuracy >= production - 0.05"))
    rows = (SAMPLE / "data" / "mensajes.tsv").read_text("utf-8").splitlines(keepends=True)
    with (project / "data" / "mensajes.tsv").open("a", encoding="utf-8") as file:
        file.writelines(rows[400:440])
    done = bucle("run", project, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [(r["version"], r["aliases"]) for r in found["releases"]] == [(1, []), (2, []), (3, []), (4, ["production"])]
    notes = [c["note"] for g in found["gates"] for c in g["checks"] if "production" in c["gate"]]
    assert len(notes) == 2
    assert 0 < found["reused"] < found["steps"]  # the documents are kept, the rows are not
    again = json.loads(bucle("run", project, "--json").stdout)
    assert again["reused"] == again["steps"]
    assert again["releases"] == found["releases"]


def test_feedback_makes_the_next_release_without_a_replay(copy: Callable[[], Path]) -> None:
    project = copy()
    nothing = bucle("feedback", "learn", "intenciones", "-p", project)
    listed = bucle("monitor", "--traces", "--route", "intenciones", "--limit", "400", "-p", project, "--json")
    traces = json.loads(listed.stdout)
    assert nothing.returncode in (0, 2)  # what the replay's last days were told may still be new
    rated = {f["trace"] for f in json.loads(bucle("feedback", "list", "-p", project, "--json").stdout)["feedback"]}
    fresh = [t for t in traces["traces"] if t["id"] not in rated and not t["user"].endswith("0666")][:12]
    assert len(fresh) == 12
    table = "trace,correction,by\n" + "".join(f"{t['id']},queja_formal,agente-9\n" for t in fresh)
    (project / "ratings.csv").write_text(table)
    counts = json.loads(bucle("feedback", "import", project / "ratings.csv", "-p", project, "--json").stdout)
    assert counts["stored"] == 12
    before = json.loads(bucle("release", "list", "-p", project, "--json").stdout)["releases"][-1]["version"]
    done = bucle("feedback", "learn", "intenciones", "-p", project, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["release"]["version"] == before + 1
    assert found["release"]["aliases"] == ["production"]
    assert found["feedback"]["new_labels"] == ["queja_formal"]
    assert all(gate["passed"] for gate in found["gates"])
    again = bucle("feedback", "learn", "intenciones", "-p", project)
    assert again.returncode == 2
    assert "adds no new row" in again.stderr
    rerun = bucle("run", project)
    assert rerun.returncode == 0
    assert "release promote" in rerun.stdout  # the replay's version 2 is not what production serves now


@pytest.mark.slow
def test_an_endpoint_that_is_down_is_not_scored_as_a_bad_model(tmp_path: Path) -> None:
    project = build_tiny(tmp_path / "tiny", models={"gpt": {
        "kind": "openai", "base_url": "http://127.0.0.1:9/v1", "model": "m", "api_key_env": ""}})
    done = bucle("run", project)
    assert done.returncode == 3
    assert "cannot be reached" in done.stderr
    assert "zero-shot" not in json.dumps(_scored(project))


def test_a_file_taken_out_of_exports_comes_back(copy: Callable[[], Path]) -> None:
    project = copy()
    head = next((project / ".bucle" / "exports").glob("candidate-*/head.json"))
    head.unlink()
    fresh = project / "fresh.tsv"
    fresh.write_text("texto\tintencion\nno tengo internet\taveria_internet\nquiero darme de baja\tbaja_contrato\n")
    done = bucle("evaluate", fresh, "-p", project)
    assert done.returncode == 0, done.stderr


def _scored(project: Path) -> list[str]:
    with closing(sqlite3.connect(project / ".bucle" / "ledger.db")) as db:
        return [row[0] for row in db.execute("SELECT name FROM steps WHERE name LIKE 'score %'")]
