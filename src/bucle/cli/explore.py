"""`bucle explore`: what the rows and documents look like, as an HTML report, JSON, or a summary."""

from __future__ import annotations

from typing import Any

import click

from bucle.cli.shared import as_json, emit, on_project, table


@click.command("explore")
@on_project
@click.option("--task", default="", help="One task; all, and the documents, without it.")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False), default=None, help="Write the HTML report to this file."
)
@as_json
def command(folder: str, task: str, output: str | None, json_: bool) -> None:
    """Sizes, tokens, languages, duplicates, balance, labels that are probably wrong, leakage, topics, outliers,
    personal data, and what changed since the last version: a self-contained HTML report."""
    from bucle.execute import make_display
    from bucle.loop.explore import explore, save_explored
    from bucle.loop.workspace import Workspace

    workspace = Workspace.open(folder)
    found = explore(workspace, make_display(quiet=json_), task)
    path = save_explored(workspace, found, output)

    def human() -> None:
        for name, figures in found["tasks"].items():
            _task(name, figures)
        if found["documents"]:
            _documents(found["documents"])
        click.echo(f"\nreport: {path}")

    emit({**found, "report": str(path)}, json_, human)


def _task(name: str, figures: dict[str, Any]) -> None:
    click.echo(
        f"\n{name}: {figures['rows']} rows, {figures['problems']} left out; train {figures['train']}, "
        f"validation {figures['validation']}, test {figures['test']}; "
        f"leaks prevented: {figures['leaks_prevented']}"
    )
    if figures["without_reference"]:
        click.echo(f"{_n(figures['without_reference'], 'row')} without a reference: only checks and judges score those")
    labels = figures["labels"]
    if labels and len(labels) <= 60:
        table(["label", "rows"], [[label, its["count"]] for label, its in labels.items()])
    for one in figures["tokens"]:
        click.echo(_tokens(one))
    if suspects := figures["suspects"]:
        click.echo("labels that are probably wrong, most doubtful first:")
        table(
            ["label", "proposed", "sure", "where", "text"],
            [[s["given"], s["proposed"], f"{s['confidence']:.2f}", s["source"], s["input"][:80]]
             for s in suspects[:10]],
        )
    click.echo(f"topics: {', '.join(t['name'] for t in figures['topics']['topics'][:8]) or 'none'}")
    for said in _next(name, figures):
        click.echo(f"  -> {said}")


def _tokens(one: dict[str, Any]) -> str:
    said = {"untrained": "not trained yet: bucle run", "no-tokenizer": "its folder has no tokenizer.json"}
    if one["note"]:
        return f"tokens by {one['name']}: {said.get(one['note'], one['detail'])}"
    window = f"window {one['window']}, {one['over_share']:.1%} over it" if one["window"] else "window not known"
    return (
        f"tokens by {one['name']}{' (an estimate)' if one['estimate'] else ''}: half under {one['tokens']['p50']:.0f}, "
        f"95% under {one['tokens']['p95']:.0f}, longest {one['tokens']['max']}; {window}"
    ) if one.get("tokens") else f"tokens by {one['name']}: no text"


def _next(name: str, figures: dict[str, Any]) -> list[str]:
    leakage = figures["leakage"]
    leaks = max(leakage["across_exact"], leakage["across_near"])
    checks = (
        (leaks, f"{_n(leaks, 'held-out row')} with a copy on another side: remove it from its file, then bucle run"),
        (figures["suspects"], f"{_n(len(figures['suspects']), 'label')} in doubt: bucle label next {name} --review, "
         "or edit the row named"),
        (figures["labels"] and figures["conflicts"]["groups"],
         f"{_n(figures['conflicts']['groups'], 'text')} under several labels: edit the rows that the report names"),
        (figures["unknown_documents"], f"{_n(len(figures['unknown_documents']), 'document')} named by rows and not "
         f"there, first {_first_unknown(figures)}: nothing can find those; correct the rows, or add the documents"),
        (figures["rare"], f"{_n(len(figures['rare']), 'label')} with under 10 rows: add rows, then "
         f"bucle label start {name}"),
        (figures["problems"], f"{_n(figures['problems'], 'row')} could not be used: bucle data problems"),
        (_personal(figures), f"personal data found: {_personal(figures)}; data.personal_data decides"),
        (figures["personal_left"], "personal data left in rows: "
         + ", ".join(f"{kind} in {n}" for kind, n in figures["personal_left"].items())),
        (figures["changes"], "what changed since the last version: bucle data diff"),
    )
    return [said for holds, said in checks if holds]


def _first_unknown(figures: dict[str, Any]) -> str:
    return next((f"`{one['document'][:80]}`" for one in figures["unknown_documents"]), "")


def _n(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _personal(figures: dict[str, Any]) -> str:
    """What was found when the data were read, and what was done about each kind."""
    did = {"keep": "kept", "mask": "masked", "hash": "hashed", "drop": "dropped"}
    said = [f"{n:,} {kind} ({did[figures['personal_done'][kind]]})" for kind, n in figures["personal"].items()]
    if figures["personal_dropped"]:
        said.append(f"{_n(figures['personal_dropped'], 'row')} dropped")
    return ", ".join(said)


def _documents(figures: dict[str, Any]) -> None:
    click.echo(
        f"\ndocuments: {figures['documents']} of {figures['files']} files; "
        f"{figures['quarantined']['count']} in quarantine, {figures['removed']['count']} removed"
    )
    if figures["quarantined"]["count"]:
        click.echo("  -> bucle data quarantine")
    if figures["removed"]["count"]:
        click.echo("  -> bucle data removed")
    if found := _personal(figures):
        click.echo(f"  -> personal data found: {found}; data.personal_data decides")
