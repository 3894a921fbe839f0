"""A finished project whose data change: what is untouched is kept, and a run from the files is not judged by what
feedback taught the version after it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from command import bucle
from small_project import SAMPLE


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
