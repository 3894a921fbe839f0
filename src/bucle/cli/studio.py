"""`bucle studio`: the page in a browser, with the API beside it."""

from __future__ import annotations

import click

from bucle.cli.serve import start
from bucle.cli.shared import as_json


@click.command("studio")
@click.argument("folder", default=".", type=click.Path())
@click.option("--port", type=int, default=None, help="Port; 0 takes a free one.")
@click.option("--no-browser", is_flag=True, help="Do not open a browser.")
@as_json
def command(folder: str, port: int | None, no_browser: bool, json_: bool) -> None:
    """Open the studio of the project in FOLDER: the loop, the comparison, the traces, a playground."""
    start(folder, "", port, "production", json_, studio=not no_browser)
