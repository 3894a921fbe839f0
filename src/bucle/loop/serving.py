"""From a release to an app: one route a task, one a model that writes, one an encoder; the studio beside them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bucle.core.ports import ChatModel, Guard
from bucle.core.records import Node, TaskKind
from bucle.customise.registry import technique
from bucle.loop.model_steps import chat_model, model_folder
from bucle.loop.opening import open_candidate
from bucle.loop.workspace import Workspace

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["app_for", "redactor"]

AT_ONCE = 16
"""Calls that a provider gets at once where nothing says how many."""


def app_for(
    ws: Workspace,
    release: Node,
    *,
    replay: bool = False,
    studio: Any = None,
    override: Mapping[str, ChatModel] | None = None,
) -> FastAPI:
    """The gateway that serves `release`. `override` puts another engine behind a model's name (the replay's
    stand-in)."""
    from bucle.monitor.injection import suspicion
    from bucle.serve.app import create_app
    from bucle.serve.guard import PersonalDataGuard, ScoreGuard
    from bucle.serve.routes import Route

    routes = {}
    for task, candidate in release.attrs["tasks"].items():
        kind: TaskKind = ws.ledger.get(candidate).attrs["kind"]  # what it was fitted as, whatever bucle.yaml says now
        routes[task] = Route(
            task, kind, candidate=candidate, predictor=open_candidate(ws, candidate, serving=True),
            places=_places(ws, candidate), parallel=_side_by_side(ws, candidate)
        )
    for node in _models(ws).values():
        name = str(node.attrs["name"])
        if name in routes:
            continue
        if node.attrs["kind"] == "encoder":
            at_once = AT_ONCE if node.attrs.get("base_url") else 0
            routes[name] = Route(name, "embed", candidate=node.id, embedder=_Encoder(ws, node.id, name),
                                 parallel=at_once)
        else:
            given = (override or {}).get(name)
            routes[name] = Route(name, "chat", candidate=node.id, chat=given or _Lazy(ws, node.id, name),
                                 parallel=0 if given else _calls(node.attrs))
    guards: list[Guard] = [ScoreGuard(lambda text: suspicion(text)[0]), PersonalDataGuard()]
    return create_app(
        routes,
        writer=ws.traces,
        release_id=release.id,
        replay=replay,
        studio=studio,
        guards=guards,
        redact=redactor() if ws.config.serve.redact else None,
    )


def _calls(model: Mapping[str, Any]) -> int:
    """Calls that a model gets at once: of a provider as many as bucle.yaml says, of one in this process 1."""
    return int(model.get("max_parallel", AT_ONCE)) if model.get("kind") == "openai" else 1


def _side_by_side(ws: Workspace, candidate: str) -> int:
    """Calls that a candidate gets at once. One that waits for a provider gets as many as that may, and each input once,
    unless a model of it computes in this process; 0 leaves it to the candidate, which knows (a chain)."""
    t = technique(str(ws.ledger.get(candidate).attrs["technique"]))
    needs = getattr(t, "serving_needs", t.needs)
    roles = {e.role: ws.ledger.get(e.parent).attrs for e in ws.ledger.parents(candidate)
             if e.role in ("base", "encoder", "reranker")}
    if "base" in roles and {"base", "chat"} & needs:
        return _calls(roles["base"])
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


def redactor() -> Any:
    """Masks personal data and secrets before a trace is stored."""
    from bucle.data.personal import KINDS, Action, apply

    policy: dict[str, Action] = dict.fromkeys(KINDS, "mask")
    return lambda text: apply(text, policy)[0]


def _models(ws: Workspace) -> dict[str, Node]:
    """The newest node of each model that bucle.yaml names."""
    newest = {str(n.attrs.get("name", "")): n for n in ws.ledger.nodes("base_model")}
    return {name: newest[name] for name in ws.config.models if name in newest}


class _Lazy:
    """A model that is opened at its first request, so that a server of baselines starts without torch."""

    def __init__(self, ws: Workspace, node: str, name: str) -> None:
        self._ws, self._node, self.name, self._lock = ws, node, name, threading.Lock()
        self._model: ChatModel | None = None

    def chat(self, *args: Any, **kwargs: Any) -> Any:
        return self._opened().chat(*args, **kwargs)

    def stream(self, *args: Any, **kwargs: Any) -> Any:
        return self._opened().stream(*args, **kwargs)

    def _opened(self) -> ChatModel:
        with self._lock:  # once: the connections of a remote one are kept between requests
            self._model = self._model or chat_model(self._ws, self._node)
            return self._model


class _Encoder:
    """An encoder opened at its first request."""

    def __init__(self, ws: Workspace, node: str, name: str) -> None:
        self._ws, self._node, self.name = ws, node, name
        self.dimensions = 0

    def embed(self, texts: Any) -> list[list[float]]:
        from bucle.models.encoder import shared_encoder

        return shared_encoder(model_folder(self._ws, self._node)).embed(texts)
