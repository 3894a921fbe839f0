"""Which candidates a provider is paid for, and whether its price is known."""

from __future__ import annotations

from typing import Any

from bucle.choose import Rung
from bucle.core.config import REMOTE, RemoteModel
from bucle.customise.registry import technique
from bucle.loop.workspace import Workspace

__all__ = ["is_remote", "known_price", "priced", "prices"]


def prices(ws: Workspace, candidate: str) -> dict[str, Any]:
    """What a remote model's tokens cost here: other prices, other figures."""
    from bucle.models.catalogue import paid

    found = {
        name: paid(name, model, ws.config.catalogue)
        for name in _named(ws, candidate)
        if isinstance(model := ws.config.models.get(name), RemoteModel)
    }
    if not found:
        return {}
    return {"prices": next(iter(found.values())) if len(found) == 1 else found}


def known_price(ws: Workspace, candidate: str) -> bool:
    """Whether what a candidate's provider asks for a token is known; true where no provider is asked."""
    return not is_remote(ws, candidate) or all(_known(ws, name) for name in _named(ws, candidate))


def priced(ws: Workspace, rung: Rung) -> bool:
    """The same of a rung that is not fitted yet."""
    return all(_known(ws, name) for name in rung.models if ws.config.models[name].kind in REMOTE)


def _named(ws: Workspace, candidate: str) -> list[str]:
    """The models that a candidate asks, by their names in bucle.yaml, once."""
    attrs = ws.ledger.get(candidate).attrs
    return list(dict.fromkeys(str(name) for name in (attrs["base"], *attrs.get("models", ())) if name))


def _known(ws: Workspace, name: str) -> bool:
    from bucle.models.catalogue import price_known

    model = ws.config.models.get(name)  # what was released may ask one that bucle.yaml has no more
    return model is not None and price_known(name, model, ws.config.catalogue)


def is_remote(ws: Workspace, candidate: str) -> bool:
    """Whether a provider is asked for each answer. A student of a remote teacher answers by itself."""
    attrs = ws.ledger.get(candidate).attrs
    t = technique(str(attrs["technique"]))
    asked = [*attrs.get("models", ()), *([attrs["base"]] if "chat" in getattr(t, "serving_needs", t.needs) else [])]
    return any((model := ws.config.models.get(str(name))) is not None and model.kind in REMOTE for name in asked)
