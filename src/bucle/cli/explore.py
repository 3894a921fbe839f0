"""`bucle explore`: what the rows look like."""

from __future__ import annotations

import click

from bucle.cli.shared import as_json, emit, on_project, table


@click.command("explore")
@on_project
@click.option("--task", default="", help="One task; all without it.")
@as_json
def command(folder: str, task: str, json_: bool) -> None:
    """Balance, lengths, languages, duplicates, leakage between the splits, and labels that are probably wrong."""
    from bucle.core.errors import BadInput
    from bucle.execute import make_display
    from bucle.loop.api import Project

    project = Project(folder)
    if task and task not in project.config.tasks:
        raise BadInput(f"There is no task `{task}`.", f"Tasks: {', '.join(project.config.tasks)}.")
    result = project.run(until="data", display=make_display(quiet=json_))
    records = {r.name: r for r in project.records()}
    found = {
        name: {
            **records[f"examples {name}"].figures,
            **records[f"split {name}"].figures,
            **records[f"explore {name}"].figures,
        }
        for name in project.config.tasks
        if task in ("", name)
    }

    def human() -> None:
        for name, figures in found.items():
            click.echo(
                f"\n{name}: {figures['rows']} rows, {figures['problems']} left out; train {figures['train']}, "
                f"validation {figures['validation']}, test {figures['test']}; "
                f"leaks prevented: {figures['leaks_prevented']}"
            )
            labels = figures.get("labels") or {}
            if labels and len(labels) <= 60:
                table(["label", "rows"], [[k, v["count"] if isinstance(v, dict) else v] for k, v in labels.items()])
            if suspects := figures.get("suspects"):
                click.echo("labels that are probably wrong, most doubtful first:")
                table(
                    ["label", "proposed", "sure", "text"],
                    [[s["given"], s["proposed"], f"{s['confidence']:.2f}", s["input"][:80]] for s in suspects[:10]],
                )
        click.echo(f"report: {result.report}")

    emit(found, json_, human)
