"""A second request where the first is silent: the sooner one answers, the other is cancelled, both are paid.

Dean & Barroso 2013, The Tail at Scale, CACM 56(2).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from bucle.core.engine import AskContext, ChatAnswer, ChatAsk
from bucle.core.records import Usage
from bucle.serve.routing.attempt import HEDGED
from bucle.serve.routing.opening import Outcome, Reply, marked
from bucle.serve.routing.retry import Retried

__all__ = ["hedged"]

LET_GO_S = 0.05
"""How long the winner waits for the other one to let go, and to say whether its work goes on."""


async def hedged(one: Retried, other: Retried, after_s: float, ask: ChatAsk, ctx: AskContext, whole: bool,
                 watch: Outcome | None, may: Callable[[], bool], cost: Callable[[ChatAnswer], Usage],
                 until: Callable[[], float | None]) -> Reply:
    """The first reply to begin. `other` is asked once `one` was silent for `after_s`, if `may` says so then and `one`
    did nothing elsewhere yet; it makes one attempt. `until` says when the one that is asked
    now must have begun. What the loser cost goes to `ctx.spent`: its engine tells, else `cost` is what it is taken to
    be, by the answer that won. Raises what `one` raised where both failed."""
    first = asyncio.ensure_future(one.open(ask, ctx, whole, watch, until()))
    tasks, told = [first], len(ctx.spent)
    try:
        await asyncio.wait(tasks, timeout=after_s)
        if first.done() or ctx.acted or not may():
            return await first
        tasks.append(asyncio.ensure_future(other.attempt.open(ask, ctx, whole, None, until())))
        pending = set(tasks)
        while pending:
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            won = next((t for t in tasks if t.done() and not t.cancelled() and t.exception() is None), None)
            if won is not None:
                return await _settled(won, next(t for t in tasks if t is not won), ctx, told, cost)
        return await first
    finally:
        for task in tasks:
            task.cancel()  # no more than a word to one that is done
            task.add_done_callback(_looked_at)


def _looked_at(task: asyncio.Future[Reply]) -> None:
    """So that nobody warns of an error that nobody needs."""
    if not task.cancelled():
        task.exception()


async def _settled(won: asyncio.Future[Reply], lost: asyncio.Future[Reply], ctx: AskContext, told: int,
                   cost: Callable[[ChatAnswer], Usage]) -> Reply:
    late = len(ctx.late)
    if not lost.done():
        lost.cancel(HEDGED)
        await asyncio.wait({lost}, timeout=LET_GO_S)
    reply = won.result()
    if lost.done() and not lost.cancelled():
        if lost.exception() is not None:
            return reply
        other = lost.result()  # both began at the same moment
        await other.close()
        if isinstance(other.first, ChatAnswer):
            ctx.spend(other.first.usage, estimated=False)
            return reply
    if len(ctx.late) > late or len(ctx.spent) > told:  # it cannot be stopped, and tells later; or has told
        return reply

    def paid(answer: ChatAnswer) -> ChatAnswer:
        ctx.spend(cost(answer))
        return answer

    return marked(reply, paid)
