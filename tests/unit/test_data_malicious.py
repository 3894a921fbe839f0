"""Files made to harm: each costs itself only. Time and memory are bounded, nothing is written, nothing is fetched."""

from __future__ import annotations

import io
import json
import random
import socket
import time
import zipfile
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path

import pytest

from bucle.core.errors import Quarantined
from bucle.data.connect import list_files
from bucle.data.parse import parse_all, parse_file

LAUGHS = (
    '<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "ja">'
    + "".join(f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(9))
    + "]>"
)
GOOD = "La tarifa plana cuesta veinte euros al mes."
LONG = 50 * 2**20
TEN_GB = 10 * 2**30


def zipped(parts: dict[str, bytes | str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def bomb() -> bytes:
    """A zip of 10 MB that unpacks to 10 GB of zeros: one deflated gigabyte, named ten times by the directory."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        with archive.open("0.txt", "w") as entry:
            for _ in range(1024):
                entry.write(bytes(2**20))
        first = archive.infolist()[0]
        for number in range(1, 10):
            again = zipfile.ZipInfo(f"{number}.txt")
            for field in ("compress_type", "compress_size", "file_size", "CRC", "header_offset", "flag_bits"):
                setattr(again, field, getattr(first, field))
            archive.filelist.append(again)
            archive.NameToInfo[again.filename] = again
    return buffer.getvalue()


@pytest.fixture(scope="module")
def small_bomb() -> bytes:
    data = bomb()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert sum(entry.file_size for entry in archive.infolist()) == TEN_GB
    assert len(data) < 12 * 2**20
    return data


def office_with(kind: str, part: str, xml: str) -> bytes:
    """A real, empty office file in which `part` was swapped."""
    buffer = io.BytesIO()
    if kind == "docx":
        import docx

        docx.Document().save(buffer)
    else:
        import openpyxl

        openpyxl.Workbook().save(buffer)
    with zipfile.ZipFile(buffer) as archive:
        parts: dict[str, bytes | str] = {name: archive.read(name) for name in archive.namelist()}
    return zipped({**parts, part: xml})


def mailed(name: str, data: bytes) -> bytes:
    mail = EmailMessage()
    mail["From"], mail["Subject"] = "a@example.com", "hola"
    mail.set_content(GOOD)
    mail.add_attachment(data, maintype="application", subtype="octet-stream", filename=name)
    return mail.as_bytes()


def looped_pdf() -> bytes:
    """A PDF whose page tree is its own child, and has a second kid that is its parent."""
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [2 0 R 3 0 R] /Count 2147483647 >>",
        b"<< /Type /Pages /Parent 2 0 R /Kids [2 0 R 3 0 R] /Count 1000000 >>",
    ]
    out, offsets = bytearray(b"%PDF-1.7\n"), []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(out)
    out += b"xref\n0 4\n0000000000 65535 f \n" + b"".join(b"%010d 00000 n \n" % at for at in offsets)
    return bytes(out + b"trailer << /Size 4 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % start)


def read_alone(folder: Path, files: dict[str, bytes], **options: float) -> tuple[dict[str, str], dict[str, str]]:
    """Reasons and texts by path, from files parsed beside a good one, which must be read all the same."""
    docs = folder / "docs"
    docs.mkdir()
    for name, data in files.items():
        (docs / name).write_bytes(data)
    (docs / "bueno.txt").write_text(GOOD, encoding="utf-8")
    before = sorted(folder.rglob("*"))
    result = parse_all(list_files(docs), docs, **options)
    assert sorted(folder.rglob("*")) == before, "a parser wrote a file"
    texts = {one.path: one.text for one in result.documents}
    assert texts.pop("bueno.txt") == GOOD
    for one in result.quarantined:
        assert ".." not in one.message
        assert "Traceback" not in one.message
        assert one.message.endswith(".")
    return {one.path: one.reason for one in result.quarantined}, texts


def test_names_that_climb_out_of_an_archive_lead_nowhere(tmp_path: Path) -> None:
    climbing = zipped(
        {
            "../../fuera.txt": "uno " + GOOD,
            "/etc/passwd.txt": "dos " + GOOD,
            "..\\..\\windows.txt": "tres " + GOOD,
            "C:\\temp\\c.txt": "cuatro " + GOOD,
            "a/../../b.txt": "cinco " + GOOD,
        }
    )
    reasons, _ = read_alone(tmp_path, {"sube.zip": climbing, "correo.eml": mailed("../../../x.txt", b"seis")})
    assert reasons == {}
    document = parse_file(tmp_path / "docs" / "sube.zip", "sube.zip")
    names = {block.place.removeprefix("file ").split(",")[0] for block in document.blocks}
    assert names == {"fuera.txt", "etc/passwd.txt", "windows.txt", "temp/c.txt", "a/b.txt"}
    mail = parse_file(tmp_path / "docs" / "correo.eml", "correo.eml")
    assert mail.blocks[-1].place == "attachment x.txt, line 1"


def test_a_link_in_an_archive_is_only_text(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        link = zipfile.ZipInfo("enlace.txt")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    _, texts = read_alone(tmp_path, {"enlace.zip": buffer.getvalue()})
    assert texts == {"enlace.zip": "/etc/passwd"}


def test_billion_laughs_are_not_told(tmp_path: Path) -> None:
    body = '<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body><w:p>'
    book = {
        "META-INF/container.xml": LAUGHS + "<container>&j;</container>",
        "a.xhtml": LAUGHS + "<html><body>&j;</body></html>",
    }
    page = f"<html><body><p>{GOOD}</p><svg>{LAUGHS[LAUGHS.index('<!DOCTYPE') :]}<text>&j;</text></svg></body></html>"
    began = time.monotonic()
    reasons, texts = read_alone(
        tmp_path,
        {
            "risas.docx": office_with("docx", "word/document.xml", f"{LAUGHS}{body}<w:r><w:t>&j;</w:t></w:r></w:p>"),
            "risas.xlsx": office_with("xlsx", "xl/worksheets/sheet1.xml", f"{LAUGHS}<worksheet>&j;</worksheet>"),
            "risas.epub": zipped(book),
            "risas.zip": zipped({"dentro.docx": office_with("docx", "word/document.xml", LAUGHS + "<a>&j;</a>")}),
            "risas.html": page.encode(),
            "risas.xhtml": (LAUGHS + f"<html><body><p>{GOOD} &j;</p></body></html>").encode(),
        },
    )
    assert time.monotonic() - began < 15
    assert reasons == dict.fromkeys(["risas.docx", "risas.xlsx", "risas.epub", "risas.zip"], "zip-bomb")
    assert GOOD in texts["risas.html"]
    assert all(len(text) < 2000 for text in texts.values())


def test_ten_gigabytes_in_ten_megabytes_are_not_unpacked(tmp_path: Path, small_bomb: bytes) -> None:
    began = time.monotonic()
    reasons, texts = read_alone(
        tmp_path,
        {
            "bomba.zip": small_bomb,
            "bomba.docx": small_bomb,
            "bomba.xlsx": small_bomb,
            "bomba.epub": small_bomb,
            "anidada.zip": zipped({"a.txt": GOOD, "dentro.zip": small_bomb}),
            "correo.eml": mailed("bomba.zip", small_bomb),
        },
        memory_mb=700,
    )
    assert time.monotonic() - began < 25
    assert set(reasons.values()) == {"zip-bomb"}
    assert len(reasons) == 6
    assert texts == {}


def test_archives_in_archives_in_archives_are_opened_twice_only(tmp_path: Path) -> None:
    data = GOOD.encode()
    for depth in range(6):
        data = zipped({f"nivel{depth}.{'zip' if depth else 'txt'}": data})
    reasons, texts = read_alone(tmp_path, {"munecas.zip": data})
    assert texts == {}
    assert reasons == {"munecas.zip": "too-large"}


class NoSocket(socket.socket):
    def __init__(self, *_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")


def test_nothing_is_fetched_while_a_page_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # C libraries open sockets that Python does not see
        server.settimeout(0.3)
        here = f"http://127.0.0.1:{server.getsockname()[1]}/"
        with monkeypatch.context() as patched:
            patched.setattr(socket, "socket", NoSocket)
            for number, there in enumerate(("http://169.254.169.254/latest/meta-data/", here)):
                _read_page_that_points_at(there, tmp_path, str(number))
        with pytest.raises(TimeoutError):
            server.accept()


def _read_page_that_points_at(there: str, folder: Path, stem: str) -> None:
    page = f"""<!DOCTYPE html SYSTEM "{there}x.dtd"><html><head><base href="{there}">
    <link rel=stylesheet href="{there}"><meta http-equiv=refresh content="0;url={there}">
    <script src="{there}"></script></head><body><p>{GOOD}</p>
    <img src="{there}"><iframe src="{there}"></iframe><object data="file:///etc/passwd"></object>
    <embed src="{there}"><video src="{there}"></video></body></html>"""
    external = f'<?xml version="1.0"?><!DOCTYPE a SYSTEM "{there}"><html><body><p>{GOOD}</p></body></html>'
    drawn = zipped(
        {
            "META-INF/container.xml": f'<!DOCTYPE c SYSTEM "{there}"><container '
            'xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles><rootfile full-path="p.opf"/>'
            "</rootfiles></container>",
            "p.opf": f'<!DOCTYPE c SYSTEM "{there}"><package xmlns="http://www.idpf.org/2007/opf"><manifest>'
            '<item id="a" href="a.xhtml"/></manifest><spine><itemref idref="a"/></spine></package>',
            "a.xhtml": external,
        }
    )
    files = {"p.html": page.encode(), "p.xhtml": external.encode(), "p.epub": drawn}
    for name, data in {**files, "p.eml": mailed("p.html", page.encode())}.items():
        (folder / f"{stem}{name}").write_bytes(data)
        text = parse_file(folder / f"{stem}{name}", name).text
        assert GOOD in text
        assert "root:" not in text


def test_cells_that_are_formulas_stay_text(tmp_path: Path) -> None:
    rows = 'quien,que\nana,"=HYPERLINK(""http://x"",""ver"")"\nluis,=cmd|\' /C calc\'!A0\n'
    reasons, texts = read_alone(tmp_path, {"celdas.csv": rows.encode()})
    assert reasons == {}
    assert '=HYPERLINK("http://x","ver")' in texts["celdas.csv"]
    assert "=cmd\\|' /C calc'!A0" in texts["celdas.csv"]


@pytest.mark.parametrize("name", ["linea.txt", "linea.csv", "linea.html", "linea.json", "linea.jsonl", "linea.md"])
def test_fifty_megabytes_on_one_line_are_refused_in_time(tmp_path: Path, name: str) -> None:
    word = b"hola mundo, "
    fill = word * (LONG // len(word))
    wrap = {".html": (b"<p>", b"</p>"), ".json": (b'{"a": "', b'"}'), ".jsonl": (b'{"a": "', b'"}')}
    before, after = wrap.get(Path(name).suffix, (b"", b""))
    began = time.monotonic()
    reasons, texts = read_alone(tmp_path, {name: before + fill + after})
    assert time.monotonic() - began < 30
    assert texts == {}
    assert reasons == {name: "too-large"}


def test_what_is_nested_without_end_is_refused(tmp_path: Path) -> None:
    deep = 100_000
    reasons, texts = read_alone(
        tmp_path,
        {
            "listas.json": b"[" * deep + b"1" + b"]" * deep,
            "objetos.json": b'{"a":' * deep + b"1" + b"}" * deep,
            "listas.jsonl": b"[" * deep + b"]" * deep,
            "hondo.json": json.dumps(_nested(200)).encode(),
            "hondo.html": b"<div>" * deep + GOOD.encode() + b"</div>" * deep,
            "citas.md": b">" * deep + b" hola",
            "bucle.pdf": looped_pdf(),
        },
    )
    assert {name: reasons.get(name) for name in ("listas.json", "objetos.json", "listas.jsonl", "hondo.json")} == {
        "listas.json": "corrupt",
        "objetos.json": "corrupt",
        "listas.jsonl": "corrupt",
        "hondo.json": "corrupt",
    }
    assert reasons["bucle.pdf"] in ("corrupt", "too-large", "empty")
    assert set(reasons) | set(texts) == {
        "listas.json",
        "objetos.json",
        "listas.jsonl",
        "hondo.json",
        "hondo.html",
        "citas.md",
        "bucle.pdf",
    }


def _nested(depth: int) -> object:
    value: object = "fin"
    for _ in range(depth):
        value = {"a": value}
    return value


def whole_files() -> Iterator[tuple[str, bytes]]:
    """One good file of each format."""
    import docx
    import openpyxl
    import pptx
    from reportlab.pdfgen.canvas import Canvas

    buffer = io.BytesIO()
    word = docx.Document()
    word.add_heading("Bajas", 1)
    word.add_table(rows=2, cols=2).cell(0, 0).text = GOOD
    word.save(buffer)
    yield "a.docx", buffer.getvalue()
    buffer = io.BytesIO()
    book = openpyxl.Workbook()
    book.active.append(["tarifa", "precio"])
    book.active.append(["luz", 0.14])
    book.save(buffer)
    yield "a.xlsx", buffer.getvalue()
    buffer = io.BytesIO()
    deck = pptx.Presentation()
    deck.slides.add_slide(deck.slide_layouts[1]).shapes.title.text = GOOD
    deck.save(buffer)
    yield "a.pptx", buffer.getvalue()
    buffer = io.BytesIO()
    canvas = Canvas(buffer)
    canvas.drawString(60, 700, GOOD)
    canvas.save()
    yield "a.pdf", buffer.getvalue()
    mail = mailed("nota.txt", GOOD.encode())
    yield "a.eml", mail
    yield "a.mbox", b"From a Mon Jan  1 00:00:00 2024\n" + mail + b"\nFrom b Mon Jan  1 00:00:00 2024\n" + mail
    yield "a.html", f"<html><body><h1>Bajas</h1><p>{GOOD}</p><table><tr><td>a<td>b</table></body></html>".encode()
    yield "a.md", f"# Bajas\n\n{GOOD}\n\n| a | b |\n|---|---|\n| 1 | 2 |\n".encode()
    yield "a.csv", f'a,b\n1,"{GOOD}"\n2,x\n'.encode()
    yield "a.json", json.dumps({"title": "Bajas", "filas": [{"a": 1, "b": GOOD}, {"a": 2, "b": "x"}]}).encode()
    yield "a.jsonl", (json.dumps({"a": GOOD}) + "\n").encode() * 3
    yield "a.txt", f"[12/3/24, 10:15:01] Ana: Hola\n[12/3/24, 10:16:59] Luis: {GOOD}\n".encode()
    yield "a.zip", zipped({"a.txt": GOOD, "b/c.md": "# Hola\n\nmundo"})
    container = '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
    opf = '<package xmlns="http://www.idpf.org/2007/opf"><manifest><item id="a" href="a.xhtml"/></manifest>'
    yield (
        "a.epub",
        zipped(
            {
                "META-INF/container.xml": container + '<rootfile full-path="p.opf"/></rootfiles></container>',
                "p.opf": opf + '<spine><itemref idref="a"/></spine></package>',
                "a.xhtml": f"<html><body><p>{GOOD}</p></body></html>",
            }
        ),
    )


@pytest.mark.parametrize(
    ("name", "data"), list(whole_files()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_file_cut_or_damaged_anywhere_is_read_or_refused(tmp_path: Path, name: str, data: bytes) -> None:
    """40 damaged versions of each format, the same at each run: never another error, never a hang."""
    path, chance = tmp_path / name, random.Random(name)
    path.write_bytes(data)
    assert parse_file(path, name).text
    for turn in range(40):
        spoilt = bytearray(data[: chance.randrange(len(data))] if turn % 2 else data)
        for _ in range(chance.randrange(8) if turn % 2 else 1 + chance.randrange(20)):
            if spoilt:
                spoilt[chance.randrange(len(spoilt))] = chance.randrange(256)
        path.write_bytes(spoilt)
        began, message = time.monotonic(), "."
        try:
            parse_file(path, name)
        except Quarantined as refused:
            message = refused.message
        assert message.endswith(".")
        assert ".." not in message
        assert time.monotonic() - began < 10
