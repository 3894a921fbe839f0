"""`bucle run`: the whole loop."""

from __future__ import annotations

import os
import shutil
import sys
from typing import Any

import click

from bucle.cli.ci import Outputs, report_options
from bucle.cli.shared import as_json, emit, quiet_option, table, trust_option


@click.command("run")
@click.argument("folder", default=".", type=click.Path())
@click.option(
    "--until",
    type=click.Choice(["data", "models", "choose", "release", "all"]),
    default="all",
    show_default=True,
    help="The last stage to run.",
)
@click.option("--dry-run", is_flag=True, help="Say what it would take (rows, tokens, dollars, minutes) and stop.")
@trust_option
@report_options
@quiet_option
@as_json
def command(
    folder: str, until: str, dry_run: bool, junit: str | None, summary: str | None, quiet: bool, json_: bool
) -> None:
    """Run the loop of the project in FOLDER: data, choose, customise, evaluate, release, serve, monitor, feedback.

    Finished steps are reused, an interrupted one goes on; the same command may be given again at any time.
    """
    from bucle.execute import make_display
    from bucle.loop.api import Project

    outputs = Outputs(junit, summary)
    with outputs.around("bucle run"):
        project = Project(folder)
    if dry_run:
        expected = project.forecast(display=make_display(quiet=quiet))
        emit(expected, json_, lambda: _show(expected))
        return
    with outputs.around("bucle run", project):
        result = project.run(until=until, display=make_display(quiet=quiet))  # type: ignore[arg-type]
    story = result.story
    outputs.of_run(story)
    value = {
        "recommendation": story["recommendation"],
        "report": result.report,
        "steps": result.steps,
        "reused": result.reused,
        "gates_passed": result.gates_passed,
        "comparisons": story["comparisons"],
        "gates": story["gates"],
        "releases": story["releases"],
        "gain": story.get("gain"),
        "alerts": (story.get("monitor") or {}).get("alerts", []),
        "canaries": story.get("canaries", []),
    }

    def human() -> None:
        click.echo(f"\n{story['recommendation']['text'] or 'The data are ready.'}\n")
        for alert in value["alerts"]:
            click.echo(f"alert: {alert['said'][story['project']['language']]}")
        click.echo(f"report: {result.report}")
        if story["releases"]:
            click.echo(f"next:   {_program()} studio {folder}   (studio and API in one server)")
        for canary in story.get("canaries", ()):
            if canary["state"] == "changed":
                click.echo(f"warning: {canary['note']}")
        if result.production_moved:
            click.echo(f"note:   {result.production_moved}")
        click.echo(f"{result.steps} steps, {result.reused} reused")

    emit(value, json_, human)


def _show(expected: dict[str, Any]) -> None:
    """A forecast as a table."""
    table(
        ["task", "step", "before", "rows", "tokens", "$", "minutes"],
        [
            [
                s["task"],
                s["name"],
                "ran here before" if s["before"] else "",
                s["rows"],
                _range(s["tokens"], "{:,.0f}"),
                _range(s["usd"], "{:.3f}"),
                _range(s["minutes"], "{:.1f}"),
            ]
            for s in expected["steps"]
        ],
    )
    click.echo(
        f"in all {_range(expected['minutes'], '{:.1f}') or '0'} minutes, ${_range(expected['usd'], '{:.2f}') or '0'}; "
        "finished steps are reused"
    )
    if expected["unpriced"]:
        click.echo(f"not in these dollars, since their price is not known: {', '.join(expected['unpriced'])}")
    if expected["budget"]:
        told = ", ".join(f"{value:g} {what}" for what, value in expected["budget"].items())
        click.echo(f"choosing takes no more than the budget for each task: {told}")
    for one in expected["ruled_out"]:
        click.echo(f"ruled out: {one['name']} ({one['task']}): {'; '.join(one['reasons'])}")
    for task, found in expected["detectable"].items():
        size = found["difference"]
        told = "too few for any difference" if size is None else f"show differences from {100 * size:.1f} points up"
        click.echo(
            f"{task}: {found['rows']} independent held-out rows {told} "
            "(four times in five, where two candidates disagree on one row in ten)"
        )


def _range(ends: list[float], form: str) -> str:
    low, high = (form.format(end) for end in ends)
    return "" if not ends[1] else low if low == high else f"{low} to {high}"


def _program() -> str:
    """How this program can be called again from here: `bucle` where that is on the path, else its relative path."""
    if shutil.which("bucle"):
        return "bucle"
    return "python -m bucle" if sys.argv[0].endswith("__main__.py") else os.path.relpath(sys.argv[0])
