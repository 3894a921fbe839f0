"""Tables drawn with lines: their cells are where the lines say, whatever the text in them looks like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bucle.data.parse.source import markdown_table

__all__ = ["Line", "grids", "page_lines", "table_of"]

MAX_LINES = 4_000
_NEAR = 3.0
"""Points within which two lines are one, or touch."""


@dataclass(frozen=True)
class Line:
    """A straight line along the page, at `at` (y of a level one, x of an upright one), from `low` to `high`."""

    upright: bool
    at: float
    low: float
    high: float


@dataclass(frozen=True)
class Grid:
    """A table's columns between `xs` (rising) and rows between `ys` (falling), and the lines that part its cells."""

    xs: tuple[float, ...]
    ys: tuple[float, ...]
    lines: tuple[Line, ...]

    def parts(self, upright: bool, at: float, low: float, high: float) -> bool:
        """Whether a line at `at` parts what lies on its two sides between `low` and `high`."""
        middle = (low + high) / 2
        return any(
            one.upright == upright and abs(one.at - at) <= _NEAR and one.low - 1 <= middle <= one.high + 1
            for one in self.lines
        )


def page_lines(page: Any) -> list[Line]:
    """The level and upright lines drawn on a pdfium page; none where there are too many to be a table's."""
    import ctypes

    import pypdfium2.raw as pdfium

    lines: list[Line] = []
    x, y = ctypes.c_float(), ctypes.c_float()
    for drawn in page.get_objects(filter=[pdfium.FPDF_PAGEOBJ_PATH], max_depth=1):
        matrix = drawn.get_matrix()
        start = before = None
        for number in range(min(pdfium.FPDFPath_CountSegments(drawn), MAX_LINES)):
            segment = pdfium.FPDFPath_GetPathSegment(drawn, number)
            pdfium.FPDFPathSegment_GetPoint(segment, x, y)
            here = matrix.on_point(x.value, y.value)
            kind = pdfium.FPDFPathSegment_GetType(segment)
            if kind == pdfium.FPDF_SEGMENT_MOVETO:
                start = here
            elif kind == pdfium.FPDF_SEGMENT_LINETO and before is not None:
                lines += _line(before, here)
            before = here
            if start is not None and pdfium.FPDFPathSegment_GetClose(segment):
                lines += _line(here, start)
        if len(lines) > MAX_LINES:
            return []
    return lines


def _line(one: tuple[float, float], other: tuple[float, float]) -> list[Line]:
    (left, low), (right, high) = one, other
    if abs(left - right) < 0.5 and abs(high - low) > 4:
        return [Line(True, (left + right) / 2, min(low, high), max(low, high))]
    if abs(high - low) < 0.5 and abs(left - right) > 4:
        return [Line(False, (low + high) / 2, min(left, right), max(left, right))]
    return []


def grids(lines: Sequence[Line]) -> list[Grid]:
    """The tables that `lines` draw: those that touch, with two rows and two columns at least."""
    found: list[Grid] = []
    left = list(dict.fromkeys(lines))
    if len(left) > 1_000:
        return []
    while left:
        group, edge = [], [left.pop()]
        while edge:
            one = edge.pop()
            group.append(one)
            touching = [other for other in left if _touch(one, other)]
            edge += touching
            left = [other for other in left if other not in touching]
        xs = _apart(one.at for one in group if one.upright)
        ys = _apart(one.at for one in group if not one.upright)
        if len(xs) >= 3 and len(ys) >= 3:
            found.append(Grid(tuple(xs), tuple(reversed(ys)), tuple(group)))
    return found


def _touch(one: Line, other: Line) -> bool:
    if one.upright == other.upright:
        return abs(one.at - other.at) <= _NEAR and max(one.low, other.low) <= min(one.high, other.high) + _NEAR
    return other.low - _NEAR <= one.at <= other.high + _NEAR and one.low - _NEAR <= other.at <= one.high + _NEAR


def _apart(values: Any) -> list[float]:
    """`values` rising, those within _NEAR of one before left out."""
    kept: list[float] = []
    for value in sorted(values):
        if not kept or value - kept[-1] > _NEAR:
            kept.append(value)
    return kept


def table_of(grid: Grid, words: Sequence[tuple[float, float, float, float, str]]) -> str:
    """The table as Markdown; `words` are left, bottom, right, top and text, in reading order. Empty where it is none:
    a word over a line, or fewer than two rows or columns with text. Merged cells say their text in their first column,
    in each of their rows.
    """
    width, height = len(grid.xs) - 1, len(grid.ys) - 1
    first = {(row, column): (row, column) for row in range(height) for column in range(width)}
    for row in range(height):
        for column in range(width):
            if column and not grid.parts(True, grid.xs[column], grid.ys[row + 1], grid.ys[row]):
                _join(first, (row, column - 1), (row, column))
            if row and not grid.parts(False, grid.ys[row], grid.xs[column], grid.xs[column + 1]):
                _join(first, (row - 1, column), (row, column))
    said: dict[tuple[int, int], list[str]] = {}
    for left, bottom, right, top, text in words:
        x, y = (left + right) / 2, (bottom + top) / 2
        column = max(at for at in range(width) if at == 0 or grid.xs[at] <= x)
        row = max(at for at in range(height) if at == 0 or grid.ys[at] >= y)
        ends = max(at for at in range(width) if at == 0 or grid.xs[at] <= right - _NEAR)
        begins = max(at for at in range(width) if at == 0 or grid.xs[at] <= left + _NEAR)
        if len({first[row, at] for at in range(begins, ends + 1)}) > 1:
            return ""
        said.setdefault(first[row, column], []).append(text)
    rows = []
    for row in range(height):
        cells, told = [], set()
        for column in range(width):
            cell = first[row, column]
            cells.append("" if cell in told else " ".join(said.get(cell, [])))
            told.add(cell)
        rows.append(cells)
    if sum(any(row) for row in rows) < 2 or len({cell[1] for cell in said}) < 2:
        return ""
    return markdown_table(rows)


def _join(first: dict[tuple[int, int], tuple[int, int]], one: tuple[int, int], other: tuple[int, int]) -> None:
    kept, gone = sorted((first[one], first[other]))
    if kept != gone:
        for cell, at in first.items():
            if at == gone:
                first[cell] = kept
