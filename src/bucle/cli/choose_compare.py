"""`bucle choose` without a verb: every candidate on the same held-out rows, and the one to take."""

from __future__ import annotations

from typing import Any

import click

from bucle.cli.choose_show import show
from bucle.cli.ci import Outputs, report_options
from bucle.cli.shared import as_json, emit, on_project, table, trust_option


@click.command("compare")
@on_project
@click.option("--list", "list_", is_flag=True, help="Only list the candidates, and why some would not be asked.")
@trust_option
@report_options
@as_json
def command(folder: str, list_: bool, junit: str | None, summary: str | None, json_: bool) -> None:
    """Compare the candidates of every task with paired confidence intervals, cost and latency; recommend one."""
    from bucle.execute import make_display
    from bucle.loop.api import Project

    outputs = Outputs(junit, summary)
    with outputs.around("bucle choose"):
        project = Project(folder)
    if list_:
        listed = project.ladder()
        emit(listed, json_, lambda: _list(listed))
        return
    with outputs.around("bucle choose"):
        story = project.run(until="choose", display=make_display(quiet=json_)).story
    outputs.of_run(story, gates=False)

    def human() -> None:
        for comparison in story["comparisons"]:
            show(comparison, story["project"]["language"])
        for canary in story.get("canaries", ()):
            if canary["state"] == "changed":
                click.echo(f"warning: {canary['note']}")

    emit({"comparisons": story["comparisons"], "canaries": story.get("canaries", [])}, json_, human)


commands = {"compare": command}


def _list(listed: dict[str, Any]) -> None:
    allowed = [r for r in listed["candidates"] if not r["ruled_out"]]
    out = [r for r in listed["candidates"] if r["ruled_out"]]
    table(
        ["task", "candidate", "", "$/1k", "when"],
        [
            [
                r["task"], r["candidate"], "baseline" if r["baseline"] else "",
                _range(r["usd_per_1k"]) if r["price_known"] else "?", r["when"],
            ]
            for r in allowed
        ],
    )
    if out:
        click.echo("\nruled out before a token is spent:")
        together: dict[tuple[str, ...], list[str]] = {}
        for r in out:
            together.setdefault((r["task"], *r["ruled_out"]), []).append(r["candidate"])
        table(
            ["task", "candidates", "why"],
            [[task, "\n".join(names), "\n".join(why)] for (task, *why), names in together.items()],
        )
    if any(r["usd_per_1k"] for r in listed["candidates"]):
        click.echo(f"\n$/1k: forecast for a thousand requests by {listed['prices_as_of']}, or prices in bucle.yaml")
    if not listed["rows_read"]:
        click.echo("\nThe rows have not been read yet, so neither their length nor their price is checked.")
        click.echo("  -> bucle run --until data")


def _range(ends: list[float] | None) -> str:
    if ends is None:
        return ""
    return " to ".join(dict.fromkeys(f"{end:.3g}" for end in ends))
