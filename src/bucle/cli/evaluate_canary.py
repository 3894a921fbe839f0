"""`bucle evaluate canary`: whether a provider changed its model under the same name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bucle.cli.shared import as_json, emit, on_project, quiet_option


@click.command("canary")
@click.argument("model", default="")
@on_project
@click.option("--prompts", type=click.Path(), default="", help="Prompts of your own, one a line: a new reference.")
@click.option("--accept", is_flag=True, help="Take today's answers as the reference: the change is known.")
@click.option("--alarm", type=click.FloatRange(0.0001, 0.2), default=0.01, show_default=True,
              help="The chance of calling a model changed that is not.")
@quiet_option
@as_json
def canary(model: str, folder: str, prompts: str, accept: bool, alarm: float, quiet: bool, json_: bool) -> None:
    """Whether the remote MODEL (without it, each) still answers as it did: short prompts are asked several times at
    temperature 0, at first as a reference, then to compare. Exit code 1 where a model changed."""
    from bucle.core.errors import BadInput
    from bucle.execute import Runner, make_display, project_lock
    from bucle.loop.canary import measure_canary, own_prompts, remote_models
    from bucle.loop.workspace import Workspace

    ws = Workspace.open(folder)
    names = [model] if model else remote_models(ws)
    if not names:
        raise BadInput("No model of this project is remote: a canary has nothing to watch.",
                       "Name a model of kind openai under `models:`.")
    own = own_prompts(Path(prompts)) if prompts else ()
    with project_lock(ws.ledger.folder), make_display(quiet=quiet or json_) as display:
        runner = Runner(ws.ledger, display)
        told = [measure_canary(ws, name, runner, prompts=own, accept=accept, alarm=alarm) for name in names]
    changed = any(one["verdict"] == "changed" for one in told)

    def human() -> None:
        for one in told:
            _people(one)

    emit({"models": told, "changed": changed}, json_, human)
    if changed:
        click.get_current_context().exit(1)


def _people(one: dict[str, Any]) -> None:
    click.echo(one["said"])
    for change in one["changes"][:5]:
        click.echo(f"  {change['prompt'][:110]}")
        click.echo(f"    before: {change['before'][:110]}\n    now:    {change['now'][:110]}")
    if len(one["changes"]) > 5:
        click.echo(f"  … and {len(one['changes']) - 5} more (--json)")
    before, now = one["served_before"], one["served_now"]
    if now and before != now:
        click.echo(f"  served by {', '.join(now)}" + (f", before {', '.join(before)}" if before else ""))
    if one["forgotten"]:
        click.echo(f"  {one['forgotten']:,} remembered replies of the model that was are dropped")
    for line in one["advice"]:
        click.echo(f"  -> {line}")
    used = one["usage"]
    click.echo(f"  cost: {used['tokens_in'] + used['tokens_out']:,} tokens, ${used['usd']:.4f}")


commands = {"canary": canary}
