"""From runs of characters on a page to blocks: columns in reading order, tables, headings and paragraphs.

XY cuts: Nagy and Seth, "Hierarchical representation of optically scanned documents" (ICPR 1984).
"""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from bucle.core.records import Block
from bucle.data.parse.ruled import Line, grids, table_of
from bucle.data.parse.source import markdown_table, tidy

__all__ = ["Page", "Run", "layout"]

_ITEM = re.compile(r"[-–•·*▪●○■□►➢✓✔]|\(?\d{1,2}[.)](?= |$)|[a-z]\)(?= |$)")


@dataclass
class Run:
    """Characters on one line with no wide gap between them. Points, y upwards."""

    text: str
    left: float
    bottom: float
    right: float
    top: float
    size: float = 0.0  # the font's height, whatever letters are used
    bold: bool = False
    table: bool = False  # `text` is a whole table, its cells known from the lines drawn

    @property
    def height(self) -> float:
        return self.top - self.bottom

    @property
    def middle(self) -> float:
        return (self.top + self.bottom) / 2


@dataclass
class Page:
    """The runs of one page, which is `width` by `height` points, the lines drawn on it and what is written sideways."""

    runs: list[Run]
    width: float
    height: float
    lines: list[Line] = field(default_factory=list)
    turned: list[str] = field(default_factory=list)


def layout(pages: Sequence[Page]) -> list[Block]:
    """The blocks of `pages` in reading order, each placed `page N`."""
    repeated = _margin_lines(pages)
    blocks: list[Block] = []
    stamped: set[str] = set()
    for number, page in enumerate(pages, 1):
        kept = [run for run in page.runs if not (_in_margin(run, page.height) and _numberless(run.text) in repeated)]
        blocks += _page_blocks(_with_tables(kept, page.lines), page.width, f"page {number}")
        for text in page.turned:
            if tidy(text) and tidy(text) not in stamped:  # a stamp on every page is said once
                stamped.add(tidy(text))
                blocks.append(Block(text=tidy(text), place=f"page {number}"))
    return blocks


def _with_tables(runs: list[Run], lines: list[Line]) -> list[Run]:
    """`runs` with those inside a ruled table put together into one."""
    for grid in grids(lines) if lines else []:
        left, right, top, bottom = grid.xs[0], grid.xs[-1], grid.ys[0], grid.ys[-1]
        inside = [run for run in runs if left <= (run.left + run.right) / 2 <= right and bottom <= run.middle <= top]
        if not inside or any(run.table for run in inside) or sum(bool(_ITEM.match(run.text)) for run in inside) > 6:
            continue  # a frame around lists is no table
        words = [(run.left, run.bottom, run.right, run.top, run.text) for line in _lines(inside) for run in line]
        text = table_of(grid, words)
        if text:
            held = {id(run) for run in inside}
            runs = [run for run in runs if id(run) not in held]
            runs.append(Run(text, left, bottom, right, top, inside[0].size, False, True))
    return runs


def _in_margin(run: Run, height: float) -> bool:
    return run.top < 0.08 * height or run.bottom > 0.92 * height


def _numberless(text: str) -> str:
    return re.sub(r"\d+", "#", text)


def _margin_lines(pages: Sequence[Page]) -> set[str]:
    """What stands in the margins of two pages or more but for its numbers, and page numbers: no part of the text."""
    counts = Counter(
        text for page in pages for text in {_numberless(run.text) for run in page.runs if _in_margin(run, page.height)}
    )
    numbers = {
        text for text in counts if re.fullmatch(r"\W*(p[aá]g(ina|e)?\W*)?#(\W*(de|of)?\W*#)?\W*", text, re.IGNORECASE)
    }
    return numbers | {text for text, count in counts.items() if count > 1}


def _page_blocks(runs: list[Run], width: float, place: str) -> list[Block]:
    if not runs:
        return []
    plain = [run for run in runs if not run.table] or runs
    body = statistics.median(run.height for run in plain)
    size = statistics.median(run.size for run in plain)
    blocks: list[Block] = []
    for region in _cut(runs, width, body):
        blocks += _region_blocks(region, body, size, place)
    return blocks


def _cut(runs: list[Run], width: float, body: float, depth: int = 0) -> list[list[Run]]:
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


def _gaps(runs: list[Run], least: float) -> list[float]:
    """The y in the middle of each empty band at least `least` points high, from the top down."""
    found, floor = [], float("inf")
    for run in sorted(runs, key=lambda run: -run.top):
        if floor - run.top >= least and floor != float("inf"):
            found.append((floor + run.top) / 2)
        floor = min(floor, run.bottom)
    return found


def _gutter(runs: list[Run], width: float, body: float) -> float | None:
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


def _is_prose(side: list[Run]) -> bool:
    lines = _lines(side)
    return len(lines) >= 3 and statistics.median(sum(len(run.text) for run in line) for line in lines) >= 22


def _lines(runs: list[Run]) -> list[list[Run]]:
    """`runs` gathered into lines from the top down, each from left to right."""
    lines: list[list[Run]] = []
    for run in sorted(runs, key=lambda run: (-run.middle, run.left)):
        last = lines[-1][0] if lines else None
        apart = last is None or run.table or last.table
        if last and not apart and abs(last.middle - run.middle) < 0.5 * max(run.height, last.height):
            lines[-1].append(run)
        else:
            lines.append([run])
    return [sorted(line, key=lambda run: run.left) for line in lines]


def _region_blocks(region: list[Run], body: float, size: float, place: str) -> list[Block]:
    lines = _lines(region)
    all_bold = sum(all(run.bold for run in line) for line in lines) > 0.5 * len(lines)
    blocks: list[Block] = []
    paragraph = ""
    before: Run | None = None
    after_heading: Run | None = None

    def close() -> None:
        nonlocal paragraph
        if tidy(paragraph):
            blocks.append(Block(text=tidy(paragraph), place=place))
        paragraph = ""

    at = 0
    while at < len(lines):
        if lines[at][0].table:
            close()
            blocks.append(Block(text=lines[at][0].text, place=place, kind="table"))
            at += 1
            before = after_heading = None
            continue
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


def _table_rows(lines: list[list[Run]], start: int) -> tuple[list[list[str]], int]:
    """Rows of the table that begins at line `start`, and the lines they take: three rows or more of as many cells.

    A line with fewer cells, close under a row and flush with its columns, goes on with that row's cells.
    """
    head = above = lines[start]
    if len(head) < 2 or _ITEM.fullmatch(head[0].text):
        return [], 0  # marks set apart make a list
    rows, used = [[run.text for run in head]], 1
    for line in lines[start + 1 :]:
        if line[0].table:
            break
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


def _aligned(above: Run, below: Run) -> bool:
    return min(above.right, below.right) - max(above.left, below.left) > 0 or abs(above.left - below.left) < 6
