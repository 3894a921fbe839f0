"""`bucle why`: everything behind one answer."""

from __future__ import annotations

import click

from bucle.cli.shared import as_json, emit, on_project


@click.command("why")
@click.argument("trace")
@on_project
@as_json
def command(trace: str, folder: str, json_: bool) -> None:
    """The whole chain behind TRACE (a trace id, its beginning, or any node): release, gate, passages, documents,
    candidate,
    base model, training data, feedback, decisions."""
    from bucle.loop.api import Project

    show(Project(folder).why(trace), json_)


def show(rows: list[dict[str, object]], json_: bool) -> None:
    """The chain as an indented tree."""

    def human() -> None:
        for row in rows:
            depth = int(str(row["depth"]))
            role = f"{row['role']}: " if row["role"] else ""
            click.echo(
                "  " * min(depth, 12)
                + f"{role}[{row['kind']}] {row['title']}"
                + (f"  ({row['detail']})" if row["detail"] else "")
            )

    emit({"chain": rows}, json_, human)
