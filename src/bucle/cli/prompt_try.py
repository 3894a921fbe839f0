"""`bucle prompt try`: one prompt on one input, exactly as a model reads it."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from bucle.cli.shared import as_json, emit, on_project, table, visible

MAX_BYTES = 8 * 2**20


@click.command("try")
@click.argument("prompt")
@click.argument("stdin", required=False, default="", metavar="[-]")
@click.option("--task", default="", help="As this task's candidates ask it: labels, schema, examples, passages.")
@click.option("--model", "-m", default="", help="A model of bucle.yaml (default: the first that writes), or a "
              "provider's name of one, for its tokens.")
@click.option("--input", "text", default=None, metavar="TEXT", help="What the user wrote; - reads standard input.")
@click.option("--row", default="", metavar="ID", help="A row of the task, by id, place (rows.tsv:12) or text.")
@click.option("--var", "given", multiple=True, metavar="NAME=VALUE",
              help="The value of an input; again for each further item of a list.")
@click.option("--access", multiple=True, metavar="LABEL", help="An access label held, for passages that need it.")
@click.option("--send", is_flag=True, help="Ask the model and show its answer, with cost and time.")
@on_project
@as_json
def command(prompt: str, stdin: str, task: str, model: str, text: str | None, row: str, given: tuple[str, ...],
            access: tuple[str, ...], send: bool, folder: str, json_: bool) -> None:
    """The exact text that a model reads of PROMPT for one input, its tokens by part, the context, and what was left out
    and why. PROMPT is a file, NAME, NAME@3, NAME@production or prompt:sha…. No model is asked without --send."""
    from bucle.core import errors
    from bucle.core.errors import BadInput
    from bucle.loop.prompt_try import try_prompt
    from bucle.loop.prompts import find_prompt
    from bucle.loop.workspace import Workspace

    if stdin not in ("", "-"):
        raise BadInput(f"`{stdin[:60]}` is one argument too many.", "--input TEXT, or - for standard input")
    if (text is not None) + bool(row) + (stdin == "-") > 1:
        raise BadInput("Give one input.", "--input TEXT, --row ID, or - for standard input")
    ws = Workspace.open(folder)
    values = _values(find_prompt(ws, prompt).spec.inputs, given)
    told = try_prompt(ws, prompt, task=task, model=model, text=_read() if "-" in (stdin, text) else text, row=row,
                      values=values, access=frozenset(access), send=send)
    emit(told, json_, lambda: _show(told))
    answer = told.get("answer") or {}
    if answer.get("error"):
        kind = getattr(errors, answer["error_kind"], BadInput)
        if json_:  # the one object of the output says it
            raise click.exceptions.Exit(kind.exit_code)
        raise kind(answer["error"], answer["hint"])


commands = {"try": command}


def _values(inputs: Any, given: tuple[str, ...]) -> dict[str, Any]:
    """The values of `--var`; of a list each adds an item."""
    from bucle.core.errors import BadInput

    found: dict[str, Any] = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not equals:
            raise BadInput(f"`--var {pair[:60]}` has no value.", "--var NAME=VALUE")
        if name in inputs and inputs[name].type == "list":
            found.setdefault(name, []).append(value)
        elif name in found:
            raise BadInput(f"`{name}` is given twice and is no list.", "Give it once.")
        else:
            found[name] = value
    return found


def _read() -> str:
    from bucle.core.errors import BadInput

    data = sys.stdin.buffer.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise BadInput(f"Standard input holds more than {MAX_BYTES // 2**20} MB.", "A prompt's input is a text.")
    try:
        return data.decode("utf-8-sig").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise BadInput("Standard input is not UTF-8 text.", "iconv -t UTF-8 FILE | bucle prompt try NAME -") from error


def _show(told: dict[str, Any]) -> None:
    click.echo(visible(told["text"]))
    click.echo("─" * 40)
    table(["part", "tokens"], [[part, f"{n:,}"] for part, n in told["parts"].items() if n]
          + [["in all", f"{told['tokens']:,}"]])
    how = {"tokenizer": "counted by its own tokenizer", "encoding": "counted by its published vocabulary",
           "estimate": "the high end of an estimate"}[told["how"]]
    context = f"{told['context']:,}" if told["context"] else "not known"
    stranger = "" if told["of_project"] else " (no model of this project)"
    click.echo(f"{told['model']}{stranger}: {how}; context {context}, {told['room']:,} of it for the answer"
               + (f"; {told['note']}" if told["note"] else ""))
    for gone in told["dropped"]:
        click.echo(f"left out: {gone['what']} ({gone['tokens']:,} tokens): {gone['why']}")
    if row := told["row"]:
        click.echo(f"row {row['id'][:20]} ({row['side'] or 'no side'}), wanted: {row['target']}")
    if answer := told.get("answer"):
        _show_answer(answer)
        if told["samples"] > 1:
            click.echo(f"one sample at temperature 0; as a candidate, {told['samples']} samples vote, at as many times "
                       "the cost")


def _show_answer(answer: dict[str, Any]) -> None:
    click.echo("─" * 40)
    if answer.get("reasoning"):
        click.echo(visible(f"(reasoning) {answer['reasoning']}"))
    value = answer.get("value")
    click.echo(json.dumps(value, ensure_ascii=False, indent=2) if value is not None else visible(answer["text"]))
    if "valid" in answer:
        fits = "fits the schema" if answer["valid"] else "does not fit the schema"
        click.echo(fits + (", after one repair" if answer.get("repaired") else ""))
    if answer.get("finish") == "length":
        click.echo("cut off: raise `max_tokens`")
    click.echo(f"{answer['tokens_in']:,} tokens in, {answer['tokens_out']:,} out, ${answer['usd']:.6f}, "
               f"{answer['ms']:,.0f} ms")
