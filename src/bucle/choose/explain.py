"""What would change the choice: the nearest margin, limit, price of quality, traffic and number of rows that would."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import ceil
from typing import Any

from bucle.core.errors import BadInput
from bucle.evaluate.compare import CONSTRAINTS, SIGNIFICANT, Comparison, Scored, compare
from bucle.evaluate.statistics import design_effect, minimum_detectable_difference, paired_difference, paired_p

__all__ = ["detectable", "flips", "rows_to_tell_apart"]

Message = dict[str, Any]
"""`key` names a sentence of `bucle.loop.sentences`, `figures` fills it in."""

POWER = 0.8
MOST_MARGIN = 0.2
"""A margin beyond a fifth of all answers is no margin any more."""
LEAST = {"p95_ms": 5.0, "usd_per_1k": 0.01}
"""Limits below these are nobody's: a millisecond is noise, and less than a cent for a thousand requests is free."""
_STEPS = 14  # doublings of a price or of the traffic that are looked through, each way
_TINY = 1e-9


def flips(comparison: Comparison, scored: Sequence[Scored], *, clusters: Sequence[str] | None = None,
          constraints: Mapping[str, float] | None = None, usd_per_point: float | None = None,
          requests_per_month: float = 0) -> list[Message]:
    """The nearest changes that would lead to another recommendation, as messages; empty where none is near.

    `scored`, `clusters`, `constraints` and `usd_per_point` are what `comparison` was made of. Nothing is approximated:
    each change is tried by making the comparison again. `limit_raised`, `limit_lowered` (and `limit_lowered_nothing`):
    the value of a hard limit. `margin_raised`, `margin_lowered`. `rate_raised`, `rate_lowered`: US dollars a month that
    0.01 of quality is worth, to three digits. `traffic_raised`, `traffic_lowered`: requests a month, where quality has
    a price; what a candidate costs beyond its requests stays. `rows` and `rows_baseline`: how many rows would tell two
    candidates apart, if the difference measured is the true one.
    """
    known: dict[tuple[str, str], Any] = {}

    def again(**changed: Any) -> str:
        options = {"margin": comparison.margin, "constraints": constraints, "usd_per_point": usd_per_point, **changed}
        some = options.pop("scored", scored)
        return compare(some, metric=comparison.metric, clusters=clusters, known=known, **options).recommended or ""

    now = comparison.recommended or ""
    by_name = {one.name: one for one in scored}
    quality = {row.name: row.quality.value for row in comparison.rows}

    def told(key: str, other: str, **figures: Any) -> Message:
        named = {"recommended": now, "other": other, "value": quality.get(now), "other_value": quality.get(other)}
        return {"key": key, "figures": {k: v for k, v in (named | figures).items() if v is not None}}

    return [
        *_limits(scored, dict(constraints or {}), now, again, told),
        *_rate(scored, now, usd_per_point, again, told),
        *_traffic(scored, now, usd_per_point, requests_per_month, again, told),
        *_margin(comparison, by_name, clusters, now, again, told),
        *_rows(comparison, by_name, clusters, told),
    ]


def detectable(rows: int, *, discordance: float = 0.2, effect: float = 1.0) -> Message:
    """The smallest difference that a comparison on `rows` rows would show with 80% power, before anything is run.

    `discordance` is the share of rows on which two candidates are expected to disagree in being right, `effect` the
    design effect of clustered rows (`statistics.design_effect`). Raises BadInput.
    """
    if rows < 1 or effect <= 0:
        raise BadInput("the rows must be at least 1 and the design effect above 0")
    least = minimum_detectable_difference(max(1, int(rows / effect)), discordance, POWER)
    figures: dict[str, Any] = {"rows": rows, "discordance": discordance, "power": POWER}
    if least is None:
        return {"key": "detectable_none", "figures": figures}
    return {"key": "detectable", "figures": figures | {"difference": least}}


def rows_to_tell_apart(a: Sequence[float], b: Sequence[float], *, clusters: Sequence[str] | None = None) -> int | None:
    """How many rows like these a paired test at 5% would need to find, with 80% power, the mean difference seen here
    (Connor 1987, Biometrics 43, turned around), times the design effect of the clusters. None for no difference."""
    from scipy.stats import norm

    change = [x - y for x, y in zip(a, b, strict=True)]
    mean = sum(change) / len(change)
    square = sum(x * x for x in change) / len(change)
    if abs(mean) < _TINY:
        return None
    alpha, beta = float(norm.ppf(0.975)), float(norm.ppf(POWER))
    needed = ((alpha * square**0.5 + beta * max(square - mean * mean, 0.0) ** 0.5) / mean) ** 2
    effect = design_effect(change, clusters) if clusters and len(set(clusters)) < len(change) else 1.0
    return ceil(needed * max(effect, _TINY))


Again = Callable[..., str]
Told = Callable[..., Message]


def _limits(scored: Sequence[Scored], limits: dict[str, float], now: str, again: Again, told: Told) -> list[Message]:
    """The limit raised to let another in, or lowered until the one chosen is out."""
    found = []
    for key in LEAST:
        its = {one.name: float(getattr(one, CONSTRAINTS[key])) for one in scored}
        if key in limits:
            for value in sorted({v for v in its.values() if v > limits[key]}):
                if (other := again(constraints=limits | {key: value})) != now:
                    found.append(told(f"{key}_raised", other, limit=_round(limits[key]), at=_up(value)))
                    break
        if now and its[now] >= LEAST[key]:
            other = again(constraints=limits | {key: its[now] * (1 - _TINY)})
            found.append(told(f"{key}_lowered" if other else f"{key}_lowered_nothing", other, at=_round(its[now])))
    return found


def _rate(scored: Sequence[Scored], now: str, price: float | None, again: Again, told: Told) -> list[Message]:
    """What quality is worth: dearer, so that a better one pays; cheaper, so that a cheaper one does."""
    months = [one.usd_per_month for one in scored]
    if not now or max(months) - min(months) <= 0:
        return []
    if not price:  # as if quality were beyond price
        start = 1000 * (max(months) - min(months)) + 1
        if again(usd_per_point=start) != now:
            return []
        return [told("rate_below", other, at=_round(at)) for at, other in
                _search(start, 0.5, now, lambda rate: again(usd_per_point=rate))]
    return [
        told(key, other, price=_round(price), at=_round(at))
        for key, factor in (("rate_raised", 2.0), ("rate_lowered", 0.5))
        for at, other in _search(price, factor, now, lambda rate: again(usd_per_point=rate))
    ]


def _traffic(scored: Sequence[Scored], now: str, price: float | None, requests: float, again: Again,
             told: Told) -> list[Message]:
    """The traffic at which what a request costs outweighs what hosting does, or the other way round."""
    if not (now and price and requests > 0 and any(one.usd_per_1k or one.usd_per_month for one in scored)):
        return []

    def at_traffic(much: float) -> str:
        more = (much - requests) / 1000
        return again(scored=[
            one.model_copy(update={"usd_per_month": max(0.0, one.usd_per_month + more * one.usd_per_1k)})
            for one in scored
        ])

    return [
        told(key, other, requests=round(requests), at=_round(at))
        for key, factor in (("traffic_raised", 2.0), ("traffic_lowered", 0.5))
        for at, other in _search(requests, factor, now, at_traffic)
    ]


def _search(start: float, factor: float, now: str, recommended: Callable[[float], str]) -> list[tuple[float, str]]:
    """Where, going from `start` by `factor`, the recommendation first is another, to three digits."""
    near = start
    for _ in range(_STEPS):
        far = near * factor
        if recommended(far) != now:
            while abs(far - near) > 0.002 * far:
                middle = (near * far) ** 0.5
                near, far = (middle, far) if recommended(middle) == now else (near, middle)
            return [(far, recommended(far))]
        near = far
    return []


def _margin(comparison: Comparison, by_name: Mapping[str, Scored], clusters: Sequence[str] | None, now: str,
            again: Again, told: Told) -> list[Message]:
    """The loss of quality accepted for something simpler: larger or smaller."""
    mark = str(comparison.why["figures"].get("mark", now))
    if not now or comparison.baseline_stands or mark not in by_name:
        return []
    best = by_name[mark].per_row[comparison.metric]
    edges: set[float] = set()
    for one in by_name.values():
        if one.name != mark:
            gap = paired_difference(one.per_row[comparison.metric], best, clusters=clusters)
            edges |= {-gap.low, -gap.value}
    found, margin = [], comparison.margin
    for edge in sorted(edge for edge in edges if margin < edge <= MOST_MARGIN):
        if (other := again(margin=edge + 1e-6)) != now:
            found.append(told("margin_raised", other, margin=margin, at=edge))
            break
    for edge in sorted((edge for edge in edges if 0 < edge <= margin), reverse=True):
        if (other := again(margin=edge - 1e-6)) != now:
            found.append(told("margin_lowered", other, margin=margin, at=edge))
            break
    return found


def _rows(comparison: Comparison, by_name: Mapping[str, Scored], clusters: Sequence[str] | None,
          told: Told) -> list[Message]:
    """The rows it would take to tell the runner-up apart, or to show that the best candidate beats the baseline."""
    now, other = comparison.recommended, comparison.runner_up
    key = "rows"
    if comparison.baseline_stands:
        others = [row for row in comparison.rows if not row.baseline and not row.reasons and row.difference
                  and row.difference.value > 0]
        now = comparison.best_baseline
        other = max(others, key=lambda row: row.quality.value).name if others else None
        key = "rows_baseline"
    if not now or not other:
        return []
    a, b = (by_name[name].per_row[comparison.metric] for name in (now, other))
    if paired_p(a, b, clusters=clusters) < SIGNIFICANT:
        return []
    gap = paired_difference(b, a, clusters=clusters)
    figures = {"rows": len(a), "difference": 100 * gap.value, "low": 100 * gap.low, "high": 100 * gap.high}
    needed = rows_to_tell_apart(a, b, clusters=clusters)
    if needed is None:
        return [told("rows_equal", other, **figures)]
    return [told(key, other, needed=_round(max(needed, len(a) + 1)), **figures)]


def _round(value: float) -> float:
    """To three digits; a whole number without a decimal point."""
    some = float(f"{value:.3g}")
    return int(some) if some == int(some) else some


def _up(value: float) -> float:
    """To three digits, never below `value`: a limit that lets it in."""
    some = _round(value)
    return some if some >= value else _round(value * 1.01)
