"""PDF through pdfium: characters with their boxes, gathered into runs for the layout to put in order."""

from __future__ import annotations

import re
from typing import Any

from bucle.core.errors import Quarantined
from bucle.core.records import Block
from bucle.data.parse.layout import Page, Run, layout
from bucle.data.parse.ruled import Line, page_lines
from bucle.data.parse.source import Raw, tidy

__all__ = ["read"]

MAX_PAGES = 2_000
MAX_PAGE_CHARS = 100_000
MAX_UPRIGHT = 400
_TAIL = 16 * 1024
_PASSWORD_ERROR = 4  # FPDF_ERR_PASSWORD
_NO_TITLE = re.compile(
    r"\W*(anonymous|unspecified|untitled|sin t[ií]tulo|document[o]?)\W*\d*\W*|\S+\.(tmp|indd|dvi)", re.IGNORECASE
)
"""What programs write where nobody gave a title."""
_BOLD = re.compile(rb"bold|black|heavy|demi", re.IGNORECASE)


def read(raw: Raw) -> tuple[str, list[Block]]:
    """Title and blocks of a PDF, each block with its page. A page of pictures only has no text: no OCR is
    done.
    """
    import pypdfium2

    try:
        pdf = pypdfium2.PdfDocument(raw.data, password=raw.password or None)
    except pypdfium2.PdfiumError as error:
        if getattr(error, "err_code", None) == _PASSWORD_ERROR:
            what = "The password given does not open it." if raw.password else "It needs a password."
            raise Quarantined("encrypted", f"The PDF is encrypted. {what}") from error
        if raw.data.lstrip().startswith(b"%PDF-") and not _has_end(raw.data):
            raise _cut_short() from error
        raise  # bucle.data.parse.failure says what it is instead
    if not _has_end(raw.data):
        pdf.close()
        raise _cut_short()  # pdfium would make do with the pages it finds, and nobody would miss the others
    try:
        if len(pdf) > MAX_PAGES:
            raise Quarantined("too-large", f"The PDF has {len(pdf):,} pages; {MAX_PAGES:,} are read at most.")
        title = str(pdf.get_metadata_dict().get("Title", ""))
        pages: list[Page] = []
        for number in range(len(pdf)):
            try:
                page = pdf[number]
                lines = page_lines(page)
                runs, turned = _runs(page, [line for line in lines if line.upright][:MAX_UPRIGHT])
                pages.append(Page(runs, page.get_width(), page.get_height(), lines, turned))
            except pypdfium2.PdfiumError:
                pages.append(Page([], 1.0, 1.0))  # one damaged page; the others are still worth having
    finally:
        pdf.close()
    blocks = layout(pages)
    if not blocks:
        raise Quarantined("empty", "The PDF holds no text (pictures of pages need OCR first).")
    return "" if _NO_TITLE.fullmatch(tidy(title)) else tidy(title), blocks


def _has_end(data: bytes) -> bool:
    """Whether the file ends as a PDF does, give or take what others have added to it."""
    return b"%%EOF" in data[-_TAIL:].rstrip(b"\0\r\n ")


def _cut_short() -> Quarantined:
    return Quarantined("corrupt", "The PDF is cut short: its end is missing.")


def _runs(page: Any, uprights: list[Line]) -> tuple[list[Run], list[str]]:
    """The runs of a page, parted at `uprights` too, and what is written sideways."""
    import ctypes

    import pypdfium2.raw as pdfium

    text_page = page.get_textpage()
    handle = text_page.raw
    runs: list[Run] = []
    turned = [""]
    chars: list[str] = []
    box: list[float] = []
    size, bold = 0.0, False
    values = [ctypes.c_double() for _ in range(4)]
    places = [ctypes.byref(value) for value in values]
    unicode_of, angle_of, box_of = pdfium.FPDFText_GetUnicode, pdfium.FPDFText_GetCharAngle, pdfium.FPDFText_GetCharBox
    font, flags = ctypes.create_string_buffer(200), ctypes.c_int()

    def close() -> None:
        text = "".join(chars).strip(" ")
        if text.strip():
            runs.append(Run(text, box[0], box[1], box[2], box[3], size, bold))
        chars.clear()
        box.clear()

    for index in range(min(text_page.count_chars(), MAX_PAGE_CHARS)):
        code = unicode_of(handle, index)
        char = chr(code) if 0 < code < 0x110000 and not 0xD800 <= code < 0xE000 else ""
        if char in "\r\n":
            close()
            if turned[-1]:
                turned.append("")
            continue
        if char == "\xad" or code in (2, 0xFFFE):
            char = "\x02"  # pdfium's mark for a word broken at the end of a line
        if abs(angle_of(handle, index)) % 6.283 > 0.2:
            close()
            turned[-1] += char.replace("\x02", "-")
            continue
        if turned[-1]:
            if char.isspace():
                turned[-1] += " "  # a space of pdfium's own has no angle
                continue
            turned.append("")
        box_of(handle, index, *places)
        left, right, bottom, top = values[0].value, values[1].value, values[2].value, values[3].value
        if char.isspace() or char == "\x02" or right <= left:
            if chars:
                chars.append(char)
            continue
        if box:
            tall = max(box[3] - box[1], top - bottom, 4.0)
            if left - box[2] > 1.5 * tall or left < box[2] - 3 * tall or bottom > box[3] or top < box[1]:
                close()
        if box and any(box[2] <= one.at <= left and one.low <= top <= one.high for one in uprights):
            close()
        if not box:
            _, low, _, high = text_page.get_charbox(index, loose=True)
            size = high - low
            length = pdfium.FPDFText_GetFontInfo(text_page, index, font, len(font), ctypes.byref(flags))
            bold = bool(length) and bool(_BOLD.search(font.value))
        chars.append(char)
        box[:] = (
            [min(box[0], left), min(box[1], bottom), max(box[2], right), max(box[3], top)]
            if box
            else [left, bottom, right, top]
        )
    close()
    return runs, turned
