"""`bucle evaluate import | imported | compare`: evaluations that lm-evaluation-harness or Inspect made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bucle.cli.shared import as_json, emit, on_project, table


@click.command("import")
@click.argument("path", type=click.Path())
@on_project
@as_json
def import_(path: str, folder: str, json_: bool) -> None:
    """Store the evaluations in PATH: a .eval or .json log of Inspect, a results_*.json of lm-evaluation-harness (with
    the samples_*.jsonl beside it), or a folder of them. Importing the same again adds nothing. Exit code 1
    where a file of a folder could not be read: the others are stored."""
    from bucle.loop.api import Project
    from bucle.loop.interop import import_evaluations

    bad: list[tuple[str, str]] = []
    found = import_evaluations(Project(folder).workspace, Path(path), bad)
    emit({"evaluations": found, "bad": [{"file": name, "why": why} for name, why in bad]}, json_, lambda: show(found))
    for name, why in bad:
        click.echo(f"not imported: {name}: {why}", err=True)
    if bad:
        raise click.exceptions.Exit(1)


@click.command("imported")
@on_project
@as_json
def imported_(folder: str, json_: bool) -> None:
    """The imported evaluations, newest first, with intervals."""
    from bucle.loop.api import Project
    from bucle.loop.interop import imported

    found = imported(Project(folder).workspace)
    emit(
        {"evaluations": found},
        json_,
        lambda: show(found, notes=False) if found else click.echo("Nothing imported yet: bucle evaluate import PATH"),
    )


@click.command("compare")
@click.argument("a")
@click.argument("b")
@on_project
@as_json
def compare(a: str, b: str, folder: str, json_: bool) -> None:
    """B against A on the samples both asked, paired. A and B are ids as `bucle evaluate imported` lists them; the
    beginning of one is enough."""
    from bucle.loop.api import Project
    from bucle.loop.interop import compare_imported

    found = compare_imported(Project(folder).workspace, a, b)

    def human() -> None:
        for side in ("a", "b"):
            one = found[side]
            tool = f"{one['tool']} {one['tool_version']}"
            click.echo(f"{side}: {one['model']} on {one['task']} ({tool}, {one['rows']} rows)")
        if not found["same_task"]:
            click.echo("warning: they were configured differently (prompt, shots, version): the difference may be that")
        table(
            ["metric", "a", "b", "b - a", "95%", "p", "samples"],
            [
                [n, m["a"], m["b"], f"{m['difference']['value']:+.4f}",
                 f"{m['difference']['low']:+.4f} to {m['difference']['high']:+.4f}", m["p"], m["difference"]["n"]]
                for n, m in found["metrics"].items()
            ],
        )

    emit(found, json_, human)


def show(found: list[dict[str, Any]], *, notes: bool = True) -> None:
    """Evaluations as a table of metrics with intervals; notes below."""
    rows = []
    for one in found:
        head = [one["id"].partition(":")[0] + ":" + one["id"].partition(":")[2][:10], one["tool"], one["model"],
                one["task"], one["rows"]]
        measured = [[n, f"{m['value']:.4f}", f"{m['low']:.4f} to {m['high']:.4f}"] for n, m in one["metrics"].items()]
        told = {n.rpartition("/")[0] or n for n in one["reported"] if n in one["metrics"]}
        told |= {n for n in one["reported"] if n.rpartition("/")[0] in one["metrics"]}
        measured += [[n, f"{v:.4f}", "as reported"] for n, v in one["reported"].items() if n not in told]
        for place, line in enumerate(measured or [["", "", "no scores"]]):
            rows.append([*(head if place == 0 else [""] * len(head)), *line])
    table(["evaluation", "tool", "model", "task", "rows", "metric", "value", "95%"], rows)
    for one in found if notes else []:
        for note in one["notes"]:
            click.echo(f"note: {one['task']}: {note}")


commands = {"import": import_, "imported": imported_, "compare": compare}
