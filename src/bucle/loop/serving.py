"""From a release to an app: one route a task, one a model that writes, one an encoder; the studio beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bucle.core.ports import ChatModel, Guard
from bucle.core.records import Node, TaskKind
from bucle.loop.candidates import open_candidate
from bucle.loop.model_steps import chat_model, model_folder
from bucle.loop.workspace import Workspace

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["app_for", "redactor"]


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
            places=_places(ws, candidate)
        )
    for node in _models(ws).values():
        name = str(node.attrs["name"])
        if name in routes:
            continue
        if node.attrs["kind"] == "encoder":
            routes[name] = Route(name, "embed", candidate=node.id, embedder=_Encoder(ws, node.id, name))
        else:
            chat = (override or {}).get(name) or _Lazy(ws, node.id, name)
            routes[name] = Route(name, "chat", candidate=node.id, chat=chat)
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


def _places(ws: Workspace, candidate: str) -> dict[str, str]:
    """Chunk id -> path and place in the project's language, of the index behind a candidate; empty without one."""
    from bucle.loop.report.formats import place

    index = next((e.parent for e in ws.ledger.parents(candidate) if e.role == "index"), "")
    lines = ws.ledger.read(ws.ledger.get(index), "chunks.jsonl").splitlines() if index else []
    found = {c["id"]: place(f"{c['path']} {c.get('place', '')}".strip()) for c in map(json.loads, lines)}
    return {chunk: told.es if ws.config.language == "es" else told.en for chunk, told in found.items()}


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
        self._ws, self._node, self.name = ws, node, name

    def chat(self, *args: Any, **kwargs: Any) -> Any:
        return chat_model(self._ws, self._node).chat(*args, **kwargs)

    def stream(self, *args: Any, **kwargs: Any) -> Any:
        return chat_model(self._ws, self._node).stream(*args, **kwargs)


class _Encoder:
    """An encoder opened at its first request."""

    def __init__(self, ws: Workspace, node: str, name: str) -> None:
        self._ws, self._node, self.name = ws, node, name
        self.dimensions = 0

    def embed(self, texts: Any) -> list[list[float]]:
        from bucle.models.encoder import shared_encoder

        return shared_encoder(model_folder(self._ws, self._node)).embed(texts)
