"""`bucle doctor`: this machine and this project."""

from __future__ import annotations

import click

from bucle.cli.shared import as_json, emit


@click.command("doctor")
@click.argument("folder", default="", type=click.Path())
@as_json
def command(folder: str, json_: bool) -> None:
    """Check Python, memory, disk, threads and libraries; with FOLDER, its bucle.yaml and its ledger too. Exit code 3 if
    something is wrong."""
    from bucle.loop.doctor import examine

    checks = examine(folder)

    def human() -> None:
        for check in checks:
            click.echo(
                f"{'ok  ' if check['ok'] else 'FAIL'} {check['name']}: {check['found']}"
                + ("" if check["ok"] else f"\n     -> {check['hint']}")
            )

    emit({"checks": checks, "ok": all(c["ok"] for c in checks)}, json_, human)
    if not all(c["ok"] for c in checks):
        raise click.exceptions.Exit(3)
