"""`bucle impact`: everything that one source touched."""

from __future__ import annotations

import click

from bucle.cli.shared import as_json, on_project
from bucle.cli.why import show


@click.command("impact")
@click.argument("source")
@on_project
@as_json
def command(source: str, folder: str, json_: bool) -> None:
    """Everything made from SOURCE (a document's path, an example's text, a node), forward to releases and served
    answers."""
    from bucle.loop.api import Project

    show(Project(folder).impact(source), json_)
