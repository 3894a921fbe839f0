"""Fallbacks, retries, breakers and hedges of a route."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from routing_engines import Told, attempts, one, pieces_of, say

from bucle.core.engine import AskContext, ChatAnswer, ChatAsk, Delta, added
from bucle.core.errors import BadInput, BucleError, ContextOverflow, ModelUnavailable
from bucle.core.serving import RouteRule
from bucle.models.endpoint import RateLimited, Refused, TimedOut
from bucle.serve.routing import TargetFacts, build_routes
from bucle.serve.routing.breaker import Breaker, Resting
from bucle.serve.routing.retry import BASE_S, LONGEST_S, RESERVE, RetryBudget, backoff

GONE = ModelUnavailable("gone")


def ask(engine, text="hola", **context):  # type: ignore[no-untyped-def]
    ctx = AskContext(**{"trace": "t", "identity": "ana", **context})
    return asyncio.run(engine.complete(say(text), ctx)), ctx


@pytest.mark.parametrize("error", [GONE, RateLimited("later"), TimedOut("slow"), Refused("no key")])
def test_the_next_is_asked_where_the_chosen_one_fails(error: BucleError) -> None:
    route = one({"to": [{"to": "a"}], "fallback": ["b", "c"], "retries": 0},
                Told("a", always=error), Told("b", always=error), Told("c"), facts={"c": TargetFacts(release="r7")})
    answer, ctx = ask(route)
    assert (answer.text, answer.route, answer.release, answer.served_by) == ("c: hola", "c", "r7", "c")
    kind = type(error).__name__
    assert attempts(ctx) == [("a", kind), ("b", kind), ("c", "")]
    assert route.standing()["fallbacks"] == 2


@pytest.mark.parametrize("error", [BadInput("bad"), ContextOverflow("long"), ValueError("a mistake")])
def test_what_the_asker_did_wrong_is_nobody_elses_to_answer(error: Exception) -> None:
    spare = Told("b")
    route = one({"to": [{"to": "a"}], "fallback": ["b"]}, Told("a", always=error), spare)
    with pytest.raises(type(error)):
        ask(route)
    assert spare.asked == []


def test_the_first_real_error_is_told_where_all_fail() -> None:
    route = one({"to": [{"to": "a"}], "fallback": ["b"], "retries": 0},
                Told("a", always=RateLimited("wait", retry_after=7.0)), Told("b", always=GONE))
    with pytest.raises(RateLimited) as caught:
        ask(route)
    assert caught.value.retry_after == 7.0


def test_nothing_is_asked_again_where_an_engine_may_have_acted() -> None:
    chain, spare = Told("a", always=GONE, acts=True), Told("b")
    with pytest.raises(ModelUnavailable):
        ask(one({"to": [{"to": "a"}], "fallback": ["b"], "retries": 3}, chain, spare))
    assert (len(chain.asked), len(spare.asked)) == (1, 0)


def test_a_stream_falls_back_before_its_first_piece_and_never_after() -> None:
    broken = Told("a", breaks=GONE)
    route = one({"to": [{"to": "a"}], "fallback": ["b"], "retries": 0}, Told("a", fails=[GONE]), Told("b"))
    pieces = asyncio.run(pieces_of(route, say("hola")))
    assert pieces[0] == Delta("b: ")
    assert isinstance(pieces[-1], ChatAnswer)
    assert pieces[-1].route == "b"

    async def break_off() -> list[object]:
        seen: list[object] = []
        stream = one({"to": [{"to": "a"}], "fallback": ["b"]}, broken, Told("b")).stream(say("hola"), AskContext())
        seen.append(await anext(stream))
        with pytest.raises(ModelUnavailable):
            await anext(stream)
        return seen

    assert asyncio.run(break_off()) == [Delta("a: ")]
    assert broken.open == 0


def test_a_reader_who_leaves_ends_the_work() -> None:
    engine = Told("a")

    async def leave() -> None:
        stream = one({"to": [{"to": "a"}]}, engine).stream(say("hola"), ctx := AskContext(trace="t"))
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
        assert attempts(ctx) == [("a", "cancelled")]

    asyncio.run(leave())
    assert engine.open == 0


def test_a_whole_stream_is_read_to_its_end() -> None:
    class Lingers(Told):
        async def stream(self, ask: ChatAsk, ctx: AskContext) -> AsyncIterator[Delta | ChatAnswer]:
            async for piece in super().stream(ask, ctx):
                yield piece
            self.ended = True  # where an engine of the wire gives its connection back

    engine = Lingers("a")
    for rule in ({}, {"cache": {}}, {"shadow": ["b"]}, {"hedge_ms": 50, "fallback": ["b"]}):
        engine.ended = False
        asyncio.run(pieces_of(one({"to": [{"to": "a"}], **rule}, engine, Told("b")), say("hola")))
        assert engine.ended


def test_retries_wait_as_asked_and_stop_at_the_deadline() -> None:
    twice = Told("a", fails=[RateLimited("wait", retry_after=0.05), GONE])
    began = time.perf_counter()
    answer, ctx = ask(one({"to": [{"to": "a"}], "retries": 2}, twice))
    assert answer.text == "a: hola"
    assert [error for _, error in attempts(ctx)] == ["RateLimited", "ModelUnavailable", ""]
    assert time.perf_counter() - began >= 0.05

    for error, context in ((RateLimited("wait", retry_after=30.0), {}), (Refused("no key"), {}),
                           (RateLimited("wait", retry_after=0.9), {"deadline": time.monotonic() + 0.5})):
        failing = Told("a", always=error)
        with pytest.raises(type(error)):
            ask(one({"to": [{"to": "a"}], "retries": 5}, failing), **context)
        assert len(failing.asked) == 1
    with pytest.raises(TimedOut):
        ask(one({"to": [{"to": "a"}]}, Told("a")), deadline=time.monotonic() - 1)


def test_retries_are_paid_from_the_traffic() -> None:
    failing = Told("a", always=GONE)
    route = one({"to": [{"to": "a"}], "retries": 1, "retry_share": 0.1, "breaker": 10_000}, failing)
    route.chain.targets["a"]._sleep = lambda _: asyncio.sleep(0)

    async def many() -> None:
        for n in range(200):
            with pytest.raises(ModelUnavailable):
                await route.complete(say(str(n)), AskContext(trace=str(n)))

    asyncio.run(many())
    assert 200 < len(failing.asked) <= 200 * 1.1 + RESERVE
    assert route.standing()["retries"]["refused"] > 0


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 1), asks=st.lists(st.integers(0, 4), max_size=200))
def test_the_budget_holds_whatever_comes(share: float, asks: list[int]) -> None:
    budget = RetryBudget(share)
    for wanted in asks:
        budget.earn()
        for _ in range(wanted):
            budget.spend()
    assert budget.spent <= share * len(asks) + RESERVE + 1e-6
    assert budget.spent + budget.refused == sum(asks)
    assert budget.spent == 0 or share > 0


@given(again=st.integers(0, 60), seed=st.integers(0, 99))
def test_pauses_grow_and_are_bounded(again: int, seed: int) -> None:
    assert 0 <= backoff(again, random.Random(seed)) <= min(LONGEST_S, BASE_S * 2.0**again)



    def __init__(self, failures: int, rest: float) -> None:
        self.failures, self.rest, self.row, self.until, self.probe = failures, rest, 0, None, False


@settings(max_examples=120, deadline=None)
@given(failures=st.integers(1, 4),
       steps=st.lists(st.tuples(st.sampled_from(["enter", "ok", "fail", "left", "wait"]), st.integers(1, 30)),
                      max_size=80))
def test_a_breaker_opens_after_so_many_and_lets_one_probe_through(
    failures: int, steps: list[tuple[str, int]]
) -> None:
    now = [0.0]
    breaker = Breaker("a", failures, 10.0, lambda: now[0])
    at_work: list[bool] = []
    row, opened_at = 0, None
    for step, seconds in steps:
        if step == "wait":
            now[0] += seconds
        elif step == "enter":
            may = opened_at is None or (now[0] >= opened_at + 10.0 and not any(at_work))
            if may:
                at_work.append(breaker.enter())
                assert at_work[-1] == (opened_at is not None)
            else:
                with pytest.raises(Resting) as caught:
                    breaker.enter()
                assert 0 <= (caught.value.retry_after or 0.0) <= 10.0
            assert sum(at_work) <= 1, "one probe at a time"
        elif at_work:
            probe = at_work.pop(0)
            {"ok": breaker.succeeded, "fail": breaker.failed, "left": breaker.left}[step](probe)
            if step == "fail":
                row += 1
                if probe or row >= failures:
                    opened_at = now[0]
            elif step == "ok" and (probe or opened_at is None):
                row, opened_at = 0, None
        assert (breaker.state == "closed") == (opened_at is None)


def test_a_resting_target_is_not_asked_and_its_probe_brings_it_back() -> None:
    now = [0.0]
    sick, spare = Told("a", fails=[GONE] * 3), Told("b")
    route = one({"to": [{"to": "a"}], "fallback": ["b"], "retries": 0, "breaker": 3, "breaker_s": 30}, sick, spare,
                clock=lambda: now[0])
    for _ in range(5):
        assert ask(route)[0].route == "b"
    assert len(sick.asked) == 3
    assert route.standing()["targets"]["a"]["breaker"] == "open"
    assert attempts(ask(route)[1]) == [("a", "Resting"), ("b", "")]
    now[0] = 31.0
    assert ask(route)[0].route == "a"
    assert route.standing()["targets"]["a"]["breaker"] == "closed"


def test_a_pause_that_a_provider_asks_for_is_kept_by_all() -> None:
    now = [0.0]
    limited = Told("a", fails=[RateLimited("wait", retry_after=20.0)])
    route = one({"to": [{"to": "a"}]}, limited, clock=lambda: now[0])
    for _ in range(3):
        with pytest.raises(RateLimited):
            ask(route)
    assert len(limited.asked) == 1
    now[0] = 20.5
    assert ask(route)[0].route == "a"


def test_what_rests_inside_a_route_does_not_rest_the_route() -> None:
    limited = Told("a", always=RateLimited("wait", retry_after=60.0))
    rules = {"outer": {"to": [{"to": "inner"}]}, "inner": {"to": [{"to": "a"}, {"to": "b"}]}}
    outer = build_routes({k: RouteRule.model_validate(v) for k, v in rules.items()}, {"a": limited, "b": Told("b")},
                         {})["outer"]

    async def everybody() -> list[str]:
        found = []
        for n in range(30):
            try:
                found.append((await outer.complete(say("hola"), AskContext(trace=str(n), identity=f"u{n}"))).route)
            except RateLimited:
                found.append("limited")
        return found

    assert set(asyncio.run(everybody())) == {"limited", "b"}
    assert len(limited.asked) == 1


def test_a_second_one_answers_where_the_first_is_silent() -> None:
    slow, quick = Told("a", waits=5.0), Told("b")
    facts = {"a": TargetFacts(price_in=100.0, price_out=1000.0), "b": TargetFacts(price_in=1.0)}
    route = one({"to": [{"to": "a"}], "fallback": ["b"], "hedge_ms": 10}, slow, quick, facts=facts)
    answer, ctx = ask(route)
    assert (answer.route, slow.cancelled) == ("b", 1)
    assert answer.usage.usd == 0.001
    assert [u.usd for u in ctx.spent] == [pytest.approx((100 * 10 + 1000 * 5) / 1e6)]
    assert ctx.estimated
    assert sorted(attempts(ctx)) == [("a", "hedged"), ("b", "")]

    ctx = AskContext(trace="t")
    pieces = asyncio.run(pieces_of(one({"to": [{"to": "a"}], "fallback": ["b"], "hedge_ms": 10}, slow, quick,
                                       facts=facts), say("hola"), ctx))
    assert pieces[0] == Delta("b: ")
    assert added(pieces[-1].usage, *ctx.spent).usd == pytest.approx(0.007)  # type: ignore[union-attr]
    assert slow.open == 0


def test_one_that_speaks_in_time_is_not_hedged_and_one_alone_is_asked_twice() -> None:
    calm, spare = Told("a"), Told("b")
    assert ask(one({"to": [{"to": "a"}], "fallback": ["b"], "hedge_ms": 500}, calm, spare))[0].usage.usd == 0.001
    assert spare.asked == []
    alone = Told("a", waits=0.2)
    assert ask(one({"to": [{"to": "a"}], "hedge_ms": 100}, alone))[0].route == "a"
    assert (len(alone.asked), alone.cancelled) == (2, 1)
    broke = Told("a", waits=0.05)
    ask(one({"to": [{"to": "a"}], "hedge_ms": 10, "retry_share": 0}, broke))
    assert len(broke.asked) == 1, "a hedge is paid from the budget of retries"
    acting = Told("a", waits=0.05, acts=True)
    ask(one({"to": [{"to": "a"}], "hedge_ms": 10}, acting))
    assert len(acting.asked) == 1, "one that may act elsewhere is not asked twice"


def test_a_hedge_that_fails_leaves_the_first_to_answer_and_both_failing_go_on() -> None:
    slow, sick, last = Told("a", waits=0.05), Told("b", always=GONE), Told("c")
    rule = {"to": [{"to": "a"}], "fallback": ["b", "c"], "hedge_ms": 10, "retries": 0}
    assert ask(one(rule, slow, sick, last))[0].route == "a"
    slow.always = GONE
    answer, ctx = ask(one(rule, slow, sick, last))
    assert answer.route == "c"
    assert sorted(attempts(ctx)) == [("a", "ModelUnavailable"), ("b", "ModelUnavailable"), ("c", "")]


def test_whoever_asks_and_leaves_takes_both_along() -> None:
    slow, slower = Told("a", waits=5), Told("b", waits=5)

    async def leave() -> None:
        route = one({"to": [{"to": "a"}], "fallback": ["b"], "hedge_ms": 5}, slow, slower)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(route.complete(say("hola"), AskContext(trace="t")), 0.05)
        await asyncio.sleep(0)

    asyncio.run(leave())
    assert (slow.cancelled, slower.cancelled) == (1, 1)


def test_a_storm_leaves_no_task_no_stream_and_no_probe_behind() -> None:
    """Clients that leave, errors of every kind, streams that break off, through a route in a route with all it has."""
    rng = random.Random(1)
    kinds = (GONE, RateLimited("x", retry_after=0.01), BadInput("y"), ValueError("z"), TimedOut("t"))

    class Wild(Told):
        async def _begin(self, ask: ChatAsk, ctx: AskContext) -> ChatAnswer:
            self.waits, self.always = rng.choice([0, 0, 0.001, 0.02]), rng.choice([*[None] * 8, *kinds])
            return await super()._begin(ask, ctx)

    engines = {name: Wild(name) for name in "abcd"}
    rules = {
        "in": {"to": [{"to": "a", "weight": 9}, {"to": "b"}], "canary": {"min_requests": 10}, "fallback": ["c"],
               "hedge_ms": 4, "breaker": 3, "breaker_s": 0.02, "retries": 2, "retry_share": 0.5},
        "out": {"to": [{"to": "in"}, {"to": "c"}], "prefer": "latency", "shadow": ["d"], "cache": {"entries": 9}},
    }
    routes = build_routes({k: RouteRule.model_validate(v) for k, v in rules.items()}, engines, {}, seed=2)
    answered = 0

    async def client(who: int) -> None:
        nonlocal answered
        for n in range(12):
            ctx, asked = AskContext(trace=f"{who}-{n}", identity=str(who)), say(str(rng.randrange(30)))
            try:
                async with asyncio.timeout(rng.choice([0.003, 0.5])):
                    if rng.random() < 0.5:
                        assert (await routes["out"].complete(asked, ctx)).text.endswith(f": {asked.text}")
                    else:
                        async with contextlib.aclosing(routes["out"].stream(asked, ctx)) as stream:
                            async for _ in stream:
                                if rng.random() < 0.1:
                                    break
                    answered += 1
            except (BucleError, TimeoutError, ValueError):
                continue

    async def storm() -> None:
        await asyncio.gather(*(client(who) for who in range(24)))
        for route in routes.values():
            await route.close()
        await asyncio.sleep(0.05)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(storm())
    assert answered > 50
    assert [engine.open for engine in engines.values()] == [0] * 4
    assert not any(t.attempt.breaker._probing for route in routes.values() for t in route.chain.targets.values())


@pytest.mark.parametrize("stream", [False, True])
def test_a_silent_one_leaves_the_next_half_of_the_time(stream: bool) -> None:
    silent, spare = Told("a", waits=9.0), Told("b")
    rule = {"to": [{"to": "a"}], "fallback": ["b"], "retries": 2}
    route, ctx = one(rule, silent, spare), AskContext(trace="t", deadline=time.monotonic() + 0.4)
    answer = asyncio.run(pieces_of(route, say("hola"), ctx))[-1] if stream else \
        asyncio.run(route.complete(say("hola"), ctx))
    assert answer.route == "b"  # type: ignore[union-attr]
    assert attempts(ctx) == [("a", "TimedOut"), ("b", "")]
    assert (silent.cancelled, silent.open, ctx.left_s > 0.05) == (1, 0, True)
    assert route.chain.targets["a"].attempt.breaker.in_a_row == 1, "it was too slow, and nobody left"


def test_what_has_begun_or_has_nothing_behind_it_may_take_all_the_time() -> None:
    class Slow(Told):
        async def stream(self, ask: ChatAsk, ctx: AskContext) -> AsyncIterator[Delta | ChatAnswer]:
            async for piece in super().stream(ask, ctx):
                yield piece
                await asyncio.sleep(0.15)

    def deadline() -> AskContext:
        return AskContext(trace="t", deadline=time.monotonic() + 0.4)

    rule = {"to": [{"to": "a"}], "fallback": ["b"], "retries": 0, "breaker": 1}
    assert asyncio.run(pieces_of(one(rule, Slow("a"), Told("b")), say("hola"), deadline()))[-1].route == "a"  # type: ignore[union-attr]
    route = one(rule, Told("a", waits=0.25), Told("b", always=GONE))
    route.chain.targets["b"].attempt.breaker.failed()
    assert asyncio.run(route.complete(say("hola"), deadline())).route == "a", "what rests is not waited for"
