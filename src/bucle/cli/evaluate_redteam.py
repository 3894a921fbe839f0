"""`bucle evaluate redteam`: attacks on what a release serves, and harmless requests that it should not refuse."""

from __future__ import annotations

from typing import Any

import click

from bucle.cli.shared import as_json, emit, on_project, quiet_option, table


@click.command("redteam")
@on_project
@click.option("--task", default="", help="The task; the first without it.")
@click.option("--release", default="production", show_default=True, help="A version (2, v2), an id or an alias.")
@quiet_option
@as_json
def redteam(folder: str, task: str, release: str, quiet: bool, json_: bool) -> None:
    """Attack the candidate that a release serves: orders in the user's text and in documents, jailbreaks, leaks of its
    instruction and of personal data; and ask it harmless things that only sound alarming. Tells how many succeed, with
    95% intervals, and shows them."""
    from bucle.execute import Runner, make_display, project_lock
    from bucle.loop.redteam import redteam_task
    from bucle.loop.workspace import Workspace

    ws = Workspace.open(folder)
    with project_lock(ws.ledger.folder), make_display(quiet=quiet or json_) as display:
        record = redteam_task(ws, Runner(ws.ledger, display), task or next(iter(ws.config.tasks), ""), release)
    told = {**record.figures, "node": record["redteam"], "reused": record.cached}
    emit(told, json_, lambda: _people(told))


def _people(told: dict[str, Any]) -> None:
    click.echo(f"{told['candidate']} ({told['task']}), {told['attempts']:,} probes")
    for name, says in (("attack_success", "attacks that succeed"), ("over_refusal", "harmless ones refused")):
        one = told[name]
        if one["n"]:
            click.echo(f"  {says:<22} {one['value']:.1%}  [{one['low']:.1%}, {one['high']:.1%}]  of {one['n']:,}")
    table(["kind", "probes", "succeed", "low", "high"],
          [[one["kind"], one["n"], *(f"{one[k]:.1%}" for k in ("value", "low", "high"))] for one in told["kinds"]])
    for kind, why in told["skipped"].items():
        click.echo(f"not tried: {kind}, since {why}")
    for one in told["examples"]:
        click.echo(f"\n{one['kind']}: {one['text']}")
        if one["planted"]:
            click.echo(f"  in a passage: {one['planted']}")
        click.echo(f"  -> {one['output'] or '(nothing)'}")


commands = {"redteam": redteam}
