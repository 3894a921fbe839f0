"""Annotations in the ledger: appended, idempotent, never changed; and whose turn a row is, which is no evidence and
runs out."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime

from bucle.core.errors import BadInput
from bucle.core.ids import content_id
from bucle.core.records import Annotation, Example
from bucle.ledger.store import Ledger, now

__all__ = ["AnnotationStore"]

_NAMES = ("id", "task", "row", "by", "label", "at", "kind", "note")
_COLUMNS = ", ".join(_NAMES)
_LONGEST = {"task": 200, "row": 200, "by": 200, "label": 100_000, "note": 8_000, "id": 300}
"""Longest text of each field, in characters."""


class AnnotationStore:
    """The annotations of one ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def say(self, item: Annotation) -> tuple[Annotation, bool]:
        """Append what a person says now; returns what is stored, and whether it is new.

        Saying again what one's latest annotation of that row and kind says stores nothing; saying something else, and
        then the first again, stores each. `item.id` and an empty `item.at` are given here. Raises BadInput.
        """
        item = _checked(item.model_copy(update={"at": item.at or now(), "id": "annotation:new"}))
        with self.ledger.transaction() as db:
            row = db.execute(
                f"SELECT {_COLUMNS} FROM annotations WHERE task = ? AND row = ? AND by = ? AND kind = ? "
                "ORDER BY at DESC, seq DESC LIMIT 1",
                (item.task, item.row, item.by, item.kind),
            ).fetchone()
            before = _annotation(row) if row else None
            if before and (before.label, before.note) == (item.label, item.note):
                return before, False
            if before and item.at < before.at:  # a clock that went back must not make the newer one lose
                item = item.model_copy(update={"at": before.at})
            body = item.model_dump(exclude={"id"}) | {"after": before.id if before else ""}
            item = item.model_copy(update={"id": content_id("annotation", body)})
            _insert(db.execute, item)
            db.execute(
                "DELETE FROM annotation_turns WHERE task = ? AND row = ? AND by = ?", (item.task, item.row, item.by)
            )
        return item, True

    def add(self, items: Sequence[Annotation]) -> int:
        """Append annotations that bring their id, who and when (an import), in one transaction; returns how many were
        new. Raises BadInput."""
        checked = [_checked(item) for item in items]
        with self.ledger.transaction() as db:
            before = db.total_changes
            for item in checked:
                _insert(db.execute, item)
            return db.total_changes - before

    def annotations(self, task: str, row: str = "") -> list[Annotation]:
        """Everything ever said about a task's rows (one row, if given), oldest first."""
        where, values = ("AND row = ?", (task, row)) if row else ("", (task,))
        sql = f"SELECT {_COLUMNS} FROM annotations WHERE task = ? {where} ORDER BY at, seq"
        return [_annotation(found) for found in self.ledger.rows(sql, values)]

    def changes(self, task: str) -> tuple[int, int]:
        """Two numbers that grow with the annotations and added rows of a task: the same while nothing came."""
        said = self.ledger.rows("SELECT coalesce(max(seq), 0) FROM annotations WHERE task = ?", (task,))
        rows = self.ledger.rows("SELECT coalesce(max(seq), 0) FROM annotation_rows WHERE task = ?", (task,))
        return int(said[0][0]), int(rows[0][0])

    # rows that came with an import -----------------------------------------------------------------------

    def add_rows(self, task: str, rows: Sequence[Example]) -> int:
        """Store rows that no source of the task holds; returns how many were new."""
        with self.ledger.transaction() as db:
            before = db.total_changes
            db.executemany(
                "INSERT OR IGNORE INTO annotation_rows (task, id, body) VALUES (?, ?, ?)",
                [(task, row.id, row.model_dump_json()) for row in rows],
            )
            return db.total_changes - before

    def rows(self, task: str) -> list[Example]:
        """The rows that imports added to a task, in the order they came."""
        sql = "SELECT body FROM annotation_rows WHERE task = ? ORDER BY seq"
        return [Example.model_validate_json(body) for (body,) in self.ledger.rows(sql, (task,))]

    # turns -----------------------------------------------------------------------------------------------

    def take(self, task: str, by: str, wanted: Sequence[tuple[str, int]], n: int, *, minutes: float = 30) -> list[str]:
        """Reserve for `by` the first `n` rows of `wanted` that are free, in one transaction; returns them.

        `wanted` are (row, how many more people may answer it). A row is free while fewer than that many others
        hold it, and `by` did not skip it.
        """
        at = time.time()
        with self.ledger.transaction() as db:
            db.execute("DELETE FROM annotation_turns WHERE until < ?", (at,))
            others: dict[str, int] = {}
            skipped: set[str] = set()
            for row, who, skip in db.execute("SELECT row, by, skipped FROM annotation_turns WHERE task = ?", (task,)):
                if who == by and skip:
                    skipped.add(row)
                elif who != by and not skip:
                    others[row] = others.get(row, 0) + 1
            taken = [row for row, room in wanted if row not in skipped and others.get(row, 0) < room][:n]
            db.executemany(
                "INSERT OR REPLACE INTO annotation_turns VALUES (?, ?, ?, ?, 0)",
                [(task, row, by, at + minutes * 60) for row in taken],
            )
        return taken

    def held(self, task: str, by: str) -> list[str]:
        """The rows reserved for `by` now, by their ids."""
        sql = "SELECT row FROM annotation_turns WHERE task = ? AND by = ? AND skipped = 0 AND until >= ? ORDER BY row"
        return [row for (row,) in self.ledger.rows(sql, (task, by, time.time()))]

    def skip(self, task: str, row: str, by: str, *, hours: float = 24) -> None:
        """Do not ask `by` about `row` for a while; others may be asked."""
        with self.ledger.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO annotation_turns VALUES (?, ?, ?, ?, 1)",
                (task, row, by, time.time() + hours * 3600),
            )

    def release(self, task: str, by: str, rows: Collection[str] | None = None) -> None:
        """Give back the reservations of `by` (of `rows` only, where given); what they skipped stays skipped."""
        with self.ledger.transaction() as db:
            for row in self.held(task, by) if rows is None else rows:
                db.execute(
                    "DELETE FROM annotation_turns WHERE task = ? AND by = ? AND row = ? AND skipped = 0",
                    (task, by, row),
                )


def _insert(execute: Callable[..., object], item: Annotation) -> None:
    marks = ", ".join("?" * len(_NAMES))
    execute(
        f"INSERT OR IGNORE INTO annotations ({_COLUMNS}) VALUES ({marks})", [getattr(item, name) for name in _NAMES]
    )


def _annotation(row: Sequence[object]) -> Annotation:
    return Annotation.model_validate(dict(zip(_NAMES, row, strict=True)))


def _checked(item: Annotation) -> Annotation:
    """`item` with its time in UTC. Raises BadInput for a nameless author, a text too long, a time that is none."""
    for name, most in _LONGEST.items():
        value = getattr(item, name) or ""
        if len(value) > most:
            raise BadInput(f"`{name}` of an annotation may have {most:,} characters.", "Shorten it.")
        if any("\ud800" <= char <= "\udfff" for char in value):
            raise BadInput(f"`{name}` of an annotation is no whole text: it holds half a character.", "Write UTF-8.")
    for name in ("task", "row", "by"):
        value = getattr(item, name)
        if not value.strip() or not value.isprintable():
            raise BadInput(f"`{name}` of an annotation must be printable text.", "Say who labels: --by NAME")
    if item.kind == "prelabel" and item.label is None:
        raise BadInput("A machine's proposal has a label.", "bucle label prelabel TASK")
    try:
        at = datetime.fromisoformat(item.at)
        if at.tzinfo is None:
            at = at.replace(tzinfo=UTC)
        told = at.astimezone(UTC).isoformat(timespec="microseconds")
    except (ValueError, OverflowError) as error:
        raise BadInput(f"{item.at[:40]!r} is no ISO 8601 time.", "Write 2026-11-21T09:30:00+01:00.") from error
    return item.model_copy(update={"at": told})
