"""`bucle keys list` and `show`."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from bucle.cli.shared import as_json, emit, on_project, table, visible

if TYPE_CHECKING:
    from bucle.ledger.keys import StoredKey
    from bucle.ledger.store import Ledger


@click.command("list")
@click.option("--all", "all_", is_flag=True, help="Revoked ones too.")
@on_project
@as_json
def list_(all_: bool, folder: str, json_: bool) -> None:
    """Every key: id, name, beginning of its secret, team, scopes, labels, end, spend of this month and of the last."""
    from bucle.ledger.keys import KeyStore
    from bucle.loop.workspace import Workspace

    ledger = Workspace.open(folder).ledger
    stored = KeyStore(ledger).stored()
    spent = _spent(ledger)
    rows = [described(one, spent) for one in stored if all_ or not one.revoked_at]

    def human() -> None:
        if not rows:
            click.echo(f"All {len(stored)} keys are revoked: --all lists them." if stored else "There are no keys.")
            click.echo("  -> bucle keys create app-support --usd-per-month 20")
            return
        table(["id", "name", "secret", "team", "scopes", "labels", "ends", "this month", "last month", "of", ""],
              [[r["id"], r["name"], r["prefixes"][0] + "…", r["team"], ", ".join(r["scopes"]), ", ".join(r["labels"]),
                (r["ends"] or "never")[:10], f"${r['usd_this_month']:.4f}", f"${r['usd_last_month']:.4f}",
                "" if r["usd_per_month"] is None else f"${r['usd_per_month']:g}", _told(r["status"])] for r in rows])

    emit({"keys": rows}, json_, human)


@click.command("show")
@click.argument("name")
@on_project
@as_json
def show(name: str, folder: str, json_: bool) -> None:
    """The key NAME (or its id): what it may do and spend, its secrets' beginnings, and its history."""
    from bucle.cli.keys_make import summary
    from bucle.ledger.keys import KeyStore
    from bucle.loop.workspace import Workspace

    ledger = Workspace.open(folder).ledger
    store = KeyStore(ledger)
    one = store.get(name)
    row, history = described(one, _spent(ledger)), store.history(one.key.id)

    def human() -> None:
        click.echo(summary(one.key))
        click.echo(f"spent  ${row['usd_this_month']:.6f} this month (UTC), ${row['usd_last_month']:.6f} last month")
        click.echo(f"is     {row['status']}\n")
        table(["secret", "made", "ends"], [[s.prefix + "…", s.made_at[:19], _iso(s.ends_at)] for s in one.secrets])
        click.echo()
        table(["at", "by", "what", ""], [[h["at"][:19], visible(h["by"]), h["what"], _detail(h)] for h in history])

    emit({"key": row, "history": history}, json_, human)


def _spent(ledger: Ledger) -> list[dict[str, int]]:
    """Nano-dollars by key, of this month and of the last."""
    from bucle.ledger.spend import spent

    this = datetime.now(UTC).replace(day=1)
    months: list[dict[str, int]] = []
    for day in (this, this - timedelta(days=1)):
        months.append({})
        for row in spent(ledger, day.strftime("%Y-%m")):
            months[-1][row.key] = months[-1].get(row.key, 0) + row.nano_usd
    return months


def described(one: StoredKey, spent: list[dict[str, int]]) -> dict[str, Any]:
    """A key as `--json` has it: its fields, status, beginnings of its secrets (newest first), dollars of this month
    and of the last."""
    now, last = (month.get(one.key.id, 0) / 1e9 for month in spent)
    told = {n: v for n, v in one.key.described().items() if n != "expires_at"}
    return {**told, "ends": _iso(one.key.expires_at), "status": one.status(time.time()),
            "prefixes": [s.prefix for s in one.secrets], "created_at": one.created_at, "by": one.by,
            "revoked_at": one.revoked_at, "usd_this_month": now, "usd_last_month": last}


def _iso(at: float | None) -> str:
    return "" if at is None else datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def _told(status: str) -> str:
    return "" if status == "active" else status


def _detail(entry: dict[str, Any]) -> str:
    detail = entry["detail"]
    if entry["what"] == "changed":
        return visible(", ".join(f"{n}: {_json(old)} -> {_json(new)}" for n, (old, new) in detail.items()))
    if entry["what"] == "revoked":
        return visible(detail.get("reason", ""))
    grace = f", the one before valid for {timedelta(seconds=detail['grace_s'])}" if "grace_s" in detail else ""
    return f"secret {visible(detail['prefix'])}…{grace}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


commands = {"list": list_, "show": show}
