"""`bucle release`: versions, cards, production."""

from __future__ import annotations

from typing import Any

import click

from bucle.cli.shared import as_json, emit, on_project, table

ACTIONS = ("list", "card", "rollback", "promote", "history", "run", "routes", "restore")


@click.command("release")
@click.argument("action", type=click.Choice(ACTIONS), default="list")
@click.argument("version", default="")
@on_project
@click.option("--target", default="", help="Of restore: which target of the route.")
@click.option("--reason", default="", help="Why; kept in the alias's history.")
@as_json
def command(action: str, version: str, folder: str, target: str, reason: str, json_: bool) -> None:
    """list: all versions. card VERSION: what it is and what was measured. rollback: production goes back to the version
    before, or to VERSION. promote VERSION: production moves there. history: every move. run: choose, gate and
    release. routes: the targets of routes that a canary's gate stopped. restore ROUTE --target NAME: its share is given
    back."""
    import getpass

    from bucle.core.errors import BadInput
    from bucle.loop.api import Project

    project = Project(folder)
    if action == "run":
        from bucle.execute import make_display

        project.run(until="release", display=make_display(quiet=json_))
    if action in ("rollback", "promote"):
        if action == "promote" and not version:
            raise BadInput("Which version should production be?", "bucle release promote 2")
        node = project.rollback(version, by=getpass.getuser(), reason=reason or action)
        emit(
            {"production": node.id, "version": node.attrs["version"]},
            json_,
            lambda: click.echo(
                f"production is version {node.attrs['version']} now; a running server serves it within a second"
            ),
        )
        return
    if action in ("routes", "restore"):
        _routes(project, version if action == "restore" else "", target, reason, json_)
        return
    if action == "card":
        text = project.card(version or "production")
        emit({"card": text}, json_, lambda: click.echo(text))
        return
    if action == "history":
        moves = project.workspace.ledger.alias_history("production")
        emit(
            {"history": moves},
            json_,
            lambda: table(
                ["at", "release", "by", "reason"], [[m["at"][:19], m["node"][:24], m["by"], m["reason"]] for m in moves]
            ),
        )
        return
    current = project.workspace.ledger.alias("production")
    rows = [
        {
            "version": n.attrs["version"],
            "id": n.id,
            "created": n.created_at,
            "production": n.id == current,
            "tasks": {t: project.workspace.ledger.get(c).attrs["name"] for t, c in n.attrs["tasks"].items()},
        }
        for n in project.releases()
    ]
    emit(
        {"releases": rows},
        json_,
        lambda: table(
            ["version", "", "created", "tasks"],
            [
                [
                    r["version"],
                    "production" if r["production"] else "",
                    r["created"][:19],
                    ", ".join(f"{t}: {c}" for t, c in r["tasks"].items()),
                ]
                for r in rows
            ],
        ),
    )


def _routes(project: Any, route: str, target: str, reason: str, json_: bool) -> None:
    import getpass

    from bucle.core.errors import BadInput
    from bucle.loop.aliases import restore, rollbacks

    if route and not target:
        raise BadInput(f"Which target of {route}?", f"bucle release restore {route} --target NAME")
    if route:
        restore(project.workspace, route, target, by=getpass.getuser(), reason=reason)
    rows = [{"route": pair[0], "target": pair[1], "stopped": not last["restored"], "at": last["at"], "why": last["why"]}
            for pair, last in rollbacks(project.workspace).items()]
    emit({"routes": rows}, json_, lambda: table(
        ["route", "target", "stopped", "at", "why"],
        [[r["route"], r["target"], "yes" if r["stopped"] else "no", r["at"][:19], r["why"]] for r in rows])
        if rows else click.echo("no canary's gate has stopped a target"))
