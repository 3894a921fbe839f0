"""`bucle serve`: the API. The studio is served beside it."""

from __future__ import annotations

import click

from bucle.cli.shared import as_json, emit


@click.command("serve")
@click.argument("folder", default=".", type=click.Path())
@click.option("--host", default="", help="Address to bind; 127.0.0.1 unless bucle.yaml says otherwise.")
@click.option("--port", type=int, default=None, help="Port; 0 takes a free one.")
@click.option("--release", default="production", show_default=True, help="A version (2, v2), an id or an alias.")
@as_json
def command(folder: str, host: str, port: int | None, release: str, json_: bool) -> None:
    """Serve the released candidates of the project in FOLDER over an OpenAI-compatible API, until SIGTERM or Ctrl+C."""
    start(folder, host, port, release, json_, studio=False)


def start(folder: str, host: str, port: int | None, release: str, json_: bool, *, studio: bool) -> None:
    """Serve API and studio; says where, and how to call it."""
    from bucle.loop.api import Project
    from bucle.serve.server import how_to_call, serve
    from bucle.web import studio_app

    project = Project(folder)
    settings = project.config.serve
    host, port = host or settings.host, settings.port if port is None else port
    app = project.app(release, studio=lambda source: studio_app(source, hosts=[host]))

    def ready(url: str) -> None:
        emit(
            {"url": url, "studio": f"{url}/studio", "models": list(app.state.routes)},
            json_,
            lambda: click.echo(f"API    {url}/v1\nstudio {url}/studio\n\n{how_to_call(app, url)}\n"),
        )
        if studio and not json_:
            click.launch(f"{url}/studio")

    serve(app, host, port, ready=ready)
