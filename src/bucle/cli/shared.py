"""What the verbs share: the project argument, `--json`, and tables for people."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

__all__ = ["as_json", "emit", "on_project", "quiet_option", "table", "trust_option", "visible"]

on_project = click.option(
    "-p",
    "--project",
    "folder",
    default=".",
    show_default=True,
    type=click.Path(),
    help="The project's folder or its bucle.yaml.",
)
as_json = click.option("--json", "json_", is_flag=True, help="One JSON object on standard output.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="No progress on standard error.")


def _trust(ctx: click.Context, option: click.Parameter, given: bool) -> None:
    if given:
        os.environ["BUCLE_TRUST"] = "1"


trust_option = click.option(
    "--trust", is_flag=True, expose_value=False, callback=_trust,
    help="The project's own metrics are code: I have read it and it may run.",
)


def emit(value: Any, json_: bool, human: Callable[[], None]) -> None:
    """Print `value` as one JSON object, or call `human` to print it for people."""
    if json_:
        click.echo(json.dumps(value, ensure_ascii=False, default=str))
    else:
        human()


def visible(text: str) -> str:
    """`text` for a terminal, its invisible characters (control, direction, zero width) written out: `\\x1b`."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A plain table on standard output, columns as wide as needed."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, header_style="bold")
    for name in head:
        made.add_column(name, overflow="fold")
    for row in rows:
        made.add_row(*(Text(_cell(value)) for value in row))
    Console(width=None if sys.stdout.isatty() else 200).print(made)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
