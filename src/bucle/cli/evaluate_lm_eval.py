"""`bucle evaluate lm-eval`: lm-evaluation-harness tasks against a Bucle model."""

from __future__ import annotations

from pathlib import Path

import click

from bucle.cli.evaluate_import import show
from bucle.cli.shared import as_json, emit, on_project


@click.command("lm-eval")
@click.argument("tasks", nargs=-1, required=True)
@on_project
@click.option("--model", default="", help="A model of bucle.yaml; the first that can be asked without it.")
@click.option("--release", default="", help="Ask a release's candidate instead: production, 2, v2 or an id.")
@click.option("--task", default="", help="With --release: whose candidate; the first task's without it.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first samples of each task.")
@click.option("--num-fewshot", "shots", type=click.IntRange(min=0), help="Examples in each prompt.")
@click.option("--include-path", "include", type=click.Path(), help="A folder of task files (YAML) of your own.")
@click.option("--output-path", "out", type=click.Path(), help="Also write the harness's own result files there.")
@click.option("--apply-chat-template", "chat", is_flag=True, help="Prompts as conversations.")
@as_json
def lm_eval(
    tasks: tuple[str, ...], folder: str, model: str, release: str, task: str, limit: int | None, shots: int | None,
    include: str | None, out: str | None, chat: bool, json_: bool,
) -> None:
    """Run lm-evaluation-harness TASKS (`hellaswag`, `arc_easy`, your own with --include-path) and store the results,
    with intervals. Needs `pip install bucle[lm-eval]`. Local models answer every kind of task; remote models and
    releases only those that generate text."""
    from bucle.core.errors import ConfigError
    from bucle.loop import interop
    from bucle.loop.api import Project

    if model and release:
        raise ConfigError("--model and --release name two different things to ask.", "Give one of them.")
    found = interop.lm_eval(
        Project(folder).workspace, tasks, model=model, release=release, task=task, limit=limit, shots=shots,
        include=Path(include) if include else None, out=Path(out) if out else None, chat=chat,
    )
    emit({"evaluations": found}, json_, lambda: show(found))


commands = {"lm-eval": lm_eval}
