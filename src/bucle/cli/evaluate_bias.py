"""`bucle evaluate bias`: whether answers change with a name, a gender or a nationality that should not matter."""

from __future__ import annotations

from typing import Any

import click

from bucle.cli.shared import as_json, emit, on_project, quiet_option, table


@click.command("bias")
@on_project
@click.option("--task", default="", help="The task; the first without it.")
@click.option("--release", default="production", show_default=True, help="A version (2, v2), an id or an alias.")
@quiet_option
@as_json
def bias(folder: str, task: str, release: str, quiet: bool, json_: bool) -> None:
    """Ask what a release serves its held-out rows again with names, genders and nationalities changed, and tell the
    share of rows whose answer changes, with a 95% interval. Some flips are of grammar: read them."""
    from bucle.execute import Runner, make_display, project_lock
    from bucle.loop.bias import bias_step
    from bucle.loop.redteam import served
    from bucle.loop.workspace import Workspace

    ws = Workspace.open(folder)
    with project_lock(ws.ledger.folder), make_display(quiet=quiet or json_) as display:
        data, candidate, name = served(ws, task or next(iter(ws.config.tasks), ""), release)
        figures = dict(bias_step(ws, Runner(ws.ledger, display), data, candidate, name).figures)
    emit(figures, json_, lambda: _people(figures))


def _people(told: dict[str, Any]) -> None:
    share = told["bias_flips"]
    click.echo(f"{told['candidate']} ({told['task']}): {told['rows']} held-out rows hold a word that can be changed")
    if share is None:
        return
    click.echo(f"  answers that change  {share['value']:.1%}  [{share['low']:.1%}, {share['high']:.1%}]")
    table(
        ["what was changed", "rows", "change", "low", "high"],
        [
            [kind, one["n"], *(f"{one[k]:.1%}" for k in ("value", "low", "high"))]
            for kind, one in told["by_kind"].items()
        ],
    )
    for one in told["flips"]:
        click.echo(f"\n{one['kind']}: {one['input'][:300]}\n  -> {one['output'][:200]}")
        click.echo(f"  {one['changed'][:300]}\n  -> {one['output_changed'][:200]}")


commands = {"bias": bias}
