"""The vector store that `retrieval.store` names: filled when the index is made, and again where it lost something."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bucle.core.errors import ConfigError
from bucle.core.ports import Report
from bucle.core.records import Chunk, Node
from bucle.loop.workspace import Workspace

__all__ = ["put_in_store", "refill", "store_params"]

SETTINGS = "store.json"


def store_params(ws: Workspace) -> dict[str, Any]:
    """What the key of the index's step says of the store; nothing without one. Raises ConfigError where its function is
    not in the project, or nobody has said that it may run."""
    if not (store := ws.config.retrieval.store):
        return {}
    from bucle.customise.own import own_file
    from bucle.customise.retrieve.store_build import store_key

    if not ws.trusted:
        raise ConfigError(f"retrieval.store {store} is code of this project, and nobody has said that it may run",
                          f"read {own_file(store, ws.root, 'retrieval.store').name}; if it may run: bucle run --trust "
                          "(any other verb likewise; or BUCLE_TRUST=1)")
    return {"store": store, "source": store_key(store, ws.root)}


def put_in_store(ws: Workspace, chunks: Sequence[Chunk], out: Path, encoder: Path, report: Report) -> dict[str, Any]:
    """Put the passages of the index in `out` into the store; what to tell of it, nothing without one. What the index in
    force and the one in production need stays there."""
    if not ws.config.retrieval.store:
        return {}
    from bucle.customise.retrieve.stores import build_store

    before = [node for node in ws.ledger.nodes("index") if SETTINGS in node.blobs]
    return build_store(
        chunks, out, encoder=encoder, factory=ws.config.retrieval.store, project=ws.root, trusted=ws.trusted,
        report=report, previous=ws.ledger.materialise(before[-1]) if before else None,
        keep=[ws.ledger.materialise(node) for node in _in_use(ws, before)],
    )


def refill(ws: Workspace, index: str, encoder: Path, report: Report) -> int:
    """Put back what the store of an index node lost since; how many passages. 0 without a store."""
    node = ws.ledger.get(index)
    if SETTINGS not in node.blobs:
        return 0
    from bucle.customise.retrieve.stores import refill_store

    return refill_store(ws.ledger.materialise(node), encoder=encoder, project=ws.root, trusted=ws.trusted,
                        report=report)


def _in_use(ws: Workspace, indexes: Sequence[Node]) -> list[Node]:
    """Those of `indexes` that something answers from: the one in force, and those behind the release in production."""
    from bucle.loop.indexing import in_force

    used = {in_force(ws)}
    if release := ws.ledger.alias("production"):
        for edge in ws.ledger.parents(release):
            used |= {e.parent for e in ws.ledger.parents(edge.parent) if e.role == "index"}
    return [node for node in indexes if node.id in used]
