"""`bucle monitor`: alerts, windows and traces."""

from __future__ import annotations

import click

from bucle.cli.shared import as_json, emit, on_project, table


@click.command("monitor")
@on_project
@click.option("--traces", is_flag=True, help="List traces instead of alerts, newest first.")
@click.option("--windows", is_flag=True, help="List each route's windows with their figures.")
@click.option("--route", default="", help="Only this route.")
@click.option("--user", default="", help="Only this user.")
@click.option("--query", default="", help="Only traces with this text.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000))
@as_json
def command(
    folder: str, traces: bool, windows: bool, route: str, user: str, query: str, limit: int, json_: bool
) -> None:
    """The alerts that the project's rules raise over every stored trace; exit code 1 if one is open.

    Drift, abuse, latency, errors and cost; each says what changed and what to run next.
    """
    from bucle.loop.api import Project
    from bucle.loop.sentences import alert_text

    project = Project(folder)
    if traces:
        found = project.traces(route=route, user=user, query=query, limit=limit, newest_first=True)
        emit(
            {"traces": [t.model_dump(mode="json") for t in found]},
            json_,
            lambda: table(
                ["trace", "at", "route", "status", "ms", "input", "output"],
                [[t.id[:20], t.at[:19], t.route, t.status, f"{t.ms:.0f}", t.input[:50], t.output[:40]] for t in found],
            ),
        )
        return
    if windows:
        rows = [w for w in project.windows() if route in ("", w["route"])]
        head = ["route", "from", "to", "requests", "p50 ms", "p95 ms", "rating", "abstained", "score"]
        emit(
            {"windows": rows},
            json_,
            lambda: table(
                head,
                [
                    [
                        *(w["route"], w["start"][:16], w["end"][:16], w["requests"]),
                        *(f"{w['p50_ms']:.0f}", f"{w['p95_ms']:.0f}", w["mean_rating"], w["abstained"], w["score"]),
                    ]
                    for w in rows
                ],
            ),
        )
        return
    alerts = [a for a in project.alerts() if route in ("", a.route)]

    def human() -> None:
        for a in alerts:
            told = alert_text(a.model_dump())[project.config.language]
            click.echo(f"{a.kind}  {a.route}  {a.start[:16]} to {a.end[:16]}\n  {told}\n  -> {a.next}")
        click.echo(f"{len(alerts)} alerts over {project.workspace.traces.count()} traces")

    emit({"alerts": [a.model_dump(mode="json") for a in alerts]}, json_, human)
    if any(a.detail.get("open") for a in alerts):
        raise click.exceptions.Exit(1)
