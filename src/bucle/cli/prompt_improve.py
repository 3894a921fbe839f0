"""`bucle prompt improve`: search instructions and examples within a budget; keep what a held-out side confirms."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from bucle.cli.shared import as_json, emit, on_project, quiet_option, table, trust_option

__all__ = ["commands"]


@click.command("improve")
@click.argument("task")
@on_project
@click.option("--model", default="", help="The model that answers; needed where several can.")
@click.option("--technique", default="few-shot", show_default=True,
              help="zero-shot, few-shot, chain-of-thought, rag, …; zero-shot searches instructions only.")
@click.option("--budget-usd", type=float, default=None,
              help="Asks nothing that may pass so many US dollars, by what calls have taken before.")
@click.option("--budget-tokens", type=int, default=None,
              help="Asks nothing that may pass so many tokens, by what calls have taken before.  [default: 500000, "
                   "where no dollars are given]")
@click.option("--rounds", type=int, default=3, show_default=True, help="Rounds of trials, at most.")
@click.option("--proposer", default="", metavar="MODEL",
              help="The model that proposes instructions from training rows and failures; `none` for none. "
                   "[default: the task's own, where it can]")
@click.option("--seed", type=int, default=None, help="Which rows are drawn.  [default: the project's]")
@click.option("--alias", default="", help="Move this alias to the new version, where it helped.")
@click.option("--plot", "plot_to", type=click.Path(dir_okay=False), default=None, metavar="FILE.png",
              help="Draw score against tokens spent.")
@click.option("--dry-run", is_flag=True, help="Rows, tokens and dollars that it would take; nothing is asked.")
@trust_option
@quiet_option
@as_json
def improve(folder: str, task: str, json_: bool, quiet: bool, plot_to: str | None, budget_usd: float | None,
            budget_tokens: int | None, **asked: Any) -> None:
    """Search a better prompt for TASK: instructions and examples tried on the validation rows (and training rows that
    are never shown), the best of them confirmed once, paired, on the test rows.

    Saved as a new version of the prompt only where the interval of the difference lies above zero. The same command
    goes on after an interruption, and asks nothing twice.
    """
    from bucle.execute import make_display
    from bucle.loop.improve import improve as search
    from bucle.loop.workspace import Workspace

    ws = Workspace.open(folder)
    try:
        display = make_display(quiet=json_ or quiet)
        found = search(ws, task, display, tokens=budget_tokens, usd=budget_usd, **asked)
    finally:
        ws.close()
    if plot_to and "trials" in found:
        from bucle.loop.improve_plot import plot

        plot(found, Path(plot_to))
        found["plot"] = plot_to
    emit(found, json_, lambda: _plan(found) if asked["dry_run"] else _told(found))


def _plan(found: Mapping[str, Any]) -> None:
    rows = found["rows"]
    proposer = found["proposer"] or "no model"
    click.echo(f"{found['technique']} with {found['model']}; instructions proposed by {proposer}")
    click.echo(f"{rows['choose']} rows choose ({rows['from_train']} of them training rows that are not shown), "
               f"{rows['demonstrations']} may be shown, {rows['confirm']} test rows confirm once.")
    table(["", "tokens", "US dollars", "minutes"], [
        [f"{name}", *(_range(found["forecast"][name][unit], spec)
                      for unit, spec in (("tokens", ",.0f"), ("usd", ",.4f"), ("minutes", ",.1f")))]
        for name in ("least", "full")
    ])
    click.echo("Nothing was asked. Without --dry-run it stops before the budget: "
               + " or ".join(filter(None, [f"{found['budget']['tokens']:,} tokens" if found["budget"]["tokens"] else "",
                                           f"${found['budget']['usd']:g}" if found["budget"]["usd"] else ""])))


def _told(found: Mapping[str, Any]) -> None:
    from bucle.loop.improve import passed

    best = found["chosen"]["trial"]
    table(["trial", "round", "instruction", "examples", "rows", found["metric"], "tokens", "US dollars", ""], [
        [t["trial"], t["round"], t["instruction"], t["demos"], t["rows"],
         "" if t["mean"] is None else f"{t['mean']:.3f}", t["tokens"], f"{t['usd']:.4f}" if t["usd"] else "",
         "best" if t["trial"] == best else t["out"]]
        for t in found["trials"]
    ])
    spent, rows = found["spent"], found["rows"]
    click.echo(f"\nChosen on {rows['choose']} rows; {found['rounds_done']} of {found['rounds']} rounds"
               + (f" ({found['stopped']})" if found["stopped"] else "")
               + f"; {spent['tokens']:,} tokens, ${spent['usd']:.4f} spent.")
    if over := passed(found["passed_by"]):
        click.echo(f"That passes the budget by {over}: a call took more than any before it (a model that thinks out of "
                   "sight is billed for more than `max_tokens`); nothing was asked after it.")
    if found["refused_proposals"]:
        click.echo(f"{found['refused_proposals']} proposed instructions could not be used: no JSON object, the "
                   "prompt's own variables forgotten, or braces that are none of its inputs.")
    if found["confirmed"]:
        before, after = found["confirmed"]["before"], found["confirmed"]["after"]
        click.echo(f"Confirmed on {rows['confirm']} test rows: {before['value']:.3f} before, {after['value']:.3f} "
                   "after.")
        if found["earlier"]:
            click.echo(f"{found['earlier']} confirmation(s) before this one looked at these rows, or some of them; the "
                       f"interval's level is {100 * found['confirmed']['level']:.2f}%, to allow for them.")
    click.echo(found["why"][:1].upper() + found["why"][1:] + ".")
    if saved := found["saved"]:
        click.echo(f"\nSaved as {saved['title']}"
                   + (f", and {saved['alias']} now stands for it" if saved["alias"] else "; no alias was moved") + ".")
        title = saved["title"]
        if saved["in_force"]:
            click.echo(f"  -> tasks.{found['task']}.prompt now means it: the next bucle run makes its candidates anew.")
        else:
            click.echo(f"  -> bucle prompt show {title}; to use it: tasks.{found['task']}.prompt: {title} (and drop "
                       f"`instruction`, `shots` and `examples` under choose.techniques.{found['technique']})")
    if found.get("reused"):
        click.echo("This very search was done before; nothing was asked again (another --seed searches anew).")


def _range(two: Any, spec: str) -> str:
    return f"{two[0]:{spec}} to {two[1]:{spec}}"


commands = {"improve": improve}
