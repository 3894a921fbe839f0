"""What earlier readers dropped without a trace: attached messages, footnotes, formulas, fields."""

from __future__ import annotations

import io
import json
from email.message import EmailMessage
from pathlib import Path

import pytest

from bucle.core.records import Document
from bucle.data.parse import parse_file
from bucle.data.parse.cache import entry_of


def parse(folder: Path, name: str, data: bytes) -> Document:
    (folder / name).write_bytes(data)
    return parse_file(folder / name, name)


def mail(subject: str, body: str) -> EmailMessage:
    message = EmailMessage()
    message["From"], message["Subject"] = "a@example.com", subject
    message.set_content(body)
    return message


def test_attached_messages_are_read_down_to_a_depth(tmp_path: Path) -> None:
    inner = mail("Nivel 9", "Texto del nivel 9.")
    for level in range(8, -1, -1):
        outer = mail(f"Nivel {level}", f"Texto del nivel {level}.")
        outer.add_attachment(inner)
        inner = outer
    document = parse(tmp_path, "m.eml", inner.as_bytes())
    assert [b.place for b in document.blocks if b.text == "Texto del nivel 1."] == ["attachment Nivel 1, body"]
    assert document.text.count("Texto del nivel 2.") == 1
    assert "Nivel 3: not read, too-large" in document.text
    assert "Texto del nivel 4." not in document.text


def test_an_attached_messages_own_attachment_and_second_text_are_read_once(tmp_path: Path) -> None:
    inner = mail("Original", "El contador marca mal.")
    inner.add_attachment(b"Nota adjunta.", maintype="text", subtype="plain", filename="nota.txt")
    outer = mail("FW", "Te reenvio el correo.")
    outer.add_attachment(inner)
    extra = EmailMessage()
    extra.set_content("Segundo texto.")
    outer.attach(extra)
    text = parse(tmp_path, "m.eml", outer.as_bytes()).text
    assert [text.count(one) for one in ("marca mal", "Nota adjunta", "Segundo texto", "Te reenvio")] == [1, 1, 1, 1]


def test_notes_of_ours_say_nothing_of_the_language() -> None:
    spanish = {"text": "Te reenvío el correo del cliente sobre la factura.", "place": "body", "kind": "text"}
    note = {"text": "[roto.pdf: not read, corrupt. The file is no PDF: it begins like nothing known.]", "kind": "notes"}
    assert entry_of({"title": "", "blocks": [spanish, *[note] * 5]}).language == "es"


def test_markdown_footnotes_of_one_word_are_text(tmp_path: Path) -> None:
    document = parse(tmp_path, "g.md", b"# T\n\nCuesta 30[^1].\n\n[^1]: SinIVA\n")
    assert document.blocks[-1].text == "[^1]: SinIVA"


def test_docx_formulas_are_text(tmp_path: Path) -> None:
    import docx
    from docx.oxml import parse_xml

    word, buffer = docx.Document(), io.BytesIO()
    names = "http://schemas.openxmlformats.org/"
    word.element.body.insert(
        0,
        parse_xml(
            f'<w:p xmlns:w="{names}wordprocessingml/2006/main" xmlns:m="{names}officeDocument/2006/math"><w:r><w:t '
            'xml:space="preserve">La fórmula es </w:t></w:r><m:oMath><m:r><m:t>E=0,15·kWh</m:t></m:r></m:oMath></w:p>'
        ),
    )
    word.save(buffer)
    assert parse(tmp_path, "f.docx", buffer.getvalue()).text == "La fórmula es E=0,15·kWh"


def test_slack_blocks_and_fields_are_read(tmp_path: Path) -> None:
    rich = [{"type": "text", "text": "Mira "}, {"type": "link", "url": "http://a.es", "text": "esto"}]
    section = {"type": "rich_text_section", "elements": rich}
    day = [
        {"type": "message", "ts": "1710000000.0001", "user": "U1", "text": "", "blocks": [
            {"type": "header", "text": {"type": "plain_text", "text": "Aviso"}},
            {"type": "section", "fields": [{"type": "mrkdwn", "text": "Zona sur"}]},
            {"type": "rich_text", "elements": [section]}]},
        {"type": "message", "ts": "1710000001.0001", "user": "U1", "attachments": [
            {"fields": [{"title": "Estado", "value": "Resuelto"}]}]},
    ]  # fmt: skip
    text = parse(tmp_path, "2024-03-09.json", json.dumps(day).encode()).text
    assert text == "U1: Aviso\nZona sur\nMira esto\nU1: Estado: Resuelto"


@pytest.mark.parametrize("title", ["(anonymous)", "untitled", "Untitled 1", "Documento1"])
def test_pdf_titles_that_are_none_give_way(tmp_path: Path, title: str) -> None:
    from reportlab.pdfgen.canvas import Canvas

    buffer = io.BytesIO()
    canvas = Canvas(buffer)
    canvas.setTitle(title)
    canvas.drawString(60, 700, "Texto corriente del contrato.")
    canvas.save()
    assert parse(tmp_path, "contrato.pdf", buffer.getvalue()).title == "contrato.pdf"
