"""`bucle prompt check | save | alias`: a file becomes a version, and an alias stands for one."""

from __future__ import annotations

from typing import Any

import click

from bucle.cli.shared import as_json, emit, on_project


@click.command("check")
@click.argument("file")
@on_project
@as_json
def check(file: str, folder: str, json_: bool) -> None:
    """Whether FILE is a prompt that can be used: every key known, every variable an input, every template safe, and one
    rendering with stand-ins for its inputs. Nothing is saved, no model is asked."""
    from bucle.loop.prompts import check_prompt
    from bucle.loop.workspace import Workspace

    told = check_prompt(Workspace.open(folder), file)

    def human() -> None:
        given = ", ".join(told["inputs"]) or "input alone"
        click.echo(f"{file}: `{told['name']}` can be used; inputs: {given}; {told['characters']:,} characters")
        for warning in told["warnings"]:
            click.echo(f"  note: {warning}")
        click.echo(f"next: bucle prompt try {file} --input TEXT")

    emit(told, json_, human)


@click.command("save")
@click.argument("file")
@click.option("--alias", default="", help="An alias that stands for this version from now on, such as production.")
@click.option("--by", default="", help="Who saves it (default: your name on this machine).")
@click.option("--because", default="", metavar="REASON", help="Why; the history keeps it.")
@on_project
@as_json
def save(file: str, alias: str, by: str, because: str, folder: str, json_: bool) -> None:
    """Keep FILE as the next version of the name in it. A file whose prompt was saved before is that version."""
    import getpass

    from bucle.customise.prompt.store import move, versions
    from bucle.loop.prompts import save_file
    from bucle.loop.workspace import Workspace

    ws = Workspace.open(folder)
    who = by or getpass.getuser()
    stored = save_file(ws, file, by=who, reason=because)
    told: dict[str, Any] = {"name": stored.spec.name, "version": stored.version, "node": stored.node,
                            "versions": len(versions(ws.ledger, stored.spec.name)), "by": who}
    if alias:
        told["alias"] = move(ws.ledger, stored, alias, by=who, reason=because)

    def human() -> None:
        click.echo(f"{stored.title}  {stored.node[:19]}" + (f"  now {stored.spec.name}@{alias}" if alias else ""))
        if stored.version > 1:
            click.echo(f"next: bucle prompt diff {stored.spec.name}@{stored.version - 1} {stored.title}")
        else:
            ref = f"{stored.spec.name}@{alias}" if alias else stored.spec.name
            click.echo(f"next: put `prompt: {ref}` into a task of bucle.yaml")

    emit(told, json_, human)


@click.command("alias")
@click.argument("prompt", metavar="NAME@VERSION")
@click.argument("alias")
@click.option("--by", default="", help="Who moves it (default: your name on this machine).")
@click.option("--because", default="", metavar="REASON", help="Why; the history keeps it.")
@on_project
@as_json
def alias(prompt: str, alias: str, by: str, because: str, folder: str, json_: bool) -> None:
    """Let ALIAS stand for a saved version: `bucle prompt alias atencion@3 production`. Its history is kept."""
    import getpass

    from bucle.core.errors import BadInput
    from bucle.customise.prompt.store import move, resolve
    from bucle.loop.prompts import is_path
    from bucle.loop.workspace import Workspace

    ws = Workspace.open(folder)
    if is_path(prompt):
        raise BadInput("An alias stands for a saved version.", f"bucle prompt save {prompt} --alias {alias}")
    told = move(ws.ledger, resolve(ws.ledger, prompt), alias, by=by or getpass.getuser(), reason=because)

    def human() -> None:
        before = f", before it {told['before']}" if told["before"] else ""
        click.echo(f"{told['name']}@{alias} is version {told['version']}{before}")
        click.echo(f"next: bucle run measures the tasks whose `prompt:` is {told['name']}@{alias}")

    emit(told, json_, human)


commands = {"check": check, "save": save, "alias": alias}
