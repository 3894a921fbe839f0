"""The rungs of a task: the ladder's techniques, and the chains that bucle.yaml names for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bucle.choose import Rung, ladder
from bucle.core.choosing import Choose
from bucle.core.config import REMOTE, External
from bucle.customise.registry import technique
from bucle.loop.workspace import Workspace

__all__ = ["rungs_of"]


def rungs_of(ws: Workspace, task: str, *, has_index: bool | None = None, choose: Choose | None = None) -> list[Rung]:
    """What may compete for `task`, cheapest first. `has_index`: whether there is one (None: whether there are documents
    to make one of). Raises ConfigError for a name that no candidate has, and for a chain that cannot be meant."""
    indexed = ws.config.data.documents is not None if has_index is None else has_index
    kind = ws.config.tasks[task].kind
    chains = [_chain(ws, name) for name in ws.config.tasks[task].chains]
    others = [f"chain/{name}" for each in ws.config.tasks.values() for name in each.chains]
    return ladder(kind, ws.config.models, choose or ws.config.choose, has_index=indexed, chains=chains, others=others)


def _chain(ws: Workspace, name: str) -> Rung:
    """A chain as a rung. The first remote model that it asks stands for its price and its waits."""
    from bucle.loop.chains import chain_params, models_of  # a project without chains does not wait for them

    params: Mapping[str, Any] = chain_params(ws, name)
    made = technique("external" if isinstance(ws.config.chains[name], External) else "chain")
    more = tuple(models_of(params))
    remote = [m for m in more if ws.config.models[m].kind in REMOTE]
    base = next(iter([*remote, *more]), "")
    return Rung(f"chain/{name}", made, base, more=more, params=params)
