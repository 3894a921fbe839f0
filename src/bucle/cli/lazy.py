"""A group of verbs whose modules are loaded when they are used, so that help answers at once."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click

__all__ = ["ListedVerbs"]


class ListedVerbs(click.Group):
    """Loads a verb's module only when that verb is used; `list` where none is named. `verbs` maps each to the end of
    its module's name (`bucle.cli.GROUP_END`, which holds `commands`) and to what it does."""

    def __init__(self, *args: Any, verbs: Mapping[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.verbs = verbs

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.verbs:
            return None
        module = importlib.import_module(f"bucle.cli.{self.name}_{self.verbs[cmd_name][0]}")
        made: click.Command = module.commands[cmd_name]
        return made

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(name, told) for name, (_, told) in self.verbs.items()])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not {"-h", "--help"} & set(args) and (not args or args[0].startswith("-")):
            args = ["list", *args]
        return super().parse_args(ctx, args)
