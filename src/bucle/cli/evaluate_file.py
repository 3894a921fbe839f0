"""`bucle evaluate FILE`: a release on fresh rows, its gates, and what a build server reads."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from bucle.cli.ci import Outputs, report_options
from bucle.cli.evaluate import VERBS
from bucle.cli.shared import as_json, emit, on_project, quiet_option, trust_option


@click.command("file")
@click.argument("data", type=click.Path())
@on_project
@click.option("--task", default="", help="The task; the first without it.")
@click.option(
    "--release", "release", default="production", show_default=True, help="A version (2, v2), an id or an alias."
)
@click.option(
    "--gate",
    "gates",
    multiple=True,
    help="A condition, such as `accuracy >= 0.9 at 95%`; repeat for more. Without it, the task's own gates.",
)
@trust_option
@report_options
@quiet_option
@as_json
def file(
    data: str, folder: str, task: str, release: str, gates: tuple[str, ...], junit: str | None, summary: str | None,
    quiet: bool, json_: bool,
) -> None:
    """Measure a release's candidate on the rows of DATA, beside a TF-IDF logistic regression on the same training
    rows. Exit code 1 where a gate fails; rows that the candidate has learned from are told."""
    from bucle.core.errors import GateFailed
    from bucle.execute import make_display
    from bucle.loop.api import Project

    if data in VERBS and not Path(data).exists():
        raise click.UsageError(f"The verb comes first: bucle evaluate {data} …")
    outputs = Outputs(junit, summary)
    with outputs.around(f"evaluate {data}"):
        project = Project(folder)
        with make_display(quiet=quiet or json_) as display:
            display.start("evaluate", data)
            began, status = time.monotonic(), "failed"
            try:
                found = project.evaluate(
                    task or next(iter(project.config.tasks), ""), data, release=release, gates=list(gates) or None,
                    report=display.update,
                )
                status = "done"
            finally:
                display.finish(status, time.monotonic() - began)
    _write(outputs, found, data)
    emit(found, json_, lambda: _show(found, data))
    failed = [check for check in found["gates"]["checks"] if not check["passed"]]
    if failed and json_:
        raise click.exceptions.Exit(1)
    if failed:
        what = "; ".join(f"{c['gate']} ({c['note'] or format(c['measured'], '.4g')})" for c in failed)
        raise GateFailed(f"{found['candidate']} does not pass: {what}.", f"on {found['rows']} rows of {data}")


def _show(found: dict[str, Any], data: str) -> None:
    click.echo(
        f"{found['candidate']} (version {found['release']}) on {found['rows']} rows of {data}"
        + (f", {found['left_out']} left out: {_reasons(found)}" if found["left_out"] else "")
    )
    without = found["overlap"]["metrics"] or {}
    for name, m in found["metrics"].items():
        fresh = without.get(name)
        click.echo(
            f"  {name:<14} {m['value']:.4f}  [{m['low']:.4f}, {m['high']:.4f}]"
            + (f"   fresh rows alone {fresh['value']:.4f}  [{fresh['low']:.4f}, {fresh['high']:.4f}]" if fresh else "")
        )
    if base := found.get("baseline"):
        d = found["difference"]
        click.echo(f"  tfidf baseline {base['value']:.4f}  [{base['low']:.4f}, {base['high']:.4f}]")
        click.echo(f"  difference     {d['value']:+.4f} [{d['low']:+.4f}, {d['high']:+.4f}]")
    for check in found["gates"]["checks"]:
        click.echo(f"  {_outcome(check)} {check['gate']}  {check['note']}".rstrip())
    if elsewhere := found["gates"]["elsewhere"]:
        click.echo(f"  a file of rows cannot tell: {', '.join(elsewhere)} (bucle run checks it)")
    for one in _doubts(found):
        click.echo(f"warning: {one}")
    told = _overlap(found)
    if told:
        click.echo(f"warning: {told}")
        for row in found["overlap"]["rows"]:
            alike = "is" if row["similarity"] == 1 else f"is {row['similarity']:.2f} like"
            click.echo(f"  {row['source']}: {row['input'][:60]!r} {alike} {row['learned_from'] or row['like'][:60]!r}")


def _outcome(check: dict[str, Any]) -> str:
    if not check["passed"]:
        return "FAIL"
    return "pass" if check["compared"] else "  - "


def _doubts(found: dict[str, Any]) -> list[str]:
    """What makes the figures mean less than they seem to."""
    told = []
    if found["unknown_labels"]:
        rows = sum(one["rows"] for one in found["unknown_labels"])
        said = f"{rows} rows have a label that the task does not know: "
        said += ", ".join(f"{one['label']!r} ({one['rows']})" for one in found["unknown_labels"][:5])
        near = [f"{one['nearest']} for {one['label']!r}" for one in found["unknown_labels"][:5] if one["nearest"]]
        told.append(said + (f"; did you mean {', '.join(near)}?" if near else ""))
    if found["repeated"]["rows"]:
        told.append(f"{found['repeated']['rows']} of {found['rows']} rows say what another one says, or nearly: the "
                    f"intervals count {found['repeated']['sources']} sources")
    if (looked := found["repeated"]["looked_near"]) < found["rows"]:
        told.append(f"rows that are nearly the same were looked for among {looked:,} of {found['rows']:,} only")
    return told


def _reasons(found: dict[str, Any]) -> str:
    return ", ".join(f"{n} {reason}" for reason, n in found["left_out_reasons"].items())


def _overlap(found: dict[str, Any]) -> str:
    """The warning that rows are not fresh, or nothing."""
    exact, near = found["overlap"]["exact"], found["overlap"]["near"]
    if not exact + near:
        return ""
    left = found["overlap"]["fresh"]
    said = f"{exact} of these texts stand in the training rows" if exact else ""
    said += (", " if exact and near else "") + (f"{near} nearly stand there" if near else "")
    end = f"{left} rows are fresh" if left else "no row is fresh"
    return f"{said}; the figures are too good: {end}"


def _write(outputs: Outputs, found: dict[str, Any], data: str) -> None:
    from bucle.evaluate.reporting import Suite, cases, figures_table

    name = f"{found['task']}: {found['candidate']} (version {found['release']})"
    more = figures_table(found["metrics"], found["overlap"]["metrics"])
    told = _overlap(found)
    more += "".join(f"\n> [!WARNING]\n> {one}.\n" for one in (*_doubts(found), *([told] if told else [])))
    outputs.write(f"{name} on {found['rows']} rows of {data}", [Suite(name, cases(found["gates"]["checks"]))], more)


commands = {"file": file}
