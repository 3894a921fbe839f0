"""`bucle data versions | diff | show | export | bootstrap` as a user runs them; a deletion reaches every index."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import answer, bucle, told
from small_project import build_tiny

DOCUMENTS = {
    "gas.md": "# Gas\n\nLa inspección periódica del gas se hace cada cinco años. El reenganche cuesta 18,08 euros.\n",
    "luz.md": "# Luz\n\nLa tarifa Luz Fija cuesta 19,95 euros al mes. La lectura se toma cada dos meses.\n",
    "secreto.md": "# Fraude\n\nEl desbloqueo cuesta 7788 euros. La clave maestra se guarda en la caja gris.\n",
}
QUESTIONS = [
    {"question": "¿Cada cuánto se hace la inspección del gas?", "answer": "cada cinco años", "document": "gas.md"},
    {"question": "¿Cuánto cuesta el reenganche?", "answer": "18,08 euros", "document": "gas.md"},
    {"question": "¿Cuánto cuesta Luz Fija?", "answer": "19,95 euros al mes", "document": "luz.md"},
    {"question": "¿Cada cuánto se toma la lectura?", "answer": "cada dos meses", "document": "luz.md"},
    {"question": "¿Qué precio tiene el reenganche del gas?", "answer": "18,08 euros", "document": "gas.md"},
    {"question": "¿La inspección periódica del gas es cada cuántos años?", "answer": "cada cinco años",
     "document": "gas.md"},
    {"question": "¿Qué precio tiene la tarifa Luz Fija?", "answer": "19,95 euros al mes", "document": "luz.md"},
    {"question": "¿La lectura de la luz se toma cada cuántos meses?", "answer": "cada dos meses", "document": "luz.md"},
    {"question": "¿Cuál es la capital de Mongolia?", "answer": "", "document": ""},
    {"question": "¿Dónde se guarda la clave maestra?", "answer": "en la caja gris", "document": "secreto.md"},
]


def library(folder: Path) -> Path:
    """A project of three documents and ten questions that quotes."""
    (folder / "docs").mkdir(parents=True)
    for name, text in DOCUMENTS.items():
        (folder / "docs" / name).write_text(text, "utf-8")
    (folder / "preguntas.jsonl").write_text(
        "".join(json.dumps(q, ensure_ascii=False) + "\n" for q in QUESTIONS), "utf-8"
    )
    (folder / "bucle.yaml").write_text(
        "project: mini\nlanguage: es\ndata: {documents: {path: docs}}\nsplit: {test: 0.4, validation: 0.2}\n"
        "tasks: {respuestas: {kind: answer, data: preguntas.jsonl}}\n"
        "models: {minilm: {kind: encoder}}\nchoose: {candidates: [quote, retrieve]}\n",
        "utf-8",
    )
    return folder


@pytest.mark.slow
def test_versions_are_numbered_as_they_come_and_compared(tmp_path: Path) -> None:
    project = build_tiny(tmp_path / "p")
    rows = project / "data" / "mensajes.tsv"
    assert "no version yet" in told("data", "versions", "-p", project)
    bucle("data", "list", "-p", project)
    only = answer("data", "diff", "-p", project, code=2)
    assert "nothing to compare" in only["error"]["message"]
    first = rows.read_text("utf-8")
    lines = first.splitlines(keepends=True)
    cells = lines[2].split("\t")
    assert cells[2] != "otra_cosa"
    lines[2] = "\t".join([*cells[:2], "otra_cosa", *cells[3:]])
    gone = lines.pop(5)
    lines.append("m-x\tUn mensaje que no estaba\totra_cosa\t2026-03-01\tc-9\n")
    rows.write_text("".join(lines), "utf-8")
    bucle("data", "list", "-p", project)

    listed = answer("data", "versions", "-p", project)["versions"]
    assert [(v["version"], v["n"], v["current"]) for v in listed] == [(1, 90, False), (2, 90, True)]
    assert all(v["origin"].startswith("mensajes.tsv ") for v in listed)
    diff = answer("data", "diff", "-p", project)
    assert diff["counts"] == {
        "added": 1,
        "removed": 1,
        "relabelled": 1,
        "edited": 0,
        "unchanged": 88,
        "changed_side": 0,
    }
    assert diff["confusion"] == [{"before": cells[2], "after": "otra_cosa", "n": 1}]
    assert diff["relabelled"][0]["after"]["source"] == "mensajes.tsv:3"
    assert diff["removed"][0]["input"] == gone.split("\t")[1].strip()
    said = told("data", "diff", "intenciones", "1", listed[1]["node"][:20], "-p", project)
    assert f"[{cells[2]} -> otra_cosa]" in said
    assert "no row changed side" in said
    back = answer("data", "diff", "intenciones", "v2", "v1", "-p", project)["counts"]
    assert (back["added"], back["removed"], back["relabelled"]) == (1, 1, 1)

    shown = answer("data", "show", "mensajes.tsv:3", "-p", project)
    assert (shown["target"], shown["task"], shown["version"]) == ("otra_cosa", "intenciones", 2)
    assert shown["side"] in {"train", "validation", "test"}
    assert [h["labels"][0]["target"] for h in shown["history"]] == [cells[2], "otra_cosa"]
    assert shown["file"]["same"] is True
    if shown["span"]:
        assert cells[1] in shown["file"]["bytes"]
    assert answer("data", "show", shown["id"][:20], "-p", project)["id"] == shown["id"]
    assert answer("data", "show", cells[1], "-p", project)["id"] == shown["id"]

    rows.write_text(first, "utf-8")  # put back: the version that it was
    assert answer("data", "show", "mensajes.tsv:3", "-p", project)["file"]["same"] is False
    bucle("data", "list", "-p", project)
    again = answer("data", "versions", "-p", project)["versions"]
    assert [(v["version"], v["current"]) for v in again] == [(1, True), (2, False)]

    wrong = answer("data", "show", "mensajes.tsv:9999", "-p", project, code=2)
    assert "mensajes.tsv:9" in wrong["error"]["hint"]
    for args in (
        ("diff", "intenciones", "9"),
        ("versions", "nada"),
        ("diff", "nada"),
        ("show", ""),
        ("show", "chunk:0"),
    ):
        assert answer("data", *args, "-p", project, code=2)["error"]["hint"]


@pytest.mark.parametrize(
    "name", ["out.jsonl", *(pytest.param(n, marks=pytest.mark.slow) for n in ("out.csv", "out.parquet", "hub"))]
)
def test_an_export_is_the_data_of_another_project(tmp_path: Path, name: str) -> None:
    project = build_tiny(tmp_path / "p")
    bucle("data", "list", "-p", project)
    out = tmp_path / name
    done = answer("data", "export", "-o", out, "-p", project)
    assert sum(done["rows"].values()) == 90
    assert set(done["rows"]) >= {"train", "test"}
    assert "is there already" in answer("data", "export", "-o", out, "-p", project, code=2)["error"]["message"]
    answer("data", "export", "-o", out, "--force", "-p", project)
    for own in (project / "data" / "mensajes.tsv", project / "bucle.yaml"):
        kept = own.read_bytes()
        answer("data", "export", "-o", own, "--force", "--format", "csv", "-p", project, code=2)
        assert own.read_bytes() == kept
    if name == "hub":
        return
    other = build_tiny(tmp_path / "q", tasks={"otra": {"kind": "classify", "data": f"../{name}"}})
    bucle("data", "list", "-p", other)
    assert answer("data", "versions", "otra", "-p", other)["versions"][0]["n"] == 90
    chats = tmp_path / "chats.jsonl"
    told_ = answer("data", "export", "-o", chats, "--format", "openai", "-p", project)
    assert list(told_["rows"]) == ["train"], "held-out rows are no training data"


def test_a_team_with_no_examples_starts_from_drafts(tmp_path: Path) -> None:
    project = library(tmp_path / "p")
    (project / "preguntas.jsonl").unlink()
    said = told("data", "bootstrap", "-n", "6", "-p", project)
    assert "DRAFTS BY RULES" in said
    rows = [json.loads(line) for line in (project / "preguntas.jsonl").read_text("utf-8").splitlines()]
    assert {r["status"] for r in rows} == {"draft"}
    assert {"18,08 euros", "cada cinco años", "19,95 euros al mes"} <= {r["answer"] for r in rows}
    unread = answer("data", "list", "-p", project, code=2)["error"]
    assert f"{len(rows)} draft" in unread["message"]
    assert "bucle label start respuestas" in unread["hint"]
    corrected = [{k: v for k, v in row.items() if k != "status"} for row in rows]
    (project / "corregidas.jsonl").write_text("".join(json.dumps(r) + "\n" for r in corrected), "utf-8")
    settings = project / "bucle.yaml"
    settings.write_text(settings.read_text("utf-8").replace("preguntas.jsonl", "corregidas.jsonl"), "utf-8")
    listed = answer("data", "list", "-p", project)["list"]
    assert any(f"{len(rows)} rows of respuestas" in row["title"] for row in listed)
    assert (
        "is there already"
        in answer("data", "bootstrap", "-o", project / "preguntas.jsonl", "-p", project, code=2)["error"]["message"]
    )
    assert answer("data", "bootstrap", "--model", "gpt", "-o", tmp_path / "x.jsonl", "-p", project, code=2)["error"][
        "hint"
    ]


@pytest.mark.torch
def test_a_deleted_document_is_in_no_passage_no_index_and_no_answer(tmp_path: Path) -> None:
    from bucle.loop.api import Project

    project = library(tmp_path / "p")
    assert bucle("run", project).returncode == 0
    shown = answer("data", "show", "secreto.md", "-p", project)
    assert shown["indexed"]
    assert shown["releases"] == [1]
    chunk = shown["chunks"][0]["id"]
    assert answer("data", "show", chunk, "-p", project)["releases"] == [1]
    before = Project(project)
    ask = ["¿Dónde se guarda la clave maestra?", "La clave maestra se guarda en la caja gris"]
    assert any(chunk in p.chunks for p in before.predict("respuestas", ask))
    before.close()

    (project / "docs" / "secreto.md").unlink()
    (project / "docs" / "luz.md").rename(project / "docs" / "electricidad.md")
    assert bucle("run", project).returncode == 0
    diff = answer("data", "diff", "documents", "-p", project)
    assert [d["path"] for d in diff["deleted"]] == ["secreto.md"]
    assert diff["renamed"] == [{"before": "luz.md", "after": "electricidad.md"}]
    after = Project(project)
    newest = after.workspace.ledger.nodes("index")[-1]
    chunks = after.workspace.ledger.read(newest, "chunks.jsonl").decode()
    assert chunk not in chunks
    assert "secreto.md" not in chunks
    assert "clave maestra" not in chunks
    for p in after.predict("respuestas", ask):
        assert chunk not in (*p.chunks, *p.citations)
        assert "caja gris" not in p.output
    after.close()
    gone = answer("data", "show", "secreto.md", "-p", project)
    assert (gone["current"], gone["versions"]) == (False, [1])


@pytest.mark.torch
@pytest.mark.slow
def test_a_labelled_document_is_hidden_at_once_even_from_the_release_that_was_there_before(tmp_path: Path) -> None:
    from bucle.loop.api import Project

    project = library(tmp_path / "p")
    assert bucle("run", project).returncode == 0
    hidden = {c["id"] for c in answer("data", "show", "secreto.md", "-p", project)["chunks"]}
    settings = (project / "bucle.yaml").read_text("utf-8")
    (project / "bucle.yaml").write_text(
        settings.replace("{path: docs}", "{path: docs, access: {secreto.md: [dirección]}}"), "utf-8"
    )
    bucle("data", "list", "-p", project)
    assert answer("data", "show", "secreto.md", "-p", project)["access"] == ["dirección"]
    assert answer("data", "diff", "documents", "-p", project)["counts"]["relabelled"] == 1
    ask = ["¿Dónde se guarda la clave maestra?", "La clave maestra se guarda en la caja gris"]
    for run in (False, True):
        if run:
            assert bucle("run", project).returncode == 0
        now = Project(project)
        *asked, open_ = now.predict("respuestas", [*ask, "¿Cuánto cuesta el reenganche del gas?"])
        for p in asked:
            assert "caja gris" not in p.output
            assert not hidden & {*p.chunks, *p.citations}
        assert len(open_.chunks) >= 1, "open passages are still found"
        now.close()
    drafts = answer("data", "bootstrap", "-o", tmp_path / "d.jsonl", "-p", project)
    assert drafts["labelled_left_out"] == 1
    assert "secreto.md" not in (tmp_path / "d.jsonl").read_text("utf-8")
