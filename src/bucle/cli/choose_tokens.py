"""`bucle choose tokens`: how many tokens a text takes under a model's tokenizer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from bucle.cli.shared import as_json, emit, table

MAX_BYTES = 64 * 2**20


@click.command("tokens")
@click.argument("text", required=False)
@click.option("--file", "-f", "file", type=click.Path(), help="A text file instead, UTF-8; - is standard input.")
@click.option("--model", "-m", required=True, help="A model of bucle.yaml, a folder, or a provider's name of a model.")
@click.option("--completion", default="", metavar="TEXT", help="The reply, counted apart.")
@click.option("-p", "--project", "folder", type=click.Path(), help="The project whose models are meant, if not here.")
@as_json
def command(text: str | None, file: str | None, model: str, completion: str, folder: str | None, json_: bool) -> None:
    """Tokens of TEXT as a user's message (chat template and all) and of a completion, under the model's tokenizer;
    where that is not at hand, an estimate with its range, which says that it is one."""
    from bucle.core.errors import BadInput
    from bucle.loop.catalogue import count
    from bucle.loop.workspace import Workspace

    if (text is None) == (file is None):
        raise BadInput("Give a text or a file, one of them.", "bucle choose tokens TEXT --model MODEL")
    found = Path("bucle.yaml").is_file()
    ws = Workspace.open(folder or ".") if folder is not None or found else None
    told = count(_read(file) if file is not None else text or "", model, completion=completion, ws=ws)
    emit(told, json_, lambda: _show(told))


commands = {"tokens": command}


def _read(name: str) -> str:
    from bucle.core.errors import BadInput

    if name == "-":
        data = sys.stdin.buffer.read(MAX_BYTES + 1)
    else:
        path = Path(name)
        if not path.is_file():
            raise BadInput(f"{path} does not exist.", "bucle choose tokens --file FILE --model MODEL")
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise BadInput(f"{name} is larger than {MAX_BYTES // 2**20} MB.", "count it in parts")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{name} is not UTF-8 text.", "iconv -t UTF-8 FILE | bucle choose tokens --file - …") from error


def _show(told: dict[str, Any]) -> None:
    exact = told["how"] != "estimate"
    table(["", "tokens"] + ([] if exact else ["19 in 20 texts"]),
          [[part, f"{told[part]['tokens']:,}"]
           + ([] if exact else [f"{told[part]['low']:,} to {told[part]['high']:,}"])
           for part in ("prompt", "completion")])
    note = f"; {told['note']}" if told["note"] else ""
    click.echo({"tokenizer": f"counted by its own tokenizer{note}",
                "encoding": f"counted by its published vocabulary ({told['tokenizer']}){note}",
                "estimate": told["note"]}[told["how"]])
