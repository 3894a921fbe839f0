"""Traces and feedback in the ledger: appended in batches, idempotent by id, never changed; found by text."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from bucle.core.errors import NotFound
from bucle.core.records import Feedback, Trace
from bucle.ledger.search import parse_query
from bucle.ledger.spend import add_spend, nano_usd, tokens
from bucle.ledger.store import Ledger
from bucle.ledger.trace_json import trace_from, trace_json

__all__ = ["Pruned", "TraceStore"]

FEW = 2_000
"""A query with at most so many hits is answered from the hits, sorted; with more, from the traces in order of time."""
RECENT = 4_000
"""Of many hits the newest are wanted: they are looked for among so many of the newest traces first."""
PRUNED_AT_ONCE = 500
PAGE = 500
DAY_S = 86_400.0

_ADD = (
    "INSERT INTO traces (seq, id, at_epoch, route, release, user, key, team, role, cached, status, ms, ms_first, "
    "tokens_in, tokens_out, nano_usd) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


@dataclass(frozen=True, slots=True)
class Pruned:
    """What retention deleted: traces, and the feedback that stood beside them."""

    traces: int
    feedback: int


class TraceStore:
    """The traces and feedback of one ledger. `known_as` gives the names that a user's traces may have."""

    def __init__(self, ledger: Ledger, *, known_as: Callable[[str], Sequence[str]] | None = None) -> None:
        self.ledger, self._known_as = ledger, known_as or (lambda user: (user,))

    def add_traces(self, traces: Sequence[Trace]) -> int:
        """Commit a batch in one transaction, with its texts searchable and its spend counted; returns how many were
        new. A trace sent twice is stored, and counted, once."""
        once = {t.id: t for t in reversed(traces)}  # of two with one id the first counts
        rows = {t.id: t for t in reversed(once.values())}
        texts = {t.id: trace_json(t, texts=False) for t in rows.values()}  # before the lock is taken
        with self.ledger.transaction() as db:
            for known in self.known(list(rows)):
                del rows[known]
            if not rows:
                return 0
            last = db.execute("SELECT coalesce(max(seq), 0) FROM traces").fetchone()[0]
            new = list(enumerate(rows.values(), last + 1))
            db.executemany(_ADD, [
                (seq, t.id, datetime.fromisoformat(t.at).timestamp(), t.route, t.release, t.user, t.key, t.team,
                 t.role, t.cached, t.status, t.ms, t.ms_first, tokens(t.usage.tokens_in), tokens(t.usage.tokens_out),
                 nano_usd(t.usage.usd))
                for seq, t in new
            ])
            db.executemany("INSERT INTO trace_texts (seq, input, output, body) VALUES (?, ?, ?, ?)",
                           [(seq, t.input, t.output, texts[t.id].decode()) for seq, t in new])
            db.execute("INSERT INTO trace_search (rowid, input, output) "
                       "SELECT seq, input, output FROM trace_texts WHERE seq > ?", (last,))
            add_spend(db, rows.values())
        return len(new)

    def trace(self, trace_id: str) -> Trace:
        """The trace with this id, or the only one whose id begins so. Raises NotFound."""
        sql = "SELECT x.input, x.output, x.body FROM traces t JOIN trace_texts x USING (seq) WHERE "
        rows = self.ledger.rows(sql + "t.id = ?", (trace_id,))
        if not rows and trace_id.removeprefix("trace:"):
            rows = self.ledger.rows(sql + "t.id >= ? AND t.id < ? LIMIT 2", (trace_id, trace_id + "~"))
        if len(rows) != 1:
            raise NotFound(f"{'No' if not rows else 'More than one'} trace is called `{trace_id}`.", "bucle traces")
        return trace_from(*rows[0])

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
        key: str = "",
        status: int = 0,
    ) -> list[Trace]:
        """Traces in order of event time. `query`: words, "phrases" and prefixes* of input and answer, without regard to
        case and accents; times are epoch seconds, `before` left out; `status` 400 is 400 and above."""
        asked = _Asked(route=route, user=user, release=release, key=key, status=status, query=query, since=since,
                       before=before)
        if query and newest_first and limit:
            recent = self._page(self._newest(asked), True, limit, None)
            if len(recent) == limit:
                return [found for _, found in recent]
        return [found for _, found in self._page(asked, newest_first, limit, None)]

    def _newest(self, asked: _Asked) -> _Asked:
        """`asked` among the newest RECENT traces of its time only, and the first `seq` of them."""
        start, seq = self.ledger.rows(
            "SELECT min(at_epoch), min(seq) FROM (SELECT at_epoch, seq FROM traces WHERE at_epoch < ? "
            "ORDER BY at_epoch DESC LIMIT ?)", (asked.before or 1e18, RECENT))[0]
        later = math.nextafter(start or 0.0, math.inf)  # of those at the very start some may be left out
        return replace(asked, since=max(asked.since, later), first=seq or 0)

    def each(self, *, route: str = "", user: str = "", release: str = "", query: str = "", since: float = 0.0,
             before: float = 0.0, newest_first: bool = False, key: str = "", status: int = 0) -> Iterator[Trace]:
        """What `traces` returns, read a page at a time: memory stays flat and no writer waits for the whole of it."""
        asked = _Asked(route=route, user=user, release=release, key=key, status=status, query=query, since=since,
                       before=before)
        place: tuple[float, str] | None = None
        while page := self._page(asked, newest_first, PAGE, place):
            yield from (found for _, found in page)
            place = (page[-1][0], page[-1][1].id)

    def follow(self, after: int = -1, *, route: str = "", user: str = "", release: str = "", key: str = "",
               status: int = 0, since: float = 0.0, before: float = 0.0, query: str = "") -> tuple[int, list[Trace]]:
        """What was stored since a place, in that order, and the next place. Without one: the place now, and nothing."""
        now = int(self.ledger.rows("SELECT coalesce(max(seq), 0) FROM traces")[0][0])
        if after < 0 or now <= after:
            return now, []
        asked = _Asked(route=route, user=user, release=release, key=key, status=status, query=query, since=since,
                       before=before)
        return now, [found for _, found in self._page(asked, False, 0, None, (after, now))]

    def _page(
        self, asked: _Asked, newest_first: bool, limit: int, after: tuple[float, str] | None,
        stored: tuple[int, int] | None = None,
    ) -> list[tuple[float, Trace]]:
        """At most `limit` (0: all) of what is asked, those after `after` (time, id) in the order, with their times;
        `stored` are the first `seq` left out and the last."""
        where, values = ["1"], list[Any]()
        for column in ("route", "user", "release", "key"):
            if value := getattr(asked, column):
                names = self._known_as(value) if column == "user" else (value,)
                test = f"IN ({', '.join('?' * len(names))})" if len(names) > 1 else "= ?"
                where.append(f"t.{column} {test} AND t.{column} != ''")  # the latter lets it use traces_user
                values += names
        for test, number in (("t.status >= ?", asked.status), ("t.at_epoch >= ?", asked.since),
                             ("t.at_epoch < ?", asked.before)):
            if number:
                where.append(test)
                values.append(number)
        if after is not None:
            where.append(f"(t.at_epoch, t.id) {'<' if newest_first else '>'} (?, ?)")
            values += after
        if stored is not None:
            where.append("t.seq > ? AND t.seq <= ?")
            values += stored
        source = "traces t"
        if asked.query.strip():
            query = parse_query(asked.query)
            if query.match:
                hits = f"SELECT rowid FROM trace_search WHERE trace_search MATCH ? AND rowid >= {asked.first:d}"
                many = self.ledger.rows(f"SELECT count(*) FROM ({hits} LIMIT {FEW + 1})", (query.match,))[0][0] > FEW
                if many:
                    where.append(f"+t.seq IN ({hits})")  # + : walk by time, and stop at the limit
                    values.append(query.match)
                else:
                    source = "trace_search s CROSS JOIN traces t ON t.seq = s.rowid"
                    where.append("s.trace_search MATCH ?")
                    values.append(query.match)
            for pattern in query.like:
                where.append("(x.input LIKE ? ESCAPE '\\' OR x.output LIKE ? ESCAPE '\\')")
                values += [pattern] * 2
            if not query.match and not query.like:
                return []
        order = "DESC" if newest_first else "ASC"
        sql = (f"SELECT t.at_epoch, x.input, x.output, x.body FROM {source} JOIN trace_texts x ON x.seq = t.seq "
               f"WHERE {' AND '.join(where)} ORDER BY t.at_epoch {order}, t.id {order}")
        if limit:
            sql += " LIMIT ?"
            values.append(limit)
        return [(row[0], trace_from(*row[1:])) for row in self.ledger.rows(sql, values)]

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

    def prune(self, days: float, now: float | None = None) -> Pruned:
        """Delete traces whose event is older than `days`, their texts, words and feedback (which says nothing without
        its trace; rows that were learned from it are in their dataset). What they cost stays counted.

        In small transactions, so that a server goes on writing meanwhile; stopped half-way, the next call goes on.
        """
        end = (time.time() if now is None else now) - days * DAY_S
        traces = feedback = 0
        self.ledger.rows("PRAGMA secure_delete=ON")  # what is deleted is overwritten
        while True:
            with self.ledger.transaction() as db:
                old = db.execute("SELECT seq, id FROM traces WHERE at_epoch < ? ORDER BY at_epoch LIMIT ?",
                                 (end, PRUNED_AT_ONCE)).fetchall()
                if not old:
                    break
                seqs = [(seq,) for seq, _ in old]
                db.executemany("INSERT INTO trace_search (trace_search, rowid, input, output) "
                               "SELECT 'delete', seq, input, output FROM trace_texts WHERE seq = ?", seqs)
                feedback += db.executemany("DELETE FROM feedback WHERE trace = ?", [(i,) for _, i in old]).rowcount
                for table in ("trace_texts", "traces"):
                    db.executemany(f"DELETE FROM {table} WHERE seq = ?", seqs)
            traces += len(old)
        step = "INSERT INTO trace_search (trace_search, rank) VALUES ('merge', ?)"
        pages = -200  # below zero: until one segment is left, and with it no deleted word
        while traces:
            with self.ledger.transaction() as db:
                before = db.total_changes
                db.execute(step, (pages,))
                if db.total_changes - before < 2:
                    break
            pages = 200
        if traces:
            self.ledger.rows("PRAGMA wal_checkpoint(TRUNCATE)")  # the log holds the pages as they were
        return Pruned(traces, feedback)

    def add_feedback(self, items: Sequence[Feedback]) -> int:
        """Commit ratings and corrections; returns how many were new. Raises NotFound for an unknown trace."""
        missing = {item.trace for item in items} - self.known([item.trace for item in items])
        if missing:
            raise NotFound(f"Feedback names an unknown trace: `{sorted(missing)[0]}`.", "bucle traces")
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


@dataclass(frozen=True, slots=True)
class _Asked:
    route: str
    user: str
    release: str
    key: str
    status: int
    query: str
    since: float
    before: float
    first: int = 0
