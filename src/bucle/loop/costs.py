"""What a rung costs a month at the team's traffic: providers by the token, machines for a model of one's own, training
paid back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bucle.choose import Rung
from bucle.choose.costs import Hosting, Monthly, break_even, monthly
from bucle.core.config import REMOTE
from bucle.execute import StepRecord
from bucle.loop.workspace import Workspace

__all__ = ["cost_rows", "month_of", "monthly_of"]


def monthly_of(ws: Workspace, rung: Rung, *, usd_per_1k: float, ms: float = 0.0, fit_seconds: float = 0.0) -> Monthly:
    """The month of a rung that costs `usd_per_1k` a thousand requests at providers, answers in `ms` milliseconds one at
    a time and took `fit_seconds` to fit. What runs on features alone needs no machine beside the gateway's."""
    return monthly(
        ws.config.choose.costs,
        usd_per_1k=usd_per_1k,
        hosted=hosted(ws, rung) and bool(ws.config.choose.costs.requests_per_second or ms),
        requests_per_second=1000 / ms if ms else 0.0,
        training_hours=fit_seconds / 3600 if "base" in rung.technique.needs else 0.0,
    )


def month_of(ws: Workspace, rung: Rung, *, usd_per_1k: float, ms: float = 0.0, fit_seconds: float = 0.0) -> float:
    """US dollars; see `monthly_of`."""
    return monthly_of(ws, rung, usd_per_1k=usd_per_1k, ms=ms, fit_seconds=fit_seconds).usd


def hosted(ws: Workspace, rung: Rung) -> bool:
    """Whether the team runs a model itself to serve the rung. A teacher is only there while the rung is fitted."""
    serving = (rung.encoder,) if rung.technique.name == "distilled" else rung.models
    return any(ws.config.models[name].kind not in REMOTE for name in serving if name)


def cost_rows(
    ws: Workspace, rungs: Sequence[Rung], evaluations: Mapping[str, StepRecord], months: Mapping[str, Monthly]
) -> dict[str, Any]:
    """`{requests_per_month, rows}` for the report: each rung's dollars, and from how many requests a month hosting it
    is no dearer than the cheapest candidate that pays a provider."""
    costs = ws.config.choose.costs
    paid = [p for r in rungs if (p := float(evaluations[r.name].figures["usd_per_1k"] or 0.0)) > 0]
    rows = []
    for rung in rungs:
        figures, month = evaluations[rung.name].figures, months[rung.name]
        row: dict[str, Any] = {
            "name": rung.name,
            "priced": figures["usd_per_1k"] is not None,
            "usd_per_1k": figures["usd_per_1k"],
            "usd_per_month": month.usd,
            "api": month.api,
            "hosting": month.hosting,
            "training": month.training,
            "replicas": month.replicas,
            "assumes": list(month.assumes),
        }
        speed = costs.requests_per_second or (1000 / figures["p50_ms"] if figures["p50_ms"] else 0.0)
        if paid and hosted(ws, rung) and costs.usd_per_hour and speed:
            found = break_even(min(paid), Hosting(costs.usd_per_hour, speed), training_usd_per_month=month.training)
            row |= {"break_even": found.requests, "why": found.why}
        rows.append(row)
    return {"requests_per_month": costs.requests_per_month, "rows": rows}
