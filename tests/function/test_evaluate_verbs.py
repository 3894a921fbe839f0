"""`bucle evaluate` as a user runs it: gates and what a build server reads, rows learned from, imported evaluations."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from command import Running, answer, bucle, told
from small_project import build_tiny

from bucle.cli.main import main

HEADER = "id\ttexto\tintencion\n"
FRESH = [("a1", "se ha ido la luz en toda la calle", "averia_luz"), ("a2", "no tengo internet", "averia_internet"),
         ("a3", "quiero el contrato a nombre de mi hija", "cambio_titular"),
         ("a4", "explicadme el importe de la factura", "consultar_factura")]


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = build_tiny(tmp_path_factory.mktemp("tiny") / "p", rows=150)
    done = bucle("run", folder, "-q")
    assert done.returncode == 0, done.stderr
    return folder


def here(capsys: pytest.CaptureFixture[str], *args: str | Path, code: int = 0) -> Any:
    """What `bucle evaluate ARGS --json` says, in this process: a dozen take as long as one in its own."""
    status = 0
    try:
        main(["evaluate", *map(str, args), "--json"])
    except SystemExit as end:
        status = int(end.code or 0)
    out, err = capsys.readouterr()
    assert status == code, out + err
    return json.loads(out)


def table(path: Path, rows: list[tuple[str, str, str]], end: str = "\n") -> Path:
    path.write_bytes((HEADER + "".join("\t".join(row) + "\n" for row in rows)).replace("\n", end).encode())
    return path


def learned(folder: Path) -> list[tuple[str, str, str]]:
    """Rows of the project's own file that have a text and a label."""
    lines = (folder / "data" / "mensajes.tsv").read_text("utf-8").splitlines()
    names = lines[0].split("\t")
    rows = [dict(zip(names, line.split("\t"), strict=False)) for line in lines[1:]]
    return [(f"z{i}", row["texto"], row["intencion"]) for i, row in enumerate(rows)
            if len(row["texto"]) > 60 and row["intencion"]]


def test_gates_decide_the_exit_code_and_reach_the_build_server(
    released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh, junit, summary = table(tmp_path / "fresh.tsv", FRESH, "\r\n"), tmp_path / "o.xml", tmp_path / "step"
    env = {"GITHUB_STEP_SUMMARY": str(summary)}
    asked = ("evaluate", fresh, "-p", released, "--junit", junit, "--gate", "accuracy >= 0.99 at 95%",
             "--gate", "p95_ms <= 5000")
    found = here(capsys, *asked[1:], code=1)
    assert [check["passed"] for check in found["gates"]["checks"]] == [False, True]
    done = bucle(*asked, "--summary", env=env)
    assert done.returncode == 1
    assert "does not pass: accuracy >= 0.99 at 95% (" in done.stderr
    assert "  FAIL accuracy >= 0.99 at 95%" in done.stdout
    suites = ElementTree.parse(junit).getroot()  # noqa: S314 -- our own
    assert (suites.get("tests"), suites.get("failures")) == ("2", "1")
    assert "❌" in summary.read_text()
    assert "| accuracy |" in summary.read_text()
    assert here(capsys, fresh, "-p", released)["gates"]["checks"][0]["gate"] == "accuracy >= 0.1"


def test_rows_that_were_learned_from_are_told(
    released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = learned(released)[:3]
    near = [(f"n{i}", text.upper() + " gracias", label) for i, text, label in known[:2]]
    mixed = table(tmp_path / "mixed.tsv", [*FRESH, known[2], *near])
    found = here(capsys, mixed, "-p", released)
    overlap = found["overlap"]
    assert (overlap["exact"], overlap["near"], overlap["fresh"], found["seen"]) == (1, 2, 4, 1)
    assert [row["source"] for row in overlap["rows"]] == ["mixed.tsv:6", "mixed.tsv:7", "mixed.tsv:8"]
    assert all(row["learned_from"].startswith("mensajes.tsv:") for row in overlap["rows"])
    assert overlap["metrics"]["accuracy"]["n"] == 4
    alone = here(capsys, table(tmp_path / "fresh.tsv", FRESH), "-p", released)
    assert alone["overlap"]["metrics"] is None
    assert overlap["metrics"]["accuracy"] == alone["metrics"]["accuracy"]
    text = told("evaluate", mixed, "-p", released)
    assert re.search(r"accuracy +0\.\d+ .* fresh rows alone 0\.", text)
    assert "warning: 1 of these texts stand in the training rows, 2 nearly stand there" in text


def test_a_sentence_two_hundred_times_is_one_row_and_labels_nobody_knows_are_told(
    released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    many = table(tmp_path / "many.tsv", [(f"m{n}", FRESH[0][1] + "!" * (n % 3), FRESH[0][2]) for n in range(200)])
    found = here(capsys, many, "-p", released, "--gate", "accuracy >= production")
    accuracy = found["metrics"]["accuracy"]
    assert accuracy["high"] - accuracy["low"] > 0.7
    assert (found["repeated"]["rows"], found["repeated"]["sources"]) == (200, 1)
    check = found["gates"]["checks"][0]
    assert (check["compared"], check["note"]) == (False, "nothing to compare: this is production")
    wrong = table(tmp_path / "wrong.tsv", [(i, text, label.title() + " ") for i, text, label in FRESH])
    text = told("evaluate", wrong, "-p", released, "--gate", "accuracy >= production")
    assert "warning: 4 rows have a label that the task does not know: " in text
    assert "averia_luz for 'Averia_Luz" in text
    assert "  -  accuracy >= production" in text
    assert "pass accuracy" not in text


def test_a_metric_of_the_project_s_own_runs_with_trust_and_only_then(released: Path, tmp_path: Path) -> None:
    project = build_tiny(tmp_path / "own", rows=150)
    (project / "mine.py").write_text("def same(output: str, reference: str):\n    return output == reference\n")
    text = (project / "bucle.yaml").read_text("utf-8")
    (project / "bucle.yaml").write_text(text.replace("accuracy >= 0.1", "mine:same >= 0.1"), "utf-8")
    done = bucle("run", project, "-q")
    assert done.returncode == 2, done.stderr
    assert "nobody has said that it may run" in done.stderr
    assert "bucle run --trust" in done.stderr
    assert "bucle.yaml:" in done.stderr
    done = bucle("run", project, "-q", "--trust")
    assert done.returncode == 0, done.stderr
    fresh = table(tmp_path / "fresh.tsv", FRESH)
    assert "pass mine:same >= 0.1" in told("evaluate", fresh, "-p", project, "--trust")


def test_what_cannot_be_measured_is_told(
    released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # in this process: a dozen of them take as long as one alone
    table(tmp_path / "fresh.tsv", FRESH)
    table(tmp_path / "header.tsv", [])
    (tmp_path / "empty.tsv").write_bytes(b"")
    (tmp_path / "other.tsv").write_text("mensaje\tintencion\nhola\taveria_luz\n")
    cases = {
        ("header.tsv",): "no",
        ("empty.tsv",): "no rows",
        ("gone.tsv",): "gone.tsv does not exist",
        ("other.tsv",): "texto",
        ("fresh.tsv", "--gate", "acuracy >= 0.9"): "did you mean accuracy?",
        ("fresh.tsv", "--task", "x"): "There is no task `x`",
        ("fresh.tsv", "--release", "v9"): "v9",
        ("fresh.tsv", "--summary", "fresh.tsv"): "is Markdown",
        ("fresh.tsv", "--junit", "no/x.xml"): "is no folder",
        ("import", "fresh.tsv"): "no evaluation that Bucle reads",
        ("compare", "evaluation:1", "evaluation:2"): "evaluation:1",
        ("lm-eval", "x", "--model", "a", "--release", "1"): "two different things",
    }
    for args, said in cases.items():
        junit = ("--junit", "o.xml") if args[0].endswith(".tsv") and "--junit" not in args else ()
        with pytest.raises(SystemExit) as end:
            main(["evaluate", *args, "-p", str(released), *junit])
        told = capsys.readouterr().err
        assert (end.value.code, said in told) == (2, True), (args, told)
        assert "\n  -> " in told, args
    assert (tmp_path / "fresh.tsv").read_text("utf-8").startswith(HEADER), "a data file is never written into"
    assert ElementTree.parse("o.xml").getroot().get("errors") == "1"  # noqa: S314 -- our own


def test_a_run_that_fails_its_gate_writes_what_a_build_server_reads(tmp_path: Path) -> None:
    folder = build_tiny(tmp_path / "p", rows=60)
    text = (folder / "bucle.yaml").read_text().replace("accuracy >= 0.1", "accuracy >= 0.99 at 95%")
    (folder / "bucle.yaml").write_text(text)
    done = bucle("run", folder, "-q", "--junit", tmp_path / "r.xml", f"--summary={tmp_path / 'r.md'}")
    assert done.returncode == 1, done.stderr
    root = ElementTree.parse(tmp_path / "r.xml").getroot()  # noqa: S314 -- our own
    assert (root.get("tests"), root.get("failures")) == ("1", "1")
    assert "| tfidf |" in (tmp_path / "r.md").read_text() or "**tfidf**" in (tmp_path / "r.md").read_text()


def test_imported_evaluations(released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert here(capsys, "imported", "-p", released) == {"evaluations": []}
    for name, value in (("a", "I"), ("b", "C")):
        log = {"status": "success", "eval": {"task": "caps", "model": name, "created": "2026-01-02"},
               "samples": [{"id": i, "input": "x", "target": "y",
                            "scores": {"match": {"value": value if i % 2 else "C"}}}
                           for i in range(20)]}
        (tmp_path / f"{name}.json").write_text(json.dumps(log))
        here(capsys, "import", tmp_path / f"{name}.json", "-p", released)
    ids = {one["model"]: one["id"] for one in here(capsys, "imported", "-p", released)["evaluations"]}
    found = here(capsys, "compare", ids["a"], ids["b"], "-p", released)["metrics"]["match"]
    assert (found["a"], found["b"], found["difference"]["n"]) == (0.5, 1.0, 20)
    assert found["difference"]["low"] > 0
    assert "evaluation" in told("why", ids["a"], "-p", released)
    (tmp_path / "c.json").write_text((tmp_path / "a.json").read_text()[:-40])  # cut off, as by a full disk
    (tmp_path / "d.eval").write_bytes(b"no archive")
    some = here(capsys, "import", tmp_path, "-p", released, code=1)
    assert {one["model"] for one in some["evaluations"]} == {"a", "b"}
    assert [one["file"] for one in some["bad"]] == ["c.json", "d.eval"]


def test_the_harness_is_named_where_it_is_missing(
    released: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if importlib.util.find_spec("lm_eval"):
        pytest.skip("lm-evaluation-harness is installed")
    with pytest.raises(SystemExit) as end:
        main(["evaluate", "lm-eval", "hellaswag", "-p", str(released), "--release", "production"])
    assert end.value.code == 2
    assert "pip install 'bucle[lm-eval]'" in capsys.readouterr().err


TASK = """
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import exact
from inspect_ai.solver import generate

@task
def intents():
    return Task(dataset=[Sample(id=i, input=t, target=x) for i, t, x in {rows!r}], solver=generate(), scorer=[exact()])
"""


@pytest.mark.slow
def test_inspect_asks_a_served_candidate(released: Path, tmp_path: Path) -> None:
    """A real Inspect run against `bucle serve`; its log comes back with the score that bucle evaluate gives."""
    pytest.importorskip("inspect_ai", reason="pip install inspect-ai")
    (tmp_path / "intents.py").write_text(TASK.format(rows=FRESH))
    with Running("serve", released, "--port", "0", log=tmp_path / "serve.log") as server:
        url = re.search(r"http://127\.0\.0\.1:\d+/v1", server.wait_for("/v1/chat"))
        assert url is not None
        done = subprocess.run(
            [sys.executable, "-m", "inspect_ai", "eval", "intents.py", "--model", "openai-api/bucle/intenciones",
             "--log-dir", "logs", "--display", "none"], cwd=tmp_path, capture_output=True, text=True, timeout=200,
            env=os.environ | {"BUCLE_BASE_URL": url[0], "BUCLE_API_KEY": "-"})
        assert done.returncode == 0, done.stderr
    (found,) = answer("evaluate", "import", tmp_path / "logs", "-p", released)["evaluations"]
    assert (found["tool"], found["rows"], found["status"]) == ("inspect", 4, "success")
    ours = answer("evaluate", table(tmp_path / "fresh.tsv", FRESH), "-p", released)["metrics"]["accuracy"]
    assert found["metrics"]["exact"]["value"] == ours["value"]
