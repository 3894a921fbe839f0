"""`bucle data list | quarantine | problems`: what came of every file and row."""

from __future__ import annotations

import os
import shlex
import sys
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


@click.command("quarantine")
@on_project
@click.option("--retry", "path", metavar="PATH", help="Read this file again; asks for its password if it needs one.")
@click.option("--password-env", metavar="NAME", help="The environment variable that holds the password, for --retry.")
@as_json
def _quarantine(folder: str, path: str | None, password_env: str | None, json_: bool) -> None:
    """Files that could not be read, and why; --retry reads one again, with its password."""
    if path is not None:
        _retry(folder, path, password_env, json_)
    elif password_env is not None:
        raise click.UsageError("--password-env is for --retry PATH: name the file the password opens.")
    else:
        _show("quarantine", folder, json_)


commands = {
    "list": _make("list", "Documents and rows that were read. Reads what changed first."),
    "quarantine": _quarantine,
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
                "path": t.data if isinstance(t.data, str) else ws.rows_file(name).name,
                "language": "",
                "title": f"{records[f'examples {name}'].figures['rows']} rows of {name}",
                "sha256": "",
            }
            for name, t in ws.config.tasks.items()
        ]
    elif what == "problems":
        rows = [
            {"task": name, **p}
            for name in ws.config.tasks
            for p in (
                *records[f"examples {name}"].figures["problem_list"],
                *records[f"split {name}"].figures["excluded_list"],
            )
        ]
    else:
        rows = [
            {k: row[k] for k in ("path", "reason", "message", "detail") if k in row}
            for row in documents.get("quarantined", [])
        ]

    def human() -> None:
        if rows:
            table(list(rows[0]), [list(r.values()) for r in rows])
        click.echo(f"{len(rows)} {'entries' if rows else 'entries: nothing here'}")
        if what == "quarantine" and any(r["reason"] == "encrypted" for r in rows):
            locked = next(r["path"] for r in rows if r["reason"] == "encrypted")
            click.echo(f"next: bucle data quarantine --retry {shlex.quote(locked)}   (asks for its password)")

    emit({what: rows}, json_, human)


def _retry(folder: str, path: str, password_env: str | None, json_: bool) -> None:
    from bucle.core.errors import BadInput, Quarantined
    from bucle.loop.api import Project
    from bucle.loop.quarantine import retry

    ws = Project(folder).workspace
    password = _from_environment(password_env) if password_env else ""
    try:
        try:
            document = retry(ws, path, password=password)
        except Quarantined as refused:
            if refused.reason != "encrypted" or password or not sys.stdin.isatty():
                raise
            password = click.prompt(f"Password of {path}", hide_input=True, err=True)
            document = retry(ws, path, password=password)
    except Quarantined as refused:
        again = f"bucle data quarantine --retry {shlex.quote(path)}"
        hint = {
            "encrypted": f"{again}   (asks for the password on the terminal; or add --password-env NAME)",
            "missing-package": f"Install it, then: {again}",
        }.get(refused.reason, f"Mend or replace the file, then: {again}")
        raise BadInput(f"{path} is still in quarantine ({refused.reason}). {refused.message}", hint) from refused
    words = sum(len(block.text.split()) for block in document.blocks)
    then = "bucle run" + ("" if folder == "." else f" {shlex.quote(folder)}")

    def human() -> None:
        kept, included = ("; the password is not", ", without the password") if password else ("", "")
        click.echo(f"{path}: read, {len(document.blocks)} blocks, {words} words. It is kept{kept}.")
        click.echo(f"next: {then}   (includes it{included})")

    emit({"retried": path, "blocks": len(document.blocks), "words": words, "next": then}, json_, human)


def _from_environment(name: str) -> str:
    from bucle.core.errors import ConfigError

    password = os.environ.get(name, "")
    if not password:
        raise ConfigError(f"The environment variable {name} is not set.", f"Set {name} to the file's password.")
    return password
