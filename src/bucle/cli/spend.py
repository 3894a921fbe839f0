"""`bucle spend`: what a month cost, by key, team or route, and how much of each budget that is."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from bucle.cli.shared import as_json, emit, on_project, table

if TYPE_CHECKING:
    from bucle.loop.workspace import Workspace

FIGURES = ("requests", "tokens_in", "tokens_out", "nano_usd")


@click.command("spend")
@click.option("--month", default="", help="A UTC calendar month, such as 2026-11; default this one.")
@click.option("--by", "by", type=click.Choice(["key", "team", "route"]), default="key", show_default=True)
@on_project
@as_json
def command(month: str, by: str, folder: str, json_: bool) -> None:
    """Requests, tokens and dollars of a month, as the ledger has them, and how much of each budget they are.

    Budgets are enforced on the same figures. They stay when traces are deleted; by route, what deleted traces cost is
    one row.
    """
    from bucle.core.errors import BadInput
    from bucle.loop.workspace import Workspace

    month = month or datetime.now(UTC).strftime("%Y-%m")
    if not re.fullmatch(r"[1-9]\d{3}-(0[1-9]|1[0-2])", month, re.ASCII):
        raise BadInput(f"{month[:40]!r} is no month.", "bucle spend --month 2026-11")
    ws = Workspace.open(folder)
    rows = spend_rows(ws, month, by)
    total = {f: sum(r[f] for r in rows) for f in FIGURES}
    for row in (*rows, total):
        row["usd"] = row["nano_usd"] / 1e9

    def human() -> None:
        if not rows:
            click.echo(f"Nothing was asked in {month}.")
            return
        lines: list[list[Any]] = [[r["name"], r["id"], r["requests"], r["tokens_in"], r["tokens_out"],
                                   f"${r['usd']:.6f}", *_of_budget(r)] for r in rows]
        lines.append(["all", "", total["requests"], total["tokens_in"], total["tokens_out"], f"${total['usd']:.6f}",
                      "", ""])
        ids = any(line[1] for line in lines)
        head = [by, "id", "requests", "tokens in", "tokens out", month, "budget", "used"]
        keep = [n for n in range(len(head)) if (n != 1 or ids) and (n < 6 or by != "route")]
        table([head[n] for n in keep], [[line[n] for n in keep] for line in lines])

    emit({"month": month, "by": by, "rows": rows, "total": total}, json_, human)


def spend_rows(ws: Workspace, month: str, by: str) -> list[dict[str, Any]]:
    """One row a key, team or route, the dearest first; keys and teams with a budget are there without any spend."""
    from bucle.ledger.keys import KeyStore
    from bucle.ledger.spend import nano_usd, spent

    sums: dict[str, list[int]] = {}
    for one in spent(ws.ledger, month):
        _add(sums, getattr(one, by) if by != "route" else "", [getattr(one, f) for f in FIGURES])
    names, budgets = dict[str, str](), dict[str, int]()
    if by == "key":
        for stored in KeyStore(ws.ledger).stored():
            names[stored.key.id] = stored.key.name
            if stored.key.usd_per_month is not None and (not stored.revoked_at or stored.key.id in sums):
                budgets[stored.key.id] = nano_usd(stored.key.usd_per_month)
        names |= {"key:environment": "BUCLE_API_KEYS", "key:studio": "BUCLE_STUDIO_KEYS"}
    elif by == "team":
        budgets = {team: nano_usd(rules.usd_per_month) for team, rules in ws.config.serve.teams.items()
                   if rules.usd_per_month is not None}
    else:
        sums = _by_route(ws, month, sums.get("", [0] * 4))
    for who in budgets:
        _add(sums, who, [0] * 4)
    rows = []
    for who, figures in sums.items():
        none = {"key": "no key", "team": "no team", "route": "deleted traces"}[by]
        row: dict[str, Any] = {"name": names.get(who, who) or none, "id": who if by == "key" else "",
                               **dict(zip(FIGURES, figures, strict=True))}
        if by != "route":
            limit = budgets.get(who)
            row |= {"budget_usd": None if limit is None else limit / 1e9,
                    "used": None if limit is None else row["nano_usd"] / limit if limit else float(row["nano_usd"] > 0)}
        rows.append(row)
    return sorted(rows, key=lambda r: (-r["nano_usd"], -r["requests"], r["name"]))


def _by_route(ws: Workspace, month: str, total: list[int]) -> dict[str, list[int]]:
    """By the traces' own route; what is in the spend and in no trace any more has the empty name."""
    sums: dict[str, list[int]] = {}
    for route, *figures in ws.ledger.rows(
            "SELECT route, sum(role != 'shadow'), sum(tokens_in), sum(tokens_out), sum(nano_usd) FROM traces "
            "JOIN trace_texts x USING (seq) WHERE substr(x.body ->> 'received_at', 1, 7) = ? GROUP BY route", (month,)):
        _add(sums, route, figures)
    gone = [max(0, all_ - sum(s[n] for s in sums.values())) for n, all_ in enumerate(total)]
    if any(gone):
        _add(sums, "", gone)
    return sums


def _add(sums: dict[str, list[int]], who: str, figures: list[int]) -> None:
    row = sums.setdefault(who, [0] * len(figures))
    for n, value in enumerate(figures):
        row[n] += value


def _of_budget(row: dict[str, Any]) -> list[str]:
    if row.get("budget_usd") is None:
        return ["", ""]
    share = row["used"]
    bar = "#" * min(10, round(share * 10))
    return [f"${row['budget_usd']:g}", f"{share:6.1%} {bar:<10}"]
