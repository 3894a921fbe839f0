"""`bucle run`: the whole loop."""

from __future__ import annotations

import os
import shutil
import sys

import click

from bucle.cli.shared import as_json, emit, quiet_option


@click.command("run")
@click.argument("folder", default=".", type=click.Path())
@click.option(
    "--until",
    type=click.Choice(["data", "models", "choose", "release", "all"]),
    default="all",
    show_default=True,
    help="The last stage to run.",
)
@quiet_option
@as_json
def command(folder: str, until: str, quiet: bool, json_: bool) -> None:
    """Run the loop of the project in FOLDER: data, choose, customise, evaluate, release, serve, monitor, feedback.

    Finished steps are reused, an interrupted one goes on; the same command may be given again at any time.
    """
    from bucle.execute import make_display
    from bucle.loop.api import Project

    project = Project(folder)
    result = project.run(until=until, display=make_display(quiet=quiet))  # type: ignore[arg-type]
    story = result.story
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
    }

    def human() -> None:
        click.echo(f"\n{story['recommendation']['text'] or 'The data are ready.'}\n")
        for alert in value["alerts"]:
            click.echo(f"alert: {alert['message']}")
        click.echo(f"report: {result.report}")
        if story["releases"]:
            click.echo(f"next:   {_program()} studio {folder}   (studio and API in one server)")
        click.echo(f"{result.steps} steps, {result.reused} reused")

    emit(value, json_, human)


def _program() -> str:
    """How this program can be called again from here: `bucle` where that is on the path, else its relative path."""
    return "bucle" if shutil.which("bucle") else os.path.relpath(sys.argv[0])
