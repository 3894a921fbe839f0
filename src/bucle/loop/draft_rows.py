"""Rows whose file says that they are drafts: a machine's proposals until a person confirms them."""

from __future__ import annotations

import mmap
import re
from pathlib import Path

from bucle.core.errors import BadInput
from bucle.core.records import Example
from bucle.core.tasks import AnswerTask, ClassifyTask, RetrieveTask, TextTask

__all__ = ["STATUS", "draft_sources"]

STATUS = "status"
"""The column (or key) that says so, with the value `draft` in any case."""
_WORD = re.compile(rb"d\0?r\0?a\0?f\0?t", re.IGNORECASE)
"""`draft` in UTF-8 and in UTF-16 of either order."""


def draft_sources(
    path: Path, task: ClassifyTask | AnswerTask | TextTask | RetrieveTask, columns: dict[str, str]
) -> frozenset[str]:
    """The sources (`file:line`) of the rows of `path` whose `status` is `draft`; none where the file has no such
    column, or where that is a column of the task's own. `columns` are the task's. A file that
    never says `draft` is not read a second time."""
    from bucle.data.rows import stream_rows

    if STATUS in columns.values() or not path.is_file() or not (_is_packed(path) or _mentions(path)):
        return frozenset()
    try:  # the status takes the place of the language, which is not needed here
        found = stream_rows(path, task.kind, {**columns, "language": STATUS}, unlabelled=True)
        return frozenset(
            row.source for row in found if isinstance(row, Example) and row.language.strip().casefold() == "draft"
        )
    except BadInput:  # no such column; whatever else is wrong, the reading of the rows says
        return frozenset()


def _is_packed(path: Path) -> bool:
    return path.suffix.lower() == ".parquet"


def _mentions(path: Path) -> bool:
    if not path.stat().st_size:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _WORD.search(data) is not None
