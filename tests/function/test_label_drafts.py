"""Rows that their file calls drafts: a machine's proposals, and no targets until a person confirms them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from command import BUCLE, answer, bucle, environment, told

DRAFTS = [
    {"question": f"¿Cuánto cuesta la tarifa número {n} al mes?", "answer": f"{n} euros", "document": f"d{n}.md",
     "status": "draft"} for n in range(1, 13)
]


def project(folder: Path, rows: list[dict[str, object]], encoding: str = "utf-8") -> Path:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "q.jsonl").write_text(text, encoding=encoding)
    (folder / "docs").mkdir()
    for n in range(1, 13):
        (folder / "docs" / f"d{n}.md").write_text(f"# Tarifa {n}\n\nLa tarifa número {n} cuesta {n} euros al mes.\n")
    (folder / "bucle.yaml").write_text(
        "project: p\ndata: {documents: {path: docs}}\ntasks:\n  faq: {kind: answer, data: q.jsonl}\n"
    )
    return folder


@pytest.mark.slow
def test_drafts_are_left_out_asked_about_and_in_the_data_once_confirmed(tmp_path: Path) -> None:
    folder = project(tmp_path, DRAFTS)
    none = bucle("data", "list", "-p", folder)
    assert none.returncode == 2
    assert "12 draft" in none.stderr
    assert "bucle label start faq" in none.stderr
    asked = answer("label", "next", "faq", "--by", "ana", "--overlap", "0", "-n", "12", "-p", folder)["rows"]
    assert {row["proposal"]["label"] for row in asked} == {f"{n} euros" for n in range(1, 13)}
    assert all(row["label"] is None and "draft" in row["proposal"]["by"] for row in asked)
    said = subprocess.run([*BUCLE, "label", "start", "faq", "--by", "ana", "--overlap", "0", "-p", str(folder)],
                          input="\notra respuesta\n\n\n\n\n\n\n\nq\n", capture_output=True, text=True,
                          env=environment(), timeout=60)
    assert "9 labelled in this session" in said.stdout, said.stdout + said.stderr
    listed = told("data", "problems", "-p", folder)
    assert listed.count("draft") >= 3
    rows = [row for n in range(1, 13) if (row := bucle("data", "show", f"q.jsonl:{n}", "--json", "-p", folder)).stdout]
    targets = [json.loads(row.stdout).get("target") for row in rows if row.returncode == 0]
    assert "otra respuesta" in targets


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_another_status_or_none_is_a_row_as_ever(tmp_path: Path, encoding: str) -> None:
    rows = [dict(row) for row in DRAFTS]
    rows[0]["status"] = "reviewed"
    del rows[1]["status"]
    rows[2]["status"] = " Draft "
    for row in rows[3:]:
        row["status"] = ""
    folder = project(tmp_path, rows, encoding)
    assert "draft" in told("data", "problems", "-p", folder)
    left = answer("label", "status", "faq", "-p", folder)
    assert (left["rows"], left["left"], left["proposed"]) == (12, 1, 1)


def test_a_status_that_is_the_label_is_no_review(tmp_path: Path) -> None:
    lines = [f"mensaje {n} de prueba;{'draft' if n % 2 else 'final'}" for n in range(20)]
    (tmp_path / "d.csv").write_text("text;status\n" + "\n".join(lines) + "\n")
    (tmp_path / "bucle.yaml").write_text(
        "project: p\ntasks:\n  t: {kind: classify, data: d.csv, text: text, label: status}\n"
    )
    assert answer("label", "status", "t", "-p", tmp_path)["left"] == 0
