"""Who waits for a place of a remote model: in order, in the request's own time, at nobody's cost."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from routing_engines import Told, attempts, one, pieces_of, say

from bucle.core.engine import AskContext, ChatAnswer
from bucle.models.engines.queued import Crowded, Queued
from bucle.serve.errors import from_exception


def ctx(seconds: float) -> AskContext:
    return AskContext(trace="t", deadline=time.monotonic() + seconds)


async def gathered(*asked: Any) -> list[Any]:
    return list(await asyncio.gather(*asked, return_exceptions=True))


@pytest.mark.parametrize("stream", [False, True])
def test_those_who_wait_are_not_asked_and_rest_nobody(stream: bool) -> None:
    async def go() -> None:
        slow = Told("slow", waits=0.3)
        route = one({"to": [{"to": "slow"}], "breaker": 2, "retries": 2}, Queued(slow, 2))

        async def asks(seconds: float) -> Any:
            own = ctx(seconds)
            return (await pieces_of(route, say("x"), own))[-1] if stream else await route.complete(say("x"), own)

        found = await gathered(*(asks(0.34) for _ in range(12)))
        assert [type(f) for f in found] == [ChatAnswer] * 2 + [Crowded] * 10
        assert len(slow.asked) == 2, "nothing was sent for the others, nor was any asked again"
        told = from_exception(found[-1])
        assert (told.status, told.code, told.headers) == (503, "overloaded", {"retry-after": "1"})
        assert isinstance(await asks(5), ChatAnswer), "and the breaker is as it was"
        assert slow.open == 0

    asyncio.run(go())


def test_a_place_that_becomes_free_is_taken_and_one_who_leaves_takes_none() -> None:
    async def go() -> None:
        slow = Told("slow", waits=0.05)
        queued = Queued(slow, 1)
        waiting = [asyncio.create_task(queued.complete(say(str(n)), ctx(5))) for n in range(5)]
        await asyncio.sleep(0.01)
        waiting[2].cancel()
        found = await gathered(*waiting)
        assert [isinstance(f, ChatAnswer) for f in found] == [True, True, False, True, True]
        assert [ask.text for ask in slow.asked] == ["0", "1", "3", "4"]
        own = ctx(5)
        await gathered(queued.complete(say("a"), ctx(5)), queued.complete(say("b"), own))
        assert [s["name"] for s in own.spans] == ["queue"]

    asyncio.run(go())


def test_one_whose_place_comes_too_late_is_not_sent() -> None:
    async def go() -> None:
        slow = Told("slow", waits=0.3)
        queued = Queued(slow, 1)
        found = await gathered(*(queued.complete(say(str(n)), ctx(0.8)) for n in range(3)))
        assert [type(f) for f in found] == [ChatAnswer, ChatAnswer, Crowded]
        assert len(slow.asked) == 2, "it would have been given up half-way, paid for, and counted by a breaker"
        assert isinstance(await queued.complete(say("x"), ctx(0.2)), ChatAnswer), "who need not wait is asked"

    asyncio.run(go())


def test_another_target_is_asked_where_the_first_has_no_place() -> None:
    async def go() -> None:
        slow, other = Told("slow", waits=0.9), Told("other")
        route = one({"to": [{"to": "slow"}], "fallback": ["other"], "breaker": 1, "retries": 0}, Queued(slow, 1), other)
        first, own = asyncio.create_task(route.complete(say("x"), ctx(2.5))), ctx(0.6)
        await asyncio.sleep(0.01)
        assert (await route.complete(say("x"), own)).text == "other: x"
        assert attempts(own) == [("slow", "Crowded"), ("other", "")]
        assert (await first).text == "slow: x"

    asyncio.run(go())
