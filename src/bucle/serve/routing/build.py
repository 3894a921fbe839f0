"""From the `serve.routes` section of bucle.yaml to engines made of engines."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Mapping

from bucle.core.engine import ChatEngine
from bucle.core.ports import Embedder
from bucle.core.serving import RouteRule
from bucle.serve.routing.alias import Alias
from bucle.serve.routing.attempt import Attempt
from bucle.serve.routing.breaker import Breaker
from bucle.serve.routing.cached import Cached
from bucle.serve.routing.chain import Chain
from bucle.serve.routing.check import in_order
from bucle.serve.routing.facts import ShadowRun, TargetFacts, target_key
from bucle.serve.routing.gate import Gate, RollBacks
from bucle.serve.routing.opening import Layer
from bucle.serve.routing.prefer import ByContext, ByCost, ByLanguage, ByLatency, Chooser
from bucle.serve.routing.retry import Retried, RetryBudget
from bucle.serve.routing.shadow import Shadowed
from bucle.serve.routing.share import ByShare

__all__ = ["build_routes"]


def build_routes(
    rules: Mapping[str, RouteRule],
    targets: Mapping[str, ChatEngine],
    facts: Mapping[str, TargetFacts],
    *,
    encoder: Embedder | None = None,
    clock: Callable[[], float] = time.monotonic,
    on_rollback: Callable[[str, str, str], None] | None = None,
    on_shadow: Callable[[ShadowRun], None] | None = None,
    rolled_back: Mapping[str, Collection[str]] | None = None,
    seed: int | None = None,
) -> dict[str, Alias]:
    """One engine for each route of bucle.yaml.

    `targets` holds an engine for each `target_key` that is not a route itself (those are built here): `NAME`, or
    `NAME@RELEASE` where a target names its release; `facts` what is known of them. `rolled_back` are the targets of
    each route that a canary gate stopped before this start and nobody restored: their users stay with the first.
    `on_rollback(route, target, why)` is told once of each roll-back, `on_shadow` of each shadow's answer; both are
    called on the event loop and must not block. `seed` fixes the jitter and the exploring (tests). Raises ConfigError
    that names the key.
    """
    built: dict[str, Alias] = {}
    engines, known = dict(targets), dict(facts)
    for name in in_order(rules, targets, facts, encoder is not None):
        stopped = set((rolled_back or {}).get(name, ()))
        rollbacks = RollBacks(name, stopped & {target_key(t) for t in rules[name].to[1:]}, on_rollback)
        rng = random.Random(seed)
        made = _alias(name, rules[name], engines, known, rollbacks, encoder, clock, on_shadow, rng)
        engines[name] = built[name] = made
        known[name] = _together([known.get(target_key(t), TargetFacts()) for t in rules[name].to])
    return {name: built[name] for name in rules}


def _alias(name: str, rule: RouteRule, engines: Mapping[str, ChatEngine], facts: Mapping[str, TargetFacts],
           rollbacks: RollBacks, encoder: Embedder | None, clock: Callable[[], float],
           on_shadow: Callable[[ShadowRun], None] | None, rng: random.Random) -> Alias:
    members = {target_key(t): facts.get(target_key(t), TargetFacts()) for t in rule.to}
    chooser = _chooser(name, rule, members, rng, clock)
    if isinstance(chooser, ByShare):
        chooser.stopped = rollbacks.stopped
    gate = Gate(rule.canary, next(iter(members)), list(members)[1:], rollbacks) if rule.canary is not None else None
    told = chooser.told if isinstance(chooser, ByLatency) else _nobody
    budget = RetryBudget(rule.retry_share)
    asked = {key: Retried(Attempt(name, key, engines[key], facts.get(key, TargetFacts()),
                                  Breaker(key, rule.breaker, rule.breaker_s, clock), told), rule.retries, budget, rng)
             for key in dict.fromkeys((*members, *rule.fallback))}
    chain = Chain(name, chooser, asked, rule.fallback, budget, longer=rule.prefer == "context",
                  hedge_s=rule.hedge_ms / 1000 if rule.hedge_ms is not None else None, stopped=rollbacks.stopped,
                  watch=gate.outcome if gate is not None else None)
    engine: Layer = chain
    if rule.shadow:
        engine = Shadowed(engine, {key: engines[key] for key in rule.shadow}, facts, rule.shadow_share,
                          rule.shadow_parallel, rule.shadow_s, on_shadow)
    alias = Alias(name, chooser, members, chain, engine, rollbacks, gate)
    if rule.cache is not None:
        by_meaning = encoder if rule.cache.kind == "semantic" else None
        alias.engine = Cached(engine, rule.cache, alias.pool, alias.own, by_meaning, clock)
    return alias


def _chooser(name: str, rule: RouteRule, members: Mapping[str, TargetFacts], rng: random.Random,
             clock: Callable[[], float]) -> Chooser:
    if rule.prefer == "cost":
        return ByCost(members)
    if rule.prefer == "context":
        return ByContext(members)
    if rule.prefer == "language":
        return ByLanguage(rule.languages, next(iter(members)))
    if rule.prefer == "latency":
        return ByLatency(list(members), rng, clock=clock, explore=rule.explore)
    return ByShare(name, {target_key(t): t.weight for t in rule.to})


def _together(members: list[TargetFacts]) -> TargetFacts:
    """What is known of a route of these: the dearest price, the shortest context."""
    def most(prices: list[float | None]) -> float | None:
        known = [p for p in prices if p is not None]
        return max(known) if len(known) == len(prices) else None

    contexts = [m.context for m in members if m.context is not None]
    releases = {m.release for m in members}
    return TargetFacts(most([m.price_in for m in members]), most([m.price_out for m in members]),
                       min(contexts) if contexts else None, releases.pop() if len(releases) == 1 else "")


def _nobody(name: str, ok: bool, ms: float) -> None:
    """Hears nothing."""
