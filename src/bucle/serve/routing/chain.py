"""The chosen target, then those that stand in for it, each with its retries; hedged where the rule says so."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence

from bucle.core.engine import AskContext, ChatAnswer, ChatAsk
from bucle.core.errors import BucleError, ContextOverflow, ModelUnavailable
from bucle.core.records import Usage
from bucle.serve.routing.breaker import Resting
from bucle.serve.routing.hedge import hedged
from bucle.serve.routing.opening import Layer, Outcome, Reply
from bucle.serve.routing.prefer import Chooser
from bucle.serve.routing.retry import Retried, RetryBudget

__all__ = ["Chain"]

KEPT = 0.5
"""The share of the time left that one may take while there is another to ask."""


class Chain(Layer):
    """Asks the targets in the chooser's order, then `fallback`, until one begins to answer.

    The next is asked after ModelUnavailable (and its kinds RateLimited, Refused, TimedOut, EngineDied and Resting),
    where `longer` also after ContextOverflow; never after another error, nor where an engine may have acted. `watch`
    hears of the first one alone, `stopped` are never asked. Raises the first error that a target really gave.
    """

    def __init__(self, name: str, chooser: Chooser, targets: Mapping[str, Retried], fallback: Sequence[str],
                 budget: RetryBudget, *, hedge_s: float | None = None, longer: bool = False,
                 stopped: Collection[str] = (), watch: Outcome | None = None) -> None:
        self.name, self.chooser, self.targets, self.fallback = name, chooser, targets, tuple(fallback)
        self.budget, self.hedge_s, self._stopped, self._watch = budget, hedge_s, stopped, watch
        self._passes: tuple[type[BucleError], ...] = (ModelUnavailable, *([ContextOverflow] if longer else []))
        self.hedges = self.fallen_back = 0

    @property
    def offers(self) -> frozenset[str]:
        return frozenset.intersection(*(frozenset(t.offers) for t in self.targets.values()))

    def order(self, ask: ChatAsk, ctx: AskContext) -> list[str]:
        """Whom this ask goes to, in order."""
        chosen = self.chooser.order(ask, ctx)
        return list(dict.fromkeys((*chosen, *(name for name in self.fallback if name not in self._stopped))))

    async def open(self, ask: ChatAsk, ctx: AskContext, whole: bool, watch: Outcome | None = None) -> Reply:
        self.budget.earn()
        order = self.order(ask, ctx)
        tried: set[str] = set()
        errors: list[BucleError] = []
        for name in order:
            if name in tried:
                continue
            if errors and (ctx.acted or ctx.left_s <= 0):
                break
            self.fallen_back += bool(errors)
            try:
                if self.hedge_s is not None and not tried:
                    return await self._hedged(order, tried, ask, ctx, whole)
                tried.add(name)
                watch = None if errors else self._watch
                return await self.targets[name].open(ask, ctx, whole, watch, self._until(order, tried, ctx))
            except self._passes as error:
                errors.append(error)
        raise next((e for e in errors if not isinstance(e, Resting)), errors[0])

    def _until(self, order: Sequence[str], tried: Collection[str], ctx: AskContext) -> float | None:
        """When the reply of the one that is asked now must have begun (time.monotonic): half of the time that is left
        is kept while another can be asked. None: the request's own deadline is enough."""
        left = ctx.left_s
        if left == float("inf") or not any(self.targets[n].attempt.breaker.lets_in for n in order if n not in tried):
            return None
        return time.monotonic() + left * KEPT

    async def _hedged(self, order: Sequence[str], tried: set[str], ask: ChatAsk, ctx: AskContext, whole: bool) -> Reply:
        one = self.targets[order[0]]
        other = self.targets[order[1]] if len(order) > 1 else one
        tried.add(one.name)

        def may() -> bool:
            if not other.attempt.breaker.lets_in or not self.budget.spend():
                return False
            tried.add(other.name)
            self.hedges += 1
            return True

        cost = self._cost(one, other, ask)
        return await hedged(one, other, self.hedge_s or 0.0, ask, ctx, whole, self._watch, may, cost,
                            lambda: self._until(order, tried, ctx))

    def _cost(self, one: Retried, other: Retried, ask: ChatAsk) -> Callable[[ChatAnswer], Usage]:
        """What the request that lost is taken to have cost: the prompt, and an answer as long as the one that won."""

        def cost(won: ChatAnswer) -> Usage:
            lost = one if won.route == other.name else other
            facts = lost.attempt.facts
            tokens_in, tokens_out = won.usage.tokens_in or facts.tokens(ask), won.usage.tokens_out
            return Usage(tokens_in=tokens_in, tokens_out=tokens_out, usd=facts.usd(tokens_in, tokens_out))

        return cost
