"""A task's candidate as a route: who is asked side by side, and where the passages it cites stand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bucle.core.records import TaskKind
from bucle.customise.registry import technique
from bucle.loop.model_steps import model_folder
from bucle.loop.opening import open_candidate
from bucle.loop.pricing import known_price
from bucle.loop.workspace import Workspace

if TYPE_CHECKING:
    from bucle.serve.routes import Route

__all__ = ["AT_ONCE", "task_route"]

AT_ONCE = 16
"""Calls that a provider gets at once where nothing says how many."""


def task_route(ws: Workspace, task: str, candidate: str, *, name: str = "", release: str = "") -> Route:
    from bucle.serve.routes import Route
    from bucle.serve.tasks import TaskEngine

    kind: TaskKind = ws.ledger.get(candidate).attrs["kind"]  # what it was fitted as, whatever bucle.yaml says now
    places = _places(ws, candidate)
    engine = TaskEngine(open_candidate(ws, candidate, serving=True), name or task, kind, places=places,
                        parallel=_side_by_side(ws, candidate))
    prompt = next((e.parent for e in ws.ledger.parents(candidate) if e.role == "prompt"), "")
    return Route(name or task, kind, candidate=candidate, engine=engine, places=places, prompt=prompt, release=release,
                 price_known=known_price(ws, candidate))


def _side_by_side(ws: Workspace, candidate: str) -> int:
    """Calls that a candidate gets at once. One that waits for a provider gets as many as that may, and each input once,
    unless a model of it computes in this process; 0 leaves it to the candidate, which knows (a chain)."""
    t = technique(str(ws.ledger.get(candidate).attrs["technique"]))
    needs = getattr(t, "serving_needs", t.needs)
    roles = {e.role: ws.ledger.get(e.parent).attrs for e in ws.ledger.parents(candidate)
             if e.role in ("base", "encoder", "reranker")}
    if "base" in roles and {"base", "chat"} & needs:
        return int(roles["base"].get("max_parallel", 1))  # of one that computes in this process nothing is said
    return AT_ONCE if any(model.get("base_url") for model in roles.values()) else 0


def _places(ws: Workspace, candidate: str) -> Mapping[str, str]:
    """Chunk id -> path and place in the project's language, of the index behind a candidate; empty without one."""
    index = next((e.parent for e in ws.ledger.parents(candidate) if e.role == "index"), "")
    return _Places(ws, index) if index else {}


class _Places(Mapping[str, str]):
    """Where passages stand, looked up in their index when one is cited: of most nobody ever asks. Only ids that an
    answer holds are asked for, so what may not be seen was left out before."""

    def __init__(self, ws: Workspace, index: str) -> None:
        self._ws, self._node = ws, index

    @cached_property
    def _index(self) -> Any:
        from bucle.customise.retrieve.index import Index

        return Index(model_folder(self._ws, self._node), None)

    def __getitem__(self, chunk: str) -> str:
        from bucle.loop.report.formats import place

        found = self._index.chunks[chunk]
        told = place(f"{found.path} {found.place}".strip())
        return str(told.es if self._ws.config.language == "es" else told.en)

    def __iter__(self) -> Iterator[str]:
        return iter(self._index.chunks)

    def __len__(self) -> int:
        return len(self._index.chunks)
