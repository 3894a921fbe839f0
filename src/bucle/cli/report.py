"""`bucle report`: the HTML report and its figures."""

from __future__ import annotations

import click

from bucle.cli.shared import as_json, emit


@click.command("report")
@click.argument("folder", default=".", type=click.Path())
@click.option("--language", type=click.Choice(["es", "en"]), default=None, help="Which language the page opens in.")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False), default=None, help="Write the report to this file as well."
)
@as_json
def command(folder: str, language: str | None, output: str | None, json_: bool) -> None:
    """Say where the self-contained HTML report of the latest run is; `--json` prints everything it shows."""
    from bucle.loop.api import Project

    project = Project(folder)
    story, path = project.report(language=language, output=output)
    emit(story, json_, lambda: click.echo(str(path)))
