"""Asking the same target again, within a budget, so that retries cannot become the load that keeps it down."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

from bucle.core.engine import AskContext, ChatAsk
from bucle.core.errors import ModelUnavailable
from bucle.models.endpoint import Refused
from bucle.models.engines.queued import Crowded
from bucle.serve.routing.attempt import Attempt
from bucle.serve.routing.breaker import Resting
from bucle.serve.routing.opening import Layer, Outcome, Reply

__all__ = ["Retried", "RetryBudget", "backoff"]

RESERVE = 10.0
"""Retries that a quiet route may have made before its traffic paid for them."""
BASE_S, LONGEST_S = 0.1, 2.0


class RetryBudget:
    """Each request pays `share` in, each retry or hedge takes 1 out; at most RESERVE is kept. So of N requests at most
    share * N + RESERVE are asked again. (Finagle's RetryBudget; Beyer et al., Site Reliability Engineering, 2016,
    chapter 21.)"""

    def __init__(self, share: float) -> None:
        self.share, self._kept = share, RESERVE if share else 0.0
        self.spent = self.refused = 0

    def earn(self) -> None:
        self._kept = min(RESERVE, self._kept + self.share)

    def spend(self) -> bool:
        """Take one out; whether there was one."""
        paid = self._kept >= 1 - 1e-9
        self._kept -= paid
        self.spent += paid
        self.refused += not paid
        return paid


def backoff(again: int, rng: random.Random) -> float:
    """Seconds before try `again` (from 0): anywhere up to 0.1, 0.2, 0.4 … 2 (full jitter: Brooker, Exponential Backoff
    and Jitter, AWS 2015)."""
    return rng.uniform(0.0, min(LONGEST_S, BASE_S * 2.0**again))


class Retried(Layer):
    """An attempt, made again up to `retries` times after an error that may pass, where the budget and the time allow.

    Not again: after Refused, where the target rests or asks for a pause above 2 s, and where it may have acted.
    """

    def __init__(self, attempt: Attempt, retries: int, budget: RetryBudget, rng: random.Random,
                 sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self.attempt, self.retries, self.budget, self._rng, self._sleep = attempt, retries, budget, rng, sleep
        self.name = attempt.name

    @property
    def offers(self) -> frozenset[str]:
        return self.attempt.offers

    async def open(self, ask: ChatAsk, ctx: AskContext, whole: bool, watch: Outcome | None = None,
                   until: float | None = None) -> Reply:
        again = 0
        while True:
            try:
                return await self.attempt.open(ask, ctx, whole, watch if not again else None, until)
            except ModelUnavailable as error:
                left = ctx.left_s if until is None else until - time.monotonic()
                pause = self._pause(error, again, ctx, left)
                if pause is None or not self.budget.spend():
                    raise
            await self._sleep(pause)
            again += 1

    def _pause(self, error: ModelUnavailable, again: int, ctx: AskContext, left_s: float) -> float | None:
        """Seconds to wait before it is asked again, or None: it is not."""
        if again >= self.retries or isinstance(error, Refused | Resting | Crowded) or ctx.acted:
            return None
        if not self.attempt.breaker.lets_in:
            return None
        pause = max(backoff(again, self._rng), getattr(error, "retry_after", None) or 0.0)
        return pause if pause <= LONGEST_S and pause < left_s else None
