"""`bucle studio`: the page in a browser, with the API beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from bucle.cli.serve import start
from bucle.cli.shared import as_json, emit

if TYPE_CHECKING:
    from bucle.loop.workspace import Workspace


@click.command("studio")
@click.argument("folder", default=".", type=click.Path())
@click.option("--port", type=int, default=None, help="Port; 0 takes a free one.")
@click.option("--no-browser", is_flag=True, help="Do not open a browser.")
@as_json
def command(folder: str, port: int | None, no_browser: bool, json_: bool) -> None:
    """Open the studio of the project in FOLDER: the loop, the comparison, the traces, a playground. Before the first
    release: the labelling API, and a page that says what is missing."""
    from bucle.loop.workspace import Workspace

    workspace = Workspace.open(folder)
    if workspace.ledger.alias("production"):
        workspace.close()
        start(folder, "", port, "production", json_, studio=not no_browser)
    else:
        _before_release(workspace, port, json_, browser=not no_browser)


def _before_release(workspace: Workspace, port: int | None, json_: bool, *, browser: bool) -> None:
    from bucle.serve.server import serve
    from bucle.web.unreleased import Unreleased, unreleased_app

    settings = workspace.config.serve
    app = unreleased_app(Unreleased(workspace), hosts=[settings.host])

    def ready(url: str) -> None:
        told = {"url": url, "studio": f"{url}/studio", "label": f"{url}/api/label", "models": []}
        emit(
            told,
            json_,
            lambda: click.echo(
                f"Nothing has been released yet: only labelling is served.\nstudio {url}/studio\n"
                f"label  {url}/api/label/TASK/next?by=NAME\nnext: bucle label start TASK, then bucle run"
            ),
        )
        if browser and not json_:
            click.launch(f"{url}/studio")

    serve(app, settings.host, settings.port if port is None else port, ready=ready)
