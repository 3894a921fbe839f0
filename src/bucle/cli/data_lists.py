"""`bucle data list | quarantine | removed | problems`: what came of every file and row."""

from __future__ import annotations

from typing import Any

import click

from bucle.cli.shared import as_json, emit, on_project, table


def _make(what: str, told: str) -> click.Command:
    @click.command(what, help=told)
    @on_project
    @as_json
    def command(folder: str, json_: bool) -> None:
        _show(what, folder, json_)

    return command


commands = {
    "list": _make("list", "Documents and rows that were read. Reads what changed first."),
    "quarantine": _make("quarantine", "Files that could not be read, and why."),
    "removed": _make("removed", "What cleaning took out, and why."),
    "problems": _make("problems", "Rows that could not be used, and why."),
}


def _show(what: str, folder: str, json_: bool) -> None:
    from bucle.execute import make_display
    from bucle.loop.api import Project

    project = Project(folder)
    project.run(until="data", display=make_display(quiet=json_))
    ws = project.workspace
    records = {r.name: r for r in project.records()}
    documents = records["documents"].figures if "documents" in records else {}
    rows: list[dict[str, Any]]
    if what == "list":
        rows = (
            [
                {
                    "path": n.attrs["path"],
                    "language": n.attrs["language"],
                    "title": n.attrs["title"][:60],
                    "sha256": n.attrs["sha256"][:12],
                }
                for n in ws.documents(records["documents"]["corpus"])
            ]
            if documents
            else []
        )
        rows += [
            {
                "path": ws.rows_file(name).name,
                "language": "",
                "title": f"{records[f'examples {name}'].figures['rows']} rows of {name}",
                "sha256": "",
            }
            for name, t in ws.config.tasks.items()
        ]
    elif what == "problems":
        rows = [
            {"task": name, **p} for name in ws.config.tasks for p in records[f"examples {name}"].figures["problem_list"]
        ]
    else:
        rows = [
            {k: row[k] for k in ("path", "reason", "message", "detail") if k in row}
            for row in documents.get("quarantined" if what == "quarantine" else "removed", [])
        ]

    def human() -> None:
        if rows:
            table(list(rows[0]), [list(r.values()) for r in rows])
        click.echo(f"{len(rows)} {'entries' if rows else 'entries: nothing here'}")
        if what == "quarantine" and any(r["reason"] == "encrypted" for r in rows):
            click.echo("next: name an environment variable with path=password under `data.documents.passwords_env`")

    emit({what: rows}, json_, human)
