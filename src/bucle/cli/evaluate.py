"""`bucle evaluate`: a release on fresh rows."""

from __future__ import annotations

import click

from bucle.cli.shared import as_json, emit, on_project


@click.command("evaluate")
@click.argument("data", type=click.Path())
@on_project
@click.option("--task", default="", help="The task; the first without it.")
@click.option(
    "--release", "release", default="production", show_default=True, help="A version (2, v2), an id or an alias."
)
@as_json
def command(data: str, folder: str, task: str, release: str, json_: bool) -> None:
    """Measure a release's candidate on the rows of DATA, beside a TF-IDF logistic regression on the same training
    rows."""
    from bucle.loop.api import Project

    project = Project(folder)
    found = project.evaluate(task or next(iter(project.config.tasks)), data, release=release)

    def human() -> None:
        click.echo(
            f"{found['candidate']} (version {found['release']}) on {found['rows']} rows of {data}"
            + (f", {found['left_out']} left out" if found["left_out"] else "")
        )
        for name, m in found["metrics"].items():
            click.echo(f"  {name:<14} {m['value']:.4f}  [{m['low']:.4f}, {m['high']:.4f}]")
        if base := found.get("baseline"):
            d = found["difference"]
            click.echo(f"  tfidf baseline {base['value']:.4f}  [{base['low']:.4f}, {base['high']:.4f}]")
            click.echo(f"  difference     {d['value']:+.4f} [{d['low']:+.4f}, {d['high']:+.4f}]")
        if found["seen"]:
            click.echo(f"warning: {found['seen']} of these texts stand in the training rows; the figures are too good")

    emit(found, json_, human)
