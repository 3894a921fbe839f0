"""`bucle pretrain`: the project's own small model."""

from __future__ import annotations

import click

from bucle.cli.shared import as_json, emit, on_project


@click.command("pretrain")
@on_project
@as_json
def command(folder: str, json_: bool) -> None:
    """Pretrain every model of kind `pretrain` in bucle.yaml from the documents and training rows; a standard folder."""
    from bucle.core.errors import BadInput
    from bucle.execute import make_display
    from bucle.loop.api import Project

    project = Project(folder)
    names = [n for n, m in project.config.models.items() if m.kind == "pretrain"]
    if not names:
        raise BadInput("bucle.yaml names no model of kind pretrain.", "Add `nano: {kind: pretrain}` under `models:`.")
    project.run(until="models", display=make_display(quiet=json_))
    records = {r.name: r for r in project.records()}
    found = [
        {
            **records[f"pretrain {n}"].figures,
            "node": records[f"pretrain {n}"]["model"],
            "folder": str(project.folder_of(records[f"pretrain {n}"]["model"])),
        }
        for n in names
    ]

    def human() -> None:
        for model in found:
            click.echo(
                f"{model['name']}: {model['parameters'] / 1e6:.1f}M parameters, bits per byte on held-out text "
                f"{model['bits_per_byte_before']:.2f} -> {model['bits_per_byte_after']:.2f}\nfolder: {model['folder']}"
            )

    emit({"models": found}, json_, human)
