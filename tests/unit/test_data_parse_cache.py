"""What is kept of each parsed file, retries with a password, and parsers by choice."""

from __future__ import annotations

import importlib.util
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import bucle.data.parse.pool as pool
from bucle.core.errors import ConfigError, Quarantined
from bucle.data import connect
from bucle.data.connect import SourceFile, list_files
from bucle.data.parse import parse_all, parse_file, retried, retry_file, source


def locked_pdf(password: str) -> bytes:
    from reportlab.lib.pdfencrypt import StandardEncryption
    from reportlab.pdfgen.canvas import Canvas

    buffer = io.BytesIO()
    canvas = Canvas(buffer, encrypt=StandardEncryption(password, canPrint=0))
    canvas.drawString(60, 700, "Contrato reservado de suministro")
    canvas.save()
    return buffer.getvalue()


def locked_docx(password: str) -> bytes:
    import docx
    from msoffcrypto.format.ooxml import OOXMLFile

    word, plain, locked = docx.Document(), io.BytesIO(), io.BytesIO()
    word.add_paragraph("Salarios del año")
    word.save(plain)
    plain.seek(0)
    OOXMLFile(plain).encrypt(password, locked)
    return locked.getvalue()


def docs(folder: Path) -> Path:
    home = folder / "docs"
    home.mkdir()
    (home / "a.txt").write_text("La tarifa plana cuesta veinte euros al mes.", encoding="utf-8")
    (home / "b.md").write_text("# Guía\n\nReinicie el router.\n", encoding="utf-8")
    (home / "roto.xlsx").write_bytes(b"PK\x03\x04 nada")
    (home / "cerrado.pdf").write_bytes(locked_pdf("clave-larga-7"))
    (home / "cerrado.docx").write_bytes(locked_docx("clave-larga-7"))
    return home


def test_what_was_parsed_is_not_parsed_again_also_under_another_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, cache = docs(tmp_path), tmp_path / "cache"
    first = parse_all(list_files(home), home, cache=cache)
    assert {one.path: one.reason for one in first.quarantined} == {
        "roto.xlsx": "corrupt",
        "cerrado.pdf": "encrypted",
        "cerrado.docx": "encrypted",
    }
    seen: list[int] = []
    monkeypatch.setattr(pool.Worker, "start", refuse_start)
    again = parse_all(list_files(home), home, cache=cache, report=lambda done, total, note="": seen.append(done))
    assert again == first
    assert seen == [1, 2, 3, 4, 5]
    (home / "b.md").rename(home / "c.md")
    moved = parse_all(list_files(home), home, cache=cache)
    was, now = first.documents[1], moved.documents[1]
    assert (now.path, now.title, now.language, now.blocks) == ("c.md", was.title, was.language, was.blocks)
    assert now.id != was.id


def refuse_start(*_: object) -> None:
    raise AssertionError("a worker was started")


def test_labels_and_origin_of_a_file_are_its_documents(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hola a todos los clientes", encoding="utf-8")
    listed = list_files(tmp_path)[0]
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        file = SourceFile(listed.path, listed.size, listed.sha256, ("jefes",), "https://example.com/a")
        document = parse_all([file], tmp_path, cache=cache).documents[0]
        assert (document.access, document.origin) == (("jefes",), "https://example.com/a")


def test_a_damaged_entry_is_read_anew_and_a_timeout_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    home, cache = tmp_path / "docs", tmp_path / "cache"
    (home / "a.txt").write_text("La tarifa plana cuesta veinte euros al mes.", encoding="utf-8")
    slow = parse_all(list_files(home), home, cache=cache, timeout_s=0.001)
    assert [one.reason for one in slow.quarantined] == ["timeout"]
    first = parse_all(list_files(home), home, cache=cache)
    assert [one.path for one in first.documents] == ["a.txt"]
    (entry,) = cache.rglob("*.json")
    entry.write_bytes(entry.read_bytes()[:40])
    assert parse_all(list_files(home), home, cache=cache) == first


@pytest.mark.parametrize("name", ["cerrado.pdf", "cerrado.docx"])
def test_a_retry_with_its_password_is_remembered_and_the_password_is_not(tmp_path: Path, name: str) -> None:
    home, cache = docs(tmp_path), tmp_path / "cache"
    parse_all(list_files(home), home, cache=cache)
    assert retried(cache) == ""
    file = next(one for one in list_files(home) if one.path == name)
    without = retry_file(file, home, cache=cache)
    assert (without.document, without.reason) == (None, "encrypted")
    wrong = retry_file(file, home, cache=cache, password="otra")
    assert wrong.reason == "encrypted"
    assert "does not open" in wrong.message
    assert retried(cache) == ""
    right = retry_file(file, home, cache=cache, password="clave-larga-7")
    assert right.document is not None
    assert len(retried(cache)) == 64
    after = parse_all(list_files(home), home, cache=cache)
    assert name in {one.path for one in after.documents}
    kept = b"".join(one.read_bytes() for one in cache.rglob("*") if one.is_file())
    assert b"clave-larga-7" not in kept
    assert b"otra" not in kept


def test_a_wrong_password_in_the_environment_is_no_verdict(tmp_path: Path) -> None:
    home, cache = docs(tmp_path), tmp_path / "cache"
    files = [one for one in list_files(home) if one.path == "cerrado.pdf"]
    assert parse_all(files, home, cache=cache, passwords={"cerrado.pdf": "otra"}).quarantined
    assert parse_all(files, home, cache=cache).quarantined[0].message.endswith("It needs a password.")
    assert parse_all(files, home, cache=cache, passwords={"cerrado.pdf": "clave-larga-7"}).documents


KILLED = """
import sys
from pathlib import Path
from bucle.data.connect import list_files
from bucle.data.parse import parse_all
home = Path(sys.argv[1])
parse_all(list_files(home), home, cache=Path(sys.argv[2]), report=lambda d, t, n="": print(d, flush=True))
"""


def test_a_killed_run_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, cache = tmp_path / "docs", tmp_path / "cache"
    home.mkdir()
    for number in range(300):
        (home / f"{number}.md").write_text(f"# Nota {number}\n\n" + "La factura llega. " * 200, encoding="utf-8")
    running = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(home), str(cache)], stdout=subprocess.PIPE, start_new_session=True
    )
    assert running.stdout is not None
    for _ in range(40):
        running.stdout.readline()
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    running.stdout.close()
    kept = len(list(cache.rglob("*.json")))
    assert 40 <= kept < 300
    asked: list[str] = []
    ask = pool.Worker.ask
    monkeypatch.setattr(pool.Worker, "ask", lambda self, request: (asked.append(request["rel"]), ask(self, request))[1])
    result = parse_all(list_files(home), home, cache=cache)
    assert len(result.documents) == 300
    assert len(asked) == 300 - kept


def test_a_parser_that_is_not_there_says_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# Hola", encoding="utf-8")
    with pytest.raises(ConfigError) as unknown:
        parse_all(list_files(tmp_path), tmp_path, parsers={".md": "nadie"})
    assert "builtin, docling, unstructured" in unknown.value.hint
    if importlib.util.find_spec("docling") is None:
        with pytest.raises(ConfigError) as missing:
            parse_all(list_files(tmp_path), tmp_path, parsers={"md": "docling"})
        assert 'pip install "docling"' in missing.value.hint
    assert parse_all(list_files(tmp_path), tmp_path, parsers={".md": "builtin"}).documents


@pytest.mark.parametrize("name", ["docling", "unstructured"])
def test_the_real_library_reads_through_the_port(tmp_path: Path, name: str) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed: pip install {name}")
    if name == "unstructured" and importlib.util.find_spec("en_core_web_sm") is None:
        pytest.skip("unstructured's model is absent: python -m spacy download en_core_web_sm")
    import docx

    word = docx.Document()
    word.add_heading("Bajas", 1)
    word.add_paragraph("La baja se pide por escrito y con quince días de antelación.")
    table = word.add_table(rows=2, cols=2)
    for at, text in enumerate(["Motivo", "Plazo", "Mudanza", "15 días"]):
        table.cell(at // 2, at % 2).text = text
    word.save(str(tmp_path / "a.docx"))
    (tmp_path / "b.md").write_text("# Router\n\nReinicie.\n\n| A | B |\n|---|---|\n| 1.10 | 2 |\n", encoding="utf-8")
    result = parse_all(list_files(tmp_path), tmp_path, parsers={".docx": name, ".md": name})
    assert result.quarantined == []
    word_read, notes = result.documents
    assert word_read.title == "Bajas"
    assert {block.place for block in word_read.blocks} == {"section Bajas"}
    tables = [block.text for one in (word_read, notes) for block in one.blocks if block.kind == "table"]
    assert tables == [
        "| Motivo | Plazo |\n| --- | --- |\n| Mudanza | 15 días |",
        "| A | B |\n| --- | --- |\n| 1.10 | 2 |",
    ]


def test_a_missing_package_is_not_called_corrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.md").write_text("# Hola\n\nmundo", encoding="utf-8")
    monkeypatch.setitem(sys.modules, "markdown_it", None)
    with pytest.raises(Quarantined) as refused:
        parse_file(tmp_path / "a.md", "a.md")
    assert refused.value.reason == "missing-package"
    assert "pip install markdown-it-py." in refused.value.message


def test_the_limit_on_a_file_is_the_listings() -> None:
    assert source.MAX_FILE_BYTES == connect.MAX_FILE_BYTES


def test_a_thousand_kept_files_are_found_in_under_two_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, cache = tmp_path / "docs", tmp_path / "cache"
    home.mkdir()
    for number in range(1000):
        (home / f"{number}.txt").write_text(f"Nota {number}: la factura llega a fin de mes.", encoding="utf-8")
    files = list_files(home)
    first = parse_all(files, home, cache=cache)
    monkeypatch.setattr(pool.Worker, "start", refuse_start)
    began = time.monotonic()
    assert parse_all(files, home, cache=cache) == first
    assert time.monotonic() - began < 2
