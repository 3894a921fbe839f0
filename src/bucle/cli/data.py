"""`bucle data`: sources, documents and rows. Each of its verbs is a file `data_NAME.py` beside this one."""

from __future__ import annotations

import importlib

import click

VERBS = {
    "list": ("lists", "Documents and rows that were read."),
    "quarantine": ("lists", "Files that could not be read, and why; --retry reads one again, with its password."),
    "removed": ("lists", "What cleaning took out, and why."),
    "problems": ("lists", "Rows that could not be used, and why."),
}


class DataVerbs(click.Group):
    """Loads a verb's module only when that verb is used; `list` where none is named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"bucle.cli.data_{VERBS[cmd_name][0]}")
        made: click.Command = module.commands[cmd_name]
        return made

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(name, told) for name, (_, told) in VERBS.items()])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not {"-h", "--help"} & set(args) and (not args or args[0].startswith("-")):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group("data", cls=DataVerbs)
def command() -> None:
    """Sources, documents and rows: what was read, what was not, and why; versions and what changed between them."""
