"""`bucle data show`: everything about one row, document or passage."""

from __future__ import annotations

from typing import Any

import click

from bucle.cli.shared import as_json, emit, on_project


@click.command("show")
@click.argument("name", metavar="ROW|DOCUMENT|CHUNK")
@click.option("--text", "whole", is_flag=True, help="Of a document: its text as parsed, in full, and nothing else.")
@on_project
@as_json
def command(name: str, whole: bool, folder: str, json_: bool) -> None:
    """Everything about one row (its id, `file:line`, or its text), document (its path) or passage (its id): where it
    came from, its very bytes, its labels in each version, the releases that were fitted on it."""
    from bucle.core.errors import BadInput
    from bucle.loop.trace_row import show
    from bucle.loop.workspace import Workspace

    told = show(Workspace.open(folder), name)
    if whole:
        if told["kind"] != "document":
            raise BadInput(f"`{name[:80]}` is a {told['kind']}; --text is for documents.", "bucle data show DOCUMENT")
        text = "\n\n".join(block["text"] for block in told["blocks"])  # as Document.text has it
        emit({"path": told["path"], "text": text}, json_, lambda: click.echo(text))
        return
    emit(told, json_, lambda: {"row": _row, "document": _document, "chunk": _chunk}[told["kind"]](told))


commands = {"show": command}


def _say(label: str, value: object) -> None:
    if value not in ("", None, [], ()):
        click.echo(f"{label:<12}{value}")


def _row(t: dict[str, Any]) -> None:
    click.echo(t["input"])
    none = "(no answer)" if t["version"] else "(none yet)"
    _say("target", none if t["target"] is None else t["target"])
    _say("labelled by", t["labelled_by"])
    _say("task", f"{t['task']}, version {t['version'] or 'none yet'}")
    _say("side", t["side"])
    for key in ("group", "at", "language", "document"):
        _say(key, t[key])
    _say("id", t["id"])
    _say("from", t["source"])
    file = t["file"]
    _say("file", f"{file.get('path', '')}: {file['said']}".lstrip(": "))
    if "bytes" in file:
        _say("bytes", f"{file['span'][0]:,} to {file['span'][1]:,}" + (" (cut)" if file["cut"] else ""))
        for line in file["bytes"].splitlines() or [""]:
            click.echo("  | " + "".join(c if c.isprintable() or c == "\t" else "�" for c in line))
    if len(t["history"]) > 1 or any(len(h["labels"]) > 1 for h in t["history"]):
        click.echo("labels of this wording:")
        for h in t["history"]:
            labels = ", ".join(
                ("(no answer)" if lab["target"] is None else str(lab["target"]))
                + (f" by {lab['labelled_by']}" if lab["labelled_by"] else "")
                + (f" in {lab['rows']} rows" if lab["rows"] > 1 else "")
                for lab in h["labels"]
            )
            click.echo(f"  version {h['version']} ({h['at'][:10]}): {labels or 'not in it'}")
    for r in t["releases"]:
        _say("release", f"{r['release']}: {r['candidate']} was {r['use']}")
    if not t["releases"]:
        _say("release", "none was made from it")
    if t["also"]:
        _say("also", f"{len(t['also'])} more rows are called so: {', '.join(t['also'][:3])}")
    click.echo(f"next: {file.get('next') or 'bucle impact ' + t['source']}")


def _document(t: dict[str, Any]) -> None:
    click.echo(f"{t['path']}: {t['title']}")
    _say("type", t["media_type"])
    _say("language", t["language"])
    _say("access", f"only who holds {' and '.join(t['access'])}" if t["access"] else "everyone")
    _say("origin", t["origin"])
    _say("sha256", t["sha256"])
    _say("id", t["id"])
    _say(
        "version",
        f"{t['version']}{'' if t['current'] else ' (no longer in the latest)'}; "
        f"in versions {', '.join(map(str, t['versions']))}",
    )
    _say("releases", ", ".join(map(str, t["releases"])) or "none was made from it")
    click.echo(f"{len(t['blocks'])} blocks, {t['characters']:,} characters:")
    for block in t["blocks"][:40]:
        click.echo(f"  [{block['place'] or '-'}, {block['kind']}] {_short(block['text'])}")
    if len(t["blocks"]) > 40:
        click.echo(f"  … and {len(t['blocks']) - 40} more (--json)")
    click.echo(f"{len(t['chunks'])} passages{'' if t['indexed'] else ', not indexed yet'}:")
    for chunk in t["chunks"][:40]:
        click.echo(f"  {chunk['id'][:18]} {chunk['place']}: {_short(chunk['text'])}")
    click.echo(f"next: bucle impact {t['path']}")


def _chunk(t: dict[str, Any]) -> None:
    click.echo(t["text"])
    _say("heading", t["heading"])
    _say("document", t["path"])
    _say("place", t["place"])
    _say("access", f"only who holds {' and '.join(t['access'])}" if t["access"] else "everyone")
    _say("id", t["id"])
    _say("index", t["index"] or "none yet")
    _say("releases", ", ".join(map(str, t["releases"])) or "none serves it")
    click.echo(f"next: bucle data show {t['path']}")


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 110 else text[:109] + "…"
