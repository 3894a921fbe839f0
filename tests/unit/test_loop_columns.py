"""The columns of an answer task, found by name wherever its rows are read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bucle.core.errors import BadInput
from bucle.execute import Runner
from bucle.loop.label_pool import pool, pool_rows
from bucle.loop.measure import fresh_rows
from bucle.loop.row_step import examples_step, task_columns
from bucle.loop.workspace import Workspace

HEADS = [
    "pregunta,respuesta,documento", "Consulta,Respuesta,Fuente", "question,answer,document", "QUESTION,Target,Doc",
    "texto,respuesta,ruta",
]
ROWS = "¿Cuánto cuesta la luz?,Diez euros,tarifas.md\r\n¿Y el gas?,,\r\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "tarifas.md").write_text("# Tarifas\n\nLa luz cuesta diez euros.\n", "utf-8")
    return tmp_path


def opened(folder: Path, head: str, task: str = "", rows: str = ROWS) -> Workspace:
    (folder / "q.csv").write_bytes(f"\ufeff{head}\r\n{rows}".encode())
    (folder / "bucle.yaml").write_text(
        "project: p\nlanguage: es\ndata: {documents: {path: docs}}\ntasks:\n"
        f"  faq: {{kind: answer, data: q.csv{task}}}\n")
    return Workspace.open(folder)


@pytest.fixture(params=HEADS)
def ws(request: pytest.FixtureRequest, folder: Path) -> Iterator[Workspace]:
    one = opened(folder, request.param)
    yield one
    one.close()


def test_spanish_and_english_names_are_found_everywhere(ws: Workspace) -> None:
    said = [("¿Cuánto cuesta la luz?", "Diez euros", "tarifas.md"), ("¿Y el gas?", None, "")]
    assert task_columns(ws.config.tasks["faq"]) == {}
    step = examples_step(ws, Runner(ws.ledger), "faq")
    assert [(r.input, r.target, r.document) for r in ws.examples(step["dataset"])] == said
    assert [(r.input, r.target, r.document) for r in pool_rows(ws, "faq")] == said
    fresh, left_out = fresh_rows(ws, "faq", ws.rows_file("faq"))
    assert ([(r.input, r.target, r.document) for r in fresh], left_out.total()) == (said, 0)


def test_a_column_that_bucle_yaml_names_wins_and_must_be_there(folder: Path) -> None:
    head = "pregunta,otra,respuesta,documento"
    rows = "a b c,¿Y la luz?,Diez,tarifas.md\n"
    ws = opened(folder, head, ", question: otra", rows)
    assert [r.input for r in pool_rows(ws, "faq")] == ["¿Y la luz?"]
    ws.close()
    ws = opened(folder, head, ", question: question", rows)  # named, though it is the usual name
    with pytest.raises(BadInput, match="no column 'question'"):
        examples_step(ws, Runner(ws.ledger), "faq")
    ws.close()


def test_a_draft_in_spanish_columns_is_a_draft(folder: Path) -> None:
    ws = opened(folder, "pregunta,respuesta,documento,status", "",
                "¿Y la luz?,Diez,tarifas.md,draft\n¿Y el gas?,Once,tarifas.md,\n")
    found = pool(ws, "faq")
    assert [(r.input, r.target) for r in found.rows.values()] == [("¿Y la luz?", None), ("¿Y el gas?", "Once")]
    assert list(found.drafts.values()) == ["Diez"]
    ws.close()
