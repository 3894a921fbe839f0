"""`bucle data bootstrap`: a first test set, drafted from the documents for people to correct."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bucle.cli.shared import as_json, emit, on_project, quiet_option


@click.command("bootstrap")
@click.option("-n", "number", default=50, show_default=True, help="Drafts to make.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The file. The answer task's own where it does not exist yet, else drafts.jsonl.",
)
@click.option(
    "--model", default="", help="A model of bucle.yaml (kind openai or local), or `rules`. The first one there is."
)
@click.option(
    "--max-tokens",
    default=300_000,
    show_default=True,
    type=click.IntRange(min=0),
    help="Tokens that new calls may use.",
)
@click.option(
    "--max-usd",
    default=1.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="US dollars that new calls may cost.",
)
@click.option("--dry-run", is_flag=True, help="What it would take, in tokens and dollars; nothing is asked or written.")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@quiet_option
@on_project
@as_json
def command(
    number: int,
    output: Path | None,
    model: str,
    max_tokens: int,
    max_usd: float,
    dry_run: bool,
    force: bool,
    quiet: bool,
    folder: str,
    json_: bool,
) -> None:
    """Draft questions with answers that stand word for word in the documents, and where. Each row is a draft until a
    person has read it. With no model configured, fixed rules write them."""
    from bucle.execute import make_display
    from bucle.loop.bootstrap import Budget, bootstrap
    from bucle.loop.workspace import Workspace

    told = bootstrap(
        Workspace.open(folder),
        number,
        make_display(quiet=quiet or json_),
        output=output,
        model=model,
        budget=Budget(max_tokens, max_usd),
        force=force,
        dry_run=dry_run,
    )
    emit(told, json_, lambda: _dry(told) if dry_run else _people(told))


commands = {"bootstrap": command}


def _dry(told: dict[str, Any]) -> None:
    usd = (
        "at a price that is not known"
        if told["usd"] is None
        else f"{told['usd'][0]:.4f} to {told['usd'][1]:.4f} US dollars"
    )
    click.echo(
        f"by {told['by']}, from {told['documents']} documents: {told['tokens'][0]:,} to {told['tokens'][1]:,} "
        f"tokens, {usd}"
    )
    click.echo("next: the same command without --dry-run")


def _people(told: dict[str, Any]) -> None:
    rules = told["by"] == "rules"
    click.echo(
        f"{told['path']}: {told['drafts']} drafts of {told['asked']} from {told['documents_used']} of "
        f"{told['documents']} "
        f"documents, {told['unanswerable']} of them unanswerable"
    )
    if rules:
        click.echo(
            "DRAFTS BY RULES: no model wrote them. Sentences that state a fact were turned into questions by fixed "
            "patterns; some will be clumsy or ask too little."
        )
    else:
        asked = told["drafts"] + told["refused_n"]
        click.echo(
            f"DRAFTS BY {told['by']}: {told['refused_n']} of {asked} were refused "
            f"({told['refused_n'] / max(1, asked):.0%}); "
            f"{told['calls']} calls, {told['cached']} kept from before, {told['tokens']:,} tokens, "
            f"{told['usd']:.4f} US dollars"
        )
        for reason, n in told["refused"].items():
            click.echo(f"  {n} {reason}")
        if told["stopped"]:
            click.echo(f"stopped: {told['stopped']}")
    if told["labelled_left_out"]:
        click.echo(f"{told['labelled_left_out']} documents with access labels were left out")
    for row in told["sample"]:
        click.echo(f"  {row['question']}  ->  {row['answer'] or '(no answer)'}")
    click.echo(
        "every answer stands word for word in its document; `start` and `end` are its sentence's characters in the "
        "document's text as parsed: bucle data show DOCUMENT --text"
    )
    click.echo(
        "each row says `status: draft`: it is a proposal, and no row of the dataset, until a person confirms it. "
        "Name the file in bucle.yaml:"
    )
    click.echo(f"  tasks: {{{told['task'] or 'respuestas'}: {{kind: answer, data: {Path(told['path']).name}}}}}")
    click.echo("of kind `retrieve` the same file asks for each question's document")
    click.echo(
        f"next: bucle label start {told['task'] or 'respuestas'}  (Enter confirms a draft), or correct the rows in the "
        "file and remove their `status`"
    )
