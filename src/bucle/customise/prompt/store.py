"""Prompts in the ledger: each saved one a node named by its content, versions numbered by name, aliases with history.

    save(ledger, spec, text, by="ana", reason="shorter")   # prompt:3f2a…, version 2 of `atencion`
    resolve(ledger, "atencion@production")
"""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass
from typing import Any

from bucle.core.errors import BadInput, NotFound
from bucle.core.ids import canonical_json
from bucle.core.prompting import PromptSpec
from bucle.core.records import Node
from bucle.customise.prompt.template import read_spec
from bucle.ledger import Ledger

__all__ = ["Stored", "aliases", "history", "keep", "listed", "move", "names", "open_node", "resolve", "save",
           "versions"]

SAVED = "saved"
"""The alias that every save moves: its history is the versions' order."""
_ALIAS = re.compile(r"[^\W\d_]\w{0,40}")
_FILE, _SPEC = "prompt.yaml", "spec.json"


@dataclass(frozen=True)
class Stored:
    """A prompt of the ledger. `version` is its number among those saved under its name, 0 for one that never was
    (used from a file)."""

    spec: PromptSpec
    node: str
    text: str
    version: int = 0

    @property
    def title(self) -> str:
        """`name@version`, or the beginning of its id."""
        return f"{self.spec.name}@{self.version}" if self.version else self.node[:19]


def keep(ledger: Ledger, spec: PromptSpec, text: str, *, by: str = "") -> Node:
    """The node of a prompt: kind `prompt`, attributes name, about and by, its file and its spec with the schema
    resolved. The same spec is the same node, whoever keeps it and whatever its comments say. Idempotent."""
    body = canonical_json(spec.model_dump(mode="json"))
    for node in ledger.nodes("prompt"):
        if node.attrs.get("name") == spec.name and ledger.read(node, _SPEC).decode() == body:
            return node
    return ledger.put("prompt", {"name": spec.name, "about": spec.about, "by": by},
                      blobs={_FILE: text.encode(), _SPEC: body.encode()})


def save(ledger: Ledger, spec: PromptSpec, text: str, *, by: str, reason: str = "") -> Stored:
    """Keep a prompt as a version of its name, and return it; unchanged since an earlier version, it is that one."""
    with ledger.transaction():
        node = keep(ledger, spec, text, by=by)
        ledger.move_alias(_alias(spec.name, SAVED), node.id, by=by, reason=reason)
    return open_node(ledger, node.id)


def open_node(ledger: Ledger, node_id: str) -> Stored:
    """The prompt of a node. Raises NotFound for one that is none, TemplateError for one that cannot be used."""
    node = ledger.get(node_id)
    if node.kind != "prompt":
        raise NotFound(f"{node_id} is a {node.kind} and no prompt.", "bucle prompt list")
    spec = read_spec(json.loads(ledger.read(node, _SPEC)))
    order = versions(ledger, spec.name)
    number = order.index(node.id) + 1 if node.id in order else 0
    return Stored(spec, node.id, ledger.read(node, _FILE).decode(), number)


def versions(ledger: Ledger, name: str) -> list[str]:
    """Node ids of the versions saved under a name, the first first."""
    moves = ledger.alias_history(_alias(name, SAVED))
    return list(dict.fromkeys(move["node"] for move in moves))


def names(ledger: Ledger) -> list[str]:
    """Names that have a saved version, in alphabetical order."""
    found = {str(node.attrs["name"]) for node in ledger.nodes("prompt")}
    return sorted(name for name in found if ledger.alias(_alias(name, SAVED)))


def aliases(ledger: Ledger, name: str) -> dict[str, str]:
    """Alias -> node id of one prompt name; `saved` is none of them."""
    head = f"prompt-{name}-"
    found = {move["alias"].removeprefix(head): move["node"] for move in ledger.alias_history()
             if move["alias"].startswith(head) and _ALIAS.fullmatch(move["alias"].removeprefix(head))}
    return {alias: node for alias, node in found.items() if alias != SAVED}


def move(ledger: Ledger, stored: Stored, alias: str, *, by: str, reason: str) -> dict[str, Any]:
    """Point an alias of the prompt's name at it. Returns alias, version, node, and what it was before ('' for a new
    one). Raises BadInput for an alias that cannot be one, or a prompt that was never saved."""
    if alias == SAVED or not _ALIAS.fullmatch(alias):
        raise BadInput(f"`{alias[:60]}` cannot be an alias.", "Use one word, such as production or next_try.")
    if not stored.version:
        raise BadInput(f"{stored.title} was never saved, so no alias can stand for it.", "bucle prompt save FILE")
    called = _alias(stored.spec.name, alias)
    before = ledger.alias(called)
    ledger.move_alias(called, stored.node, by=by, reason=reason)
    return {"name": stored.spec.name, "alias": alias, "version": stored.version, "node": stored.node,
            "before": open_node(ledger, before).title if before else ""}


def history(ledger: Ledger, name: str) -> list[dict[str, Any]]:
    """Every save and every move of an alias of one name, oldest first: at, by, alias (`saved` for a save), version,
    node, reason. Raises NotFound."""
    _known(ledger, name)
    order = versions(ledger, name)
    kept = {SAVED, *aliases(ledger, name)}
    head = f"prompt-{name}-"
    return [
        {**move_, "alias": move_["alias"].removeprefix(head), "version": order.index(move_["node"]) + 1}
        for move_ in ledger.alias_history()
        if move_["alias"].startswith(head) and move_["alias"].removeprefix(head) in kept
    ]


def listed(ledger: Ledger) -> list[dict[str, Any]]:
    """Every name: its versions, the latest with its author and time, its aliases with their version."""
    found = []
    for name in names(ledger):
        order = versions(ledger, name)
        last = ledger.alias_history(_alias(name, SAVED))[-1]
        found.append({
            "name": name, "versions": len(order), "latest": order.index(last["node"]) + 1, "node": last["node"],
            "about": str(ledger.get(last["node"]).attrs.get("about", "")), "by": last["by"], "at": last["at"],
            "aliases": {alias: order.index(node) + 1 for alias, node in sorted(aliases(ledger, name).items())},
        })
    return found


def resolve(ledger: Ledger, ref: str) -> Stored:
    """The prompt that `NAME` (its latest save), `NAME@alias`, `NAME@3` or `prompt:sha…` stands for. Raises NotFound,
    which names the nearest."""
    if ref.startswith("prompt:"):
        return open_node(ledger, ledger.resolve(ref))
    name, at, which = ref.partition("@")
    _known(ledger, name)
    order = versions(ledger, name)
    if not at:
        return open_node(ledger, str(ledger.alias(_alias(name, SAVED))))
    if which.isascii() and which.isdigit():
        if not 0 < int(which[:9]) <= len(order):
            raise NotFound(f"`{name}` has no version {which[:20]}; its latest is {len(order)}.",
                           f"bucle prompt history {name}")
        return open_node(ledger, order[int(which) - 1])
    moved = aliases(ledger, name)
    if which not in moved:
        near = difflib.get_close_matches(which, moved, n=1)
        there = f"Did you mean `{name}@{near[0]}`?" if near else f"bucle prompt alias {name}@{len(order)} ALIAS"
        raise NotFound(f"`{name}` has no alias `{which[:60]}`.", there)
    return open_node(ledger, moved[which])


def _known(ledger: Ledger, name: str) -> None:
    if not ledger.alias(_alias(name, SAVED)):
        near = difflib.get_close_matches(name, names(ledger), n=1, cutoff=0.5)
        hint = f"Did you mean `{near[0]}`?" if near else "bucle prompt list; a file's name ends in .yaml"
        raise NotFound(f"No prompt is called `{name[:80]}`.", hint)


def _alias(name: str, alias: str) -> str:
    return f"prompt-{name.replace(':', '')}-{alias}"
