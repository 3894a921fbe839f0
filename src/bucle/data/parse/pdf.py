"""PDF through pdfium: characters with their boxes, put into reading order by recursive XY cuts.

XY cuts: Nagy and Seth, "Hierarchical representation of optically scanned documents" (ICPR 1984).
"""

from __future__ import annotations

import re
import statistics
from collections import Counter
from dataclasses import dataclass
from typing import Any

from bucle.core.errors import Quarantined
from bucle.core.records import Block
from bucle.data.parse.source import Raw, markdown_table, tidy

__all__ = ["read"]

MAX_PAGES = 2_000
MAX_PAGE_CHARS = 100_000
_PASSWORD_ERROR = 4  # FPDF_ERR_PASSWORD
_BOLD = re.compile(rb"bold|black|heavy|demi", re.IGNORECASE)
_ITEM = re.compile(r"[-–•·*▪●○■□►➢✓✔]|\(?\d{1,2}[.)](?= |$)|[a-z]\)(?= |$)")


@dataclass
class _Run:
    """Characters on one line with no wide gap between them. Points, y upwards."""

    text: str
    left: float
    bottom: float
    right: float
    top: float
    size: float = 0.0  # the font's height, whatever letters are used
    bold: bool = False

    @property
    def height(self) -> float:
        return self.top - self.bottom

    @property
    def middle(self) -> float:
        return (self.top + self.bottom) / 2


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
        raise Quarantined("corrupt", f"The PDF cannot be opened: {error}.") from error
    try:
        if len(pdf) > MAX_PAGES:
            raise Quarantined("too-large", f"The PDF has {len(pdf):,} pages; {MAX_PAGES:,} are read at most.")
        title = str(pdf.get_metadata_dict().get("Title", ""))
        pages: list[tuple[list[_Run], float, float]] = []
        for number in range(len(pdf)):
            try:
                page = pdf[number]
                pages.append((_runs(page), page.get_width(), page.get_height()))
            except pypdfium2.PdfiumError:
                pages.append(([], 1.0, 1.0))  # one damaged page; the others are still worth having
    finally:
        pdf.close()
    repeated = _margin_lines(pages)
    blocks: list[Block] = []
    for number, (runs, width, height) in enumerate(pages, 1):
        kept = [run for run in runs if not (_in_margin(run, height) and _numberless(run.text) in repeated)]
        blocks += _page_blocks(kept, width, f"page {number}")
    if not blocks:
        raise Quarantined("empty", "The PDF holds no text (pictures of pages need OCR first).")
    return tidy(title), blocks


def _in_margin(run: _Run, height: float) -> bool:
    return run.top < 0.08 * height or run.bottom > 0.92 * height


def _numberless(text: str) -> str:
    return re.sub(r"\d+", "#", text)


def _margin_lines(pages: list[tuple[list[_Run], float, float]]) -> set[str]:
    """What stands in the margins of two pages or more but for its numbers, and page numbers: no part of the text."""
    counts = Counter(
        text for runs, _, height in pages for text in {_numberless(run.text) for run in runs if _in_margin(run, height)}
    )
    numbers = {
        text for text in counts if re.fullmatch(r"\W*(p[aá]g(ina|e)?\W*)?#(\W*(de|of)?\W*#)?\W*", text, re.IGNORECASE)
    }
    return numbers | {text for text, count in counts.items() if count > 1}


def _runs(page: Any) -> list[_Run]:
    import ctypes

    import pypdfium2.raw as pdfium

    text_page = page.get_textpage()
    runs: list[_Run] = []
    chars: list[str] = []
    box: list[float] = []
    size, bold = 0.0, False
    values = [ctypes.c_double() for _ in range(4)]
    font, flags = ctypes.create_string_buffer(200), ctypes.c_int()

    def close() -> None:
        text = "".join(chars).strip(" ")
        if text.strip():
            runs.append(_Run(text, box[0], box[1], box[2], box[3], size, bold))
        chars.clear()
        box.clear()

    for index in range(min(text_page.count_chars(), MAX_PAGE_CHARS)):
        code = pdfium.FPDFText_GetUnicode(text_page, index)
        char = chr(code) if 0 < code < 0x110000 and not 0xD800 <= code < 0xE000 else ""
        if char in "\r\n":
            close()
            continue
        if char == "\xad" or code in (2, 0xFFFE):
            char = "\x02"  # pdfium's mark for a word broken at the end of a line
        if abs(pdfium.FPDFText_GetCharAngle(text_page, index)) % 6.283 > 0.2:
            continue  # written sideways: margins' stamps and watermarks, no part of the text
        pdfium.FPDFText_GetCharBox(text_page, index, *(ctypes.byref(value) for value in values))
        left, right, bottom, top = (value.value for value in values)
        if char.isspace() or char == "\x02" or right <= left:
            if chars:
                chars.append(char)
            continue
        if box:
            tall = max(box[3] - box[1], top - bottom, 4.0)
            if left - box[2] > 1.5 * tall or left < box[2] - 3 * tall or bottom > box[3] or top < box[1]:
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
    return runs


def _page_blocks(runs: list[_Run], width: float, place: str) -> list[Block]:
    if not runs:
        return []
    body = statistics.median(run.height for run in runs)
    size = statistics.median(run.size for run in runs)
    blocks: list[Block] = []
    for region in _cut(runs, width, body):
        blocks += _region_blocks(region, body, size, place)
    return blocks


def _cut(runs: list[_Run], width: float, body: float, depth: int = 0) -> list[list[_Run]]:
    """Regions of `runs` in reading order: side by side columns first left then right, otherwise from the top
    down.
    """
    if depth > 8 or len(runs) < 6:
        return [runs]
    gutter = _gutter(runs, width, body)
    if gutter is not None:
        sides = [
            [run for run in runs if (run.left + run.right) / 2 < gutter],
            [run for run in runs if (run.left + run.right) / 2 >= gutter],
        ]
        return [region for side in sides for region in _cut(side, width, body, depth + 1)]
    for split in _gaps(runs, 0.8 * body):
        upper = [run for run in runs if run.middle > split]
        lower = [run for run in runs if run.middle <= split]
        # A horizontal cut is worth making only where it frees a gutter: a title over two columns.
        if min(len(upper), len(lower)) and (_gutter(upper, width, body) or _gutter(lower, width, body)):
            return [*_cut(upper, width, body, depth + 1), *_cut(lower, width, body, depth + 1)]
    return [runs]


def _gaps(runs: list[_Run], least: float) -> list[float]:
    """The y in the middle of each empty band at least `least` points high, from the top down."""
    found, floor = [], float("inf")
    for run in sorted(runs, key=lambda run: -run.top):
        if floor - run.top >= least and floor != float("inf"):
            found.append((floor + run.top) / 2)
        floor = min(floor, run.bottom)
    return found


def _gutter(runs: list[_Run], width: float, body: float) -> float | None:
    """The x between two columns of prose, or None. A table's columns are short cells, not lines of prose."""
    edge, best = float("-inf"), None
    for run in sorted(runs, key=lambda run: run.left):
        gap = run.left - edge
        if edge != float("-inf") and gap >= max(0.7 * body, 0.012 * width) and (best is None or gap > best[0]):
            x = edge + gap / 2
            sides = [[one for one in runs if one.right <= x], [one for one in runs if one.left >= x]]
            if all(_is_prose(side) for side in sides):
                best = (gap, x)
        edge = max(edge, run.right)
    return best[1] if best else None


def _is_prose(side: list[_Run]) -> bool:
    lines = _lines(side)
    return len(lines) >= 3 and statistics.median(sum(len(run.text) for run in line) for line in lines) >= 22


def _lines(runs: list[_Run]) -> list[list[_Run]]:
    """`runs` gathered into lines from the top down, each from left to right."""
    lines: list[list[_Run]] = []
    for run in sorted(runs, key=lambda run: (-run.middle, run.left)):
        if lines and abs(lines[-1][0].middle - run.middle) < 0.5 * max(run.height, lines[-1][0].height):
            lines[-1].append(run)
        else:
            lines.append([run])
    return [sorted(line, key=lambda run: run.left) for line in lines]


def _region_blocks(region: list[_Run], body: float, size: float, place: str) -> list[Block]:
    lines = _lines(region)
    all_bold = sum(all(run.bold for run in line) for line in lines) > 0.5 * len(lines)
    blocks: list[Block] = []
    paragraph = ""
    before: _Run | None = None
    after_heading: _Run | None = None

    def close() -> None:
        nonlocal paragraph
        if tidy(paragraph):
            blocks.append(Block(text=tidy(paragraph), place=place))
        paragraph = ""

    at = 0
    while at < len(lines):
        rows, used = _table_rows(lines, at)
        if rows:
            close()
            blocks.append(Block(text=markdown_table(rows), place=place, kind="table"))
            at += used
            before = after_heading = None
            continue
        line, at = lines[at], at + 1
        text, first = " ".join(run.text for run in line), line[0]
        tall = statistics.median(run.size for run in line) > 1.15 * size
        strong = not all_bold and all(run.bold for run in line) and not text.endswith((".", ",", ";", ":"))
        if (tall or strong) and len(text) < 120 and re.search(r"[^\W\d_]{2}", text):
            close()
            if (
                after_heading is not None
                and after_heading.bottom - first.top < 0.9 * first.height
                and len(blocks[-1].text) < 120
            ):
                text = f"{blocks.pop().text} {text}"  # a heading of two lines
            blocks.append(Block(text=tidy(text), place=place, kind="heading"))
            before, after_heading = None, first
            continue
        after_heading = None
        if before is not None and before.bottom - first.top > 0.9 * max(body, first.height):
            close()
        before = first
        if paragraph.rstrip(" ").endswith("\x02"):
            paragraph = paragraph.rstrip(" ")[:-1] + text
        else:
            paragraph += ("\n" if _ITEM.match(text) else " ") + text
    close()
    return blocks


def _table_rows(lines: list[list[_Run]], start: int) -> tuple[list[list[str]], int]:
    """Rows of the table that begins at line `start`, and the lines they take: three rows or more of as many cells.

    A line with fewer cells, close under a row and flush with its columns, goes on with that row's cells.
    """
    head = above = lines[start]
    if len(head) < 2 or _ITEM.fullmatch(head[0].text):
        return [], 0  # marks set apart make a list
    rows, used = [[run.text for run in head]], 1
    for line in lines[start + 1 :]:
        if len(line) == len(head) and all(_aligned(a, b) for a, b in zip(head, line, strict=True)):
            rows.append([run.text for run in line])
        else:
            columns = [next((at for at, cell in enumerate(head) if abs(cell.left - run.left) < 3), 0) for run in line]
            if not all(columns) or above[0].bottom - line[0].top > 1.2 * line[0].height:
                break
            for column, run in zip(columns, line, strict=True):
                rows[-1][column] += f" {run.text}"
        above = line
        used += 1
    return (rows, used) if len(rows) >= 3 else ([], 0)


def _aligned(above: _Run, below: _Run) -> bool:
    return min(above.right, below.right) - max(above.left, below.left) > 0 or abs(above.left - below.left) < 6
