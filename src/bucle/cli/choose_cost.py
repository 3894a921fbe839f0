"""`bucle choose cost`: what candidates cost, and from what volume on hosting is cheaper than an API."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bucle.cli.shared import as_json, emit, on_project, table


@click.command("cost")
@on_project
@click.option("--requests-per-month", type=click.IntRange(min=0, max=10**12), help="Traffic; else choose.costs'.")
@click.option("--usd-per-hour", type=click.FloatRange(min=0), help="Of the machine that would host a model.")
@click.option("--requests-per-second", type=click.FloatRange(min=0), help="That one machine answers; else as measured.")
@click.option("--api-usd-per-1k", type=click.FloatRange(min=0), help="An API to compare with instead.")
@click.option("--peak", type=click.FloatRange(min=1), default=3.0, show_default=True,
              help="Traffic of the busiest hour, as times the mean.")
@click.option("--plot", "plot_", type=click.Path(), metavar="FILE", help="Monthly cost against volume, as a PNG.")
@as_json
def command(folder: str, plot_: str | None, json_: bool, **settings: Any) -> None:
    """Each candidate a thousand requests and a month: measured where it has been compared, else a forecast range;
    hosting and training a model of one's own beside the API's price, and the volume from which hosting is cheaper."""
    from bucle.loop.api import Project

    told = Project(folder).costs(**settings)
    if plot_:
        told["plots"] = _plots(told, Path(plot_))
    emit(told, json_, lambda: _show(told))


commands = {"cost": command}


def _show(told: dict[str, Any]) -> None:
    for task in told["tasks"]:
        click.echo(f"\n{task['task']}: {task['requests_per_month']:,} requests a month")
        head = ["candidate", "", "$/1k", "tokens", "$/month", "hosting", "training", "machines", "break-even"]
        table(head, [_row(c) for c in task["candidates"]])
        lacking = list(dict.fromkeys(c["why"] for c in task["candidates"] if c["why"]))
        for why in lacking:
            click.echo(f"?: {why}")
        if task["api"]:
            click.echo(f"break-even is against {task['api']['name']} at {task['api']['usd_per_1k']:.4g} dollars a "
                       "thousand requests, in requests a month")
        else:
            paid = "no price of a provider is known" if lacking else "no candidate pays a provider"
            click.echo(f"no break-even: {paid}; --api-usd-per-1k states the price of one")
        assumes = dict.fromkeys(a for c in task["candidates"] for m in c["month"] or [] for a in m["assumes"]
                                if "as measured here" not in a)
        for assumed in assumes:
            click.echo(f"assumed: {assumed}")
        if any(c["month"] and c["hosted"] and c["measured"] for c in task["candidates"]):
            click.echo("speed: one request at a time as measured here, unless choose.costs.requests_per_second says it")
    for path in told.get("plots", []):
        click.echo(f"plot: {path}")
    click.echo(f"prices: {told['prices_as_of']}, or those in bucle.yaml")


def _row(c: dict[str, Any]) -> list[Any]:
    months = c["month"] or []
    own = months[0] if months and c["hosted"] else {"hosting": "", "training": "", "replicas": ""}
    return [c["candidate"] + (" *" if c["recommended"] else ""), "measured" if c["measured"] else "forecast",
            _ends(c["usd_per_1k"]), _ends(c["tokens"]), _ends([m["usd"] for m in months] or None),
            own["hosting"], own["training"], own["replicas"], _even(c["break_even"])]


def _ends(value: Any) -> str:
    if value is None:
        return "?"
    ends = list(dict.fromkeys(value if isinstance(value, list) else [value]))
    return " to ".join(f"{v:,.0f}" if v >= 1000 else f"{v:.3g}" for v in ends)


def _even(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    if found["requests"] is None:
        return f"never: {found['why']}" if "replicas" in found else f"? {found['why']}"
    if found["until"] is None:
        return f"from {found['requests']:,}"
    later = f", and from {found['always']:,}" if found["always"] else ""
    return f"{found['requests']:,} to {found['until']:,}{later}"


def _plots(told: dict[str, Any], path: Path) -> list[str]:
    """A picture for each task that costs anything; of several tasks each in a file of its own."""
    from bucle.choose.costs import Hosting
    from bucle.choose.costs_plot import Line, plot
    from bucle.core.errors import BadInput

    made = []
    if not path.resolve().parent.is_dir():
        raise BadInput(f"There is no folder {path.resolve().parent}.", f"mkdir -p {path.parent}")
    for task in told["tasks"]:
        lines = []
        for c in task["candidates"]:
            speed = c["requests_per_second"] if c["hosted"] else None
            machine = Hosting(told["usd_per_hour"], speed, told["peak"]) if speed and told["usd_per_hour"] else None
            price = sum(c["usd_per_1k"]) / len(c["usd_per_1k"]) if c["usd_per_1k"] else 0.0
            if machine is None and not price:
                continue
            training = c["month"][0]["training"] if c["month"] else 0.0
            even = c["break_even"] or {}
            lines.append(Line(c["candidate"], price, machine, training, even.get("requests"), even.get("until")))
        if task["api"] and task["api"]["name"] == "stated":
            lines.insert(0, Line("the API stated", task["api"]["usd_per_1k"]))
        if not lines:
            continue
        target = path if len(told["tasks"]) == 1 else path.with_name(f"{path.stem}-{task['task']}{path.suffix}")
        plot(lines, target, title=f"{task['task']}: cost a month", traffic=task["requests_per_month"])
        made.append(str(target))
    if not made:
        raise BadInput("Nothing costs anything here, so there is nothing to plot.",
                       "bucle choose cost --usd-per-hour X --api-usd-per-1k Y --plot FILE")
    return made
