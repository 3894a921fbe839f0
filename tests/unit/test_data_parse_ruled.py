"""Tables drawn with lines in PDF files, and text written sideways."""

from __future__ import annotations

import io
from pathlib import Path

from bucle.core.records import Block
from bucle.data.parse import parse_file

FAQ = [
    ["Pregunta", "Respuesta"],
    [
        "¿Cómo cambio la potencia contratada de mi suministro?",
        "Desde el área de clientes; tarda cinco días hábiles y cuesta 11 euros por kilovatio.",
    ],
    ["¿Puedo fraccionar?", "Sí, hasta en seis plazos sin intereses si la factura supera los 100 euros."],
]


def built(folder: Path, rows: list[list[str]], spans: tuple[object, ...] = ()) -> list[Block]:
    from reportlab.lib import colors
    from reportlab.lib.styles import getSampleStyleSheet
    from reportlab.platypus import Paragraph, SimpleDocTemplate, Table, TableStyle

    style = getSampleStyleSheet()["Normal"]
    cells = [[Paragraph(cell, style) for cell in row] for row in rows]
    buffer = io.BytesIO()
    ruled = TableStyle([("GRID", (0, 0), (-1, -1), 1, colors.black), *spans])
    table = Table(cells, style=ruled, colWidths=[400 / len(rows[0])] * len(rows[0]))
    SimpleDocTemplate(buffer).build([Paragraph("Texto anterior.", style), table, Paragraph("Texto de cierre.", style)])
    (folder / "t.pdf").write_bytes(buffer.getvalue())
    return list(parse_file(folder / "t.pdf", "t.pdf").blocks)


def test_wrapped_cells_stay_in_their_row(tmp_path: Path) -> None:
    before, table, after = built(tmp_path, FAQ)
    assert (before.text, after.text, table.kind) == ("Texto anterior.", "Texto de cierre.", "table")
    assert table.text.split("\n")[2:] == [f"| {question} | {answer} |" for question, answer in FAQ[1:]]


def test_two_rows_and_empty_cells_are_tables(tmp_path: Path) -> None:
    rows = [["Concepto", "Importe"], ["Alta", "0 €"]]
    assert built(tmp_path, rows)[1].text.split("\n")[2] == "| Alta | 0 € |"
    rows = [["Provincia", "Oficina", "Horario"], ["Madrid", "Mayor 12", "9 a 14"], ["Sevilla", "", "9 a 14"]]
    assert built(tmp_path, rows)[1].text.split("\n")[3] == "| Sevilla |  | 9 a 14 |"


def test_a_cell_over_two_rows_is_said_in_each(tmp_path: Path) -> None:
    rows = [["Zona", "Tarifa"], ["Norte", "Luz"], ["", "Gas"]]
    table = built(tmp_path, rows, (("SPAN", (0, 1), (0, 2)),))[1]
    assert table.text.split("\n")[2:] == ["| Norte | Luz |", "| Norte | Gas |"]


def test_text_written_sideways_is_kept_and_a_stamp_is_said_once(tmp_path: Path) -> None:
    from reportlab.pdfgen.canvas import Canvas

    canvas = Canvas(str(tmp_path / "g.pdf"))
    for page in (1, 2):
        canvas.drawString(60, 700, f"Texto corriente de la hoja {page}.")
        canvas.rotate(90)
        canvas.drawString(200, -40, "Copia para el cliente")
        canvas.showPage()
    canvas.save()
    blocks = parse_file(tmp_path / "g.pdf", "g.pdf").blocks
    assert [(block.text, block.place) for block in blocks if "Copia" in block.text] == [
        ("Copia para el cliente", "page 1")
    ]
    assert [block.place for block in blocks if "Texto corriente" in block.text] == ["page 1", "page 2"]
