"""The canary's gate: what it stops, how sure it is, who hears of it; shadows."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from routing_engines import Told, attempts, one, pieces_of, say
from scipy.stats import binom

from bucle.core.engine import AskContext
from bucle.core.errors import BadInput, ModelUnavailable, NotFound
from bucle.core.records import Trace
from bucle.core.serving import Canary
from bucle.evaluate.sequential import GAPS, Shares, Times, _fewest, later_quantile, log_bets, log_mean
from bucle.serve.routing import ShadowRun, TargetFacts
from bucle.serve.routing.gate import Gate, RollBacks

CANARY = {"to": [{"to": "old", "weight": 50}, {"to": "new", "weight": 50}], "retries": 0, "breaker": 1000,
          "canary": {"min_requests": 20}}
SHADOW = {"to": [{"to": "a"}], "shadow": ["shadow"]}


@settings(max_examples=150, deadline=None)
@given(seen=st.tuples(st.integers(0, 50), st.integers(50, 500)), n_old=st.integers(1, 6), n_new=st.integers(1, 4),
       old=st.integers(0, 1000), under=st.floats(0, 1), margin=st.sampled_from([0.0, 0.02, 0.3]), better=st.booleans())
def test_a_bet_gains_nothing_on_average_where_the_null_holds(  # of all outcomes of a block, exactly
    seen: tuple[int, int], n_old: int, n_new: int, old: float, under: float, margin: float, better: bool
) -> None:
    old = old / 1000
    under = round(under, 3)
    edge = min(1.0, old + margin)
    new = edge + under * (1 - edge) if better else edge * (1 - under)
    if better and old + margin > 1:
        return  # no share is so high
    k1, k2 = np.meshgrid(np.arange(n_old + 1), np.arange(n_new + 1))
    chance = binom.pmf(k1, n_old, old) * binom.pmf(k2, n_new, new)
    logs = log_bets(np.full(k1.shape, seen[0]), np.full(k1.shape, seen[1]), k1, np.full(k1.shape, n_old), k2,
                    np.full(k1.shape, n_new), margin, better=better)
    means = (np.exp(logs) * chance[..., None]).sum(axis=(0, 1))
    assert (means <= 1 + 1e-6).all(), means


def counted(margin: float, outcomes: Iterable[tuple[bool, bool]], **how: bool) -> float:
    shares = Shares(margin, **how)
    for new, bad in outcomes:
        shares.add(new, bad)
    return shares.log_evidence


def test_evidence_grows_with_what_is_worse_and_its_opposite_with_what_is_not() -> None:
    rng = np.random.default_rng(0)
    worse = [(n % 5 == 0, bool(rng.random() < (0.3 if n % 5 == 0 else 0.01))) for n in range(2000)]
    same = [(n % 5 == 0, bool(rng.random() < 0.01)) for n in range(5000)]
    assert counted(0.02, []) == 0.0
    assert counted(0.02, worse) > 20 > 0 > counted(0.02, same)
    assert counted(0.05, same, better=True) > 5 > 0 > counted(0.05, worse, better=True)
    outage = [(n % 5 == 0, 500 < n < 700) for n in range(2000)]
    assert counted(0.02, outage) < 1, "what befalls both is nobody's fault"
    with pytest.raises(BadInput):
        log_bets(0, 0, 3, 2, 0, 1, 0.02)


@pytest.mark.parametrize(("old", "new", "margin"), [(0.01, 0.03, 0.02), (0.2, 0.2, 0.0)])
def test_looking_after_each_request_keeps_the_level(old: float, new: float, margin: float) -> None:
    """2,000 runs of 150 requests of the canary and 1,350 of the other, at the very edge of what is allowed."""
    rng, runs, level = np.random.default_rng(5), 2000, 0.05
    logs, k1, wrong, each = np.zeros((runs, len(GAPS))), np.zeros(runs), np.zeros(runs, dtype=bool), np.ones(runs)
    for step in range(150):
        bad = rng.binomial(9, old, runs)
        logs += log_bets(k1, each * 9 * step, bad, each * 9, rng.random(runs) < new, each, margin)
        k1 += bad
        wrong |= log_mean(logs) >= math.log(1 / level)
    assert 0 < wrong.mean() <= level + 3 * math.sqrt(level * (1 - level) / runs)


def test_the_bounds_of_a_quantile_hold_at_all_times() -> None:
    """2,000 runs of 2,000 answers: how often the count above the true p95 ever says that it lies elsewhere."""
    rng, runs, level = np.random.default_rng(6), 2000, 0.05
    above = np.cumsum(rng.random((runs, 2000)) < 0.05, axis=1)
    steps = np.arange(1, 2001)
    high = np.array([_fewest(int(n), 0.05, level) for n in steps])
    low = np.array([_fewest(int(n), 0.95, level) for n in steps])
    for wrong in ((above >= high).any(axis=1), (steps - above >= low).any(axis=1)):
        assert 0 < wrong.mean() <= level + 3 * math.sqrt(level * (1 - level) / runs)


def test_quantiles_are_bounded_from_both_sides_and_slower_is_seen() -> None:
    rng, times, slow = np.random.default_rng(1), Times(), Times()
    truth = 100 * math.exp(0.5 * 1.6449)
    assert (times.quantile(0.95), times.low(0.95, 0.01), times.high(0.95, 0.01)) == (0.0, 0.0, math.inf)
    for ms in 100 * np.exp(0.5 * rng.standard_normal(3000)):
        times.add(float(ms))
        slow.add(float(ms) * 2.6)
    assert times.low(0.95, 0.01) < truth < times.high(0.95, 0.01) < 1.2 * truth
    assert times.quantile(0.95) == pytest.approx(truth, rel=0.1)
    assert later_quantile(slow, times, 0.95, 2.0, 0.01)
    assert not later_quantile(slow, times, 0.95, 2.5, 0.01)
    for odd in (0.0, 1e-9, math.inf, 1e300):
        times.add(odd)
    assert times.n == 3004


def gate(**rule: float) -> tuple[Gate, RollBacks, list[tuple[str, str, str]]]:
    heard: list[tuple[str, str, str]] = []
    rollbacks = RollBacks("r", (), lambda *told: heard.append(told), now=lambda: 7.0)
    return Gate(Canary.model_validate(rule), "old", ["new", "other"], rollbacks), rollbacks, heard


@pytest.mark.parametrize(("fault", "breaks", "within"), [("errors", "errors", 60), ("slow", "p95", 400),
                                                         ("ratings", "bad_ratings", 400)])
def test_a_planted_fault_is_caught_and_told_once(fault: str, breaks: str, within: int) -> None:
    rng, (watching, rollbacks, heard) = np.random.default_rng(2), gate()
    for n in range(within):
        for _ in range(9):
            watching.outcome("old", bool(rng.random() > 0.01), 100 * math.exp(0.5 * rng.standard_normal()))
            watching.rated("old", -1 if rng.random() < 0.2 else 1, f"o{n}{rng.random()}")
        ms = 100 * math.exp(0.5 * rng.standard_normal()) * (5 if fault == "slow" else 1)
        watching.outcome("new", not (fault == "errors" and rng.random() < 0.5), ms)
        watching.outcome("other", True, 100.0)
        watching.rated("new", -1 if rng.random() < (0.9 if fault == "ratings" else 0.2) else 1, f"n{n}")
    assert [(route, target) for route, target, _ in heard] == [("r", "new")]
    assert [(b.gate, b.at, b.restored) for b in rollbacks.history] == [(breaks, 7.0, False)]
    assert rollbacks.history[0].figures["new"]["requests"] >= 50
    assert "of old" in heard[0][2]
    assert watching.figures()["other"]["evidence"]["errors"] < 1


def test_one_user_who_rates_a_thousand_times_is_one_user() -> None:
    watching, rollbacks, _ = gate()
    for n in range(200):
        watching.outcome("old", True, 10.0)
        watching.outcome("new", True, 10.0)
        watching.rated("old", 1, f"user {n}")
    assert sum(watching.rated("new", -1, "user spiteful") for _ in range(1000)) == 1
    assert not rollbacks.stopped


def serve(route, requests: int, start: int = 0) -> list[tuple[str, str]]:  # type: ignore[no-untyped-def]
    async def all_of_them() -> list[tuple[str, str]]:
        found = []
        for n in range(start, start + requests):
            ctx = AskContext(trace=f"t{n}", identity=f"u{n}")
            try:
                found.append((f"u{n}", (await route.complete(say("hola"), ctx)).route))
            except ModelUnavailable:
                found.append((f"u{n}", "failed"))
        return found

    return asyncio.run(all_of_them())


def test_a_route_rolls_a_failing_canary_back_and_a_person_may_restore_it() -> None:
    sick, heard = Told("new", always=ModelUnavailable("gone")), []
    route = one(CANARY, Told("old"), sick, on_rollback=lambda *told: heard.append(told))
    first = serve(route, 120)
    failed = {user for user, by in first if by == "failed"}
    assert 20 <= len(failed) <= 40
    assert heard[0][:2] == ("r", "new")
    assert len(heard) == 1
    again = dict(serve(route, 120))
    assert {again[user] for user in failed} == {"old"}, "a rolled back user moves to the first target"
    assert route.standing()["targets"]["new"] == {"share": 0.0, "release": "", "breaker": "closed", "opened": 0,
                                                  "attempts": {"ModelUnavailable": len(failed)}, "rolled_back": True}
    asked = len(sick.asked)
    sick.always = None
    route.restore("new")
    assert dict(serve(route, 120))[next(iter(failed))] == "new"
    assert len(sick.asked) > asked
    assert route.standing()["canary"]["new"]["new"]["errors"] == 0, "its comparison begins anew"
    assert [(b["gate"], b["restored"]) for b in route.standing()["rollbacks"]] == [("errors", False), ("hand", True)]


def test_by_hand_and_after_a_restart(caplog: pytest.LogCaptureFixture) -> None:
    route = one(CANARY, Told("old"), Told("new"), rolled_back={"r": ["new", "gone since"]})  # told to nobody: logged
    assert {by for _, by in serve(route, 40)} == {"old"}
    route.restore("new")
    assert {by for _, by in serve(route, 40)} == {"old", "new"}
    with caplog.at_level(logging.WARNING):
        route.roll_back("new", "the answers are rude")
    assert "r: new is rolled back: the answers are rude" in caplog.text
    assert {by for _, by in serve(route, 40)} == {"old"}
    for wrong in ("old", "nobody"):
        with pytest.raises(NotFound):
            route.roll_back(wrong)
    route.restore("new")
    with pytest.raises(NotFound):
        route.restore("new")


def test_what_the_asker_did_wrong_or_left_is_nobodys_error() -> None:
    route = one({**CANARY, "hedge_ms": 20}, Told("old"), Told("new", always=BadInput("bad")))
    ctx = [AskContext(trace=str(n), identity=f"u{n}") for n in range(60)]

    async def run() -> None:
        for one_ctx in ctx:
            try:
                await route.complete(say("hola"), one_ctx)
            except BadInput:
                continue

    asyncio.run(run())
    figures = route.standing()["canary"]["new"]
    assert (figures["new"]["requests"], figures["old"]["errors"]) == (0, 0)
    assert figures["old"]["requests"] > 10


def test_one_that_hangs_until_the_time_is_over_failed_and_one_whose_asker_left_did_not() -> None:
    route = one({**CANARY, "to": [{"to": "old"}, {"to": "new", "weight": 1000}]}, Told("old"), Told("new", waits=5))

    async def hang(user: str, seconds: float) -> AskContext:
        ctx = AskContext(trace=user, identity=user, deadline=time.monotonic() + 0.02)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(route.complete(say("hola"), ctx), seconds)
        return ctx

    async def both() -> tuple[AskContext, AskContext]:
        late = await hang("ana", 0.02)
        left = AskContext(trace="t", identity="ana", deadline=time.monotonic() + 9)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(route.complete(say("hola"), left), 0.01)
        return late, left

    late, left = asyncio.run(both())
    assert (attempts(late), attempts(left)) == ([("new", "TimedOut")], [("new", "cancelled")])
    figures = route.standing()["canary"]["new"]["new"]
    assert (figures["requests"], figures["errors"]) == (1, 1)


def test_what_a_hedge_cut_short_took_at_least_so_long() -> None:
    slow = Told("new", waits=5.0)
    route = one({**CANARY, "hedge_ms": 10, "fallback": ["spare"], "retry_share": 1.0}, Told("old"), slow, Told("spare"))
    serve(route, 30)
    figures = route.standing()["canary"]["new"]["new"]
    assert figures["requests"] == len(slow.asked) > 5
    assert figures["p95_ms"] >= 9
    assert figures["errors"] == 0


def test_ratings_find_the_target_that_answered() -> None:
    facts = {"old": TargetFacts(release="r1"), "new": TargetFacts(release="r2")}
    route = one({**CANARY, "fallback": ["old"]}, Told("old"), Told("new"), facts=facts)

    def trace(n: int, **said: object) -> Trace:
        return Trace.model_validate({"id": f"t{n}", "at": "", "received_at": "", "route": "r", "model": "m",
                                     "input": "", **said})

    spans = [{"name": "attempt", "route": "r", "target": "new"}]
    assert route.heard(trace(1, spans=spans), -1)
    assert not route.heard(trace(1, spans=spans), -1), "one trace, one rating"
    assert route.heard(trace(2, release="r1", user="ana"), 1)
    assert not route.heard(trace(3, release="r1", user="ana"), 1)
    assert not route.heard(trace(4, release="nobody's"), 1)
    assert not route.heard(trace(5, spans=spans, cached="exact"), -1)
    assert not route.heard(trace(6, spans=[{"name": "attempt", "route": "r", "target": "new", "error": "TimedOut"},
                                           {"name": "attempt", "route": "r", "target": "old"}]), -1)
    ratings = {k: v["ratings"] for k, v in route.standing()["canary"]["new"].items() if k != "evidence"}
    assert ratings == {"new": 1, "old": 1}
    assert not one({"to": [{"to": "a"}]}, Told("a")).heard(trace(7), 1)


def test_a_shadow_answers_nobody_and_delays_nobody() -> None:
    runs: list[ShadowRun] = []
    shadow = Told("shadow", waits=0.3, usd=9.0)
    route = one({**SHADOW, "shadow_parallel": 3}, Told("a"), shadow, on_shadow=runs.append,
                facts={"shadow": TargetFacts(release="r9")})

    async def ten() -> float:
        began = time.perf_counter()
        for n in range(5):
            ctx = AskContext(trace=str(n), identity="ana", access=frozenset({"staff"}), deadline=time.monotonic() + 1)
            answer = await route.complete(say("hola", stream=True), ctx)
            assert (answer.text, answer.usage.usd, attempts(ctx)) == ("a: hola", 0.001, [("a", "")])
        took = time.perf_counter() - began
        await asyncio.sleep(0.4)
        await route.close()
        return took

    assert asyncio.run(ten()) < 0.25
    assert route.standing()["shadow"] == {"shadow": {"asked": 3, "failed": 0, "dropped": 2, "unfit": 0}}
    assert [(r.route, r.target, r.release, r.error, r.ctx.trace) for r in runs] == [
        ("r", "shadow", "r9", "", str(n)) for n in range(3)]
    run = runs[0]
    assert run.answer is not None
    assert (run.answer.usage.usd, run.served.text, run.ctx.access) == (9.0, "a: hola", {"staff"})
    assert run.ctx.spans[0]["role"] == "shadow"
    assert not shadow.asked[0].stream


def test_a_shadow_that_fails_hangs_or_cannot_is_counted_and_its_listener_may_fail(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails(run: ShadowRun) -> None:
        heard.append(run.error)
        raise OSError("the ledger is full")

    heard: list[str] = []
    rule = {"to": [{"to": "a"}], "shadow": ["sick", "hangs", "mute"], "shadow_s": 0.03}
    sick, hangs, mute = Told("sick", always=ValueError("x")), Told("hangs", waits=60), Told("mute", offers=frozenset())
    route = one(rule, Told("a"), sick, hangs, mute, on_shadow=fails)

    async def once() -> None:
        await pieces_of(route, say("hola", max_tokens=3))
        await asyncio.sleep(0.15)

    asyncio.run(once())
    assert sorted(heard) == ["TimeoutError", "ValueError"]
    assert route.standing()["shadow"]["mute"]["unfit"] == 1
    assert "could not be told" in caplog.text


def test_a_share_of_the_requests_is_shadowed_and_none_that_failed_or_left() -> None:
    shadow = Told("shadow")
    route = one({**SHADOW, "shadow_share": 0.3, "shadow_parallel": 1000}, Told("a"), shadow)
    serve(route, 300)
    assert 60 < len(shadow.asked) < 120
    alone = Told("shadow")
    failing = one(SHADOW, Told("a", always=ModelUnavailable("gone")), alone)
    serve(failing, 3)

    async def leave() -> None:
        stream = one(SHADOW, Told("a"), alone).stream(say("x"), AskContext(trace="t"))
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
        await asyncio.sleep(0)

    asyncio.run(leave())
    assert alone.asked == []
