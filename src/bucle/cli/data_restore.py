"""`bucle data removed | restore`: what cleaning took out and why, and taking it back."""

from __future__ import annotations

import getpass
from typing import Any

import click

from bucle.cli.shared import as_json, emit, on_project, table

_SHOWN = 200


@click.command("removed")
@click.option("--reason", default="", help="Only what was removed for this reason.")
@on_project
@as_json
def removed_command(folder: str, json_: bool, reason: str) -> None:
    """What cleaning took out, and why. Reads what changed first."""
    project, items = _removed(folder)
    from bucle.loop.restore import restored

    kept = sorted(restored(project.workspace.ledger))
    rows = [
        {"of": i.of, "id": i.id, "path": i.path, "reason": i.reason, "detail": i.detail, "kept": i.kept}
        for i in items
        if reason in ("", i.reason)
    ]

    def human() -> None:
        if rows:
            shown = [[r["of"], r["id"][:24], r["path"], r["reason"], r["detail"]] for r in rows[:_SHOWN]]
            table(["of", "id", "path", "reason", "detail"], shown)
        more = f" (the first {_SHOWN} shown; --json has all)" if len(rows) > _SHOWN else ""
        click.echo(f"{len(rows)} removed{more}" if rows else "0 removed: nothing here")
        if kept:
            click.echo(f"{len(kept)} restored: bucle data restore")
        if rows:
            click.echo("next: bucle data restore ID, or --all-of REASON")

    emit({"removed": rows, "restored": kept}, json_, human)


@click.command("restore")
@click.argument("names", nargs=-1, metavar="[ID|PATH]...")
@click.option("--all-of", "reason", default="", metavar="REASON", help="All that was removed for this reason.")
@click.option("--undo", is_flag=True, help="Leave it to cleaning again.")
@click.option("--by", default="", help="Who decides; this account's name where not given.")
@on_project
@as_json
def restore_command(names: tuple[str, ...], folder: str, json_: bool, reason: str, undo: bool, by: str) -> None:
    """Take a removal back: the next run keeps it. Without a name, what was restored, by whom and when.

    A document is named by its path or id, a row or paragraph by its id (or its beginning). Masks are undone by
    `data.personal_data`; secrets cannot be restored.
    """
    from bucle.core.errors import BadInput
    from bucle.loop import restore

    if names and reason:
        raise BadInput("Both names and --all-of were given.", "bucle data restore --all-of " + reason)
    if not names and not reason:
        if undo:
            raise BadInput("--undo needs the ids or paths to undo.", "bucle data restore lists them")
        _tell(folder, json_)
        return
    by = by or getpass.getuser()
    if undo:
        from bucle.loop.workspace import Workspace

        if reason:
            raise BadInput(
                "--undo takes ids or paths, not a reason: what is restored is removed no longer.",
                "bucle data restore lists them",
            )
        ledger = Workspace.open(folder).ledger
        chosen = list(names)
        after = restore.restore(ledger, chosen, by=by, reason="undo " + _named(chosen), undo=True)
    else:
        project, items = _removed(folder)
        ledger = project.workspace.ledger
        picked = restore.choose(items, names, reason)
        chosen = list(dict.fromkeys(_subject(item) for item in picked))
        why = f"all of {reason}" if reason else _named(chosen)
        after = restore.restore(ledger, chosen, by=by, reason="restore " + why)
    done = "undone" if undo else "restored"

    def human() -> None:
        for name in chosen[:20]:
            click.echo(f"{done}: {name}")
        click.echo(f"{len(chosen)} {done}; {len(after)} restored in all\nnext: bucle run")

    emit({done: chosen, "restored_now": sorted(after), "by": by}, json_, human)


commands: dict[str, click.Command] = {"removed": removed_command, "restore": restore_command}


def _removed(folder: str) -> tuple[Any, list[Any]]:
    from bucle.execute import QuietDisplay
    from bucle.loop.api import Project
    from bucle.loop.restore import removed

    project = Project(folder)
    project.run(until="data", display=QuietDisplay())
    return project, removed(project.workspace.ledger, project.records())


def _subject(item: Any) -> str:
    """What is kept of a removal: of a document its path, so that a new version of the file stays too."""
    return str(item.path if item.of == "documents" and not item.id.startswith("paragraph:") else item.id)


def _named(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _tell(folder: str, json_: bool) -> None:
    from bucle.loop.restore import history, restored
    from bucle.loop.workspace import Workspace

    ledger = Workspace.open(folder).ledger
    names, moves = sorted(restored(ledger)), history(ledger)

    def human() -> None:
        for name in names[:_SHOWN]:
            click.echo(name)
        if moves:
            table(
                ["at", "by", "what", "restored"], [[m["at"][:19], m["by"], m["reason"], m["restored"]] for m in moves]
            )
        click.echo(
            f"{len(names)} restored\nnext: " + ("bucle data restore NAME --undo" if names else "bucle data removed")
        )

    emit({"restored": names, "history": moves}, json_, human)
