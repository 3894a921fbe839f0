"""`bucle feedback`: rate and correct answers; see what they would teach."""

from __future__ import annotations

import click

from bucle.cli.shared import as_json, emit, on_project, table


@click.command("feedback")
@click.argument("action", type=click.Choice(["list", "add", "import", "preview", "learn"]), default="list")
@click.argument("target", default="")
@on_project
@click.option("--rating", type=click.Choice(["1", "-1"]), default=None, help="With add: good (1) or bad (-1).")
@click.option("--correction", default=None, help="With add: what the answer should have been.")
@click.option("--by", default="", help="With add: who says so.")
@click.option("--reason", default="", help="With add: why.")
@as_json
def command(
    action: str, target: str, folder: str, rating: str | None, correction: str | None, by: str, reason: str, json_: bool
) -> None:
    """list: all feedback. add TRACE: rate or correct one answer. import FILE: a CSV, TSV or JSONL with columns
    trace, rating, correction, by. preview TASK: the rows that feedback would add, and what is left out and why.
    learn TASK: the next release from all of it, through the gate."""
    import getpass

    from bucle.core.errors import BadInput
    from bucle.loop.api import Project

    project = Project(folder)
    by = by or getpass.getuser()
    if action == "add":
        if not target or (rating is None and correction is None):
            raise BadInput("Which trace, and what of it?", "bucle feedback add TRACE --rating -1 --correction TEXT")
        item = project.rate(
            target, rating=None if rating is None else int(rating), correction=correction, by=by, reason=reason
        )
        emit(item.model_dump(mode="json"), json_, lambda: click.echo(f"stored beside {item.trace[:24]}"))
    elif action == "import":
        if not target:
            raise BadInput("Which file?", "bucle feedback import ratings.csv")
        counts = project.import_feedback(target, by=by)
        emit(counts, json_, lambda: click.echo(", ".join(f"{k.replace('_', ' ')}: {v}" for k, v in counts.items())))
    elif action == "learn":
        from bucle.execute import make_display

        result = project.learn(target or next(iter(project.config.tasks)), display=make_display(quiet=json_))
        newest = result.story["releases"][-1]
        emit(
            {
                "release": newest,
                "feedback": result.story["feedback"],
                "gates": result.story["gates"],
                "report": result.report,
            },
            json_,
            lambda: click.echo(f"released version {newest['version']}: production\nreport: {result.report}"),
        )
    elif action == "preview":
        found = project.preview_feedback(target or next(iter(project.config.tasks)))
        emit(
            found,
            json_,
            lambda: click.echo(
                f"{found['task']}: {found['ratings']} ratings and {found['corrections']} corrections would add "
                f"{len(found['rows'])} rows\nnew labels: {_counts(found['new_labels'])}\n"
                f"left out: {_counts(found['left_out'])}"
            ),
        )
    else:
        rows = project.workspace.traces.feedback()
        emit(
            {"feedback": [f.model_dump(mode="json") for f in rows]},
            json_,
            lambda: table(
                ["at", "by", "rating", "correction", "trace"],
                [[f.at[:19], f.by, f.rating, f.correction, f.trace[:20]] for f in rows[-200:]],
            ),
        )


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} ({n})" for name, n in counts.items()) or "none"
