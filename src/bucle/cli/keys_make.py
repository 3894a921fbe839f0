"""`bucle keys create`, `rotate`, `change` and `revoke`."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from bucle.cli.shared import as_json, emit, on_project

if TYPE_CHECKING:
    from bucle.ledger.keys import Key
    from bucle.loop.workspace import Workspace

_SECONDS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def _settings(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed((
        click.option("--team", default=None, help="Whose budget in bucle.yaml (serve.teams) it shares."),
        click.option("--scope", "scopes", multiple=True, help="What it may do: chat, embeddings, feedback, moderations "
                     "(these four unless said otherwise), metrics, studio. May be repeated."),
        click.option("--label", "labels", multiple=True, help="An access label: its holder sees documents that need "
                     "it. May be repeated."),
        click.option("--model", "models", multiple=True, help="A task, model or route that it may ask; without one, "
                     "all. May be repeated."),
        click.option("--expires", default=None, help="When it ends: 12h, 30d, 8w, a date (UTC), or never."),
        click.option("--usd-per-month", type=float, default=None, help="Dollars in a UTC calendar month."),
        click.option("--rpm", type=int, default=None, help="Requests a minute."),
        click.option("--tpm", type=int, default=None, help="Tokens a minute."),
    )):
        command = option(command)
    return command


@click.command("create")
@click.argument("name")
@_settings
@on_project
@as_json
def create(name: str, team: str | None, scopes: tuple[str, ...], labels: tuple[str, ...], models: tuple[str, ...],
           expires: str | None, usd_per_month: float | None, rpm: int | None, tpm: int | None, folder: str,
           json_: bool) -> None:
    """Make a key called NAME. Its secret goes to standard output, alone, and is never shown again.

    Without --label its holder sees no document that needs a label; without a limit it has none.
    """
    from bucle.ledger.keys import ASKING, KeyStore
    from bucle.loop.workspace import Workspace

    ws = Workspace.open(folder)
    store = KeyStore(ws.ledger)
    first = not store.stored()
    key, secret = store.create(name, by=_who(), team=_team(ws, team or ""), scopes=scopes or ASKING, labels=labels,
                               expires_at=_end(expires), usd_per_month=usd_per_month, requests_per_minute=rpm,
                               tokens_per_minute=tpm, models=_models(ws, models))
    emit({"key": key.described(), "secret": secret}, json_, lambda: _show_secret(key, secret, _address(ws), first))


@click.command("rotate")
@click.argument("name")
@click.option("--grace", default="24h", show_default=True, help="How long the old secret stays valid: 0, 30m, 24h, 7d.")
@on_project
@as_json
def rotate(name: str, grace: str, folder: str, json_: bool) -> None:
    """Give the key NAME (or its id) a new secret. Its id, limits and spend go on."""
    from bucle.ledger.keys import KeyStore
    from bucle.loop.workspace import Workspace

    seconds = 0.0 if grace == "0" else _seconds(grace, "--grace 24h")
    ws = Workspace.open(folder)
    key, secret = KeyStore(ws.ledger).rotate(name, by=_who(), grace_s=seconds)
    ends = _utc(time.time() + seconds)
    emit({"key": key.described(), "secret": secret, "old_ends_at": ends}, json_,
         lambda: _show_secret(key, secret, _address(ws), False,
                              f"The old secret ends {ends}." if seconds else "The old one ended."))


@click.command("change")
@click.argument("name")
@_settings
@click.option("--no", "dropped", multiple=True, type=click.Choice(["usd-per-month", "rpm", "tpm", "labels", "models",
                                                                        "team"]),
              help="A limit, the labels, the models or the team to take away. May be repeated.")
@on_project
@as_json
def change(name: str, team: str | None, scopes: tuple[str, ...], labels: tuple[str, ...], models: tuple[str, ...],
           expires: str | None, usd_per_month: float | None, rpm: int | None, tpm: int | None, dropped: tuple[str, ...],
           folder: str, json_: bool) -> None:
    """Change the key NAME (or its id). What is not given stays; scopes, labels and models replace those before."""
    from bucle.core.errors import BadInput
    from bucle.ledger.keys import KeyStore
    from bucle.loop.workspace import Workspace

    ws = Workspace.open(folder)
    given: dict[str, Any] = {"usd_per_month": usd_per_month, "requests_per_minute": rpm, "tokens_per_minute": tpm,
                             "scopes": scopes or None, "labels": labels or None, "models": _models(ws, models) or None,
                             "team": None if team is None else _team(ws, team)}
    wanted = {field: value for field, value in given.items() if value is not None}
    names = {"usd-per-month": "usd_per_month", "rpm": "requests_per_minute", "tpm": "tokens_per_minute"}
    wanted |= {names.get(one, one): {"labels": (), "models": (), "team": ""}.get(one) for one in dropped}
    if expires is not None:
        wanted["expires_at"] = _end(expires)
    if not wanted:
        raise BadInput("What of the key shall change?", "bucle keys change NAME --usd-per-month 20")
    key = KeyStore(ws.ledger).change(name, by=_who(), **wanted)
    emit({"key": key.described()}, json_, lambda: click.echo(summary(key)))


@click.command("revoke")
@click.argument("name")
@click.option("--reason", default="", help="Why; kept in the key's history.")
@on_project
@as_json
def revoke(name: str, reason: str, folder: str, json_: bool) -> None:
    """Let nobody in by the key NAME (or its id) any more. A running server refuses it within a second; answers it is
    writing at that moment are finished."""
    from bucle.ledger.keys import KeyStore
    from bucle.loop.workspace import Workspace

    key = KeyStore(Workspace.open(folder).ledger).revoke(name, by=_who(), reason=reason)
    emit({"key": key.described(), "status": "revoked"}, json_, lambda: click.echo(f"{key.name} ({key.id}) is revoked"))


def summary(key: Key) -> str:
    """What a key may do, in lines for people."""
    limits = [f"${key.usd_per_month:g} a month"] if key.usd_per_month is not None else []
    limits += [f"{n:,} {what} a minute" for n, what in ((key.requests_per_minute, "requests"),
                                                       (key.tokens_per_minute, "tokens")) if n is not None]
    lines = [f"{key.name}  {key.id}" + (f"  team {key.team}" if key.team else ""),
             f"may    {', '.join(sorted(key.scopes))}",
             f"sees   documents that need no {'other ' if key.labels else ''}label"
             f"{' than ' if key.labels else ''}{', '.join(sorted(key.labels))}",
             f"asks   {', '.join(sorted(key.models)) or 'every model'}",
             f"limits {', '.join(limits) or 'none'}",
             f"ends   {_utc(key.expires_at) if key.expires_at is not None else 'never'}"]
    return "\n".join(lines)


def _show_secret(key: Key, secret: str, address: str, first: bool, more: str = "") -> None:
    click.echo(secret)
    lines = [summary(key), "", "The secret is shown this once.", *([more] if more else []),
             f"curl {address}/v1/models -H 'Authorization: Bearer {secret[:8]}…'"]
    if first:
        lines.append("From now on a server of this project asks for a key, and its studio for one with --scope studio.")
    click.echo("\n".join(lines), err=True)


def _address(ws: Workspace) -> str:
    """Where this project's server listens by bucle.yaml, as this machine calls it."""
    settings = ws.config.serve
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)  # noqa: S104
    return f"{f'[{host}]' if ':' in host and not host.startswith('[') else host}:{settings.port}"


def _team(ws: Workspace, team: str) -> str:
    from bucle.core.errors import ConfigError

    teams: Sequence[str] = list(ws.config.serve.teams)
    if team and teams and team not in teams:
        raise ConfigError(f"bucle.yaml has no team `{team[:80]}` under serve.teams: {', '.join(teams)}.",
                          f"Add it there (`{team[:80]}: {{}}` for one without a budget), or choose another.")
    return team


def _models(ws: Workspace, models: Sequence[str]) -> Sequence[str]:
    from bucle.core.errors import ConfigError

    config = ws.config
    known = [*config.tasks, *config.models, *config.serve.routes]
    if wrong := [m for m in models if m not in known and m.partition(":")[0] not in config.models]:
        raise ConfigError(f"bucle.yaml has no task, model or route `{wrong[0][:80]}`.", f"It has: {', '.join(known)}.")
    return models


def _end(expires: str | None) -> float | None:
    """Epoch seconds of `30d` from now, or of a date. Raises BadInput."""
    if expires is None or expires == "never":
        return None
    if re.fullmatch(r"\d{4}-\d\d-\d\d.*", expires, re.ASCII):
        from bucle.core.errors import BadInput

        try:
            at = datetime.fromisoformat(expires)
        except ValueError as error:
            raise BadInput(f"{expires[:40]!r} is no date.", "--expires 2027-01-31") from error
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    return time.time() + _seconds(expires, "--expires 30d")


def _seconds(text: str, hint: str) -> float:
    found = re.fullmatch(r"(\d{1,6})([mhdw])", text, re.ASCII)
    if not found:
        from bucle.core.errors import BadInput

        raise BadInput(f"{text[:40]!r} is no span of time: a number and m, h, d or w.", hint)
    return float(int(found[1]) * _SECONDS[found[2]])


def _utc(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _who() -> str:
    import getpass

    return getpass.getuser()


commands = {"create": create, "rotate": rotate, "change": change, "revoke": revoke}
