"""`bucle evaluate judge`: how far a judge agrees with people."""

from __future__ import annotations

from typing import Any

import click

from bucle.cli.shared import as_json, emit, on_project, quiet_option, table


@click.command("judge")
@click.argument("name", default="")
@on_project
@quiet_option
@as_json
def judge(name: str, folder: str, quiet: bool, json_: bool) -> None:
    """How far the judge NAME agrees with the people who scored its `agreement` file, which decides whether it may
    gate. Without NAME, the only judge."""
    from bucle.core.errors import BadInput
    from bucle.execute import Runner, make_display, project_lock
    from bucle.loop.judging import measure_judge
    from bucle.loop.workspace import Workspace

    ws = Workspace.open(folder)
    if not name:
        if len(ws.config.judges) != 1:
            known = " | ".join(ws.config.judges)
            raise BadInput("Which judge?" if known else "bucle.yaml describes no judge.",
                           f"bucle evaluate judge {known}" if known else "Describe one under `judges:`.")
        name = next(iter(ws.config.judges))
    with project_lock(ws.ledger.folder), make_display(quiet=quiet or json_) as display:
        record = measure_judge(ws, name, Runner(ws.ledger, display))
    told = {**record.figures, "node": record["judge"], "reused": record.cached}
    emit(told, json_, lambda: _people(told))


def _people(told: dict[str, Any]) -> None:
    k, scale = told["kappa"], told["scale"]
    click.echo(f"{told['judge']} ({told['model']}) beside people on {told['n']:,} rows"
               + (f", {told['failed']:,} it could not judge" if told["failed"] else ""))
    click.echo(f"  kappa (quadratic) {k['value']:.2f}  [{k['low']:.2f}, {k['high']:.2f}]   needed: "
               f"{told['min_kappa']:g} by its lower bound")
    click.echo(f"  same score {told['exact']:.0%}, at most one apart {told['near']:.0%}, "
               f"{told['lean']:+.2f} points against people")
    if told["spread"]:
        click.echo(f"  its own samples differ by {told['spread']:.2f} points (standard deviation)")
    if told["length"] is not None:
        human = told["human_length"]
        people = f" (people's: {human:+.2f})" if human is not None else ""
        click.echo(f"  rank correlation of its score with length {told['length']:+.2f}{people}")
    table(["people \\ judge", *map(str, range(1, scale + 1))],
          [[str(place), *row] for place, row in enumerate(told["by_score"], 1)])
    used = told["usage"]
    click.echo(f"cost of judging: {used['tokens_in'] + used['tokens_out']:,} tokens, ${used['usd']:.4f}")
    if told["may_gate"]:
        click.echo(f"it may gate: write for example `judge:{told['judge']} >= 0.7 at 95%` under a task's gates")
    else:
        click.echo("it may not gate:")
        for line in told["advice"]:
            click.echo(f"  - {line}")


commands = {"judge": judge}
