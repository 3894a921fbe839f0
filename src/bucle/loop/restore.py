"""What cleaning took out, told as one list, and taken back: each decision is kept with who made it and when.

The sources themselves are never changed, so a mask is undone by changing the policy; a removal by restoring its id.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bucle.core.errors import BadInput, NotFound
from bucle.execute import StepRecord
from bucle.ledger import Ledger

__all__ = ["Removed", "choose", "history", "put_removed", "removed", "restore", "restored"]

ALIAS = "restored"
NEVER = "secret"
_SECRET = ("A secret cannot be restored.", "Change the key or password at its provider, and the source.")
_ROWS = "examples "


@dataclass(frozen=True)
class Removed:
    """One document, paragraph or row that cleaning took out. `of` is `documents` or the task; `path` the document's
    path or the row's source; `kept` what stands in its place, of a duplicate."""

    of: str
    id: str
    path: str
    reason: str
    detail: str
    kept: str = ""


def put_removed(ledger: Ledger, of: str, removals: Iterable[Any]) -> str:
    """Store what was removed (records with id, reason, detail, kept and `path` or `source`) as a node `removals`, one
    JSON line each; its id goes into the step's outputs as `removed`."""
    records = [_one(of, {**asdict(removal), "detail": removal.detail}) for removal in removals]
    lines = [json.dumps(asdict(record), ensure_ascii=False) + "\n" for record in records]
    blobs = {"removed.jsonl": "".join(lines).encode()}
    return ledger.put("removals", {"of": of, "count": len(lines)}, blobs=blobs).id


def removed(ledger: Ledger, records: Sequence[StepRecord]) -> list[Removed]:
    """What the run of `records` took out, in its order: documents, then the rows of each task."""
    found = []
    for record in records:
        if record.name != "documents" and not record.name.startswith(_ROWS):
            continue
        of = record.name.removeprefix(_ROWS)
        if node := record.outputs.get("removed"):
            lines = ledger.read(ledger.get(node), "removed.jsonl").splitlines()
            found += [Removed(**json.loads(line)) for line in lines]
        else:
            listed = record.figures.get("removed")
            if isinstance(listed, list):
                found += [_one(of, item) for item in listed if isinstance(item, Mapping)]
    return found


def restored(ledger: Ledger) -> frozenset[str]:
    """The ids (of a document its path) that were restored and not undone: part of the key of the steps that clean."""
    node = ledger.alias(ALIAS)
    return frozenset(json.loads(ledger.read(ledger.get(node), "restored.json"))) if node else frozenset()


def choose(items: Sequence[Removed], names: Sequence[str] = (), reason: str = "") -> list[Removed]:
    """Those of `items` that `names` name (an id, twelve characters of one at least, a path or a source), or all with
    `reason`. Raises NotFound for a name that was not removed, BadInput for a secret or an ambiguous name."""
    if NEVER in (reason, *names):
        raise BadInput(*_SECRET)
    if reason:
        chosen = [item for item in items if item.reason == reason]
        if not chosen:
            known = ", ".join(sorted({item.reason for item in items})) or "nothing was removed"
            raise NotFound(f"Nothing was removed for `{reason}`.", f"Reasons: {known}.")
        return chosen
    chosen = []
    for name in names:
        found = [item for item in items if name in (item.id, item.path)]
        if not found and len(name.rpartition(":")[2]) >= 12:
            found = [item for item in items if item.id.startswith(name)]
        if found and all(item.reason == NEVER for item in found):
            raise BadInput(*_SECRET)
        found = [item for item in found if item.reason != NEVER]
        if not found:
            raise NotFound(f"`{name}` is not among what was removed.", "bucle data removed")
        if len({item.id for item in found}) > 1 and not all(item.path == name for item in found):
            raise BadInput(f"`{name}` begins more than one id.", "Give more digits.")
        chosen += found
    return chosen


def restore(ledger: Ledger, names: Iterable[str], *, by: str, reason: str, undo: bool = False) -> frozenset[str]:
    """Add `names` to what is restored (`undo`: take them away) and return all that is restored now. The step before
    stays in the alias's history, with `by` and `reason`. Raises NotFound where `undo` names what is not restored."""
    with ledger.transaction():
        before, asked = restored(ledger), frozenset(names)
        if undo and (missing := sorted(asked - before)):
            raise NotFound(f"`{missing[0]}` is not restored.", "bucle data restore")
        after = before - asked if undo else before | asked
        body = json.dumps(sorted(after), ensure_ascii=False).encode()
        node = ledger.put("restored", {"count": len(after)}, blobs={"restored.json": body})
        ledger.move_alias(ALIAS, node.id, by=by, reason=reason)
    return after


def history(ledger: Ledger) -> list[dict[str, Any]]:
    """Every decision, oldest first: at, by, reason, and how many were restored after it."""
    return [
        {
            "at": move["at"],
            "by": move["by"],
            "reason": move["reason"],
            "restored": ledger.get(move["node"]).attrs["count"],
        }
        for move in ledger.alias_history(ALIAS)
    ]


def _one(of: str, item: Mapping[str, Any]) -> Removed:
    path = str(item.get("path") or ("" if "pages" in item else item.get("source")) or "")
    return Removed(
        of,
        str(item.get("id") or path),
        path,
        str(item.get("reason") or "boilerplate"),
        str(item.get("detail") or item.get("text") or ""),
        str(item.get("kept") or ""),
    )
