"""Ledgers made before: their tables become today's in place, in one transaction, when they are opened."""

from __future__ import annotations

import sqlite3

__all__ = ["migrate"]

_COLUMNS = """
  INSERT INTO traces SELECT seq, id, at_epoch, route, release, user, coalesce(json_extract(body, '$.key'), ''),
    coalesce(json_extract(body, '$.team'), ''), coalesce(json_extract(body, '$.role'), ''),
    coalesce(json_extract(body, '$.cached'), ''), status, coalesce(json_extract(body, '$.ms'), 0),
    coalesce(json_extract(body, '$.ms_first'), 0), coalesce(json_extract(body, '$.usage.tokens_in'), 0),
    coalesce(json_extract(body, '$.usage.tokens_out'), 0),
    CAST(round(min(coalesce(json_extract(body, '$.usage.usd'), 0), 1e6) * 1e9) AS INTEGER)
  FROM traces_before
"""
_TEXTS = """
  INSERT INTO trace_texts SELECT seq, input, coalesce(json_extract(body, '$.output'), ''),
    json_remove(body, '$.input', '$.output')
  FROM traces_before
"""
_SPEND = """
  INSERT INTO spend SELECT strftime('%Y-%m', json_extract(body, '$.received_at')), t.key, t.team,
    sum(t.role != 'shadow'), sum(t.tokens_in), sum(t.tokens_out), sum(t.nano_usd)
  FROM traces t JOIN traces_before b USING (seq) GROUP BY 1, 2, 3
"""


def migrate(db: sqlite3.Connection, schema: str) -> None:
    """Make the tables of `schema`; traces stored before texts stood apart (with no search, no figures, no spend) are
    moved into them. All of it or nothing; processes that open a ledger at once wait for the one that does it."""
    if not _before(db):
        db.executescript(schema)
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        if _before(db):
            db.execute("ALTER TABLE traces RENAME TO traces_before")
            db.execute("DROP INDEX IF EXISTS traces_at")
            db.execute("DROP INDEX IF EXISTS traces_route")
            for statement in schema.split(";\n"):
                db.execute(statement)
            for statement in (_COLUMNS, _TEXTS, _SPEND):
                db.execute(statement)
            db.execute("INSERT INTO trace_search (trace_search) VALUES ('rebuild')")
            db.execute("DROP TABLE traces_before")
        db.execute("COMMIT")
    except BaseException:
        db.execute("ROLLBACK")
        raise


def _before(db: sqlite3.Connection) -> bool:
    return "body" in {row[1] for row in db.execute("PRAGMA table_info(traces)")}
