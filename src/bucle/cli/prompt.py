"""`bucle prompt`: prompt files, their versions, and what a model reads. Each of its verbs is a file `prompt_NAME.py`
beside this one."""

from __future__ import annotations

import importlib

import click

VERBS = {
    "list": ("versions", "Saved prompts: their versions and aliases, and the tasks that use them."),
    "show": ("versions", "One prompt as it was saved."),
    "diff": ("versions", "What changed between two: text, settings, inputs."),
    "history": ("versions", "Every save and every move of an alias: who, when, why."),
    "check": ("save", "Whether a file is a prompt that can be used; nothing is saved."),
    "save": ("save", "Keep a file as the next version of its name."),
    "alias": ("save", "Let an alias, such as production, stand for a version."),
    "try": ("try", "The exact text that a model reads, its tokens, what was left out; --send asks it."),
    "improve": ("improve", "Search better instructions and examples within a budget."),
}


class PromptVerbs(click.Group):
    """Loads a verb's module only when that verb is used; `list` where none is named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"bucle.cli.prompt_{VERBS[cmd_name][0]}")
        made: click.Command = module.commands[cmd_name]
        return made

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(name, told) for name, (_, told) in VERBS.items()])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not {"-h", "--help"} & set(args) and (not args or args[0].startswith("-")):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group("prompt", cls=PromptVerbs)
def command() -> None:
    """Prompts as files: typed inputs, versions, aliases, and the exact text that a model reads.

    A prompt is a file (prompts/NAME.yaml), or a saved one: NAME (its latest), NAME@3, NAME@production, prompt:sha….
    docs/prompts.md says how to write one. Each verb has --help and --json; without one it is `list`.
    """
