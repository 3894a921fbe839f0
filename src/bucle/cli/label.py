"""`bucle label`: label rows by several people, see how far they agree, decide, exchange with other tools."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bucle.cli.shared import as_json, emit, on_project, table

if TYPE_CHECKING:
    from bucle.loop.label import Labelling


def opened(folder: str, task: str) -> Labelling:
    """The labelling of a task of the project in `folder`."""
    from bucle.loop.label import Labelling
    from bucle.loop.workspace import Workspace

    return Labelling(Workspace.open(folder), task)


def name_of(by: str) -> str:
    """Who labels: as given, else the user of this machine."""
    import getpass

    return by or getpass.getuser()


by_option = click.option("--by", default="", help="Who labels; the user of this machine unless given.")
overlap_option = click.option(
    "--overlap",
    type=click.FloatRange(0, 1),
    default=0.1,
    show_default=True,
    help="Share of rows several people answer.",
)
people_option = click.option(
    "--people", type=click.IntRange(2, 50), default=2, show_default=True, help="How many answer those."
)
random_option = click.option(
    "--random",
    "random_share",
    type=click.FloatRange(0, 1),
    default=0.2,
    show_default=True,
    help="Share of rows drawn by lot; only on these are estimates unbiased.",
)
review_option = click.option("--review", is_flag=True, help="Rows that have a label, the most suspect first.")


@click.group("label")
def command() -> None:
    """Label rows: a queue of the most useful ones, several people, agreement, decisions, Label Studio and Argilla.

    What people settle on is in the next version of the data: bucle run.
    """


@command.command("next")
@click.argument("task")
@on_project
@by_option
@click.option("-n", "n", type=click.IntRange(1, 500), default=10, show_default=True, help="How many rows.")
@overlap_option
@people_option
@random_option
@review_option
@as_json
def next_(
    task: str,
    folder: str,
    by: str,
    n: int,
    overlap: float,
    people: int,
    random_share: float,
    review: bool,
    json_: bool,
) -> None:
    """The rows to label next, reserved for --by for half an hour."""
    found = opened(folder, task).next(
        name_of(by), n, review=review, overlap=overlap, people=people, random_share=random_share
    )

    def human() -> None:
        if not found["rows"]:
            click.echo(f"nothing is left to ask {found['by']} ({found['left']} rows are with others)")
            return
        table(
            ["row", "text", "label", "proposal", "why", "uncertainty"],
            [
                [
                    r["id"][:20],
                    _one_line(r["text"], 90),
                    r["label"] and _one_line(r["label"], 60),
                    r["proposal"] and _one_line(r["proposal"]["label"], 60),
                    r["why"],
                    r["uncertainty"],
                ]
                for r in found["rows"]
            ],
        )
        again = " --review" if review else ""
        click.echo(f"{found['left']} left. Next: bucle label start {task}{again} --by {found['by']}")

    emit(found, json_, human)


@command.command("add")
@click.argument("task")
@click.argument("row")
@click.argument("label")
@on_project
@by_option
@click.option("--note", default="", help="Why.")
@click.option("--new", is_flag=True, help="A label never seen before.")
@as_json
def add(task: str, row: str, label: str, folder: str, by: str, note: str, new: bool, json_: bool) -> None:
    """Say that ROW (its id or the beginning of it) has LABEL. Said again, the latest counts; nothing is overwritten."""
    done = opened(folder, task).add(row, label, name_of(by), note=note, new=new)
    said = done["annotation"]
    told = "stored" if done["new"] else "said before"
    emit(done, json_, lambda: click.echo(f"{told}: {said['by']} says {said['label']!r} of {said['row'][:20]}"))


@command.command("start")
@click.argument("task")
@on_project
@by_option
@overlap_option
@people_option
@random_option
@review_option
def start(task: str, folder: str, by: str, overlap: float, people: int, random_share: float, review: bool) -> None:
    """One row after the other: a number or a label, Enter for the proposal, s skips, u undoes, q ends; it resumes."""
    from bucle.cli.label_start import session

    asked: dict[str, Any] = {"overlap": overlap, "people": people, "random_share": random_share, "review": review}
    session(opened(folder, task), name_of(by), **asked)


@command.command("status")
@click.argument("task")
@on_project
@as_json
def status(task: str, folder: str, json_: bool) -> None:
    """How much is labelled, by whom, and what is left."""
    found = opened(folder, task).status()

    def human() -> None:
        click.echo(
            f"{found['rows']} rows: {found['labelled_by_source']} came with a label, {found['labelled_here']} were "
            f"labelled here, {found['left']} left; {found['relabelled']} relabelled"
        )
        click.echo(
            f"{found['two_answers']} with two answers or more, {found['disputed']} disputed, "
            f"{found['adjudicated']} decided, {found['proposed']} only proposed by a machine"
        )
        table(["person", "rows"], [[who, n] for who, n in found["people"].items()])
        if found["not_in_source"]:
            click.echo(f"{found['not_in_source']} labelled rows are no longer in the source")
        sample = found["random_sample"]
        if sample["open"]:
            rows = f"{sample['open']} row{'s'[: sample['open'] != 1]}"
            click.echo(f"drawn by lot and disputed still: {rows} ({sample['open_share']:.0%}), left out")
        if sample["rows"]:
            told = "shares of the unlabelled rows, but for the disputed ones" if sample["open"] else (
                "unbiased shares of the unlabelled rows"
            )
            rows = f"{sample['rows']} row{'s'[: sample['rows'] != 1]}"
            click.echo(f"drawn by lot and labelled: {rows}" + (f"; {told}:" if sample["shares"] else ""))
            shares = [[k, v["value"], f"{v['low']:.3f}-{v['high']:.3f}"] for k, v in sample["shares"].items()]
            if shares:
                table(["label", "share", "95%"], shares)
        ready = (
            "bucle run -p " + folder if found["labelled_here"] or found["relabelled"] else f"bucle label start {task}"
        )
        click.echo(f"Next: {ready}" + (f"; bucle label disagreements {task}" if found["disputed"] else ""))

    emit(found, json_, human)


@command.command("agreement")
@click.argument("task")
@on_project
@as_json
def agreement(task: str, folder: str, json_: bool) -> None:
    """How far people agree beyond chance, about which labels, and who disagrees with whom."""
    found = opened(folder, task).agreement()

    def human() -> None:
        click.echo(f"{found['rows_with_two_answers']} rows with two answers, {found['rows_in_agreement']} in agreement")
        click.echo(f"Krippendorff's alpha {_interval(found['alpha'])}\n{found['verdict']}")
        if found["rows_with_two_answers"]:
            table(
                ["label", "answers", "alpha"],
                [[o["label"], o["answers"], _interval(o["alpha"])] for o in found["labels"][:20]],
            )
            table(
                ["person", "and", "rows", "equal", "Cohen's kappa"],
                [[o["a"], o["b"], o["rows"], o["equal"], _interval(o["kappa"])] for o in found["pairs"]],
            )
            table(
                ["person", "says", "person", "says", "rows"],
                [[o["a"], o["says"], o["b"], o["instead"], o["rows"]] for o in found["confusions"]],
            )
        click.echo(f"Next: bucle label disagreements {task}")

    emit(found, json_, human)


@command.command("disagreements")
@click.argument("task")
@on_project
@click.option("-n", "n", type=click.IntRange(1, 100_000), default=50, show_default=True, help="How many rows.")
@as_json
def disagreements(task: str, folder: str, n: int, json_: bool) -> None:
    """Rows on which people disagree and nobody has decided."""
    found = opened(folder, task).disagreements(n)

    def human() -> None:
        for row in found["rows"]:
            said = ", ".join(f"{who}: {label}" for who, label in row["answers"].items())
            click.echo(f"{row['id'][:20]}  {_one_line(row['input'], 100)}\n    {said}")
        click.echo(
            f"{found['disagreements']} open."
            + (f" Next: bucle label decide {task} ROW LABEL --by NAME" if found["disagreements"] else "")
        )

    emit(found, json_, human)


@command.command("decide")
@click.argument("task")
@click.argument("row", default="")
@click.argument("label", default="")
@on_project
@by_option
@click.option("--note", default="", help="Why.")
@click.option("--new", is_flag=True, help="A label never seen before.")
@click.option("--majority", is_flag=True, help="Every disagreement in which more than half say the same.")
@as_json
def decide(
    task: str, row: str, label: str, folder: str, by: str, note: str, new: bool, majority: bool, json_: bool
) -> None:
    """Decide for everybody that ROW has LABEL, or with --majority what most say; under the name of --by."""
    from bucle.core.errors import BadInput

    labelling = opened(folder, task)
    if majority:
        done = labelling.decide_majority(name_of(by))
        emit(done, json_, lambda: click.echo(f"{done['decided']} decided, {done['left']} without a majority"))
        return
    if not row or (not label and labelling.kind == "classify"):
        raise BadInput("Which row, and what is it?", f"bucle label disagreements {task}")
    one = labelling.add(row, label, name_of(by), note=note, new=new, decide=True)
    said = one["annotation"]
    emit(one, json_, lambda: click.echo(f"decided by {said['by']}: {said['row'][:20]} is {said['label']!r}"))


@command.command("prelabel")
@click.argument("task")
@on_project
@click.option("--using", default="tfidf", show_default=True, help="tfidf, production, or a chat model of bucle.yaml.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=1000, show_default=True, help="How many rows.")
@click.option("--min-score", type=click.FloatRange(0, 1), default=0.0, help="Only where the machine is so sure.")
@as_json
def prelabel(task: str, folder: str, using: str, limit: int, min_score: float, json_: bool) -> None:
    """Let a machine propose labels. They are marked as such and train nothing until a person confirms them."""
    from bucle.loop.prelabel import prelabel as propose

    done = propose(opened(folder, task), using, limit=limit, min_score=min_score)
    told = f"{done['proposed']} proposed by {done['by']} of {done['asked']} asked; {done['unsure']} not sure enough"
    emit(done, json_, lambda: click.echo(f"{told}\nNext: bucle label start {task}  (Enter confirms a proposal)"))


@command.command("export")
@click.argument("task")
@on_project
@click.option("--format", "format_", type=click.Choice(["label-studio", "argilla", "csv", "jsonl"]), default="jsonl")
@click.option("-o", "--output", type=click.Path(dir_okay=False), default="", help="A file; standard output without it.")
@click.option("--everything", is_flag=True, help="Unlabelled rows too, to label them elsewhere.")
@as_json
def export(task: str, folder: str, format_: str, output: str, everything: bool, json_: bool) -> None:
    """What was said, for another tool: Label Studio or Argilla JSON, a CSV for a spreadsheet, JSON lines."""
    from bucle.loop.label_files import export_labels

    text = export_labels(opened(folder, task), format_, everything=everything)
    if not output:
        emit({"task": task, "format": format_, "text": text}, json_, lambda: click.echo(text, nl=False))
        return
    Path(output).write_text(text, encoding="utf-8", newline="")
    done = {"task": task, "format": format_, "file": output, "characters": len(text)}
    emit(done, json_, lambda: click.echo(f"written: {output}"))


@command.command("import")
@click.argument("task")
@click.argument("file", type=click.Path())
@on_project
@click.option("--control", default="", help="The question to read, where the file answers several.")
@as_json
def import_(task: str, file: str, folder: str, control: str, json_: bool) -> None:
    """Take over annotations from FILE: JSON of Label Studio or Argilla, or our own JSON lines."""
    from bucle.loop.label_files import import_labels

    done = import_labels(opened(folder, task), Path(file), control=control)

    def human() -> None:
        click.echo(
            f"{done['format']}: {done['rows']} rows, {done['matched_by_id']} found by id, {done['matched_by_text']} by "
            f"text, {done['new_rows']} new; {done['stored']} annotations stored, {done['already_there']} already there"
        )
        for what, counts in (("left out", done["left_out"]), ("labels never seen before", done["new_labels"])):
            if counts:
                click.echo(f"{what}: " + ", ".join(f"{name} ({n})" for name, n in counts.items()))
        click.echo(f"Next: bucle label status {task}")

    emit(done, json_, human)


def _interval(value: Any) -> str:
    return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]" if value else "not defined"


def _one_line(text: str, most: int) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= most else flat[: most - 1] + "…"
