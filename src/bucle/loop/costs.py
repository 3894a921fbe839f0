"""What a rung costs a month at the team's traffic: providers by the token, machines for a model of one's own, training
paid back."""

from __future__ import annotations

from bucle.choose import Rung
from bucle.choose.costs import Monthly, monthly
from bucle.loop.workspace import Workspace

__all__ = ["month_of", "monthly_of"]


def monthly_of(ws: Workspace, rung: Rung, *, usd_per_1k: float, ms: float = 0.0, fit_seconds: float = 0.0) -> Monthly:
    """The month of a rung that costs `usd_per_1k` a thousand requests at providers, answers in `ms` milliseconds one at
    a time and took `fit_seconds` to fit. What runs on features alone needs no machine beside the gateway's."""
    return monthly(
        ws.config.choose.costs,
        usd_per_1k=usd_per_1k,
        hosted=_hosted(ws, rung) and bool(ws.config.choose.costs.requests_per_second or ms),
        requests_per_second=1000 / ms if ms else 0.0,
        training_hours=fit_seconds / 3600 if "base" in rung.technique.needs else 0.0,
    )


def month_of(ws: Workspace, rung: Rung, *, usd_per_1k: float, ms: float = 0.0, fit_seconds: float = 0.0) -> float:
    """US dollars; see `monthly_of`."""
    return monthly_of(ws, rung, usd_per_1k=usd_per_1k, ms=ms, fit_seconds=fit_seconds).usd


def _hosted(ws: Workspace, rung: Rung) -> bool:
    names = [name for name in (rung.base, rung.encoder) if name]
    return any(ws.config.models[name].kind != "openai" for name in names)
