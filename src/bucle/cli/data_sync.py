"""`bucle data sync`: ask every source now, and say what changed there."""

from __future__ import annotations

from typing import Any

import click

from bucle.cli.shared import as_json, emit, on_project

SHOWN = 20


@click.command("sync", help="Ask every source now; what was added, changed, renamed and deleted since the last time.")
@on_project
@as_json
def _sync(folder: str, json_: bool) -> None:
    import time

    from bucle.execute import make_display, project_lock
    from bucle.loop.sync import sync_all, sync_rows, told
    from bucle.loop.workspace import Workspace

    ws = Workspace.open(folder)
    with project_lock(ws.root / ".bucle"), make_display(quiet=json_) as display:
        display.start("data", "sync")
        began = time.monotonic()
        try:
            found = [told(one) for one in sync_all(ws, force=True, report=display.update)]
            rows = sync_rows(ws, force=True, report=display.update)
        except BaseException:
            display.finish("failed", time.monotonic() - began)
            raise
        display.finish("done", time.monotonic() - began, f"{sum(one['files'] for one in found)} files")

    def human() -> None:
        for one in found:
            _show(one)
        for task, path in rows.items():
            click.echo(f"rows of {task}: {path}")
        if not found and not rows:
            click.echo("This project names no documents: add `data.documents` to bucle.yaml.")
        else:
            click.echo("next: bucle run")

    emit({"sources": found, "rows": rows}, json_, human)


def _show(one: dict[str, Any]) -> None:
    kinds = ("added", "changed", "renamed", "deleted")
    counts = ", ".join(f"{len(one[kind])} {kind}" for kind in kinds)
    click.echo(f"{one['source']}: {one['files']} files; {counts}, {one['unchanged']} unchanged")
    for kind in kinds:
        for what in one[kind][:SHOWN]:
            click.echo(f"  {kind:<8} {_plain(' -> '.join(what) if kind == 'renamed' else what)}")
        if len(one[kind]) > SHOWN:
            click.echo(f"  {kind:<8} … and {len(one[kind]) - SHOWN} more (all with --json)")
    for problem in one["problems"][:SHOWN]:
        click.echo(f"  problem  {_plain(problem['path'])}: {problem['reason']}. {_plain(problem['message'])}")
    if len(one["problems"]) > SHOWN:
        click.echo(f"  problem  … and {len(one['problems']) - SHOWN} more (all with --json)")
    if one["note"]:
        click.echo(f"  note     {one['note']}")


def _plain(text: str) -> str:
    """A name of somebody else's, without what could steer a terminal."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


commands = {"sync": _sync}
