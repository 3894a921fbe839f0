"""What routes, engines' processes and budgets are at when Prometheus asks: nothing of it costs a request anything."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from bucle.ledger.spend import NANO

if TYPE_CHECKING:
    from bucle.serve.budgets import Accounts

__all__ = ["Budgets", "Engines", "Routes"]

BREAKER = ("closed", "half-open", "open")
STATES = ("stopped", "starting", "ready", "restarting", "failed")


class Routes:
    """Of each route that stands for others (`engines` by their names, those with `standing`): attempts, retries,
    hedges, fallbacks, breakers, shares, roll-backs, cache, shadows."""

    def __init__(self, engines: Callable[[], Iterable[tuple[str, Any]]]) -> None:
        self._engines = engines

    def collect(self) -> Iterator[Any]:
        counts = _Counters()
        shares = _gauge("bucle_route_share", "A target's share of the traffic now", "route", "target")
        breakers = _gauge("bucle_route_breaker", "1 for the state that a target's breaker is in", "route", "target",
                          "state")
        stopped = _gauge("bucle_route_rolled_back", "Whether a target gets no traffic", "route", "target")
        for route, engine in self._engines():
            if not hasattr(engine, "standing"):
                continue
            told = engine.standing()
            for target, now in told["targets"].items():
                if now["share"] is not None:
                    shares.add_metric([route, target], now["share"])
                for state in BREAKER:
                    breakers.add_metric([route, target, state], float(now["breaker"] == state))
                stopped.add_metric([route, target], float(now["rolled_back"]))
                counts.add("bucle_route_breaker_opened", now["opened"], route=route, target=target)
                for outcome, number in now["attempts"].items():
                    counts.add("bucle_route_attempts", number, route=route, target=target, outcome=outcome)
                ends = [one for one in told["rollbacks"] if one["target"] == target and not one["restored"]]
                counts.add("bucle_route_rollbacks", len(ends), route=route, target=target)
            counts.add("bucle_route_retries", told["retries"]["made"], route=route)
            counts.add("bucle_route_retries_refused", told["retries"]["refused"], route=route)
            counts.add("bucle_route_hedges", told["hedges"], route=route)
            counts.add("bucle_route_fallbacks", told["fallbacks"], route=route)
            for outcome in ("exact", "semantic", "shared", "missed", "passed"):
                if "cache" in told:
                    counts.add("bucle_cache_requests", told["cache"][outcome], route=route, outcome=outcome)
            for target, shadow in told.get("shadow", {}).items():
                for outcome, number in shadow.items():
                    counts.add("bucle_shadow_requests", number, route=route, target=target, outcome=outcome)
        yield from (shares, breakers, stopped)
        yield from counts.families()


class Engines:
    """Of each engine in a process of its own (those with `describe`): its state, restarts and requests at work."""

    def __init__(self, engines: Callable[[], Iterable[tuple[str, Any]]]) -> None:
        self._engines = engines

    def collect(self) -> Iterator[Any]:
        counts, seen = _Counters(), set[int]()
        states = _gauge("bucle_engine_state", "1 for the state that an engine's process is in", "model", "state")
        busy = _gauge("bucle_engine_requests_active", "Requests at an engine's process", "model")
        for model, engine in self._engines():
            describe = getattr(engine, "describe", None)
            if describe is None or id(engine) in seen:
                continue
            seen.add(id(engine))
            told = describe()
            for state in STATES:
                states.add_metric([model, state], float(told["state"] == state))
            busy.add_metric([model], told["busy"])
            counts.add("bucle_engine_restarts", told["restarts"], model=model)
        yield from (states, busy)
        yield from counts.families()


class Budgets:
    """This month's dollars of every key and team that spent or is at work, and what they may spend."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    def collect(self) -> Iterator[Any]:
        names = ("kind", "id", "name")
        used = _gauge("bucle_budget_used_usd", "US dollars settled this month (UTC)", *names)
        held = _gauge("bucle_budget_reserved_usd", "US dollars held for requests at work", *names)
        limit = _gauge("bucle_budget_limit_usd", "US dollars a month; missing where there is no limit", *names)
        for row in self._accounts.standing():
            who = [row["kind"], row["name"], row["called"]]
            used.add_metric(who, row["settled"] / NANO)
            held.add_metric(who, row["reserved"] / NANO)
            if row["limit"] is not None:
                limit.add_metric(who, row["limit"] / NANO)
        yield from (used, held, limit)


_TOLD: Mapping[str, str] = {
    "bucle_route_breaker_opened": "How often a target's breaker opened",
    "bucle_route_attempts": "Requests to a target by what came of them: ok, hedged, cancelled or an error",
    "bucle_route_rollbacks": "How often a canary's gate or a hand stopped a target",
    "bucle_route_retries": "Requests asked again of the same target",
    "bucle_route_retries_refused": "Retries and hedges that the budget for them did not allow",
    "bucle_route_hedges": "Second requests beside a silent target",
    "bucle_route_fallbacks": "Requests handed on to the next target",
    "bucle_cache_requests": "exact and semantic hits, shared calls, missed, and passed by",
    "bucle_shadow_requests": "Copies asked and failed; dropped for want of a place; unfit for the shadow",
    "bucle_engine_restarts": "How often an engine's process was started again",
}


class _Counters:
    def __init__(self) -> None:
        self._families: dict[str, Any] = {}

    def add(self, family: str, value: float, **labels: str) -> None:
        from prometheus_client.core import CounterMetricFamily

        found = self._families.get(family)
        if found is None:
            found = self._families[family] = CounterMetricFamily(family, _TOLD[family], labels=list(labels))
        found.add_metric(list(labels.values()), value)

    def families(self) -> Iterable[Any]:
        return self._families.values()


def _gauge(name: str, told: str, *labels: str) -> Any:
    from prometheus_client.core import GaugeMetricFamily

    return GaugeMetricFamily(name, told, labels=labels)
