"""`bucle prompt`: prompt files, their versions, and what a model reads. Each of its verbs is a file `prompt_NAME.py`
beside this one."""

from __future__ import annotations

import click

from bucle.cli.lazy import ListedVerbs

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


@click.group("prompt", cls=ListedVerbs, verbs=VERBS)
def command() -> None:
    """Prompts as files: typed inputs, versions, aliases, and the exact text that a model reads.

    A prompt is a file (prompts/NAME.yaml), or a saved one: NAME (its latest), NAME@3, NAME@production, prompt:sha….
    docs/prompts.md says how to write one. Each verb has --help and --json; without one it is `list`.
    """
