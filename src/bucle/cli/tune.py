"""`bucle tune`: one technique on one task."""

from __future__ import annotations

import click

from bucle.cli.shared import as_json, emit, on_project, table


@click.command("tune")
@on_project
@click.option("--list", "list_", is_flag=True, help="List the techniques and when to use each.")
@click.option("--task", default="", help="The task; the first without it.")
@click.option("--technique", "name", default="lora", show_default=True, help="A technique, or technique/model.")
@click.option(
    "--show-batch", type=int, default=0, metavar="N", help="Show N rows as trained on: ⟦trained⟧ tokens marked."
)
@click.option("--dry-run", is_flag=True, help="Rows and tokens it would train on; nothing is trained.")
@as_json
def command(folder: str, list_: bool, task: str, name: str, show_batch: int, dry_run: bool, json_: bool) -> None:
    """Fit one technique and measure it on the held-out rows."""
    from bucle.loop.api import Project

    if list_:
        from bucle.customise.registry import techniques

        rows = [
            {
                "technique": t.name,
                "tasks": ", ".join(sorted(t.kinds)),
                "needs": ", ".join(sorted(t.needs)),
                "when": t.when,
            }
            for t in techniques().values()
        ]
        emit({"techniques": rows}, json_, lambda: table(list(rows[0]), [list(r.values()) for r in rows]))
        return
    from bucle.execute import make_display

    project = Project(folder)
    task = task or next(iter(project.config.tasks))
    display = make_display(quiet=json_)
    if show_batch or dry_run:
        batch = project.show_batch(task, name, show_batch or 3, display=display)
        emit(
            batch,
            json_,
            lambda: click.echo(
                "\n\n".join(batch["rows"])
                + f"\n\n{batch['train_rows']} training rows, about {batch['tokens']} tokens an epoch"
            ),
        )
        return
    found = project.tune(task, name, display=display)
    emit(
        found,
        json_,
        lambda: click.echo(
            f"{found['candidate']}: {found['metric']} {found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}] "
            f"on {found['rows']} held-out rows, fitted in {found['fit_seconds']:.0f} s\nnode: {found['node']}"
        ),
    )
