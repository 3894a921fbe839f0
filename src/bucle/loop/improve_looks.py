"""How often the test rows were looked at by searches for a better prompt, and what they chose from it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from bucle.core.records import Node
from bucle.loop.workspace import Workspace

__all__ = ["TEST_ROWS", "confirmed_before", "looked_at_before"]

TEST_ROWS = "test_rows.json"
"""The ids of the rows that a search confirmed on, in its node."""


def confirmed_before(ws: Workspace, rows: Iterable[str]) -> int:
    """Searches that were confirmed on at least one of these test rows: adding rows, or taking some away, makes none
    forgotten."""
    asked = set(rows)
    return sum(1 for node in _confirmed(ws) if not asked.isdisjoint(_rows(ws, node)))


def looked_at_before(ws: Workspace, prompt: str, rows: Iterable[str]) -> dict[str, Any] | None:
    """The search that chose a prompt (a node's id) and confirmed it on some of these test rows: `{search, rows}`, its
    node and how many of them it looked at; None where no search did. The prompt's score on those rows is then no fresh
    look. A name and a line for people make no other prompt."""
    if not prompt or not (found := _confirmed(ws)):
        return None
    from bucle.core.prompting import PromptSpec
    from bucle.customise.prompt.store import open_node

    spec, asked = open_node(ws.ledger, prompt).spec, set(rows)
    for node in reversed(found):
        chosen = PromptSpec.model_validate(node.attrs["chosen"]["spec"])
        both = len(asked & set(_rows(ws, node)))
        if both and chosen.model_copy(update={"name": spec.name, "about": spec.about}) == spec:
            return {"search": node.id, "rows": both}
    return None


def _confirmed(ws: Workspace) -> list[Node]:
    return [node for node in ws.ledger.nodes("prompt_search") if node.attrs.get("confirmed")]


def _rows(ws: Workspace, node: Node) -> list[str]:
    found: list[str] = json.loads(ws.ledger.read(node, TEST_ROWS)) if TEST_ROWS in node.blobs else []
    return found
