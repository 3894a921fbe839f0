"""`bucle data`: sources, documents and rows. Each of its verbs is a file `data_NAME.py` beside this one."""

from __future__ import annotations

import click

from bucle.cli.lazy import ListedVerbs

VERBS = {
    "sync": ("sync", "Ask every source now: what was added, changed, renamed and deleted there."),
    "list": ("lists", "Documents and rows that were read."),
    "quarantine": ("lists", "Files that could not be read, and why; --retry reads one again, with its password."),
    "removed": ("restore", "What cleaning took out, and why."),
    "restore": ("restore", "Take a removal back, by id or path; who did and when."),
    "problems": ("lists", "Rows that could not be used, and why."),
    "versions": ("versions", "Versions of rows and documents, and the releases that trained on each."),
    "diff": ("versions", "Rows added, removed and relabelled between two versions."),
    "show": ("show", "Everything about one row, document or passage: its source, bytes, history, releases."),
    "export": ("export", "A version's rows as JSONL, CSV, Parquet, a Hugging Face folder, or chats to fine-tune on."),
    "bootstrap": ("bootstrap", "Draft questions with answers from the documents: a first test set to correct."),
}


@click.group("data", cls=ListedVerbs, verbs=VERBS)
def command() -> None:
    """Sources, documents and rows: what was read, what was not, and why; versions and what changed between them.

    Each verb has --help and --json; without one it is `list`.
    """
