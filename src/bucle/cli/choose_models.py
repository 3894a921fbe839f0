"""`bucle choose models`: the catalogue under a team's wishes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click

from bucle.cli.shared import as_json, emit, table
from bucle.core.records import TaskKind

SHOWN = 40


@click.command("models")
@click.option("--search", "text", default="", metavar="TEXT", help="Words in the names of provider, model or licence.")
@click.option("--provider", default="", help="One provider: mistral, openai, ovhcloud, …")
@click.option("--task", type=click.Choice(get_args(TaskKind)), help="What it must be usable for.")
@click.option("--language", "languages", multiple=True, metavar="CODE", help="A language its maker says it knows.")
@click.option("--licence", type=click.Choice(["open", "commercial"]), help="commercial: open ones too.")
@click.option("--residency", multiple=True, metavar="PLACE", help="Where prompts may be processed: eu, us, …")
@click.option("--context", type=click.IntRange(min=1), help="Tokens it must read at once.")
@click.option("--modality", type=click.Choice(["text", "image", "audio", "video"]), help="What it must take.")
@click.option("--max-usd-per-1k", type=click.FloatRange(min=0), help="Dollars for a thousand requests, at most.")
@click.option("--tokens", nargs=2, type=click.IntRange(min=0), default=(500, 100), show_default=True,
              metavar="IN OUT", help="Tokens of one request, prompt and reply.")
@click.option("--all", "all_", is_flag=True, help="Those ruled out too, each with why.")
@click.option("--limit", type=click.IntRange(min=1), default=SHOWN, show_default=True, help="Rows of the table.")
@click.option("-p", "--project", "folder", type=click.Path(), help="The project whose `catalogue:` counts.")
@as_json
def command(folder: str | None, json_: bool, all_: bool, limit: int, **wishes: Any) -> None:
    """Models behind APIs with their prices, licences and places, the cheapest that fits first; works outside a project
    too. What nobody says is shown as ?, and never taken for granted."""
    from bucle.models.catalogue import prices_as_of, search

    wishes = {name: value for name, value in wishes.items() if value is not None}
    found = search(own=_own(folder), **wishes)
    fit = [entry for entry in found if not entry.ruled_out]
    shown = found if all_ else fit
    value = {
        "models": [
            {**entry.facts.model_dump(mode="json"), "usd_per_1k": entry.usd_per_1k, "prices_as_of": entry.prices_as_of,
             "ruled_out": list(entry.ruled_out)}
            for entry in shown
        ],
        "fit": len(fit), "ruled_out": len(found) - len(fit), "tokens": list(wishes["tokens"]),
        "prices_as_of": prices_as_of(),
    }

    def human() -> None:
        head = ["provider", "model", "$/1k", "$M in", "$M out", "context", "licence", "place", "languages", "checked"]
        table(head + (["ruled out"] if all_ else []),
              [_row(e.facts.model_dump(), e.usd_per_1k)
               + (["; ".join(e.ruled_out)] if all_ else []) for e in shown[:limit]])
        if len(shown) > limit:
            click.echo(f"… and {len(shown) - limit:,} more (--limit, --json)")
        asked = wishes["tokens"]
        click.echo(f"{len(fit):,} fit, {len(found) - len(fit):,} are ruled out{'' if all_ else ' (--all says why)'}. "
                   f"$/1k: a thousand requests of {asked[0]} tokens in and {asked[1]} out. Prices: {prices_as_of()}.")

    emit(value, json_, human)


commands = {"models": command}


def _own(folder: str | None) -> Any:
    """`catalogue:` of the project named, or of the one here, if there is one."""
    from bucle.core.config import load_project

    if folder is None and not Path("bucle.yaml").is_file():
        return {}
    return load_project(Path(folder or ".")).catalogue


def _row(facts: dict[str, Any], usd_per_1k: float | None) -> list[str]:
    def number(value: float | None) -> str:
        return "?" if value is None else f"{value:.4g}"

    licence = facts["licence"] or "?"
    if facts["licence_name"] and facts["licence"] != "unknown":
        licence = f"{licence}: {facts['licence_name']}"
    return [
        facts["provider"] or "?", facts["model"], number(usd_per_1k), number(facts["usd_per_million_in"]),
        number(facts["usd_per_million_out"]), f"{facts['context']:,}" if facts["context"] else "?", licence,
        ", ".join(facts["residency"]) or "?", _short(facts["languages"]), facts["checked"] or "-",
    ]


def _short(languages: Any) -> str:
    named = [code for code in languages if code != "*"]
    if not named:
        return "?"
    more = len(named) > 5 or "*" in languages
    return " ".join(named[:5]) + (" …" if more else "")
