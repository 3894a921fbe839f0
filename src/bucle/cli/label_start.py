"""`bucle label start`: one row after the other in the terminal."""

from __future__ import annotations

import sys
from typing import Any

import click

from bucle.core.errors import BadInput
from bucle.loop.label import Labelling

__all__ = ["session"]

BATCH = 5
KEYS = "number or label; Enter confirms a proposal; +LABEL adds one; s skip, u undo, l labels, q quit"
ANSWER_KEYS = "the answer; Enter confirms a draft; - for no answer; s skip, u undo, q quit"
TEXT_KEYS = "the {what}, on one line; Enter confirms a draft; s skip, u undo, q quit"
SHOWN = 4_000


def session(labelling: Labelling, by: str, **asked: Any) -> None:
    """Ask until `q`, the end of input, or nothing is left. Each answer is stored at once: a kill loses none."""
    typed = sys.stdin  # lines of a person, or of a file
    done: list[str] = []
    waiting: list[dict[str, Any]] = []
    labels = labelling.labels()
    if labelling.kind == "classify":
        _show(labels)
    click.echo(_keys(labelling))
    while True:
        if not waiting:
            found = labelling.next(by, BATCH, **asked)
            waiting = found["rows"]
            if not waiting:
                click.echo("nothing is left to ask; others may hold some rows for half an hour")
                break
            click.echo(f"-- {found['left']} left")
        row = waiting[0]
        _ask(row)
        try:
            said = typed.readline()
        except UnicodeDecodeError:
            click.echo("that is no UTF-8 text")
            continue
        if not said or said.strip() == "q":
            break
        said = said.strip()
        if said == "s":
            labelling.skip(row["id"], by)
            waiting.pop(0)
        elif said == "u":
            if not done:
                click.echo("nothing to undo in this session")
                continue
            last = done.pop()
            labelling.take_back(last, by)
            again = labelling.row(last)
            told = {"text": labelling.text(again), "label": labelling.given(again)}
            waiting.insert(0, {"id": last, **told, "proposal": None, "why": ""})
        elif said == "l" and labelling.kind == "classify":
            _show(labels)
        else:
            try:
                label, new = _meant(labelling, said, labels, row)
                labelling.add(row["id"], label, by, new=new)
            except BadInput as error:
                click.echo(f"{error.message} {error.hint}")
                continue
            labels = labelling.labels() if new else labels
            done.append(row["id"])
            waiting.pop(0)
    labelling.store.release(labelling.task, by)
    click.echo(f"{len(done)} labelled in this session. Next: bucle label status {labelling.task}")


def _keys(labelling: Labelling) -> str:
    from bucle.data.kinds import ANSWERED

    if labelling.kind == "classify":
        return KEYS
    if labelling.kind == "answer":
        return ANSWER_KEYS
    return TEXT_KEYS.format(what=ANSWERED.get(labelling.kind, "reference"))


def _meant(labelling: Labelling, said: str, labels: list[str], row: dict[str, Any]) -> tuple[str, bool]:
    """The label that was meant, and whether it is wanted as a new one."""
    if labelling.kind != "classify":
        if not said and row["proposal"]:
            return str(row["proposal"]["label"]), False
        if not said:
            raise BadInput("Nothing was written.", _keys(labelling))
        if labelling.kind == "answer":
            return ("" if said == "-" else said), False
        return said, False
    if not said:
        if not row["proposal"]:
            raise BadInput("There is no proposal to confirm.", KEYS)
        return str(row["proposal"]["label"]), False
    if said in labels:  # a label may be a number itself
        return said, False
    if said.isascii() and said.isdigit():
        if not 1 <= int(said[:9]) <= len(labels):
            raise BadInput(f"There is no label {said[:20]}.", f"They are 1 to {len(labels)}.")
        return labels[int(said) - 1], False
    return (said[1:], True) if said.startswith("+") else (said, False)


def _ask(row: dict[str, Any]) -> None:
    text = "".join(char if char.isprintable() or char == "\n" else " " for char in row["text"][:SHOWN])
    more = f" … ({len(row['text'])} characters)" if len(row["text"]) > SHOWN else ""
    click.echo(f"\n{text}{more}")
    if row["label"]:
        click.echo(f"  now: {row['label']}")
    if row["proposal"]:
        proposed = row["proposal"]["label"] or "(no answer)"
        click.echo(f"  {row['proposal']['by']} proposes: {proposed} (a machine; not confirmed)")
    click.echo("> ", nl=False)


def _show(labels: list[str]) -> None:
    for number, label in enumerate(labels, 1):
        click.echo(f"{number:4} {label}")
    if not labels:
        click.echo("no labels yet; +LABEL adds one")
