"""Files that cannot or must not be read cost themselves, and say why."""

from __future__ import annotations

import io
import time
import zipfile
from pathlib import Path

import pytest

from bucle.core.errors import NotFound, Quarantined
from bucle.data.connect import SourceFile, list_files
from bucle.data.parse import parse_all, parse_file

MESSY = Path(__file__).parents[2].parent / "shared" / "data" / "messy"
LAUGHS = (
    '<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "ja">'
    + "".join(f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(9))
    + "]><w:document>&j;</w:document>"
)


def office(parts: dict[str, bytes | str], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def hostile() -> dict[str, tuple[bytes, str]]:
    import docx

    word = io.BytesIO()
    docx.Document().save(word)
    parts: dict[str, bytes | str] = {}
    with zipfile.ZipFile(word) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    return {
        "laughs.docx": (office({**parts, "word/document.xml": LAUGHS}), "zip-bomb"),
        "laughs16.docx": (office({**parts, "word/document.xml": LAUGHS.encode("utf-16")}), "zip-bomb"),
        "bomb.xlsx": (office({"xl/workbook.xml": b"0" * 40_000_000}), "zip-bomb"),
        "many.epub": (office({f"{n}.x": "" for n in range(10_001)}), "zip-bomb"),
        "nada.txt": (b"", "empty"),
        "blanco.md": (b" \n\t\n", "empty"),
        "vacio.docx": (word.getvalue(), "empty"),
        "corta.pdf": (b"%PDF-1.7\n1 0 obj <<", "corrupt"),
        "cortado.docx": (word.getvalue()[:2000], "corrupt"),
        "otra.xlsx": (office({"hola.txt": "hola"}), "corrupt"),
        "binario.txt": (bytes(range(256)) * 20, "unknown-format"),
        "foto.jpg": (b"\xff\xd8\xff\xe0 not text", "unknown-format"),
        "viejo.docx": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "unknown-format"),
        "cifrado.docx": (
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "EncryptedPackage".encode("utf-16-le") + bytes(600),
            "encrypted",
        ),
        "hondo.html": (b"<div>" * 50_000 + b"hola a todos" + b"</div>" * 50_000, ""),
    }


def test_each_hostile_file_is_refused_with_its_true_reason_and_the_good_one_is_read(tmp_path: Path) -> None:
    expected = {}
    for name, (data, reason) in hostile().items():
        (tmp_path / name).write_bytes(data)
        expected[name] = reason
    (tmp_path / "bueno.txt").write_text("La tarifa plana cuesta veinte euros al mes.", encoding="utf-8")
    seen: list[tuple[int, int]] = []
    result = parse_all(list_files(tmp_path), tmp_path, report=lambda done, total, note="": seen.append((done, total)))
    reasons = {one.path: one.reason for one in result.quarantined}
    assert {name: reasons.get(name) for name, reason in expected.items() if reason} == {
        name: reason for name, reason in expected.items() if reason
    }
    assert [(one.path, one.language) for one in result.documents if one.path == "bueno.txt"] == [("bueno.txt", "es")]
    assert seen == [(n + 1, len(expected) + 1) for n in range(len(expected) + 1)]
    assert len(result.documents) + len(result.quarantined) == len(expected) + 1


PLUGIN = """
import os, time
class Parser:
    media_types = ("application/x-trampa",)
    def parse(self, path):
        what = path.read_text()
        if what == "cuelga": time.sleep(600)
        if what == "muere": os._exit(7)
        if what == "engorda": bytearray(8 * 2**30)
        if what == "habla": print('{"document": "falso"}', flush=True)
        from bucle.core.records import Block
        return "t", [Block(text=what + " " + os.environ.get("OPENAI_API_KEY", "sin clave"))]
"""


def test_a_worker_that_hangs_dies_or_swells_costs_its_file_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = tmp_path / "plugin"
    (plugin / "trampa-1.dist-info").mkdir(parents=True)
    (plugin / "trampa.py").write_text(PLUGIN)
    (plugin / "trampa-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: trampa\nVersion: 1\n")
    (plugin / "trampa-1.dist-info" / "entry_points.txt").write_text("[bucle.parsers]\ntrampa = trampa:Parser\n")
    monkeypatch.setenv("PYTHONPATH", str(plugin))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secreta")
    mimes = tmp_path / "docs"
    mimes.mkdir()
    for name in ("cuelga", "muere", "engorda", "habla", "bien"):
        (mimes / f"{name}.trampa").write_text(name)
    (plugin / "sitecustomize.py").write_text("import mimetypes; mimetypes.add_type('application/x-trampa', '.trampa')")
    began = time.monotonic()
    result = parse_all(list_files(mimes), mimes, timeout_s=3, workers=2)
    assert time.monotonic() - began < 20
    assert {one.path: one.reason for one in result.quarantined} == {
        "cuelga.trampa": "timeout",
        "muere.trampa": "corrupt",
        "engorda.trampa": "out-of-memory",
    }
    assert {one.path: one.text for one in result.documents} == {
        "bien.trampa": "bien sin clave",
        "habla.trampa": "habla sin clave",
    }


def test_too_large_is_told_from_the_listing_and_from_the_file(tmp_path: Path) -> None:
    (tmp_path / "g.txt").write_bytes(b"hola " * 1000)
    files = list_files(tmp_path, limit_bytes=100)
    assert files == [SourceFile("g.txt", 5000, "")]
    assert [one.reason for one in parse_all(files, tmp_path, limit_bytes=100).quarantined] == ["too-large"]
    with pytest.raises(Quarantined, match="over 100 bytes"):
        parse_file(tmp_path / "g.txt", "g.txt", limit_bytes=100)


def test_a_path_that_leads_out_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "fuera.txt").write_text("secreto de otra carpeta")
    (tmp_path / "docs").mkdir()
    result = parse_all([SourceFile("../fuera.txt", 5, "x")], tmp_path / "docs")
    assert result.documents == []
    assert "leads out" in result.quarantined[0].message


def test_listing_is_sorted_skips_the_hidden_and_follows_no_link_out(tmp_path: Path) -> None:
    root = tmp_path / "docs"
    (root / "b").mkdir(parents=True)
    (root / ".git").mkdir()
    (tmp_path / "fuera.txt").write_text("x")
    for name in ("b/z.txt", "a.md", ".oculto", ".git/config", "~$abierto.docx"):
        (root / name).write_text(name)
    (root / "enlace.txt").symlink_to(tmp_path / "fuera.txt")
    (root / "carpeta").symlink_to(tmp_path)
    (root / "dentro.txt").symlink_to(root / "a.md")
    assert [file.path for file in list_files(root)] == ["a.md", "b/z.txt", "dentro.txt"]
    assert [file.path for file in list_files(root, ["**/*.txt"])] == ["b/z.txt", "dentro.txt"]
    assert [file.path for file in list_files(root, ["*.md", "b/*"])] == ["a.md", "b/z.txt"]
    assert len({file.sha256 for file in list_files(root)}) == 2
    with pytest.raises(NotFound):
        list_files(tmp_path / "no")


def test_forty_small_files_take_about_three_seconds(tmp_path: Path) -> None:
    import docx
    import openpyxl

    for number in range(10):
        (tmp_path / f"{number}.txt").write_text(f"Nota {number}: la factura llega a fin de mes.", encoding="utf-8")
        (tmp_path / f"{number}.html").write_text(
            f"<h1>Aviso {number}</h1><p>Corte de luz el lunes.</p>", encoding="utf-8"
        )
        word = docx.Document()
        word.add_paragraph(f"Contrato {number} de suministro.")
        word.save(str(tmp_path / f"{number}.docx"))
        book = openpyxl.Workbook()
        book.active.append(["Tarifa", number])
        book.save(tmp_path / f"{number}.xlsx")
    began = time.monotonic()
    result = parse_all(list_files(tmp_path), tmp_path)
    assert time.monotonic() - began < 12  # 1.3 s on an idle machine; this one may be shared
    assert len(result.documents) == 40


@pytest.mark.skipif(not MESSY.is_dir(), reason=f"{MESSY} is absent: real messy files cannot be tried")
def test_every_real_messy_file_is_read_or_refused_truly() -> None:
    files = list_files(MESSY)
    result = parse_all(files, MESSY)
    assert {one.path: one.reason for one in result.quarantined} == {
        "password.pdf": "encrypted",
        "single_table.pdf": "empty",
    }
    assert len(result.documents) == len(files) - 2
    opened = parse_all(
        [file for file in files if file.path == "password.pdf"], MESSY, passwords={"password.pdf": "password"}
    )
    assert len(opened.documents) == 1
