"""Mailboxes, Slack exports, archives, JSON, and the corners of Office files."""

from __future__ import annotations

import io
import json
import zipfile
from email.message import EmailMessage
from pathlib import Path

import pytest

from bucle.core.errors import Quarantined
from bucle.core.records import Document
from bucle.data.connect import list_files
from bucle.data.parse import parse_all, parse_file

W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"


def parse(folder: Path, name: str, data: bytes, **options: str) -> Document:
    (folder / name).write_bytes(data)
    return parse_file(folder / name, name, **options)


def said(document: Document) -> list[tuple[str, str, str]]:
    return [(block.place, block.kind, block.text) for block in document.blocks]


def zipped(parts: dict[str, bytes | str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def mail(subject: str, body: str, **attached: bytes) -> bytes:
    message = EmailMessage()
    message["From"], message["Subject"] = "Ana <ana@example.com>", subject
    message.set_content(body)
    for name, data in attached.items():
        message.add_attachment(data, maintype="application", subtype="octet-stream", filename=name.replace("_", "."))
    return message.as_bytes()


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_mbox_reads_every_message_with_its_attachments(tmp_path: Path, end: bytes) -> None:
    first = mail("Baja", "Quiero darme de baja.\n\n>From aquí sigue la cita.", nota_txt="Línea cortada.".encode())
    second = mail("Avería", "No hay luz.")
    stamp = b"From ana@example.com Mon Mar 17 11:15:17 2014\n"
    box = (stamp + first + b"\n" + stamp + second).replace(b"\r\n", b"\n").replace(b"\n", end)
    found = said(parse(tmp_path, "b.mbox", box))
    assert ("message 1", "heading", "Baja") in found
    assert ("message 1, body", "text", "Quiero darme de baja.") in found
    assert ("message 1, body", "text", "From aquí sigue la cita.") in found
    assert ("message 1, attachment nota.txt, line 1", "text", "Línea cortada.") in found
    assert ("message 2, body", "text", "No hay luz.") in found
    assert not any(place.startswith("message 3") for place, _, _ in found)
    with pytest.raises(Quarantined, match="no mailbox"):
        parse(tmp_path, "c.mbox", b"hola\n" + box)


USERS = [{"id": "U1", "profile": {"real_name": "Ana Ruiz", "display_name": "ana", "email": "ana@example.com"}}]
DAY = [
    {"type": "message", "ts": "1710000300.000200", "user": "U2", "text": "Gracias", "thread_ts": "1710000000.000100"},
    {"type": "message", "ts": "1710000000.000100", "user": "U1", "text": "<@U1> mira &lt;esto&gt; <https://a.b|aquí>"},
    {"type": "message", "ts": "1710000100.000100", "subtype": "channel_join", "user": "U1", "text": "joined"},
    {"type": "message", "ts": "1710000200.000100", "user": "U2", "text": "Otra cosa", "files": [{"name": "foto.png"}]},
]
SAID = "ana: @ana mira <esto> aquí\nU2: Gracias\nU2: Otra cosa\n[foto.png]"


def test_slack_day_is_a_chat_with_names_from_beside(tmp_path: Path) -> None:
    (tmp_path / "general").mkdir()
    (tmp_path / "general" / "2024-03-09.json").write_text(json.dumps(DAY))
    (tmp_path / "users.json").write_text(json.dumps(USERS))
    cache = tmp_path.parent / f"{tmp_path.name}-cache"
    result = parse_all(list_files(tmp_path), tmp_path, cache=cache)
    assert said(result.documents[0]) == [("date 2024-03-09", "text", SAID)]
    assert [(one.path, one.reason) for one in result.quarantined] == [("users.json", "not-a-document")]
    (tmp_path / "users.json").write_text(json.dumps(USERS).replace('"ana"', '"anita"'))
    renamed = parse_all(list_files(tmp_path), tmp_path, cache=cache)
    assert "anita: @anita" in renamed.documents[0].text


def test_slack_archive_is_read_by_channel_and_day(tmp_path: Path) -> None:
    export = {
        "users.json": json.dumps(USERS),
        "channels.json": "[]",
        "general/2024-03-09.json": json.dumps(DAY),
        "general/2024-03-10.json": "[]",
    }
    assert said(parse(tmp_path, "slack.zip", zipped(export))) == [
        ("channel general", "heading", "#general"),
        ("channel general, date 2024-03-09", "text", SAID),
    ]


def test_whatsapp_archive_is_the_chat_in_it(tmp_path: Path) -> None:
    chat = (
        "\u200e[12/03/2024, 10:15:01 p.\xa0m.] Ana: Hola \u200e<Se editó este mensaje.>\r\n"
        "[12/03/2024, 10:16:59 p.\xa0m.] Luis: \u200e<adjunto: 0001-PHOTO.jpg>\r\n"
        "[13/03/2024, 9:00:00 a.\xa0m.] Luis: Sin luz\r\ndesde ayer\r\n"
        "[13/03/2024, 9:01:00 a.\xa0m.] Ana: Eliminaste este mensaje.\r\n"
    )
    document = parse(tmp_path, "WhatsApp Chat - Ana.zip", zipped({"_chat.txt": chat, "0001-PHOTO.jpg": b"\xff\xd8"}))
    assert said(document) == [
        ("date 12/03/2024", "text", "Ana: Hola"),
        ("date 13/03/2024", "text", "Luis: Sin luz\ndesde ayer"),
    ]


@pytest.mark.parametrize(
    "line", ["12/3/24, 10:15 a.\u202fm. - ", "3/12/24, 10:15 AM - ", "12.03.24, 10:15 - ", "12/03/2024 10:15 - "]
)
def test_android_lines_of_several_countries(tmp_path: Path, line: str) -> None:
    document = parse(tmp_path, "c.txt", f"{line}Ana: Hola\n{line}Luis: Adiós\n".encode())
    assert [block.text for block in document.blocks] == ["Ana: Hola\nLuis: Adiós"]


def test_archive_reads_documents_and_says_which_it_could_not(tmp_path: Path) -> None:
    inside = zipped({"n.md": "# Dentro\n\nTexto anidado.", "foto.png": b"x"})
    data = zipped({"a/b.txt": "Uno.", "mal.pdf": b"%PDF-1.7 x", "otro.zip": inside, ".DS_Store": b"x"})
    found = said(parse(tmp_path, "d.zip", data))
    assert ("file a/b.txt, line 1", "text", "Uno.") in found
    assert ("file otro.zip, file n.md, section Dentro", "text", "Texto anidado.") in found
    assert [text for place, _, text in found if place == "file mal.pdf"] == [
        "[mal.pdf: not read, corrupt. The PDF is cut short: its end is missing.]"
    ]
    with pytest.raises(Quarantined) as refused:
        parse(tmp_path, "m.zip", zipped({"mal.pdf": b"%PDF-1.7 x"}))
    assert refused.value.reason == "corrupt"
    with pytest.raises(Quarantined) as nothing:
        parse(tmp_path, "v.zip", zipped({"foto.png": b"x"}))
    assert nothing.value.reason == "empty"


def test_json_is_fields_headings_and_tables(tmp_path: Path) -> None:
    value = {
        "title": "Guía",
        "activo": True,
        "nada": None,
        "contacto": {"tel": "900 123", "horas": ["mañana", "tarde"]},
        "tarifas": [{"nombre": "Luz", "precio": 0.14}, {"nombre": "Gas", "precio": 0.05}],
        "notas": [{"texto": "uno", "más": {"x": 1}}],
    }
    document = parse(tmp_path, "g.json", json.dumps(value).encode())
    assert document.title == "Guía"
    assert said(document) == [
        ("", "text", "title: Guía\nactivo: true"),
        ("section contacto", "heading", "contacto"),
        ("section contacto", "text", "tel: 900 123"),
        ("section contacto > horas", "heading", "horas"),
        ("section contacto > horas", "text", "- mañana\n- tarde"),
        ("section tarifas", "heading", "tarifas"),
        ("section tarifas", "table", "| nombre | precio |\n| --- | --- |\n| Luz | 0.14 |\n| Gas | 0.05 |"),
        ("section notas", "heading", "notas"),
        ("section notas > record 1", "text", "texto: uno"),
        ("section notas > record 1 > más", "heading", "más"),
        ("section notas > record 1 > más", "text", "x: 1"),
    ]


def test_json_lines_say_their_line_and_what_is_wrong(tmp_path: Path) -> None:
    good = '\ufeff{"q": "¿Cuánto?"}\r\n\r\n{"q": "¿Cómo?"}\r\n'.encode()
    assert said(parse(tmp_path, "a.jsonl", good)) == [
        ("line 1", "text", "q: ¿Cuánto?"),
        ("line 3", "text", "q: ¿Cómo?"),
    ]
    for name, data, reason, told in [
        ("b.jsonl", b'{"q": 1}\n{"q": ', "corrupt", "line 2"),
        ("c.jsonl", b'{"q": 1}\nhola\n{"q": 2}\n', "corrupt", "Line 2"),
        ("d.json", b'{"q": [1, 2', "corrupt", "line 1"),
        ("e.json", b"hola: 1", "corrupt", "line 1, column 1"),
    ]:
        with pytest.raises(Quarantined, match=told) as refused:
            parse(tmp_path, name, data)
        assert refused.value.reason == reason, name


def docx_with(body: str, **parts: str) -> bytes:
    import docx

    buffer = io.BytesIO()
    docx.Document().save(buffer)
    with zipfile.ZipFile(buffer) as archive:
        held: dict[str, bytes | str] = {name: archive.read(name) for name in archive.namelist()}
    held["word/document.xml"] = f'<w:document xmlns:w="{W}"><w:body>{body}</w:body></w:document>'
    kinds, types = str(held["word/_rels/document.xml.rels"], "utf-8"), str(held["[Content_Types].xml"], "utf-8")
    for number, (name, xml) in enumerate(parts.items()):
        held[f"word/{name}.xml"] = xml
        base = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
        kind = name.rstrip("0123456789")
        kinds = kinds.replace(
            "</Relationships>",
            f'<Relationship Id="x{number}" Type="{base}/{kind}" Target="{name}.xml"/></Relationships>',
        )
        form = f"application/vnd.openxmlformats-officedocument.wordprocessingml.{kind}+xml"
        types = types.replace("</Types>", f'<Override PartName="/word/{name}.xml" ContentType="{form}"/></Types>')
    return zipped({**held, "word/_rels/document.xml.rels": kinds, "[Content_Types].xml": types})


def p(text: str, extra: str = "", style: str = "") -> str:
    form = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f"<w:p>{form}<w:r><w:t>{text}</w:t></w:r>{extra}</w:p>"


def test_docx_notes_comments_boxes_controls_changes_and_margins(tmp_path: Path) -> None:
    note = f'<w:footnotes xmlns:w="{W}"><w:footnote w:id="2">{p("Según el BOE.")}</w:footnote></w:footnotes>'
    comment = f'<w:comments xmlns:w="{W}"><w:comment w:id="0" w:author="Luis">{p("¿Seguro?")}</w:comment></w:comments>'
    box = f"<w:r><w:pict><w:txbxContent>{p('En un cuadro.')}</w:txbxContent></w:pict></w:r>"
    body = (
        p("Bajas", style="Heading1")
        + p("La baja es gratis.", '<w:r><w:footnoteReference w:id="2"/><w:commentReference w:id="0"/></w:r>')
        + p("Antes del cuadro.", box)
        + f"<w:sdt><w:sdtContent>{p('Un campo relleno.')}</w:sdtContent></w:sdt>"
        + "<w:p><w:ins><w:r><w:t>Añadido.</w:t></w:r></w:ins>"
        + "<w:del><w:r><w:delText>Quitado.</w:delText></w:r></w:del></w:p>"
    )
    margin = f'<w:hdr xmlns:w="{W}">{p("Voltaria, confidencial")}</w:hdr>'
    number = f'<w:ftr xmlns:w="{W}">{p("- 3 -")}</w:ftr>'
    data = docx_with(body, footnotes=note, comments=comment, header1=margin, header2=margin, footer1=number)
    place = "section Bajas"
    assert said(parse(tmp_path, "n.docx", data)) == [
        (place, "heading", "Bajas"),
        (place, "text", "La baja es gratis."),
        (place, "notes", "Según el BOE."),
        (place, "notes", "Comment by Luis: ¿Seguro?"),
        (place, "text", "Antes del cuadro."),
        (place, "text", "En un cuadro."),
        (place, "text", "Un campo relleno."),
        (place, "text", "Añadido."),
        ("page header", "text", "Voltaria, confidencial"),
    ]


def test_docx_merged_and_nested_tables(tmp_path: Path) -> None:
    import docx

    word, buffer = docx.Document(), io.BytesIO()
    table = word.add_table(rows=3, cols=3)
    for at, text in enumerate(["Zona", "Mes", "Euros", "Norte", "enero", "1", "", "febrero", "2"]):
        table.cell(at // 3, at % 3).text = text
    table.cell(1, 0).merge(table.cell(2, 0))
    inner = table.cell(2, 2).add_table(rows=2, cols=2)
    for at, text in enumerate(["a", "b", "c", "d"]):
        inner.cell(at // 2, at % 2).text = text
    word.save(buffer)
    assert said(parse(tmp_path, "t.docx", buffer.getvalue())) == [
        (
            "",
            "table",
            "| Zona | Mes | Euros |\n| --- | --- | --- |\n| Norte | enero | 1 |\n| Norte | febrero | 2 a, b; c, d |",
        )
    ]


def test_pptx_charts_and_groups(tmp_path: Path) -> None:
    import pptx
    from pptx.chart.data import CategoryChartData
    from pptx.enum.chart import XL_CHART_TYPE
    from pptx.util import Inches

    deck, buffer = pptx.Presentation(), io.BytesIO()
    slide = deck.slides.add_slide(deck.slide_layouts[5])
    slide.shapes.title.text = "Consumo"
    data = CategoryChartData()
    data.categories = ["enero", "febrero"]
    data.add_series("Luz", (120, 95.5))
    box = (Inches(1), Inches(2), Inches(4), Inches(3))
    slide.shapes.add_chart(XL_CHART_TYPE.COLUMN_CLUSTERED, *box, data)
    group = slide.shapes.add_group_shape()
    group.shapes.add_textbox(*box).text_frame.text = "Dentro de un grupo"
    deck.save(buffer)
    found = said(parse(tmp_path, "g.pptx", buffer.getvalue()))
    assert ("slide 1", "text", "Dentro de un grupo") in found
    assert ("slide 1", "table", "| - | Luz |\n| --- | --- |\n| enero | 120 |\n| febrero | 95.5 |") in found


def test_xlsx_merged_cells_and_formulas_never_calculated(tmp_path: Path) -> None:
    import openpyxl

    book, buffer = openpyxl.Workbook(), io.BytesIO()
    sheet = book.active
    sheet.title = "Tarifas"
    for row in (["Zona", "Mes", "Euros"], ["Norte", "enero", 1], [None, "febrero", 2], ["Total", None, "=SUM(C2:C3)"]):
        sheet.append(row)
    sheet.merge_cells("A2:A3")
    book.save(buffer)
    assert said(parse(tmp_path, "m.xlsx", buffer.getvalue())) == [
        (
            "sheet Tarifas",
            "table",
            "| Zona | Mes | Euros |\n| --- | --- | --- |\n| Norte | enero | 1 |\n| Norte | febrero | 2 |\n"
            "| Total |  | =SUM(C2:C3) |",
        )
    ]


@pytest.mark.parametrize(
    ("name", "data", "reason", "told"),
    [
        ("a.docx", b"%PDF-1.7 x", "corrupt", "The file is no .docx: it begins like a PDF."),
        ("a.pdf", b"<!DOCTYPE html><p>hola", "corrupt", "The file is no .pdf: it begins like a web page."),
        ("a.rar", b"Rar!\x1a\x07", "unknown-format", "No parser reads .rar; it begins like a RAR archive. Known: "),
    ],
)
def test_a_refusal_says_what_the_file_is(tmp_path: Path, name: str, data: bytes, reason: str, told: str) -> None:
    with pytest.raises(Quarantined) as refused:
        parse(tmp_path, name, data)
    assert refused.value.reason == reason
    assert refused.value.message.startswith(told)


def test_half_characters_and_line_ends_inside_json_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.json").write_text('{"a": "\\ud800 hola\\r\\na todos"}')
    odd = [{"type": "message", "ts": "1710000000.1", "thread_ts": "abc", "text": None, "files": [None]}]
    (tmp_path / "docs" / "b.json").write_text(json.dumps([*odd, {**odd[0], "text": "Hola", "user": None}]))
    for _ in range(2):
        files = list_files(tmp_path / "docs")
        result = parse_all(files, tmp_path / "docs", cache=tmp_path / "cache")
        assert [one.text for one in result.documents] == ["a: ? hola\na todos", "?: Hola"]
    with pytest.raises(Quarantined, match="No message"):
        parse(tmp_path, "v.mbox", b"From \n")
