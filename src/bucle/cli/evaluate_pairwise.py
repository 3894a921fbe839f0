"""`bucle evaluate pairwise A B --judge NAME`: which of two candidates' answers a judge prefers."""

from __future__ import annotations

from typing import Any

import click

from bucle.cli.shared import as_json, emit, on_project, quiet_option

SHOWN = 300
"""Characters of a text that a terminal shows; `--json` has more."""
KINDS = {"won": "{a} won", "lost": "{b} won", "order": "a tie: the order decided"}


@click.command("pairwise")
@click.argument("a")
@click.argument("b")
@click.option("--judge", required=True, help="A judge of bucle.yaml.")
@on_project
@click.option("--task", default="", help="The task; the first without it.")
@quiet_option
@as_json
def pairwise(a: str, b: str, judge: str, folder: str, task: str, quiet: bool, json_: bool) -> None:
    """Show a judge the answers of candidates A and B of the latest comparison to each held-out row, in both orders
    (where they disagree it is a tie), and say how often A wins."""
    from bucle.execute import Runner, make_display, project_lock
    from bucle.loop.pairwise import pairwise as compared
    from bucle.loop.workspace import Workspace

    ws = Workspace.open(folder)
    with project_lock(ws.ledger.folder), make_display(quiet=quiet or json_) as display:
        found = compared(ws, task, a, b, judge, Runner(ws.ledger, display))
    emit(found, json_, lambda: _show(found))


def _show(found: dict[str, Any]) -> None:
    a, b, rate, bias = found["a"], found["b"], found["win_rate"], found["bias"]
    click.echo(f"{found['task']}: {a} against {b} on {found['rows']:,} held-out rows, by the judge {found['judge']} "
               f"({found['model']})")
    click.echo(f"  {found['wins']:,} wins, {found['ties']:,} ties, {found['losses']:,} losses of {a}"
               + (f"; {found['unjudged']:,} without a verdict, left out" if found["unjudged"] else ""))
    click.echo(f"  {found['asked']:,} pairs were asked, in both orders; {found['same']:,} had the same answer twice"
               + (f", {found['settled']:,} lacked an answer" if found["settled"] else ""))
    click.echo(f"win rate of {a} {rate['value']:.1%}  [{rate['low']:.1%}, {rate['high']:.1%}]   a tie counts half: "
               + _verdict(a, b, rate))
    if found["asked"]:
        click.echo(f"position: it changed its mind with the order on {_share(bias['swapped'])} of the pairs, and named "
                   f"the first shown in {_share(bias['first'])} of its verdicts (50% without a bias)")
        click.echo(f"length: the longer answer won {_share(bias['longer'])} of the pairs with a winner")
    used = found["usage"]
    price = f"${used['usd']:.4f}" if found["price_known"] else "its price is not known"
    click.echo(f"cost of judging, apart from the candidates': {used['tokens_in'] + used['tokens_out']:,} tokens, "
               f"{price}" + (" (asked before, nothing now)" if found["reused"] else ""))
    kappa = found["kappa"]
    if kappa is None:
        click.echo("warning: nobody has measured whether this judge agrees with people: "
                   f"bucle evaluate judge {found['judge']}")
    elif kappa["low"] < found["min_kappa"]:
        click.echo(f"warning: this judge agrees too little with people: kappa {kappa['value']:.2f} "
                   f"[{kappa['low']:.2f}, {kappa['high']:.2f}], needed {found['min_kappa']:g}")
    for one in found["examples"]:
        click.echo(f"\n{KINDS[one['kind']].format(a=a, b=b)}: {_short(one['reason'])}")
        for name, text in (("input", one["input"]), (a, one["a"]), (b, one["b"])):
            click.echo(f"  {name}: {_short(text)}")


def _verdict(a: str, b: str, rate: dict[str, float]) -> str:
    if rate["low"] > 0.5:
        return f"{a} is preferred"
    return f"{b} is preferred" if rate["high"] < 0.5 else "neither is preferred beyond doubt"


def _share(value: float | None) -> str:
    return "none" if value is None else f"{value:.0%}"


def _short(text: str) -> str:
    line = "".join(c if c.isprintable() else " " for c in text)
    return line if len(line) <= SHOWN else line[:SHOWN] + "…"


commands = {"pairwise": pairwise}
