"""What was used, by month, key and team: counted with each new trace in the same transaction, kept when traces go."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from bucle.core.records import Trace
from bucle.ledger.store import Ledger

__all__ = ["Spent", "add_spend", "month_of", "nano_usd", "spent", "tokens"]

NANO = 1_000_000_000
MOST = 10**15  # nano-dollars of one answer, a million dollars: what is beyond is no price

_ADD = (
    "INSERT INTO spend (month, key, team, requests, tokens_in, tokens_out, nano_usd) VALUES (?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT DO UPDATE SET requests = requests + excluded.requests, tokens_in = tokens_in + excluded.tokens_in, "
    "tokens_out = tokens_out + excluded.tokens_out, nano_usd = nano_usd + excluded.nano_usd"
)


@dataclass(frozen=True, slots=True)
class Spent:
    """One key's use in one UTC calendar month (`2026-11`). `key` and `team` are empty for requests without a key;
    `requests` leaves shadow traffic out, the rest holds it; `nano_usd` is billionths of a US dollar."""

    month: str
    key: str
    team: str
    requests: int
    tokens_in: int
    tokens_out: int
    nano_usd: int


def nano_usd(usd: float) -> int:
    """Whole billionths of a US dollar: what spend is counted in, so that sums are exact. 0 where `usd` is no price."""
    return min(max(round(usd * NANO), 0), MOST) if math.isfinite(usd) else 0


def tokens(count: int) -> int:
    """`count` where it can be one; what a provider says is not trusted."""
    return min(max(count, 0), MOST)


def month_of(at: str) -> str:
    """The UTC calendar month (`2026-11`) of an ISO 8601 time."""
    if at.endswith(("+00:00", "Z")):
        return at[:7]
    return datetime.fromisoformat(at).astimezone(UTC).strftime("%Y-%m")


def add_spend(db: sqlite3.Connection, traces: Iterable[Trace]) -> None:
    """Count what `traces` used, by the month they came in; the caller's transaction holds it and its traces."""
    sums: dict[tuple[str, str, str], list[int]] = {}
    for trace in traces:
        usage = trace.usage
        row = sums.setdefault((month_of(trace.received_at), trace.key, trace.team), [0, 0, 0, 0])
        row[0] += trace.role != "shadow"
        row[1] += tokens(usage.tokens_in)
        row[2] += tokens(usage.tokens_out)
        row[3] += nano_usd(usage.usd)
    db.executemany(_ADD, [(*names, *row) for names, row in sums.items()])


def spent(ledger: Ledger, month: str = "") -> list[Spent]:
    """What each key and team used in `month` (`2026-11`; empty: every month), ordered by month, team, key."""
    where, values = ("WHERE month = ?", (month,)) if month else ("", ())
    return [
        Spent(*row)
        for row in ledger.rows(
            "SELECT month, key, team, requests, tokens_in, tokens_out, nano_usd "
            f"FROM spend {where} ORDER BY month, team, key",
            values,
        )
    ]
