"""`bucle index`: search the passages of the project's documents, look at the index and at its versions."""

from __future__ import annotations

from typing import Any

import click

from bucle.cli.shared import as_json, emit, on_project, table, trust_option, visible

SHOWN = 160
"""Characters of a passage in the list."""


@click.group("index")
def command() -> None:
    """The index of passages: search it, what it holds, its versions."""


def _where(values: tuple[str, ...]) -> dict[str, str]:
    from bucle.core.errors import BadInput

    found: dict[str, str] = {}
    for value in values:
        key, equals, said = value.partition("=")
        if not equals:
            raise BadInput(f"`--where {value}` says no value.", "Give KEY=VALUE, such as --where 'path=manual/*'.")
        found[key.strip()] = said
    return found


@command.command("search")
@click.argument("question")
@click.option("-k", "k", type=click.IntRange(1, 1000), default=5, show_default=True, help="How many passages.")
@click.option(
    "--where",
    "where",
    multiple=True,
    metavar="KEY=VALUE",
    help="Only these: path (with *), language, document, heading.",
)
@click.option(
    "--access", multiple=True, metavar="LABEL", help="A label that you hold; labelled passages need all theirs."
)
@click.option("--version", "version", default="", metavar="N", help="An earlier index: its number, or its node.")
@click.option(
    "--weight",
    type=click.FloatRange(0, 1),
    default=None,
    help="By hand: only the share of meaning (1) against words (0).",
)
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="For the team's own eyes: no access labels, and past versions whole.",
)
@trust_option
@on_project
@as_json
def search(
    question: str,
    k: int,
    where: tuple[str, ...],
    access: tuple[str, ...],
    version: str,
    weight: float | None,
    everything: bool,
    folder: str,
    json_: bool,
) -> None:
    """The passages that answer QUESTION best, with what each search gave them.

    They are fused as a released candidate on this index was fitted, else evenly. Access labels hold as the documents
    have them today, in past versions too, and a document that is gone is in none: --all shows what was there.
    """
    from bucle.core.errors import BadInput
    from bucle.loop.indexing import fusion_told
    from bucle.loop.indexing import search as found
    from bucle.loop.workspace import Workspace

    if _is_project(question):
        raise BadInput(f"`{question}` is a project's folder, and a question is missing.",
                       f'bucle index search "QUESTION" -p {question}')
    ws = Workspace.open(folder)
    hits = found(
        ws,
        question,
        k=k,
        access=frozenset(access),
        where=_where(where),
        version=version,
        weight=weight,
        everything=everything,
    )
    fusion = fusion_told(ws, version, weight)
    told = [
        {
            "rank": rank,
            "score": round(h.score, 4),
            "words": h.words,
            "meaning": h.meaning,
            "rerank": h.rerank,
            **h.chunk.model_dump(mode="json"),
        }
        for rank, h in enumerate(hits, 1)
    ]

    def human() -> None:
        if everything:
            click.echo("access labels are not applied, and what was deleted since is shown: not for other eyes")
        for one in told:
            place = " · ".join(part for part in (one["path"], one["place"], one["heading"]) if part)
            click.echo(
                f"{one['rank']:>2}. {one['score']:.3f}  words {_number(one['words'])}  "
                f"meaning {_number(one['meaning'])}  {visible(place)}"
            )
            text = visible(" ".join(one["text"].split()))
            click.echo(f"    {text if len(text) <= SHOWN else text[: SHOWN - 1] + '…'}")
        if told:
            click.echo(f"fusion: {fusion}")
            click.echo(f"next: bucle data show {told[0]['id'].partition(':')[2][:12]}")
        elif not any(c.isalnum() for c in question):
            click.echo("nothing found: the question holds no letter and no digit")
        else:
            click.echo("nothing found")

    emit({"question": question, "fusion": fusion, "labels_applied": not everything, "hits": told}, json_, human)


def _is_project(text: str) -> bool:
    from pathlib import Path

    try:
        return text.strip() != "" and (Path(text) / "bucle.yaml").is_file()
    except (OSError, ValueError):
        return False


def _number(value: float | None) -> str:
    return "    -" if value is None else f"{value:5.2f}"


@command.command("list")
@on_project
@as_json
def versions(folder: str, json_: bool) -> None:
    """Every version of the index: when, how many passages, how it differs from the one before it."""
    from bucle.loop.indexing import index_versions
    from bucle.loop.workspace import Workspace

    found = index_versions(Workspace.open(folder))

    def human() -> None:
        table(
            ["", "version", "when", "passages", "added", "removed", "kept", "node"],
            [
                [
                    "*" if v.current else "",
                    v.number,
                    v.at[:16].replace("T", " "),
                    f"{v.passages:,}",
                    f"{v.added:,}",
                    f"{v.removed:,}",
                    f"{v.kept:,}",
                    v.node.partition(":")[2][:12],
                ]
                for v in found
            ],
        )
        click.echo("* in force" if found else "no index yet")
        click.echo("next: bucle index search QUESTION" if found else "next: bucle run")

    emit({"versions": [v.json() for v in found]}, json_, human)


@command.command("show")
@click.option("--version", "version", default="", metavar="N", help="An earlier index: its number, or its node.")
@on_project
@as_json
def show(version: str, folder: str, json_: bool) -> None:
    """What an index holds: passages, languages, encoder, size on the disk."""
    from bucle.loop.indexing import describe
    from bucle.loop.workspace import Workspace

    told = describe(Workspace.open(folder), version)

    def human() -> None:
        rows: list[list[Any]] = [
            ["version", f"{told['number']}{' (in force)' if told['current'] else ''}"],
            ["node", told["node"].partition(":")[2][:12]],
            ["made", told["at"][:16].replace("T", " ")],
            [
                "passages",
                f"{told['passages']:,} ({told['added']:,} added, {told['removed']:,} removed, "
                f"{told['kept']:,} as they were)",
            ],
            ["languages", ", ".join(told["languages"]) or "unknown"],
            ["encoder", f"{told['encoder']} ({told['dimensions']} dimensions)"],
            ["vectors", told["vectors"]],
            ["on the disk", f"{told['bytes'] / 1e6:,.1f} MB"],
        ]
        table(["", ""], rows)
        click.echo("next: bucle index search QUESTION")

    emit(told, json_, human)
