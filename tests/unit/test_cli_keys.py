"""`bucle keys` and `bucle spend`, as they answer people and programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bucle.cli.keys import command as keys
from bucle.cli.spend import command as spend
from bucle.core.errors import BucleError
from bucle.core.records import Trace, Usage
from bucle.ledger import Ledger, TraceStore
from bucle.ledger.keys import KeyStore
from bucle.serve.keys import Keys


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "bucle.yaml").write_text("project: p\ntasks:\n  t: {kind: classify, data: rows.tsv}\n"
                                         "serve:\n  teams:\n    soporte: {usd_per_month: 2}\n    ventas: {}\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def told(*args: str, group: Any = keys) -> str:
    done = CliRunner().invoke(group, args)
    assert done.exit_code == 0, done.output
    return done.stdout


def answer(*args: str, group: Any = keys) -> Any:
    out = told(*args, "--json", group=group)
    assert out.count("\n") == 1
    return json.loads(out)


def refused(*args: str, group: Any = keys) -> str:
    error = CliRunner().invoke(group, args).exception
    assert isinstance(error, BucleError), error
    assert error.exit_code == 2
    assert error.hint
    return error.message


def test_a_key_from_its_first_day_to_its_last(project: Path) -> None:
    assert "There are no keys." in told()
    done = CliRunner().invoke(keys, ["create", "app", "--team", "soporte", "--label", "rrhh", "--expires", "30d",
                                     "--usd-per-month", "20", "--rpm", "60"])
    secret = done.stdout.strip()  # alone, so that KEY=$(bucle keys create app) works
    assert secret.startswith("bk_")
    assert "asks for a key" in done.stderr
    assert secret not in done.stderr
    [row] = answer("list")["keys"]
    assert secret not in str(row)
    assert (row["name"], row["team"], row["labels"], row["status"]) == ("app", "soporte", ["rrhh"], "active")
    assert "$20 a month, 60 requests a minute" in told("show", "app")
    assert answer("change", "app", "--no", "rpm", "--scope", "chat", "--expires", "never")["key"]["scopes"] == ["chat"]
    second = answer("rotate", "app", "--grace", "2h")["secret"]
    ledger = Ledger(project / ".bucle")
    let_in = Keys(store=KeyStore(ledger))
    assert let_in.find(secret) == let_in.find(second)
    told("revoke", "app", "--reason", "se \x1b[31mfue")
    let_in.refresh()
    assert let_in.find(second) is None
    ledger.close()
    assert "All 1 keys are revoked" in told("list")
    shown = told("show", "app")
    assert "valid for 2:00:00" in shown
    assert "se \\x1b[31mfue" in shown
    assert [h["what"] for h in answer("show", "app")["history"]] == ["created", "changed", "rotated", "revoked"]


def test_mistakes_are_told_with_what_to_do(project: Path) -> None:
    told("create", "app")
    assert "no team `sopporte`" in refused("create", "x", "--team", "sopporte")
    for wrong in ("yesterday", "30", "-1d", "30d ", "9999999999d", "2027-13-01", "٣d"):
        assert refused("create", "x", "--expires", wrong)
    assert "future" in refused("create", "x", "--expires", "2020-01-01")
    assert "future" in refused("create", "x", "--expires", "0d")
    assert "no scope" in refused("create", "x", "--scope", "admin")
    assert "called `app`" in refused("create", "app")
    assert "usd_per_month" in refused("create", "x", "--usd-per-month", "nan")
    assert "No key" in refused("revoke", "nobody")
    assert "What of the key" in refused("change", "app")
    assert "year" in refused("rotate", "app", "--grace", "500d")
    assert "no month" in refused("--month", "2026-13", group=spend)
    assert [row["name"] for row in answer("list")["keys"]] == ["app"]


def test_spend_by_key_team_and_route_with_the_share_of_each_budget(project: Path) -> None:
    app = answer("create", "app", "--team", "soporte", "--usd-per-month", "4")["key"]["id"]
    answer("create", "idle", "--usd-per-month", "1")
    ledger = Ledger(project / ".bucle")
    store, at = TraceStore(ledger), "2026-10-15T10:00:00+00:00"
    for n, (route, key, team, usd) in enumerate([("r", app, "soporte", 1.5), ("r", app, "soporte", 0.000000001),
                                                 ("s", "", "", 0.25), ("s", app, "soporte", 0.5)]):
        told_at = "2025-01-01T00:00:00+00:00" if n == 0 else at  # a replay's event; it came in October
        store.add_traces([Trace(id=f"trace:{n}", at=told_at, received_at=at, route=route, model="m", input="", key=key,
                                team=team, usage=Usage(tokens_in=10, tokens_out=5, usd=usd))])
    october = ("--month", "2026-10")
    by_key = answer(*october, group=spend)
    assert [(r["name"], r["nano_usd"], r["budget_usd"], r["used"]) for r in by_key["rows"]] == [
        ("app", 2_000_000_001, 4.0, pytest.approx(0.5)), ("no key", 250_000_000, None, None), ("idle", 0, 1.0, 0.0)]
    assert by_key["total"] == {"requests": 4, "tokens_in": 40, "tokens_out": 20, "nano_usd": 2_250_000_001,
                               "usd": 2.250000001}
    by_team = answer(*october, "--by", "team", group=spend)["rows"]
    assert [(r["name"], r["requests"], r["used"]) for r in by_team] == [("soporte", 3, pytest.approx(1.0)),
                                                                      ("no team", 1, None)]
    table = told(*october, "--by", "team", group=spend)
    assert "100.0% ##########" in table
    by_route = answer(*october, "--by", "route", group=spend)["rows"]
    assert [(r["name"], r["nano_usd"]) for r in by_route] == [("r", 1_500_000_001), ("s", 750_000_000)]
    store.prune(30, now=1_900_000_000.0)
    assert [(r["name"], r["nano_usd"]) for r in answer(*october, "--by", "route", group=spend)["rows"]] == [
        ("deleted traces", 2_250_000_001)]
    assert answer(*october, group=spend)["rows"] == by_key["rows"]  # what budgets are enforced on stays
    assert "Nothing was asked" in told("--month", "2020-01", "--by", "route", group=spend)
    ledger.close()


def test_the_address_is_that_of_the_project(project: Path) -> None:
    with (project / "bucle.yaml").open("a", encoding="utf-8") as file:
        file.write("  host: 0.0.0.0\n  port: 9444\n")
    done = CliRunner().invoke(keys, ["create", "app"])
    assert "curl 127.0.0.1:9444/v1/models" in done.stderr


def test_a_key_may_be_for_some_models_alone(project: Path) -> None:
    made = answer("create", "app", "--model", "t")["key"]
    assert made["models"] == ["t"]
    assert "asks   t" in told("show", "app")
    assert answer("change", "app", "--no", "models")["key"]["models"] == []
    wrong = CliRunner().invoke(keys, ["create", "other", "--model", "tt"])
    assert isinstance(wrong.exception, BucleError)
    assert "no task, model or route `tt`" in wrong.exception.message
