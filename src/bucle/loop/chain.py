"""The chain behind an answer as the report and the studio show it: `why`, with its sentences in both languages."""

from __future__ import annotations

from typing import Any

from bucle.core.errors import NotFound
from bucle.loop.sentences import say
from bucle.loop.why import why
from bucle.loop.workspace import Workspace

__all__ = ["chain"]


def chain(ws: Workspace, name: str) -> list[dict[str, Any]]:
    """The rows of `why`, each with `said`: its title in both languages (empty where the title is a name or a text).
    Raises NotFound."""
    return [{**row, "said": _said(ws, row)} for row in why(ws, name)]


def _said(ws: Workspace, row: dict[str, Any]) -> dict[str, str]:
    kind, node_id = row["kind"], str(row["id"])
    if kind == "trace":
        trace = ws.traces.trace(node_id)
        return say("chain.trace", {"input": trace.input[:100], "output": trace.output[:100]})
    if kind == "documents":
        return say("chain.documents", {"n": node_id.split()[0]})
    if kind in {"chunk", "document"}:
        return {}
    try:
        attrs = dict(ws.ledger.get(node_id).attrs)
    except NotFound:  # one person's rating is beside its trace, not a node
        return {}
    key = {
        "candidate": f"candidate_{attrs.get('fitted_on')}",
        "gate": "gate_passed" if attrs.get("passed") else "gate_failed",
    }.get(kind, kind)
    return say(f"chain.{key}", attrs)
