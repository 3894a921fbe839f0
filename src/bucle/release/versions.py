"""Versions and the alias `production`, which moves; nothing else ever does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bucle.core.errors import BadInput, NotFound
from bucle.core.records import Node
from bucle.ledger import Ledger

__all__ = ["PRODUCTION", "make_release", "production", "releases", "rollback"]

PRODUCTION = "production"
BACK = "rollback"
"""How the reason of a move begins that goes back, and is no new one."""


def releases(ledger: Ledger) -> list[Node]:
    """All releases, by version."""
    return sorted(ledger.nodes("release"), key=lambda node: int(node.attrs["version"]))


def make_release(
    ledger: Ledger,
    project: str,
    tasks: Mapping[str, str],
    gates: Mapping[str, str],
    make_card: Any,
    comparisons: Mapping[str, str] | None = None,
) -> Node:
    """The release of these candidates (task -> candidate id): the one that exists, or the next version.

    `gates` maps task -> gate node, `comparisons` task -> the comparison that recommended the candidate;
    `make_card(version)` gives its card in Markdown.
    """
    for node in releases(ledger):
        if node.attrs["project"] == project and node.attrs["tasks"] == dict(tasks):
            return node
    version = max((int(n.attrs["version"]) for n in releases(ledger)), default=0) + 1
    parents = [(f"candidate {task}", candidate) for task, candidate in tasks.items()]
    parents += [(f"gate {task}", gate) for task, gate in gates.items()]
    parents += [(f"comparison {task}", comparison) for task, comparison in (comparisons or {}).items()]
    return ledger.put(
        "release",
        {"project": project, "version": version, "tasks": dict(tasks)},
        parents=parents,
        blobs={"card.md": make_card(version).encode()},
    )


def production(ledger: Ledger) -> Node:
    """What `production` points to. Raises NotFound with the command that makes one."""
    if not (node_id := ledger.alias(PRODUCTION)):
        raise NotFound("Nothing has been released yet.", "bucle run")
    return ledger.get(node_id)


def rollback(ledger: Ledger, *, to: str = "", by: str, reason: str) -> Node:
    """Move `production` to release `to` (`1`, `v1` or an id), or to the one that was in production before the current
    one, whichever version that is; going back twice goes back two. Returns it."""
    if to:
        wanted = to.removeprefix("v")
        found = (
            [n for n in releases(ledger) if str(n.attrs["version"]) == wanted] if wanted.isdigit() else [ledger.get(to)]
        )
        if not found:
            raise NotFound(f"There is no release {to}.", "bucle release list")
        target = found[0]
    else:
        before = _before(ledger.alias_history(PRODUCTION), production(ledger).id)
        if not before:
            raise BadInput("There is no earlier release to go back to.", "bucle release list")
        target = ledger.get(before)
        reason = reason if reason.startswith(BACK) else f"{BACK}: {reason}" if reason else BACK
    if target.kind != "release":
        raise BadInput(f"{target.id} is a {target.kind}, not a release.", "bucle release list")
    ledger.move_alias(PRODUCTION, target.id, by=by, reason=reason)
    return target


def _before(moves: Sequence[Mapping[str, str]], current: str) -> str:
    """What was in production before `current` by these moves of the alias, oldest first; empty where nothing was. What
    was gone back from stands before nothing."""
    way: list[str] = []
    for move in moves:
        node = move["node"]
        if move["reason"].startswith(BACK) and node in way:
            del way[len(way) - way[::-1].index(node):]
        elif not way or way[-1] != node:
            way.append(node)
    return way[-2] if len(way) > 1 and way[-1] == current else ""
