"""`bucle prompt list | show | diff | history`: saved prompts, and what changed between two."""

from __future__ import annotations

from typing import Any

import click

from bucle.cli.shared import as_json, emit, on_project, table, visible


@click.command("list")
@on_project
@as_json
def list_(folder: str, json_: bool) -> None:
    """Saved prompts: versions, the latest save, aliases, and the tasks of bucle.yaml that use a prompt."""
    from bucle.customise.prompt.store import listed
    from bucle.loop.workspace import Workspace

    ws = Workspace.open(folder)
    found = listed(ws.ledger)
    used = {name: task.prompt for name, task in ws.config.tasks.items() if task.prompt}

    def human() -> None:
        table(["prompt", "versions", "latest by", "when", "aliases", "about"],
              [[p["name"], p["versions"], p["by"], p["at"][:16].replace("T", " "),
                ", ".join(f"{alias} = {number}" for alias, number in p["aliases"].items()), p["about"][:60]]
               for p in found])
        for task, ref in used.items():
            click.echo(f"task {task} uses {ref}")
        click.echo("next: bucle prompt show NAME" if found else
                   "no prompt saved yet\nnext: bucle prompt save prompts/NAME.yaml (docs/prompts.md: how to write one)")

    emit({"prompts": found, "tasks": used}, json_, human)


@click.command("show")
@click.argument("prompt")
@on_project
@as_json
def show(prompt: str, folder: str, json_: bool) -> None:
    """PROMPT as it was saved, and where it stands: NAME, NAME@3, NAME@production, prompt:sha…, or a file."""
    from bucle.customise.prompt.store import aliases
    from bucle.loop.prompts import find_prompt
    from bucle.loop.workspace import Workspace

    ws = Workspace.open(folder)
    found = find_prompt(ws, prompt)
    named = sorted(a for a, node in aliases(ws.ledger, found.spec.name).items() if node == found.node)
    told: dict[str, Any] = {"name": found.spec.name, "version": found.version, "node": found.node, "aliases": named,
                            "prompt": found.spec.model_dump(mode="json"), "text": found.text}
    if found.node:
        told |= {"by": ws.ledger.get(found.node).attrs["by"], "at": ws.ledger.get(found.node).created_at}

    def human() -> None:
        said = [found.title if found.node else f"{prompt}, not saved", *(f"@{a}" for a in named)]
        click.echo(f"# {', '.join(said)}" + (f", by {told['by']}, {told['at'][:16]}" if told.get("by") else ""))
        click.echo(visible(found.text.rstrip("\r\n")))

    emit(told, json_, human)


@click.command("diff")
@click.argument("before")
@click.argument("after")
@on_project
@as_json
def diff(before: str, after: str, folder: str, json_: bool) -> None:
    """What changed from BEFORE to AFTER: what the model would be told, line by line; the settings; the inputs. Each is
    NAME, NAME@3, NAME@production, prompt:sha…, or a file."""
    from bucle.customise.prompt.diff import difference
    from bucle.loop.prompts import find_prompt
    from bucle.loop.workspace import Workspace

    ws = Workspace.open(folder)
    a, b = find_prompt(ws, before), find_prompt(ws, after)
    told = difference(a.spec, b.spec, (before, after))

    def human() -> None:
        if told["same"]:
            click.echo("nothing changed")
            return
        for line in told["text"].splitlines():
            colour = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
            click.echo(click.style(visible(line), fg=colour))
        if told["settings"]:
            table(["setting", before, after], [[key, *map(_cell, pair)] for key, pair in told["settings"].items()])
        inputs = told["inputs"]
        for word in ("added", "removed"):
            if inputs[word]:
                click.echo(f"inputs {word}: {', '.join(inputs[word])}")
        for name, changed in inputs["changed"].items():
            click.echo(f"input {name}: " + "; ".join(f"{k} {_cell(x)} -> {_cell(y)}" for k, (x, y) in changed.items()))

    emit({"before": before, "after": after, **told}, json_, human)


@click.command("history")
@click.argument("name")
@on_project
@as_json
def history(name: str, folder: str, json_: bool) -> None:
    """Every save of NAME and every move of its aliases: when, who, which version, why."""
    from bucle.customise.prompt.store import history as found
    from bucle.loop.workspace import Workspace

    moves = found(Workspace.open(folder).ledger, name.partition("@")[0])

    def human() -> None:
        table(["when", "what", "version", "by", "why"],
              [[m["at"][:16].replace("T", " "), "saved" if m["alias"] == "saved" else f"@{m['alias']}", m["version"],
                m["by"], m["reason"]] for m in moves])

    emit({"name": name, "moves": moves}, json_, human)


def _cell(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)


commands = {"list": list_, "show": show, "diff": diff, "history": history}
