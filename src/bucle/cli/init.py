"""`bucle init`: a working project from one labelled file, or an empty one to fill."""

from __future__ import annotations

import click

from bucle.cli.shared import as_json, emit


@click.command("init")
@click.argument("folder", default=".", type=click.Path(file_okay=False))
@click.option("--from", "source", type=click.Path(), default=None, help="A labelled CSV, TSV, JSONL or Parquet file.")
@click.option("--text", default="", help="Its column with the text (a name, or a number from 1); guessed without it.")
@click.option("--label", default="", help="Its column with the label; guessed without it.")
@click.option(
    "--docs", type=click.Path(file_okay=False), default=None, help="A folder of documents to pretrain on and to search."
)
@click.option("--name", default="", help="The project's name; the folder's without it.")
@click.option("--language", type=click.Choice(["es", "en"]), default="es", show_default=True)
@as_json
def command(
    folder: str, source: str | None, text: str, label: str, docs: str | None, name: str, language: str, json_: bool
) -> None:
    """Make a project in FOLDER. With --from it is ready for `bucle run`."""
    from pathlib import Path

    from bucle.loop.start import start_project

    made = start_project(
        Path(folder),
        Path(source) if source else None,
        text=text,
        label=label,
        docs=Path(docs) if docs else None,
        name=name,
        language=language,
    )

    def human() -> None:
        click.echo(f"wrote {made['path']}")
        for role, why in made["columns"].items():
            click.echo(f"  {role}: {why}")
        if made["labels"]:
            click.echo(
                f"  {made['rows']} rows, {len(made['labels'])} labels: "
                + ", ".join(f"{k} ({v})" for k, v in list(made["labels"].items())[:8])
            )
        click.echo(f"next: {made['next']}")

    emit(made, json_, human)
