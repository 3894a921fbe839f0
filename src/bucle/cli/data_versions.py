"""`bucle data versions | diff`: the versions of rows and documents, and what changed between two."""

from __future__ import annotations

from typing import Any

import click

from bucle.cli.shared import as_json, emit, on_project, table

SHOWN = 5


@click.command("versions")
@click.argument("task", default="")
@on_project
@as_json
def versions(task: str, folder: str, json_: bool) -> None:
    """Every version of TASK's rows (or of `documents`; without it, of all): when, how many, what it came from, and the
    releases that trained on it."""
    from bucle.loop.versions import versions as found
    from bucle.loop.workspace import Workspace

    listed = found(Workspace.open(folder), task)

    def human() -> None:
        table(
            ["", "version", "when", "rows", "from", "releases", "node"],
            [
                [
                    "*" if v.current else "",
                    f"{v.task} v{v.number}",
                    v.at[:16].replace("T", " "),
                    f"{v.n:,}",
                    v.origin,
                    ", ".join(map(str, v.releases)),
                    v.node.partition(":")[2][:12],
                ]
                for v in listed
            ],
        )
        name = task or (listed[0].task if listed else "")
        click.echo("* used by the latest run" if listed else "no version yet")
        click.echo(f"next: bucle data diff {name}" if len(listed) > 1 else "next: bucle data list reads what changed")

    emit({"versions": [v.json() for v in listed]}, json_, human)


@click.command("diff")
@click.argument("task", default="")
@click.argument("first", default="", metavar="[A]")
@click.argument("second", default="", metavar="[B]")
@click.option("--full", is_flag=True, help="Every row that changed, not the first few of each kind.")
@on_project
@as_json
def diff(task: str, first: str, second: str, full: bool, folder: str, json_: bool) -> None:
    """What changed in TASK's rows (or in `documents`) from version A to version B: numbers as `bucle data versions`
    lists them, or beginnings of node ids. The last two where not given; the newest where only A is."""
    from bucle.core.errors import BadInput
    from bucle.loop.version_diff import compare
    from bucle.loop.workspace import Workspace

    ws = Workspace.open(folder)
    if not task:
        if len(ws.config.tasks) > 1:
            raise BadInput("Which task?", f"bucle data diff {' | '.join([*ws.config.tasks, 'documents'])}")
        task = next(iter(ws.config.tasks))
    told = compare(ws, task, first, second)
    if json_ and not full:
        told = {k: v[:SHOWN] if isinstance(v, list) and k != "confusion" else v for k, v in told.items()}
    emit(told, json_, lambda: _people(told, full))


def _people(told: dict[str, Any], full: bool) -> None:
    a, b = told["before"], told["after"]
    click.echo(
        f"{told['task']}: version {a['version']} ({a['n']:,}, {a['origin']}) -> "
        f"version {b['version']} ({b['n']:,}, {b['origin']})"
    )
    counts = {k: v for k, v in told["counts"].items() if k != "changed_side"}
    click.echo("  " + ", ".join(f"{n:,} {kind}" for kind, n in counts.items()))
    if told["task"] == "documents":
        _documents(told, full)
        return
    moved = told["counts"]["changed_side"]
    if moved is None:
        click.echo("  sides: one of the two was never split")
    else:
        click.echo("  sides: no row changed side" if not moved else f"  SIDES: {moved:,} rows CHANGED SIDE (a leak)")
        for row in told["changed_side"][: None if full else SHOWN]:
            click.echo(f"    {row['id']}: {row['before']} -> {row['after']}")
    labels = sorted(told["labels"].items(), key=lambda item: -sum(item[1].values()))
    shown = labels if full else labels[:20]
    if shown:
        table(
            ["label", "added", "removed", "relabelled to", "relabelled from"],
            [[name, *(n or "" for n in (c["added"], c["removed"], c["to"], c["from"]))] for name, c in shown],
        )
        if len(labels) > len(shown):
            click.echo(f"… and {len(labels) - len(shown)} labels more (--full)")
    for kind, mark in (("relabelled", "~"), ("edited", "≈"), ("removed", "-"), ("added", "+")):
        rows = told[kind]
        for row in rows if full else rows[:SHOWN]:
            click.echo(f"{mark} {_line(kind, row)}")
        if not full and len(rows) > SHOWN:
            click.echo(f"  … and {len(rows) - SHOWN:,} {kind} more (--full)")
    click.echo(f"next: bucle data show {_some(told) or 'ROW'}")


def _documents(told: dict[str, Any], full: bool) -> None:
    for kind in ("added", "changed", "renamed", "relabelled", "deleted"):
        for d in told[kind] if full else told[kind][: SHOWN * 2]:
            what = f"{d['before']} -> {d['after']}" if kind == "renamed" else d["path"]
            more = f" ({d['characters']:+,} characters)" if kind == "changed" else ""
            if kind == "relabelled":
                more = f" ({', '.join(d['before']) or 'everyone'} -> {', '.join(d['after']) or 'everyone'})"
            click.echo(f"  {kind}: {what}{more}")
        if not full and len(told[kind]) > SHOWN * 2:
            click.echo(f"  … and {len(told[kind]) - SHOWN * 2:,} {kind} more (--full)")
    click.echo("next: bucle data show PATH")


def _line(kind: str, row: dict[str, Any]) -> str:
    def text(value: str) -> str:
        value = " ".join(value.split())
        return value if len(value) <= 90 else value[:89] + "…"

    if kind in ("added", "removed"):
        return f"{row['source']}: {text(row['input'])}  [{_target(row)}]"
    was, now = row["before"], row["after"]
    places = now["source"] if was["source"] == now["source"] else f"{was['source']} -> {now['source']}"
    if kind == "edited":
        changed = f"{text(was['input'])} -> " if was["input"] != now["input"] else ""
        return f"{places}: {changed}{text(now['input'])}  [{_target(now)}]"
    by = f", by {now['labelled_by']}" if now["labelled_by"] else ""
    return f"{places}: {text(now['input'])}  [{_target(was)} -> {_target(now)}{by}]"


def _target(row: dict[str, Any]) -> str:
    return "(no answer)" if row["target"] is None else str(row["target"])[:60]


def _some(told: dict[str, Any]) -> str:
    for kind in ("relabelled", "edited"):
        if told[kind]:
            return str(told[kind][0]["after"]["source"])
    return str(told["added"][0]["source"]) if told["added"] else ""


commands = {"versions": versions, "diff": diff}
