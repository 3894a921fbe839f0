"""`bucle chain`: the chains of a project, what each does, and one input sent through it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from bucle.cli.shared import as_json, emit, on_project, table, trust_option

if TYPE_CHECKING:
    from bucle.core.records import Prediction
    from bucle.customise.chain import ChainSpec

BARS = 28
"""Characters of the waterfall."""


@click.group("chain")
def command() -> None:
    """Chains: several steps (search, call, classify, write, check) as one candidate."""


@command.command("list")
@on_project
@as_json
def _list(folder: str, json_: bool) -> None:
    """The chains that bucle.yaml names."""
    from bucle.loop.chains import chains
    from bucle.loop.workspace import Workspace

    rows = chains(Workspace.open(folder))

    def human() -> None:
        if not rows:
            click.echo("No chains. Name one under `chains:` in bucle.yaml; docs/chains.md has whole ones.")
            return
        table(["chain", "from", "steps", "models", "for"],
              [[r["name"], r["from"], " ".join(r["steps"]), ", ".join(r["models"]), ", ".join(r["for"])] for r in rows])
        for row in rows:
            if row["problem"]:
                click.echo(f"\n{row['name']}: {row['problem']}")

    emit({"chains": rows}, json_, human)


@command.command("show")
@click.argument("name")
@on_project
@click.option("--mermaid", is_flag=True, help="The graph as Mermaid text, for a page or a merge request.")
@as_json
def _show(name: str, folder: str, mermaid: bool, json_: bool) -> None:
    """The steps of the chain NAME and where each goes on. Everything that it names is checked."""
    from bucle.core.config import External
    from bucle.customise.chain.draw import as_mermaid, as_text
    from bucle.loop.chains import chain_spec
    from bucle.loop.workspace import Workspace

    spec = chain_spec(Workspace.open(folder), name)
    if isinstance(spec, External):
        said = f"{name}: {spec.library} {spec.object}, as it is"
        emit(spec.model_dump(mode="json"), json_, lambda: click.echo(said))
        return
    drawn: ChainSpec = spec
    emit(drawn.model_dump(mode="json") | {"mermaid": as_mermaid(drawn)}, json_,
         lambda: click.echo(as_mermaid(drawn) if mermaid else as_text(drawn)))


@command.command("run")
@click.argument("name")
@click.argument("text", metavar="INPUT")
@on_project
@click.option("--access", multiple=True, metavar="LABEL", help="A label that the asker holds; may be given again.")
@click.option("--trace", is_flag=True, help="What each step was given and gave.")
@trust_option
@as_json
def _run(name: str, text: str, folder: str, access: Sequence[str], trace: bool, json_: bool) -> None:
    """Send INPUT through the chain NAME and show the answer and its steps. Exit code 3 where a step failed."""
    from bucle.loop.chains import run_chain
    from bucle.loop.workspace import Workspace

    found = run_chain(Workspace.open(folder), name, text, access=frozenset(access))

    def human() -> None:
        if found.error:
            click.echo(f"error ({found.error_kind}): {found.error}")
        else:
            click.echo("(abstains)" if found.abstained and not found.output else found.output)
        for cited, quote in zip(found.citations, found.quotes, strict=False):
            click.echo(f"  cites {cited[:18]}: {quote[:100]}")
        click.echo("")
        waterfall(found, trace)

    emit(found.model_dump(mode="json"), json_, human)
    if found.error:
        raise click.exceptions.Exit(3)


def waterfall(found: Prediction, trace: bool) -> None:
    """The steps of an answer on a common scale of time, with what each took."""
    whole = max([found.ms, *(s["start_ms"] + s["ms"] for s in found.spans)], default=0.0) or 1.0
    rows = [[span["name"], span.get("kind", ""), _bar(span, whole), f"{span['ms']:.1f}", _tokens(span),
             f"{span['usd']:.5f}" if span.get("usd") else "", _note(span)] for span in found.spans]
    total = [f"{found.ms:.1f}", f"{found.usage.tokens_in}+{found.usage.tokens_out}" if found.usage.tokens_in else "",
             f"{found.usage.usd:.5f}" if found.usage.usd else "", ""]
    table(["step", "kind", "", "ms", "tokens", "$", ""], [*rows, ["in all", "", "", *total]])
    if trace:
        for span in found.spans:
            click.echo(f"\n{span['name']} <- {span.get('input', '')}\n{' ' * len(span['name'])} -> "
                       f"{span.get('error') or span.get('output', '')}")
            if span.get("dropped"):
                click.echo(f"{' ' * len(span['name'])}    left out, since the context does not hold it: "
                           f"{'; '.join(span['dropped'])}")


def _bar(span: Mapping[str, Any], whole: float) -> str:
    start = min(BARS - 1, int(BARS * span["start_ms"] / whole))
    width = max(1, min(BARS - start, round(BARS * span["ms"] / whole)))
    return "·" * start + "█" * width + "·" * (BARS - start - width)


def _tokens(span: Mapping[str, Any]) -> str:
    return f"{span['tokens_in']}+{span['tokens_out']}" if span.get("tokens_in") or span.get("tokens_out") else ""


def _note(span: Mapping[str, Any]) -> str:
    said = [f"attempt {span['attempt']}" if span.get("attempt", 1) > 1 else "", "kept" if span.get("cached") else "",
            f"{len(span['chunks'])} passages" if span.get("chunks") else "",
            f"{len(span['dropped'])} left out" if span.get("dropped") else "", str(span.get("note") or ""),
            str(span.get("error_kind") or "")]
    return ", ".join(part for part in said if part)
