"""Opening what was fitted: a candidate in memory with its models, index and reranker, for whoever asks it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from pathlib import Path
from typing import Any

from bucle.core.errors import BadInput
from bucle.core.ports import LoadContext, Predictor, Technique
from bucle.core.records import Candidate, Prediction
from bucle.customise.registry import technique
from bucle.loop.model_steps import chat_model, model_folder, reranker_of
from bucle.loop.versions import LabelsToday
from bucle.loop.workspace import Workspace

__all__ = ["load_candidate", "open_candidate", "open_roles", "predict_as", "remembered_replies"]

REPLIES = "replies.db"
MODEL, TASK = "model ", "task "  # what stands before the name in the role of a chain's models and tasks


def remembered_replies(ws: Workspace) -> AbstractContextManager[object]:
    """Inside it, what was asked of a model before is not asked again. Never around serving."""
    from bucle.models.ask import remembered

    return remembered(ws.ledger.folder / REPLIES)


def open_roles(ws: Workspace, roles: Mapping[str, str], t: Technique, *, serving: bool = False) -> dict[str, Any]:
    """Folders and models for a technique's context, of those roles that it needs; with `serving` to answer only: a
    student is served without its teacher."""
    needs = getattr(t, "serving_needs", t.needs) if serving else t.needs
    opened: dict[str, Any] = {role: model_folder(ws, roles[role]) for role in ("encoder", "index") if role in roles}
    if "base" in roles and "base" in needs:
        opened["base"] = model_folder(ws, roles["base"])
    if "base" in roles and "chat" in needs:
        opened["chat"] = chat_model(ws, roles["base"])
    if "reranker" in roles:
        opened["reranker"] = reranker_of(ws, roles["reranker"])
    models = {role.removeprefix(MODEL): node for role, node in roles.items() if role.startswith(MODEL)}
    opened["models"] = {name: chat_model(ws, node) for name, node in models.items()}
    return opened | {"project": ws.root, "trusted": ws.trusted}


def open_candidate(ws: Workspace, candidate_id: str, *, serving: bool = False) -> Predictor:
    """A candidate in memory, ready to answer; opened once a process. With `serving` the steps of a chain keep what
    they found for as long as each says, and never when a candidate is measured."""
    return _open(ws, candidate_id, serving)


@lru_cache(maxsize=16)
def _open(ws: Workspace, candidate_id: str, serving: bool) -> Predictor:
    folder = ws.ledger.materialise(ws.ledger.get(candidate_id))
    return load_candidate(ws, candidate_id, folder, serving=serving)


def load_candidate(ws: Workspace, candidate_id: str, folder: Path, *, serving: bool = False) -> Predictor:
    """A candidate from `folder`: its own files, or a copy of them that was changed (a planted instruction)."""
    candidate = Candidate.model_validate(ws.ledger.get(candidate_id).attrs)
    t = technique(candidate.technique)
    roles = {e.role: e.parent for e in ws.ledger.parents(candidate_id)}
    asked = {role.removeprefix(TASK): node for role, node in roles.items() if role.startswith(TASK)}
    extra: dict[str, Any] = {"labels": LabelsToday(ws)} if "index" in roles or t.name == "external" else {}
    if asked:
        extra["tasks"] = {name: open_candidate(ws, node, serving=serving) for name, node in asked.items()}
    if serving and t.name == "chain":
        from bucle.loop.chains import step_cache

        extra["cache"] = step_cache(ws)
    context = LoadContext(
        labels=candidate.labels,
        params=candidate.params,
        seed=ws.config.seed,
        kind=candidate.kind,
        extra=extra,
        **open_roles(ws, roles, t, serving=True),
    )
    try:
        return t.load(folder, context)
    except (KeyError, FileNotFoundError) as error:  # its files are not those that this technique writes today
        raise BadInput(
            f"The candidate {candidate.name} of {candidate.task} was fitted by another version of Bucle and cannot be "
            f"opened ({type(error).__name__}: {error}).",
            "bucle run fits it again.",
        ) from error


def predict_as(predictor: Predictor, inputs: Sequence[str], access: frozenset[str]) -> list[Prediction]:
    """Answers for somebody who holds the labels `access`. One that searches nothing takes no labels."""
    if access and "access" in inspect.signature(predictor.predict).parameters:
        return predictor.predict(inputs, access=access)  # type: ignore[call-arg]
    return predictor.predict(inputs)
