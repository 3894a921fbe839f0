"""Each format, from small files made here by the libraries that write them."""

from __future__ import annotations

import io
import zipfile
from email.message import EmailMessage
from pathlib import Path

import pytest

from bucle.core.errors import Quarantined
from bucle.core.records import Document
from bucle.data.parse import parse_file
from bucle.data.parse.source import decode, markdown_table

MESSY = Path(__file__).parents[2].parent / "shared" / "data" / "messy"
LEFT = [f"Izquierda linea {n} del contrato de suministro electrico" for n in range(1, 9)]
RIGHT = [f"Derecha linea {n} de las condiciones de la tarifa plana" for n in range(1, 9)]


def parse(folder: Path, name: str, data: bytes, **options: str) -> Document:
    (folder / name).write_bytes(data)
    return parse_file(folder / name, name, **options)


def pdf_bytes(draw: object, **options: object) -> bytes:
    from reportlab.lib.pagesizes import A4
    from reportlab.pdfgen.canvas import Canvas

    buffer = io.BytesIO()
    canvas = Canvas(buffer, pagesize=A4, **options)
    draw(canvas)
    canvas.save()
    return buffer.getvalue()


def test_pdf_of_two_columns_is_read_left_then_right_however_it_was_drawn(tmp_path: Path) -> None:
    def draw(canvas: object) -> None:
        canvas.setFont("Helvetica-Bold", 18)
        canvas.drawString(60, 780, "Condiciones generales del servicio de energia")
        canvas.setFont("Helvetica", 9)
        for row, (left, right) in enumerate(zip(LEFT, RIGHT, strict=True)):  # row by row, across the columns
            canvas.drawString(60, 740 - 12 * row, left)
            canvas.drawString(320, 740 - 12 * row, right)
        canvas.showPage()
        canvas.drawString(60, 780, "Segunda hoja.")

    document = parse(tmp_path, "dos.pdf", pdf_bytes(draw))
    text = document.text
    assert document.blocks[0].kind == "heading"
    assert document.blocks[0].text.startswith("Condiciones generales")
    places = [text.index(line) for line in [*LEFT, *RIGHT]]
    assert places == sorted(places)
    assert [block.place for block in document.blocks if "Segunda" in block.text] == ["page 2"]


def test_pdf_table_becomes_a_markdown_table(tmp_path: Path) -> None:
    def draw(canvas: object) -> None:
        rows = [("Tarifa", "Precio", "Potencia"), ("Luz 24", "0,14", "3,45"), ("Noche", "0,09", "4,60")]
        for at, row in enumerate(rows):
            for column, cell in enumerate(row):
                canvas.drawString(60 + 160 * column, 700 - 20 * at, cell)

    tables = [block for block in parse(tmp_path, "t.pdf", pdf_bytes(draw)).blocks if block.kind == "table"]
    assert [table.text.split("\n")[2] for table in tables] == ["| Luz 24 | 0,14 | 3,45 |"]


def test_pdf_headings_in_bold_cells_of_two_lines_and_footers(tmp_path: Path) -> None:
    def draw(canvas: object) -> None:
        for page in (1, 2):
            canvas.setFont("Helvetica", 8)
            canvas.drawString(60, 20, f"Voltaria - condiciones - {page}")
            canvas.setFont("Helvetica-Bold", 10)
            canvas.drawString(60, 780, f"Apartado {'uno' if page == 1 else 'dos'}")
            canvas.setFont("Helvetica", 10)
            canvas.drawString(60, 760, "Texto corriente del apartado, que sigue bajo el mismo.")
            rows = [
                ("Periodo", "Precio", "Cuando"),
                ("Punta", "0,19", "de 10 a 14"),
                ("", "", "y de 18 a 22"),
                ("Valle", "0,09", "noches"),
            ]
            for at, row in enumerate(rows):
                for column, cell in enumerate(row):
                    canvas.drawString(60 + 150 * column, 720 - 12 * at, cell)
            canvas.showPage()

    document = parse(tmp_path, "n.pdf", pdf_bytes(draw))
    assert [block.text for block in document.blocks if block.kind == "heading"] == ["Apartado uno", "Apartado dos"]
    tables = [block.text.split("\n")[2:] for block in document.blocks if block.kind == "table"]
    assert tables == [["| Punta | 0,19 | de 10 a 14 y de 18 a 22 |", "| Valle | 0,09 | noches |"]] * 2
    assert "Voltaria" not in document.text


def test_pdf_with_a_password_opens_with_it_only(tmp_path: Path) -> None:
    from reportlab.lib.pdfencrypt import StandardEncryption

    data = pdf_bytes(
        lambda canvas: canvas.drawString(60, 700, "Contrato reservado"), encrypt=StandardEncryption("clave", canPrint=0)
    )
    with pytest.raises(Quarantined) as refused:
        parse(tmp_path, "c.pdf", data)
    assert refused.value.reason == "encrypted"
    with pytest.raises(Quarantined, match="does not open"):
        parse(tmp_path, "c.pdf", data, password="otra")
    assert "Contrato reservado" in parse(tmp_path, "c.pdf", data, password="clave").text


def test_docx_keeps_order_sections_and_tables(tmp_path: Path) -> None:
    import docx

    word = docx.Document()
    word.add_heading("Bajas", 1)
    word.add_paragraph("La baja se pide por escrito.")
    table = word.add_table(rows=2, cols=2)
    for cell, text in zip(
        (cell for row in table.rows for cell in row.cells), ["Motivo", "Plazo", "Mudanza", "15 días"], strict=True
    ):
        cell.text = text
    word.add_heading("Altas", 1)
    word.add_paragraph("Con DNI.", style="List Bullet")
    buffer = io.BytesIO()
    word.save(buffer)
    document = parse(tmp_path, "b.docx", buffer.getvalue())
    assert [(block.kind, block.place) for block in document.blocks] == [
        ("heading", "section Bajas"),
        ("text", "section Bajas"),
        ("table", "section Bajas"),
        ("heading", "section Altas"),
        ("text", "section Altas"),
    ]
    assert "| Mudanza | 15 días |" in document.text
    assert document.blocks[-1].text == "- Con DNI."
    assert document.media_type.endswith("wordprocessingml.document")


def test_pptx_reads_slides_tables_and_notes(tmp_path: Path) -> None:
    import pptx
    from pptx.util import Inches

    deck = pptx.Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[1])
    slide.shapes.title.text = "Averías"
    slide.placeholders[1].text = "Llame al 900."
    slide.notes_slide.notes_text_frame.text = "Insistir en el plazo."
    second = deck.slides.add_slide(deck.slide_layouts[5])
    second.shapes.title.text = "Plazos"
    cells = second.shapes.add_table(2, 2, Inches(1), Inches(2), Inches(4), Inches(1)).table
    for at, text in enumerate(["Zona", "Horas", "Norte", "24"]):
        cells.cell(at // 2, at % 2).text = text
    buffer = io.BytesIO()
    deck.save(buffer)
    document = parse(tmp_path, "a.pptx", buffer.getvalue())
    assert document.title == "Averías"
    assert [(block.place, block.kind) for block in document.blocks] == [
        ("slide 1", "heading"),
        ("slide 1", "text"),
        ("slide 1", "notes"),
        ("slide 2", "heading"),
        ("slide 2", "table"),
    ]
    assert "| Norte | 24 |" in document.text


def test_xlsx_parts_tables_at_empty_rows_and_marks_hidden_sheets(tmp_path: Path) -> None:
    import openpyxl

    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "Tarifas"
    for row in (["Tarifa", "Precio"], ["Luz", 0.14], [None, None], ["Gas", "Precio"], ["RL1", 0.05]):
        sheet.append(row)
    book.create_sheet("Secreta").append(["no", "leer"])
    book["Secreta"].sheet_state = "hidden"
    buffer = io.BytesIO()
    book.save(buffer)
    document = parse(tmp_path, "t.xlsx", buffer.getvalue())
    assert [(block.kind, block.place) for block in document.blocks] == [
        ("table", "sheet Tarifas"),
        ("table", "sheet Tarifas"),
        ("text", "sheet Secreta (hidden)"),
    ]
    assert "| Luz | 0.14 |" in document.text
    assert document.blocks[-1].text == "no leer"


def test_xlsx_far_cells_percents_and_currencies(tmp_path: Path) -> None:
    import openpyxl

    book, buffer = openpyxl.Workbook(), io.BytesIO()
    sheet = book.active
    for row in (["IVA", 0.21], ["Cuota", 12.5], ["Plazo", 30]):
        sheet.append(row)
    sheet["B1"].number_format = "0%"
    sheet["B2"].number_format = '#,##0.00\\ "€"'
    sheet["XFD1048576"] = "lejos"
    book.save(buffer)
    document = parse(tmp_path, "t.xlsx", buffer.getvalue())
    assert document.blocks[0].text == "| IVA | 21% |\n| --- | --- |\n| Cuota | 12.5 € |\n| Plazo | 30 |"
    assert document.blocks[1].text == "lejos"


def test_html_leaves_scripts_and_menus_out_and_keeps_tables(tmp_path: Path) -> None:
    page = (
        "<html><head><meta charset='iso-8859-1'><title>Facturación</title><script>var robo=1</script></head><body>"
        "<nav><a href='/'>Inicio</a> <a href='/x'>Menú</a></nav><article><h1>Su factura</h1>"
        + "<p>La factura llega el día cinco de cada mes y se paga por domiciliación bancaria.</p>"
        * 3
        + "<table><tr><th>Concepto</th><th>Euros</th></tr><tr><td>Potencia</td><td>11,20</td></tr></table>"
        "</article></body></html>"
    ).encode("latin-1")
    document = parse(tmp_path, "f.html", page)
    assert document.title == "Facturación"
    assert "domiciliación" in document.text
    assert "robo" not in document.text
    assert any(block.kind == "table" and "11,20" in block.text for block in document.blocks)
    assert {block.place for block in document.blocks} == {"section Su factura"}


def test_eml_reads_legacy_encodings_and_attachments(tmp_path: Path) -> None:
    import docx

    word, buffer = docx.Document(), io.BytesIO()
    word.add_paragraph("Cláusula adjunta.")
    word.save(buffer)
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "Ana <ana@example.com>", "soporte@example.com", "Reclamación de señal"
    mail.set_content("Mañana no tendré conexión.\n\nUn saludo, Íñigo", charset="iso-8859-1")
    mail.add_attachment(buffer.getvalue(), maintype="application", subtype="octet-stream", filename="../../anexo.docx")
    mail.add_attachment(b"\0\1\2", maintype="application", subtype="octet-stream", filename="raro.bin")
    document = parse(tmp_path, "m.eml", mail.as_bytes())
    assert document.title == "Reclamación de señal"
    assert "Mañana no tendré conexión." in document.text
    assert [block.text for block in document.blocks if block.place == "attachment anexo.docx"] == ["Cláusula adjunta."]
    note = next(block for block in document.blocks if block.place == "attachment raro.bin")
    assert note.kind == "notes"
    assert "unknown-format" in note.text


@pytest.mark.parametrize("charset", ["x-no-such", "ascii"])
def test_eml_that_lies_about_its_encoding_is_still_read(tmp_path: Path, charset: str) -> None:
    raw = (
        f"From: a@example.com\r\nSubject: hola\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset={charset}\r\n"
        "Content-Transfer-Encoding: 8bit\r\n\r\nLa señal llegó tarde.\r\n"
    ).encode("cp1252")
    assert "La señal llegó tarde." in parse(tmp_path, "l.eml", raw).text


@pytest.mark.parametrize(
    "lines",
    [
        [
            "12/3/24, 10:15 - Los mensajes están cifrados de extremo a extremo.",
            "12/3/24, 10:15 - Ana: Hola",
            "12/3/24, 10:16 - Luis: Sin luz",
            "desde ayer",
            "13/3/24, 9:01 - Ana: <Multimedia omitido>",
            "13/3/24, 9:02 - Ana: ¿Ya?",
        ],
        [
            "[12/3/24, 10:15:01] Ana: Hola",
            "[12/3/24, 10:16:59] Luis: Sin luz",
            "desde ayer",
            "\u200e[13/3/24, 9:01:00\u202fa.\u202fm.] Ana: \u200eimagen omitida",
            "[13/3/24, 9:02:00\u202fa.\u202fm.] Ana: ¿Ya?",
        ],
    ],
)
def test_chat_export_is_read_by_day(tmp_path: Path, lines: list[str]) -> None:
    document = parse(tmp_path, "chat.txt", "\n".join(lines).encode())
    assert [(block.place, block.text) for block in document.blocks] == [
        ("date 12/3/24", "Ana: Hola\nLuis: Sin luz\ndesde ayer"),
        ("date 13/3/24", "Ana: ¿Ya?"),
    ]


def test_markdown_is_cut_at_headings_and_not_inside_code(tmp_path: Path) -> None:
    source = "---\ntitle: Guía\n---\n# Router\n\nReinicie.\n\n```\n# no es un título\n```\n\n"
    source += "| A | B |\n|---|---|\n| 1 | 2 |\n"
    document = parse(tmp_path, "g.md", source.encode())
    assert document.title == "Guía"
    assert [block.kind for block in document.blocks] == ["heading", "text", "text", "table"]
    assert {block.place for block in document.blocks} == {"section Router"}


def test_epub_reads_the_spine_in_order_and_stays_inside_the_archive(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as book:
        book.writestr(
            "META-INF/container.xml",
            '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container">'
            '<rootfiles><rootfile full-path="O/p.opf"/></rootfiles></container>',
        )
        book.writestr(
            "O/p.opf",
            '<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/">'
            '<metadata><dc:title>Manual</dc:title></metadata><manifest><item id="b" href="b.xhtml"/>'
            '<item id="a" href="a.xhtml"/><item id="x" href="../../../etc/passwd"/></manifest>'
            '<spine><itemref idref="a"/><itemref idref="x"/><itemref idref="b"/></spine></package>',
        )
        book.writestr("O/a.xhtml", "<html><body><h1>Uno</h1><p>Primero.</p></body></html>")
        book.writestr("O/b.xhtml", "<html><body><h1>Dos</h1><p>Segundo.</p></body></html>")
        book.writestr("../../evil.txt", "fuera")
    document = parse(tmp_path, "m.epub", buffer.getvalue())
    assert document.title == "Manual"
    assert [(block.text, block.place) for block in document.blocks if block.kind == "text"] == [
        ("Primero.", "section Uno"),
        ("Segundo.", "section Dos"),
    ]
    assert not (tmp_path.parent / "evil.txt").exists()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252", "latin-1"])
def test_text_of_any_encoding(encoding: str) -> None:
    text = "¿Cuánto cuesta el alta? Pagué 20 al año pasado.\nSeñora Muñoz"
    assert decode(text.encode(encoding)) == text


def test_text_of_another_script_is_not_taken_for_spanish() -> None:
    text = "Счёт за электричество пришёл вчера, а оплатить его нужно до пятницы. Спасибо за помощь." * 3
    assert decode(text.encode("cp1251")) == text


def test_paragraphs_of_text_say_where_they_begin(tmp_path: Path) -> None:
    document = parse(tmp_path, "p.txt", b"uno\ndos\n\n\ntres\n")
    assert [(block.text, block.place) for block in document.blocks] == [("uno\ndos", "line 1"), ("tres", "line 5")]


def test_csv_as_a_document_is_a_table(tmp_path: Path) -> None:
    document = parse(tmp_path, "t.csv", "tarifa;precio\nLuz;0,14\nGas;0,05\n".encode("cp1252"))
    assert document.blocks[0].text.split("\n")[2] == "| Luz | 0,14 |"


def test_markdown_table_escapes_bars_and_drops_what_is_empty() -> None:
    assert (
        markdown_table([["a|b", "", "c"], ["", "", ""], ["1\n2", "", "3"]])
        == "| a\\|b | c |\n| --- | --- |\n| 1 2 | 3 |"
    )


@pytest.mark.skipif(not MESSY.is_dir(), reason=f"{MESSY} is absent: real messy files cannot be tried")
def test_two_columns_of_a_real_paper_are_in_reading_order() -> None:
    text = parse_file(MESSY / "multi-column-2p.pdf", "multi-column-2p.pdf").text.replace("\n", " ")
    order = [
        "Open-domain question answering relies on efficient passage retrieval",
        "1 Introduction",
        "Retrieval in open-domain QA is usually implemented",
        "3 Dense Passage Retriever",
    ]
    places = [text.index(part) for part in order]
    assert places == sorted(places)
