"""`bucle release`: versions, cards, production."""

from __future__ import annotations

import click

from bucle.cli.shared import as_json, emit, on_project, table


@click.command("release")
@click.argument("action", type=click.Choice(["list", "card", "rollback", "promote", "history", "run"]), default="list")
@click.argument("version", default="")
@on_project
@click.option("--reason", default="", help="Why; kept in the alias's history.")
@as_json
def command(action: str, version: str, folder: str, reason: str, json_: bool) -> None:
    """list: all versions. card VERSION: what it is and what was measured. rollback: production goes back to the version
    before, or to VERSION. promote VERSION: production moves there. history: every move. run: choose, gate and
    release."""
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
                f"production is version {node.attrs['version']} now; a running server takes it at its next start"
            ),
        )
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
