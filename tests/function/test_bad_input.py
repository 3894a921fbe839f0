"""What goes wrong for a user: one fact and the next command, the right exit code, and nothing lost."""

from __future__ import annotations

import json
import os
import resource
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from command import BUCLE, Running, answer, bucle, environment, told
from small_project import build, build_tiny

Copy = Callable[[], Path]


def fails(*args: str | Path, code: int, **options: object) -> str:
    """The complaint of `bucle ARGS`: at most three lines, with the next step and no traceback; the same as JSON."""
    done = bucle(*args, "--json", **options)  # type: ignore[arg-type]
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    said = done.stderr[done.stderr.index("bucle: "):]
    assert said.count("\n") <= 3, said
    error = json.loads(done.stdout)["error"]
    assert error["hint"]
    assert said == f"bucle: {error['message']}\n  -> {error['hint']}\n"
    return said


def edited(folder: Path, old: str, new: str) -> Path:
    path = folder / "bucle.yaml"
    text = path.read_text("utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), "utf-8")
    return folder


@pytest.mark.parametrize(("old", "new", "fact", "next_"), [
    ("language: es", "langage: es", "bucle.yaml:2: unknown key `langage`", "`language`"),
    ("language: es", "language: es\nseed: siete", "bucle.yaml:3: `seed`", ""),
    ("language: es", "language: es\nlanguage: en", "bucle.yaml:3: `language` stands here a second time", ""),
    ("kind: classify", "kind: clasify", "bucle.yaml:5: `tasks.intenciones.kind` cannot be `clasify`",
     "`classify`"),
    ("text: texto", "text: txto", "no column 'txto'; the nearest is 'texto'", "id, texto, intencion"),
    ("mensajes.tsv", "mensjes.tsv", "mensjes.tsv does not exist", "bucle.yaml"),
    ("accuracy >= 0.1", "acuracy >= 0.1", "unknown metric, acuracy", "accuracy"),
    ("accuracy >= 0.1", "accuracy is high", "the gate `accuracy is high` cannot be read", "accuracy >= "),
    ("language: es", "choose: {candidates: [tfdif]}", "no technique `tfdif`", "`tfidf`"),
    ("language: es", "choose: {models: [nano]}", "choose.models names `nano`", "Known:"),
    ("language: es", "choose: {techniques: {ful: {epochs: 1}}}", "no technique `ful`", "`full`"),
    ("language: es", "replay: {log: data/none.jsonl, task: intenciones}", "none.jsonl does not exist", "bucle.yaml"),
    ("language: es", "replay: {log: data/mensajes.tsv, task: intenciones}", "mensajes.tsv:1: not a log entry",
     "id, at"),
    ("tasks:", "tasks: [", "not valid YAML", ""),
])
def test_a_mistake_in_bucle_yaml(tmp_path: Path, old: str, new: str, fact: str, next_: str) -> None:
    folder = edited(build_tiny(tmp_path / "p"), old, new)
    said = fails("run", folder, code=2)
    assert fact in said
    assert next_ in said.partition("->")[2]


def test_a_complaint_to_a_person_leaves_standard_output_empty(tmp_path: Path) -> None:
    done = bucle("run", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"bucle: {tmp_path}/bucle.yaml does not exist.\n  -> bucle init {tmp_path}\n"


def test_rows_that_cannot_be_used_are_counted_with_their_line(tmp_path: Path) -> None:
    folder = build_tiny(tmp_path / "p")
    lines = (folder / "data" / "mensajes.tsv").read_text("utf-8").splitlines()[1:]
    labels = sorted({line.split("\t")[2] for line in lines})
    edited(folder, "text: texto", f"text: texto\n    labels: [{', '.join(labels)}]")
    with (folder / "data" / "mensajes.tsv").open("a", encoding="utf-8") as file:
        file.write("m-1\t\taveria_luz\t2026-03-07\tc-1\nm-2\tse fue la luz\taveria_lus\t2026-03-07\tc-2\n"
                   "m-3\tno tengo luz\t\t2026-03-07\tc-3\n")
    problems = answer("data", "problems", "-p", folder)["problems"]
    assert [(p["source"], p["reason"]) for p in problems] == [
        ("mensajes.tsv:92", "empty-text"), ("mensajes.tsv:93", "unknown-label"), ("mensajes.tsv:94", "missing-label")]
    assert "averia_luz" in problems[1]["detail"]
    assert "90 rows, 3 left out" in told("explore", "-p", folder)


def test_a_file_without_one_usable_row(tmp_path: Path) -> None:
    folder = build_tiny(tmp_path / "p")
    (folder / "data" / "mensajes.tsv").write_text("texto\tintencion\n\taveria_luz\n\taveria_luz\n", "utf-8")
    said = fails("run", folder, code=2)
    assert "no row that can be used" in said
    assert "2 empty-text" in said


def test_files_that_cannot_be_read_are_quarantined(tmp_path: Path) -> None:
    folder = build_tiny(tmp_path / "p", data={"documents": {"path": "docs"}})
    docs = folder / "docs"
    docs.mkdir()
    (docs / "good.md").write_text("# Horario\n\nAtendemos de nueve a dos, de lunes a viernes.\n", "utf-8")
    (docs / "empty.html").write_text("")
    (docs / "broken.docx").write_bytes(b"PK\x03\x04" + bytes(range(256)))
    (docs / "broken.xlsx").write_bytes(os.urandom(500))
    (docs / "broken.pdf").write_bytes(b"%PDF-1.7\n" + b"\x00" * 200)
    rows = answer("data", "quarantine", "-p", folder)["quarantine"]
    assert {r["path"] for r in rows} == {"empty.html", "broken.docx", "broken.xlsx", "broken.pdf"}
    assert all(r["reason"] and r["message"] for r in rows)


@pytest.mark.torch
def test_a_model_that_cannot_be_loaded(tmp_path: Path) -> None:
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}')
    (pickled / "pytorch_model.bin").write_bytes(b"\x80\x04cposix\nsystem\n")
    folder = build_tiny(tmp_path / "p", models={"own": {"kind": "local", "path": str(pickled)}})
    said = fails("run", folder, code=3)
    assert "pytorch_model.bin" in said
    assert "safetensors" in said
    folder = build_tiny(tmp_path / "q", models={"own": {"kind": "local", "path": "nadie/no-existe"}})
    assert "nadie/no-existe" in fails("run", folder, code=3)
    folder = build_tiny(tmp_path / "r", models={"own": {"kind": "encoder", "path": str(tmp_path / "nothing")}})
    assert "nothing" in fails("run", folder, code=3)


@pytest.mark.torch
def test_a_port_in_use(finished: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = fails("serve", finished, "--port", str(port), code=3)
    assert f"port {port} on 127.0.0.1 is in use" in said
    assert f"bucle serve --port {port + 1}" in said


def test_an_address_that_others_reach_needs_a_key(finished: Path) -> None:
    assert "BUCLE_API_KEYS" in fails("serve", finished, "--host", "0.0.0.0", "--port", "0", code=2)  # noqa: S104


def test_what_is_not_there(finished: Path, tmp_path: Path) -> None:
    for args in (("why", "trace:ffff"), ("feedback", "add", "ffff", "--rating", "1"), ("impact", "nada.pdf"),
                 ("release", "card", "9"), ("release", "rollback", "9"), ("evaluate", "nada.tsv"),
                 ("feedback", "import", "nada.csv"), ("feedback", "preview", "nada"), ("tune", "--technique", "nada"),
                 ("explore", "--task", "nada")):
        fails(*args, "-p", finished, code=2)
    fails("run", tmp_path / "nowhere", code=2)
    fails("serve", finished, "--release", "9", code=2)
    fails("feedback", "add", "-p", finished, code=2)
    assert "`report`" in fails("reprot", code=2)
    assert "--list" in fails("choose", "--lst", code=2)
    assert "run" in fails("report", build_tiny(tmp_path / "fresh"), code=2)
    assert "run" in fails("serve", tmp_path / "fresh", code=2)


def test_init_explains_what_it_cannot_guess(tmp_path: Path) -> None:
    tiny = build_tiny(tmp_path / "p")
    assert "already there" in fails("init", tiny, code=2)
    assert "does not exist" in fails("init", tmp_path / "q", "--from", tmp_path / "none.csv", code=2)
    numbers = tmp_path / "numbers.csv"
    numbers.write_text("a,b\n" + "".join(f"{i},{i * i}\n" for i in range(40)))
    fails("init", tmp_path / "r", "--from", numbers, code=2)
    fails("init", tmp_path / "s", "--from", tiny / "data" / "mensajes.tsv", "--label", "etiqueta", code=2)
    assert not (tmp_path / "r").exists()
    assert not (tmp_path / "s").exists()


@pytest.mark.torch
def test_two_runs_at_once(tmp_path: Path) -> None:
    folder = build(tmp_path / "p")
    with Running("run", folder, log=tmp_path / "log") as first:
        first.wait_for("documents (")
        said = fails("run", folder, code=3)
        assert first.process.poll() is None
    assert "Another bucle run is working in" in said


def test_a_gate_that_fails_releases_nothing_and_is_reported(tmp_path: Path) -> None:
    folder = edited(build_tiny(tmp_path / "p"), "accuracy >= 0.1", "accuracy >= 0.99")
    said = fails("run", folder, code=1)
    assert "`intenciones` does not pass its gate: accuracy >= 0.99 (0." in said
    assert "Nothing was released" in said
    story = answer("report", folder)
    assert [gate["passed"] for gate in story["gates"]] == [False]
    assert story["releases"] == []
    assert "accuracy &gt;= 0.99" in Path(told("report", folder).strip()).read_text("utf-8")
    assert "Nothing has been released" in fails("serve", folder, code=2)
    edited(folder, "accuracy >= 0.99", "accuracy >= 0.05")
    done = answer("run", folder)
    assert [r["version"] for r in done["releases"]] == [1]
    assert done["reused"] == done["steps"] - 3  # the gate, the fit on every row and the release are what is left


def test_a_gate_that_fails_leaves_production_as_it_was(copy: Copy) -> None:
    folder = copy()
    gates = yaml.safe_load((folder / "bucle.yaml").read_text("utf-8"))["tasks"]["intenciones"]["gates"]
    edited(folder, gates[0], "accuracy >= 0.999")
    assert "0.999" in fails("run", folder, code=1)
    rows = answer("release", "-p", folder)["releases"]
    assert [(r["version"], r["production"]) for r in rows] == [(1, False), (2, True)]


def test_a_full_disk(tmp_path: Path) -> None:
    """On a real, small file system where this user may mount one; elsewhere with a limit on the size of a file."""
    disk = tmp_path / "disk"
    disk.mkdir()
    small = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", str(disk)], capture_output=True)
    if small.returncode:
        file_limit(build_tiny(tmp_path / "p"))
        return
    try:
        folder = build_tiny(disk / "p", rows=400)
        said = fails("run", folder, code=3)
        assert "is full" in said
        assert "nothing finished is lost" in said
        subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
        done = answer("run", folder)
        assert done["reused"] >= 1
        assert [r["version"] for r in done["releases"]] == [1]
        assert all(check["ok"] for check in answer("doctor", folder, code=3)["checks"] if check["name"] != "disk")
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def file_limit(folder: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    done = subprocess.run([*BUCLE, "run", str(folder)], capture_output=True, text=True, env=environment(),
                          preexec_fn=limit, timeout=120)
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    assert answer("run", folder)["gates_passed"]


def test_a_file_may_not_grow(tmp_path: Path) -> None:
    file_limit(build_tiny(tmp_path / "p"))


def test_a_ledger_that_is_no_database(finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "p"))
    for name in ("ledger.db-wal", "ledger.db-shm"):
        (folder / ".bucle" / name).unlink(missing_ok=True)
    (folder / ".bucle" / "ledger.db").write_bytes(b"not a database" * 1000)
    assert "ledger.db" in fails("run", folder, code=3)
