"""Traces and feedback in the ledger: appended in batches, idempotent by id, never changed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from bucle.core.errors import NotFound
from bucle.core.records import Feedback, Trace
from bucle.ledger.store import Ledger

__all__ = ["TraceStore"]


class TraceStore:
    """The traces and feedback of one ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def add_traces(self, traces: Sequence[Trace]) -> int:
        """Commit a batch in one transaction; returns how many were new. A trace sent twice is stored once."""
        rows = [
            (
                t.id,
                t.at,
                datetime.fromisoformat(t.at).timestamp(),
                t.route,
                t.release,
                t.user,
                t.status,
                t.input,
                t.model_dump_json(),
            )
            for t in traces
        ]
        with self.ledger.transaction() as db:
            before = db.total_changes
            db.executemany(
                "INSERT OR IGNORE INTO traces (id, at, at_epoch, route, release, user, status, input, body) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                rows,
            )
            return db.total_changes - before

    def trace(self, trace_id: str) -> Trace:
        """The trace with this id, or the only one whose id begins so. Raises NotFound."""
        rows = self.ledger.rows("SELECT body FROM traces WHERE id = ?", (trace_id,))
        if not rows and trace_id.removeprefix("trace:"):
            rows = self.ledger.rows(
                "SELECT body FROM traces WHERE id >= ? AND id < ? LIMIT 2", (trace_id, trace_id + "~")
            )
        if len(rows) != 1:
            raise NotFound(
                f"{'No' if not rows else 'More than one'} trace is called `{trace_id}`.", "bucle monitor --traces"
            )
        return Trace.model_validate_json(rows[0][0])

    def traces(
        self,
        *,
        route: str = "",
        user: str = "",
        release: str = "",
        query: str = "",
        since: float = 0.0,
        before: float = 0.0,
        limit: int = 0,
        newest_first: bool = False,
    ) -> list[Trace]:
        """Traces in order of event time. `query` is looked for in input and answer; times are epoch seconds."""
        where, values = ["1"], list[Any]()
        for column, value in (("route", route), ("user", user), ("release", release)):
            if value:
                where.append(f"{column} = ?")
                values.append(value)
        if query:
            where.append("(input LIKE ? ESCAPE '\\' OR json_extract(body, '$.output') LIKE ? ESCAPE '\\')")
            literal = query.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
            values += [f"%{literal}%"] * 2
        if since:
            where.append("at_epoch >= ?")
            values.append(since)
        if before:
            where.append("at_epoch < ?")
            values.append(before)
        order = "DESC" if newest_first else "ASC"
        sql = f"SELECT body FROM traces WHERE {' AND '.join(where)} ORDER BY at_epoch {order}, id {order}"
        if limit:
            sql += " LIMIT ?"
            values.append(limit)
        return [Trace.model_validate_json(row[0]) for row in self.ledger.rows(sql, values)]

    def known(self, trace_ids: Sequence[str]) -> set[str]:
        """Those of `trace_ids` that are stored."""
        found: set[str] = set()
        for start in range(0, len(trace_ids), 500):
            part = list(trace_ids[start : start + 500])
            marks = ",".join("?" * len(part))
            found.update(r[0] for r in self.ledger.rows(f"SELECT id FROM traces WHERE id IN ({marks})", part))
        return found

    def count(self) -> int:
        return int(self.ledger.rows("SELECT count(*) FROM traces")[0][0])

    def add_feedback(self, items: Sequence[Feedback]) -> int:
        """Commit ratings and corrections; returns how many were new. Raises NotFound for an unknown trace."""
        missing = {item.trace for item in items} - self.known([item.trace for item in items])
        if missing:
            raise NotFound(f"Feedback names an unknown trace: `{sorted(missing)[0]}`.", "bucle monitor --traces")
        with self.ledger.transaction() as db:
            before = db.total_changes
            db.executemany(
                "INSERT OR IGNORE INTO feedback (id, trace, at, by, rating, correction, reason, source) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [(f.id, f.trace, f.at, f.by, f.rating, f.correction, f.reason, f.source) for f in items],
            )
            return db.total_changes - before

    def feedback(self, trace: str = "") -> list[Feedback]:
        """All feedback (of one trace, if given), ordered by its time, then its id."""
        where, values = ("WHERE trace = ?", (trace,)) if trace else ("", ())
        names = ("id", "trace", "at", "by", "rating", "correction", "reason", "source")
        return [
            Feedback(**dict(zip(names, row, strict=True)))
            for row in self.ledger.rows(f"SELECT {', '.join(names)} FROM feedback {where} ORDER BY at, id", values)
        ]
