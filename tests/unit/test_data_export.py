"""Rows written for other tools, and read back to the same rows."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from bucle.core.errors import BadInput
from bucle.core.records import Example
from bucle.data.export import export_rows
from bucle.data.tables import read_examples

NASTY = [
    'hola, "mundo"',
    "dos\nlíneas",
    "tab\ty coma,",
    "🦊 ñ\u2028fin",
    "x;y|z",
    "a" * 3000,
    "con 'comilla'",
    "línea\r\nwindows",
]
KEPT = ("input", "target", "group", "at", "language", "document")


def classify(texts: list[str]) -> list[Example]:
    return [
        Example(
            id=f"example:{i}",
            input=t,
            target=f"et,iq {i % 3}",
            group=f"g{i}",
            at="2026-01-02",
            language="es",
            source=f"f.tsv:{i + 2}",
            span=(i, i + 5),
        )
        for i, t in enumerate(texts)
    ]


def answers() -> list[Example]:
    return [
        Example(id="example:a", input="¿Cuánto cuesta?", target="19,95 euros", document="docs/a.md", language="es"),
        Example(id="example:b", input="¿Y en Marte?", target=None, language="es", labelled_by="Ana"),
    ]


def same(read: list[Example], rows: list[Example]) -> None:
    def key(row: Example) -> tuple[Any, ...]:
        values = [getattr(row, name) for name in KEPT]
        return tuple(v.replace("\r\n", "\n") if isinstance(v, str) else v for v in values)

    assert [key(r) for r in read] == [key(r) for r in rows]


@pytest.mark.parametrize("format", ["jsonl", "csv", "parquet"])
def test_what_is_exported_is_read_back_as_it_was(tmp_path: Path, format: Any) -> None:
    rows = classify(NASTY)
    path = tmp_path / f"out.{format}"
    told = export_rows(rows, path, format, "classify", {"example:0": "train", "example:1": "test"})
    assert told["rows"] == {"train": 1, "test": 1, "left out": len(rows) - 2}
    assert told.get("neutralised", 0) == 0
    read, problems = read_examples(path, "classify")
    assert not problems
    same(read, rows)
    path = tmp_path / f"answers.{format}"
    export_rows(answers(), path, format, "answer", {})
    same(read_examples(path, "answer")[0], answers())
    assert not list(tmp_path.glob(".export-*"))


def test_a_spreadsheet_runs_no_cell(tmp_path: Path) -> None:
    evil = ['=HYPERLINK("http://x")', "+1+1", "-2", "@SUM(A1)", "\t=1", "bien = sí"]
    told = export_rows(classify(evil), tmp_path / "a.csv", "csv", "classify", {})
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file))
    cells = [line[lines[0].index("text")] for line in lines[1:]]
    assert cells == ["'" + e for e in evil[:5]] + evil[5:]
    assert told["neutralised"] == 5
    assert not any(cell[0] in "=+-@\t\r" for line in lines for cell in line if cell)


def test_a_hub_folder_holds_each_side_and_is_loaded_by_its_library(tmp_path: Path) -> None:
    import yaml

    rows = classify([f"fila {i}" for i in range(12)])
    sides = {r.id: ("train", "validation", "test")[i % 3] for i, r in enumerate(rows)}
    export_rows(iter(rows), tmp_path / "hub", "huggingface", "classify", sides)
    card = yaml.safe_load((tmp_path / "hub" / "README.md").read_text().split("---")[1])
    files = {f["split"]: tmp_path / "hub" / f["path"] for f in card["configs"][0]["data_files"]}
    assert list(files) == ["train", "validation", "test"]
    for side, path in files.items():
        same(read_examples(path, "classify")[0], [r for r in rows if sides[r.id] == side])


def test_chats_to_fine_tune_on_have_the_roles_that_apis_take(tmp_path: Path) -> None:
    export_rows(answers(), tmp_path / "c.jsonl", "openai", "answer", {}, instruction="Responde breve.")
    first, second = map(json.loads, (tmp_path / "c.jsonl").read_text("utf-8").splitlines())
    assert [m["role"] for m in first["messages"]] == ["system", "user", "assistant"]
    assert first["messages"][2]["content"] == "19,95 euros"
    assert second["messages"][2]["content"] == "NO CONSTA."
    assert set(first) == {"messages"}


def test_a_failed_export_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("kept")

    def broken() -> Any:
        yield classify(["a"])[0]
        raise BadInput("gone")

    with pytest.raises(BadInput, match="gone"):
        export_rows(broken(), path, "jsonl", "classify", {})
    with pytest.raises(BadInput, match="no row"):
        export_rows([], path, "jsonl", "classify", {})
    assert path.read_text() == "kept"
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]
