"""`bucle data export`: a version's rows as a file for other tools."""

from __future__ import annotations

from pathlib import Path

import click

from bucle.cli.shared import as_json, emit, on_project


@click.command("export")
@click.argument("task", default="")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="The file (a folder for huggingface)."
)
@click.option("--version", default="current", show_default=True, help="A number of `bucle data versions`, or a node.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["jsonl", "csv", "parquet", "huggingface", "openai"]),
    help="By the file's ending where not given. openai: chats to fine-tune on.",
)
@click.option(
    "--side",
    "sides",
    multiple=True,
    type=click.Choice(["train", "validation", "test"]),
    help="Only these rows; may be given again. All, but for openai: train alone.",
)
@click.option("--force", is_flag=True, help="Write over what is there.")
@on_project
@as_json
def command(
    task: str,
    output: Path,
    version: str,
    format_: str | None,
    sides: tuple[str, ...],
    force: bool,
    folder: str,
    json_: bool,
) -> None:
    """Write the rows of TASK, each with its side, label, source and byte range."""
    from bucle.loop.exporting import export
    from bucle.loop.workspace import Workspace

    told = export(Workspace.open(folder), task, output, version=version, format=format_, sides=sides, force=force)

    def human() -> None:
        rows = ", ".join(f"{n:,} {side}" for side, n in told["rows"].items())
        click.echo(f"{told['path']}: version {told['version']} of {told['task']} as {told['format']}, {rows}")
        if told.get("neutralised"):
            click.echo(f"{told['neutralised']:,} cells that a spreadsheet would run now begin with '")
        if told.get("without_reference"):
            click.echo(f"{told['without_reference']:,} rows without a reference are not in it: they teach nothing")
        if told["format"] == "openai" and "test" in told["rows"]:
            click.echo("held-out rows are in it: a model fitted on them cannot be measured on them")
        click.echo("next: bucle data diff " + told["task"])

    emit(told, json_, human)


commands = {"export": command}
