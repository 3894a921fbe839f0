"""The project's index of passages: searching it, its versions, and which of them is in force (the alias `index`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bucle.core.config import RerankerModel
from bucle.core.errors import BadInput, NotFound
from bucle.core.ports import Hit, Reranker
from bucle.core.records import Node
from bucle.loop.versions import LabelsToday
from bucle.loop.workspace import Workspace

if TYPE_CHECKING:
    from bucle.customise.retrieve.index import Index

__all__ = [
    "ALIAS",
    "Fusion",
    "IndexVersion",
    "describe",
    "fusion_for",
    "fusion_told",
    "in_force",
    "index_versions",
    "open_version",
    "previous_folder",
    "put_in_force",
    "search",
]

ALIAS = "index"
"""The alias that names the index version in force."""


@dataclass(frozen=True)
class IndexVersion:
    """One index node: its number (1 is the oldest), when it was made, its passages, and how it differs from the one it
    was made from."""

    number: int
    node: str
    at: str
    passages: int
    added: int
    removed: int
    kept: int
    current: bool

    def json(self) -> dict[str, Any]:
        return asdict(self)


def index_versions(ws: Workspace) -> list[IndexVersion]:
    """Every index of the project, oldest first."""
    now = in_force(ws)
    found = []
    for number, node in enumerate(ws.ledger.nodes("index"), 1):
        a = node.attrs
        size = int(a.get("chunks", 0))
        found.append(
            IndexVersion(
                number,
                node.id,
                node.created_at,
                size,
                int(a.get("added", size)),
                int(a.get("removed", 0)),
                int(a.get("kept", 0)),
                node.id == now,
            )
        )
    return found


def describe(ws: Workspace, version: str = "") -> dict[str, Any]:
    """What an index version holds: its figures as in IndexVersion, `languages`, `encoder`, `dimensions`, how its
    `vectors` are searched (`exact`, or `ivf`), and `bytes` on the disk, of which versions share what did not change."""
    node = _named(ws, version)
    told = next(v for v in index_versions(ws) if v.node == node.id)
    a = node.attrs
    return {
        **told.json(),
        "languages": list(a.get("languages", ())) or [str(a.get("language", ""))],
        "encoder": next((str(n.attrs["name"]) for n in _encoders(ws, node.id)), "unknown"),
        "dimensions": int(a.get("dimensions", 0)),
        "vectors": "ivf" if a.get("vectors") == "ivf" else "exact",
        "bytes": sum(ws.ledger.blobs.path(digest).stat().st_size for digest in set(node.blobs.values())),
    }


def _encoders(ws: Workspace, node_id: str) -> list[Node]:
    return [ws.ledger.get(e.parent) for e in ws.ledger.parents(node_id) if e.role == "encoder"]


def in_force(ws: Workspace) -> str:
    """The index node in force: where the alias points, else the newest one; empty without any. One look at the
    ledger."""
    if named := ws.ledger.alias(ALIAS):
        return named
    found = ws.ledger.nodes("index")
    return found[-1].id if found else ""


def put_in_force(ws: Workspace, node: str, *, reason: str = "indexed") -> None:
    """Make an index node the one in force; the one before stays in the ledger and can be opened."""
    ws.ledger.move_alias(ALIAS, node, by="bucle run", reason=reason)


def previous_folder(ws: Workspace) -> Path | None:
    """The folder of the index in force, for `build_index(previous=…)`: what it holds unchanged is not made again."""
    node = in_force(ws)
    return ws.ledger.materialise(ws.ledger.get(node)) if node else None


def search(
    ws: Workspace,
    question: str,
    *,
    k: int = 10,
    access: frozenset[str] = frozenset(),
    where: Mapping[str, str] | None = None,
    version: str = "",
    weight: float | None = None,
    everything: bool = False,
) -> list[Hit]:
    """The `k` best passages of the index in force (or of `version`: a number as `index_versions` gives it, or the
    beginning of a node's id), of those that `access` may see today: labels hold as the documents have them now, and
    what is no document any more is in no version. `everything` is for the team's own eyes: no label counts, and a past
    version is seen whole. Fused as `fusion_for` says and reranked where the project names a reranker; with `weight` a
    mean of meaning (1) and words (0) alone. A question without a letter or digit finds nothing.

    Raises NotFound without an index, BadInput for an empty question and a bad `where`.
    """
    if not question.strip():
        raise BadInput("There is no question.", 'bucle index search "QUESTION"')
    node = _named(ws, version)
    index = _opened(ws, node.id, everything)
    if not any(c.isalnum() for c in question):
        index.search("", k=1, weight=0.0, where=where)  # says what is wrong with `where`
        return []
    if everything:
        access |= getattr(index, "inner", index).every_label
    if weight is not None:
        return index.search(question, k=k, weight=weight, access=access, where=where)
    from bucle.customise.retrieve.passages import Finder

    reranker = _reranker(ws)
    settings = {"weights": fusion_for(ws, node.id).weights, "depth": ws.config.retrieval.depth,
                "rerank": reranker is not None, "language": ws.config.language}
    found = Finder(index, settings, reranker=reranker, seed=ws.config.seed).find([question], k=k, access=access,
                                                                              where=where)
    return list(found[0].hits)


@dataclass(frozen=True)
class Fusion:
    """The weights by signal with which an index is searched; `task` is the one whose questions they were fitted to,
    empty where they are even."""

    weights: Mapping[str, float]
    task: str = ""

    def __str__(self) -> str:
        return f"fitted by {self.task}" if self.task else "even"


def fusion_for(ws: Workspace, index: str) -> Fusion:
    """The weights of the candidate in production that searches the index node `index` with fitted ones, one that finds
    documents before one that answers; even ones without any."""
    from bucle.customise.retrieve.fusion import EVEN
    from bucle.release import production

    try:
        released = production(ws.ledger).attrs["tasks"]
    except NotFound:
        released = {}
    fitted: dict[str, list[Fusion]] = {name: [] for name in _SETTINGS}
    for task, candidate in sorted(released.items()):
        node = ws.ledger.get(candidate)
        if any(e.parent == index for e in ws.ledger.parents(candidate) if e.role == "index"):
            for name, found in fitted.items():
                told = json.loads(ws.ledger.read(node, name)) if name in node.blobs else {}
                if "queries" in told:  # of fused searches only: the others' weights are what they are
                    found.append(Fusion(told["weights"], task))
    return next((found[0] for found in fitted.values() if found), Fusion(EVEN))


_SETTINGS = ("search.json", "quote.json")
"""Where a candidate that finds documents keeps the weights of its search, and one that answers."""


def fusion_told(ws: Workspace, version: str = "", weight: float | None = None) -> str:
    """How `search` fuses with these arguments: `even`, `fitted by TASK`, or the weight given by hand."""
    return f"weight {weight:g}" if weight is not None else str(fusion_for(ws, _named(ws, version).id))


def _reranker(ws: Workspace) -> Reranker | None:
    settings = ws.config.models.get(ws.config.retrieval.reranker)
    if not isinstance(settings, RerankerModel):
        return None
    from bucle.models.rerank import open_reranker

    return open_reranker(settings)


def open_version(ws: Workspace, version: str = "") -> Index:
    """An index opened for reading, under today's access labels; kept open while it is the one asked for."""
    return _opened(ws, _named(ws, version).id, False)


@lru_cache(maxsize=4)
def _opened(ws: Workspace, node_id: str, everything: bool) -> Index:
    from bucle.core.ports import LoadContext
    from bucle.customise.retrieve.quote import open_index
    from bucle.loop.model_steps import model_folder

    encoder = next((e.parent for e in ws.ledger.parents(node_id) if e.role == "encoder"), "")
    folder = ws.ledger.materialise(ws.ledger.get(node_id))
    opened: Index = open_index(
        LoadContext(
            labels=(),
            params={},
            index=folder,
            encoder=model_folder(ws, encoder) if encoder else None,
            project=ws.root,
            trusted=ws.trusted,
            extra={} if everything else {"labels": LabelsToday(ws)},
        )
    )
    return opened


def _named(ws: Workspace, version: str) -> Node:
    found = ws.ledger.nodes("index")
    if not found:
        raise NotFound("This project has no index yet.", "Add `data.documents` to bucle.yaml, then: bucle run")
    if not version:
        return ws.ledger.get(in_force(ws))
    if version.isascii() and version.isdigit() and len(version) < 8:
        picked = [n for number, n in enumerate(found, 1) if number == int(version)]
    else:
        picked = [n for n in found if n.id.startswith(version) or n.id.partition(":")[2].startswith(version)]
    if len(picked) > 1:
        raise BadInput(f"`{version}` begins more than one version of the index.", "Give more digits.")
    if not picked:
        raise NotFound(f"The index has no version `{version}`.", f"bucle index list shows 1 to {len(found)}.")
    return picked[0]
