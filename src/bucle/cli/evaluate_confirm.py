"""`bucle evaluate confirm FILE`: every candidate on rows held back from all of it, and whether the choice stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bucle.cli.shared import as_json, emit, on_project, quiet_option, table, trust_option


@click.command("confirm")
@click.argument("data", type=click.Path())
@on_project
@click.option("--task", default="", help="The task; the first without it.")
@trust_option
@quiet_option
@as_json
def confirm(data: str, folder: str, task: str, quiet: bool, json_: bool) -> None:
    """Ask every candidate of the latest comparison the rows of DATA, which nothing has seen, and say whether the
    recommendation stands. Exit code 1 where another one is better beyond doubt by more than the margin."""
    from bucle.execute import make_display
    from bucle.loop.confirm import confirm as confirmed
    from bucle.loop.workspace import Workspace

    ws = Workspace.open(folder)
    name = task or next(iter(ws.config.tasks), "")
    found = confirmed(ws, name, Path(data), make_display(quiet=quiet or json_))
    emit(found, json_, lambda: _show(found))
    if not found["holds"]:
        raise click.exceptions.Exit(1)


def _show(found: dict[str, Any]) -> None:
    click.echo(f"{found['task']}: {found['metric']} on {found['rows']} rows that nothing was chosen by")
    table(
        ["candidate", found["metric"], "95%", "when chosen", "against the recommended"],
        [
            [
                c["name"] + (" *" if c["name"] == found["recommended"] else ""),
                f"{c['value']:.4f}",
                f"{c['low']:.4f} to {c['high']:.4f}",
                f"{c['before']:.4f}",
                ""
                if c["name"] == found["recommended"] or not (d := c["difference"])
                else f"{d['value']:+.4f} [{d['low']:+.4f}, {d['high']:+.4f}]",
            ]
            for c in found["candidates"]
        ],
    )
    if found["again"] == found["recommended"]:
        click.echo(f"the same rule recommends {found['again']} here again")
    elif found["holds"]:
        click.echo(
            f"{found['recommended']} stands: on these rows the rule takes {found['again']}, but nobody is better by "
            "more than the margin beyond doubt"
        )
    else:
        click.echo(f"the choice does not stand: better here are {', '.join(found['better'])}")
    if found["seen"]:
        click.echo(f"warning: {found['seen']} of these rows stand in the data, or nearly; the figures are too good")


commands = {"confirm": confirm}
