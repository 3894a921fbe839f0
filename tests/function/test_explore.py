"""`bucle explore` as a user runs it: the report, its JSON, and what changed since the version before."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import pytest
from command import answer, bucle, told
from small_project import build_tiny

MODELS = {
    "nano": {"kind": "pretrain", "context": 128},
    "lejano": {"kind": "openai", "base_url": "http://127.0.0.1:9/v1", "model": "gpt-4o-mini", "api_key_env": ""},
    "perdido": {"kind": "local", "path": "./no-hay"},
}


def test_the_report_the_figures_and_a_quick_second_look(tmp_path: Path) -> None:
    folder = build_tiny(tmp_path / "p", models=MODELS)
    out = tmp_path / "datos.html"
    found = answer("explore", "-p", folder, "-o", out)
    task = found["tasks"]["intenciones"]
    assert (found["report"], found["documents"]) == (str(out), None)
    assert task["rows"] == task["sampled"] == 90
    counts = [label["count"] for label in task["labels"].values()]
    assert sum(counts) == 90
    assert counts == sorted(counts, reverse=True)
    nano, far, lost = task["tokens"]
    assert (nano["note"], nano["window"]) == ("untrained", 128)
    assert far["estimate"]
    assert far["tokens"]["max"] > 0
    assert lost["note"] == "unavailable"
    assert len(task["topics"]["points"]) == 90
    assert task["topics"]["vectors"] == "tfidf"
    assert task["changes"] is None
    assert all(one["source"].startswith("mensajes.tsv:") for one in task["suspects"] + task["outliers"])
    page = out.read_text("utf-8")
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "default-src &#39;none&#39;; style-src" in page
    began = time.monotonic()
    assert answer("explore", "-p", folder, "-o", out) == found
    assert time.monotonic() - began < 3
    assert out.read_text("utf-8") == page
    text = told("explore", "-p", folder, "--task", "intenciones")
    assert "tokens by nano: not trained yet: bucle run" in text
    assert "tokens by lejano (an estimate)" in text


def test_what_changed_since_the_last_version(tmp_path: Path) -> None:
    folder = build_tiny(tmp_path / "p")
    told("explore", "-p", folder)
    path = folder / "data" / "mensajes.tsv"
    lines = path.read_bytes().decode().splitlines()
    head = lines[0].split("\t")
    label = head.index("intencion")
    fields = lines[1].split("\t")
    was, fields[label] = fields[label], "reclamar_cobro" if fields[label] != "reclamar_cobro" else "averia_luz"
    new = [lines[0], "\t".join(fields), *lines[3:], lines[4].replace(lines[4].split("\t")[0], "nueva-1", 1)]
    path.write_bytes("\r\n".join(new).encode())  # Windows line ends are no change
    changes = answer("explore", "-p", folder)["tasks"]["intenciones"]["changes"]
    assert (changes["relabelled"], changes["removed"], changes["added"]) == (1, 1, 1)
    assert changes["shown"]["relabelled"][0]["was"] == was
    assert "bucle data diff" in told("explore", "-p", folder)


def test_mistakes_are_explained(tmp_path: Path) -> None:
    folder = build_tiny(tmp_path / "p")
    for args in (("--task", "nada"), ("-o", tmp_path / "no" / "hay" / "x.html"), ("-o", tmp_path)):
        done = bucle("explore", "-p", folder, *args)
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr


def test_personal_data_that_was_found_is_told_with_what_was_done_about_it(tmp_path: Path) -> None:
    words = ("luz", "gas", "agua", "fibra", "router", "recibo", "cuota", "plazo", "aval", "firma", "alta", "baja")
    rows = [f"{a} {b} {a}{n}@example.org;{'factura' if n % 2 else 'contacto'}"
            for n, (a, b) in enumerate(zip(words * 2, words[3:] + words[:3] + words[7:] + words[:7], strict=True))]
    (tmp_path / "d.csv").write_text("texto;etiqueta\n" + "\n".join(rows) + "\n", "utf-8")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("# Ayuda\n\nPara dudas del contrato escribe a ayuda@example.com hoy.\n")
    (tmp_path / "bucle.yaml").write_text(
        "project: p\ndata: {documents: {path: docs}}\n"
        "tasks:\n  t: {kind: classify, data: d.csv, text: texto, label: etiqueta}\n"
    )
    found = answer("explore", "-p", tmp_path)
    task, documents = found["tasks"]["t"], found["documents"]
    assert (task["personal"], task["personal_done"], task["personal_left"]) == ({"email": 24}, {"email": "mask"}, {})
    assert (documents["personal"]["email"], documents["personal_left"]) == (1, {})
    page = (tmp_path / ".bucle" / "explore.html").read_text("utf-8")
    assert "No se encontró ninguno" not in page
    assert "enmascarados" in page
    text = told("explore", "-p", tmp_path)
    assert "personal data found: 24 email (masked)" in text
    assert "1 email (masked)" in text


@pytest.mark.slow
def test_going_back_to_earlier_rows_is_compared_with_what_was_current_until_then(tmp_path: Path) -> None:
    folder = build_tiny(tmp_path / "p")
    path = folder / "data" / "mensajes.tsv"
    first = path.read_bytes()
    told("data", "list", "-p", folder)
    path.write_bytes(first + b"\t".join([b"otra-9", *first.splitlines()[7].split(b"\t")[1:]]) + b"\n")
    second = answer("explore", "-p", folder)["tasks"]["intenciones"]
    path.write_bytes(first)
    third = answer("explore", "-p", folder)["tasks"]["intenciones"]
    diff = answer("data", "diff", "intenciones", "-p", folder)
    assert (diff["before"]["version"], diff["after"]["version"]) == (2, 1)
    assert diff["counts"]["added"] == 0
    assert diff["counts"]["removed"] == second["changes"]["added"] == third["changes"]["removed"]
