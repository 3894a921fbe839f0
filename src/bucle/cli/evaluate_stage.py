"""`bucle evaluate --stage retrieval`: retrieval by itself, and where each question that failed was lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bucle.cli.ci import Outputs, report_options
from bucle.cli.shared import as_json, emit, on_project, quiet_option, table, trust_option

SHOWN = 90
"""Characters of a question that a terminal shows; `--json` has all."""


@click.command("stage")
@click.argument("what", nargs=-1, metavar="[FOLDER] [TASK] [FILE]")
@click.option("--stage", type=click.Choice(["retrieval"]), default="retrieval", show_default=True,
              help="What is measured by itself.")
@on_project
@click.option("--task", default="", help="The task; the first that searches without it.")
@click.option("--release", default="", help="A version (2, v2), an id or `production`.")
@click.option("--candidate", default="", help="A candidate of the latest comparison, instead of a release's.")
@click.option("-k", "ks", multiple=True, type=int, help="Recall at this depth too (1, 3, 5 and 10 always); repeat it.")
@click.option("--access", multiple=True, help="A label that the asker holds; repeat it. Without it, none.")
@click.option("--show", default=10, show_default=True, type=click.IntRange(0), help="Failed questions to list.")
@click.option("--language", type=click.Choice(["es", "en"]), default=None, help="What the page opens in.")
@click.option("-o", "--output", type=click.Path(dir_okay=False), default=None, help="Write the HTML page here.")
@trust_option
@report_options
@quiet_option
@as_json
def stage(
    what: tuple[str, ...], stage: str, folder: str, task: str, release: str, candidate: str, ks: tuple[int, ...],
    access: tuple[str, ...], show: int, language: str | None, output: str | None, junit: str | None,
    summary: str | None, quiet: bool, json_: bool,
) -> None:
    """How well the candidate of TASK finds, cites and abstains on the held-out questions (or on those of FILE), with
    intervals by document, and for each question that failed the stage that lost it: parsing, chunking, access,
    retrieval, ranking or answering. The report names documents whatever their labels: it is for the team."""
    from bucle.core.errors import BadInput
    from bucle.execute import make_display
    from bucle.loop.api import Project
    from bucle.loop.report.retrieval import save_retrieval

    if release and candidate:
        raise click.UsageError("--release and --candidate name two things to measure: give one.")
    outputs = Outputs(junit, summary)
    if output and not Path(output).parent.is_dir():
        raise BadInput(f"The folder {Path(output).parent} does not exist.", f"mkdir -p {Path(output).parent}")
    what, folder = _folder(what, folder)
    project = Project(folder)
    name, path = _told(what, task, tuple(project.config.tasks))
    with outputs.around(f"evaluate --stage {stage}"):
        found = project.evaluate_retrieval(name, path, display=make_display(quiet=quiet or json_), release=release,
                                           candidate=candidate, ks=ks, access=access)
        page = save_retrieval(found, output or project.workspace.ledger.folder / "retrieval.html",
                              language or project.config.language)
    _write(outputs, found)
    emit(found | {"report": str(page)}, json_, lambda: _show(found, show, page))


def _folder(what: tuple[str, ...], folder: str) -> tuple[tuple[str, ...], str]:
    """The arguments without the project's folder, where it is the first of them, as other verbs take it."""
    if what and folder == "." and (Path(what[0]) / "bucle.yaml").is_file():
        return what[1:], what[0]
    return what, folder


def _told(what: tuple[str, ...], task: str, tasks: tuple[str, ...]) -> tuple[str, Path | None]:
    """The task and the file among the arguments, in either order."""
    rest = list(what)
    if not task and rest and rest[0] in tasks and (len(rest) > 1 or not Path(rest[0]).is_file()):
        task = rest.pop(0)
    elif not task and len(rest) == 2:
        task = rest.pop(1) if rest[1] in tasks else rest.pop(0)
    if len(rest) > 1:
        raise click.UsageError("Give a task and a file at most.")
    return task, Path(rest[0]) if rest else None


def _show(found: dict[str, Any], show: int, page: Path) -> None:
    from bucle.loop.report.retrieval import figure_says

    of = f"version {found['release']}" if found["release"] else "of the latest comparison"
    holding = f", asked by who holds {', '.join(found['access'])}" if found["access"] else ""
    click.echo(f"{found['task']}: {found['candidate']} ({of}) on {found['rows']:,} "
               f"{'held-out ' if found['held_out'] else ''}questions{holding}")
    table(["", "value", "95%", "rows", ""], [
        [name, f"{m['value']:.4f}", f"{m['low']:.4f} to {m['high']:.4f}", m["n"], figure_says(name).en]
        for name, m in found["metrics"].items()
    ])
    if not found["failed"]:
        click.echo("\nno question failed")
    else:
        click.echo(f"\n{found['failed']:,} of {found['rows']:,} questions failed; the stage that lost them:")
        table(["stage", "questions", "share", "try next"], [
            [one["stage"], one["count"], f"{one['share']:.0%}", one["next"]] for one in found["stages"] if one["count"]
        ])
        if found["approximate"]:
            click.echo(f"{found['approximate']:,} marked ~ by likeness: their answers stand nowhere word for word")
    if found["lost"] and show:
        click.echo("")
        table(["stage", "rank", "question", "document", "why"], [
            [("~" if one["approximate"] else "") + one["stage"], one["rank"] or "–", _short(one["input"]),
             _short(one["document"]), _short(one["why"], 2 * SHOWN)] for one in found["lost"][:show]
        ])
    if len(found["lost"]) > show:
        click.echo(f"{len(found['lost']) - show:,} more: --show {len(found['lost'])}, or --json")
    click.echo(f"report: {page}")


def _short(text: str, most: int = SHOWN) -> str:
    line = "".join(c if c.isprintable() else " " for c in text)
    return line if len(line) <= most else line[:most] + "…"


def _write(outputs: Outputs, found: dict[str, Any]) -> None:
    from bucle.evaluate.reporting import Case, Suite, figures_table

    name = f"{found['task']}: {found['candidate']}, retrieval"
    lost = {one["stage"]: one for one in found["stages"] if one["count"]}
    first = {one["stage"]: one for one in reversed(found["lost"])}
    cases = [
        Case(f"{stage} loses no question", stage not in lost,
             f"{lost[stage]['count']} questions, such as {first[stage]['input'][:200]!r}: {first[stage]['why']}. "
             f"Try next: {lost[stage]['next']}" if stage in lost else "")
        for stage in (one["stage"] for one in found["stages"])
    ]
    outputs.write(f"{name} on {found['rows']} questions", [Suite(name, cases)], figures_table(found["metrics"]))


commands = {"stage": stage}
