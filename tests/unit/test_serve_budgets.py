"""Budgets and limits: never over, whoever asks at once; what is enforced is what is recorded."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bucle.core.records import Trace, Usage
from bucle.core.serving import Allowance
from bucle.ledger import Ledger, TraceStore
from bucle.ledger.keys import Key
from bucle.ledger.spend import spent
from bucle.ledger.spend_watch import SpendWatch
from bucle.serve import budgets
from bucle.serve.budgets import Accounts, Reservation
from bucle.serve.errors import ApiError
from bucle.serve.limits_minute import span_text

NANO = 10**9
KEY = Key("key:1", "app", team="support", usd_per_month=1.0)


class Clock:
    def __init__(self, at: str = "2026-11-21T10:00:00+00:00") -> None:
        self.at = datetime.fromisoformat(at).timestamp()

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path)
    yield made
    made.close()


def cost(usd: float, tokens: int = 10) -> Usage:
    return Usage(tokens_in=tokens, tokens_out=0, usd=usd)


def trace(id_: str, usd: float, key: Key = KEY, at: str = "2026-11-21T10:00:00+00:00") -> Trace:
    return Trace(id=id_, at=at, received_at=at, route="r", model="m", input="", usage=cost(usd), key=key.id,
                 team=key.team)


def refused(accounts: Accounts, key: Key, usd: float | None, tokens: int = 1, at: float | None = None) -> ApiError:
    with pytest.raises(ApiError) as caught:
        accounts.reserve(key, usd=usd, tokens=tokens, trace="t", at=at)
    return caught.value


def standing(accounts: Accounts, name: str) -> tuple[int, int]:
    [row] = [r for r in accounts.standing() if r["name"] == name]
    return row["settled"], row["reserved"]


# 64 at once ---------------------------------------------------------------------------------------------------

Costs = st.lists(st.tuples(st.integers(0, 80_000_000), st.integers(0, 80_000_000), st.booleans()), min_size=64,
                 max_size=200)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(costs=Costs, threads=st.booleans(), data=st.data())
def test_64_spenders_never_overrun_and_every_nano_dollar_is_counted(costs: list[tuple[int, int, bool]],
                                                                    threads: bool, data: st.DataObject) -> None:
    """Each asks for `most`, uses at most that, and settles or releases; two keys share a team's budget."""
    team = data.draw(st.integers(1, 2 * NANO), "the team's budget")
    own = data.draw(st.integers(1, 2 * NANO), "the first key's budget")
    accounts = Accounts(teams={"support": Allowance(usd_per_month=team / NANO)})
    keys = (Key("key:1", "a", team="support", usd_per_month=own / NANO), Key("key:2", "b", team="support"))
    used, over, counted = [0, 0], list[object](), threading.Lock()

    def watched() -> None:
        for row in accounts.standing():
            limit = {"support": team, "key:1": own}.get(row["name"])
            if limit is not None and row["settled"] + row["reserved"] > limit:
                over.append(row)

    def begin(n: int) -> Reservation | None:
        try:
            made = accounts.reserve(keys[n % 2], usd=costs[n][0] / NANO, tokens=1, trace=f"t{n}")
        except ApiError:
            made = None
        watched()
        return made

    def end(n: int, held: Reservation | None) -> None:
        most, part, kept = costs[n]
        if held is None:
            return
        if kept:
            actual = min(most, part)
            accounts.settle(held, cost(actual / NANO))
            accounts.settle(held, cost(actual / NANO))  # a second time changes nothing
            with counted:
                used[n % 2] += actual
        accounts.release(held)
        watched()

    def spender(first: int) -> None:
        for n in range(first, len(costs), 64):
            end(n, begin(n))

    async def task(first: int) -> None:
        for n in range(first, len(costs), 64):
            held = begin(n)
            await asyncio.sleep(0)
            end(n, held)

    async def tasks() -> None:
        await asyncio.gather(*map(task, range(64)))

    if threads:
        started = [threading.Thread(target=spender, args=(n,)) for n in range(64)]
        for one in started:
            one.start()
        for one in started:
            one.join()
    else:
        asyncio.run(tasks())
    assert not over
    sums = {row["name"]: (row["settled"], row["reserved"]) for row in accounts.standing()}
    assert sums.get("key:1", (0, 0)) == (used[0], 0)
    assert sums.get("key:2", (0, 0)) == (used[1], 0)
    assert sums.get("support", (0, 0)) == (sum(used), 0)


def test_64_threads_get_exactly_what_fits() -> None:
    accounts, let_in, gate = Accounts(), list[Reservation](), threading.Barrier(64)

    def spend() -> None:
        gate.wait()
        for n in range(20):
            try:
                let_in.append(accounts.reserve(KEY, usd=0.01, tokens=1, trace=f"t{n}"))
            except ApiError as error:
                assert error.code == "budget_exceeded"  # noqa: PT017

    threads = [threading.Thread(target=spend) for _ in range(64)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(let_in) == 100  # of 1,280
    assert standing(accounts, "key:1") == (0, NANO)


# what it costs --------------------------------------------------------------------------------------------------

def test_more_than_was_reserved_is_spent_and_the_next_is_refused() -> None:
    accounts = Accounts()
    held = accounts.reserve(KEY, usd=0.1, tokens=1, trace="t")
    accounts.settle(held, cost(1.5))
    assert standing(accounts, "key:1") == (3 * NANO // 2, 0)
    error = refused(accounts, KEY, 0.000001)
    assert (error.status, error.code, error.headers) == (429, "budget_exceeded", {"x-should-retry": "false"})
    assert "$1.500000 of $1.00" in error.message
    assert refused(accounts, KEY, 0.0).code == "budget_exceeded"  # an estimate of nothing spends no more either


def test_what_is_only_held_may_be_asked_for_again() -> None:
    accounts = Accounts()
    held = accounts.reserve(KEY, usd=0.9, tokens=1, trace="t")
    error = refused(accounts, KEY, 0.2)
    assert (error.code, error.headers) == ("budget_exceeded", {"retry-after": "1"})
    accounts.release(held)
    accounts.reserve(KEY, usd=1.0, tokens=1, trace="t2")


@pytest.mark.parametrize("usd", [None, math.nan, math.inf])
def test_an_unknown_price_is_refused_where_a_budget_applies(usd: float | None) -> None:
    accounts = Accounts(teams={"paid": Allowance(usd_per_month=5)})
    for key in (KEY, Key("key:3", "c", team="paid")):
        error = refused(accounts, key, usd)
        assert (error.status, error.code, error.param) == (403, "price_unknown", "model")
        assert "usd_per_million_in" in error.message
    for free in (None, Key("key:2", "b"), Key("key:4", "d", team="other")):
        accounts.settle(accounts.reserve(free, usd=usd, tokens=1, trace="t"), cost(0.0))


def test_a_budget_of_nothing_leaves_what_is_free() -> None:
    accounts, poor = Accounts(), Key("key:2", "b", usd_per_month=0)
    accounts.settle(accounts.reserve(poor, usd=0.0, tokens=1, trace="t"), cost(0.0))
    assert refused(accounts, poor, 1e-9).code == "budget_exceeded"


def test_budgets_change_while_requests_are_at_work() -> None:
    accounts = Accounts(teams={"support": Allowance(usd_per_month=0.5)})
    held = accounts.reserve(Key("key:1", "app", team="support", usd_per_month=1.0), usd=0.4, tokens=1, trace="t")
    smaller = Key("key:1", "app", team="support", usd_per_month=0.3)
    assert "this key" in refused(accounts, smaller, 0.01).message
    assert "the team `support`" in refused(accounts, KEY, 0.2).message
    accounts.teams = {"support": Allowance(usd_per_month=2.0)}
    accounts.settle(held, cost(0.2))
    accounts.reserve(smaller, usd=0.1, tokens=1, trace="t")
    assert refused(accounts, smaller, 0.01).code == "budget_exceeded"


# months -----------------------------------------------------------------------------------------------------------

def test_a_request_counts_in_the_month_it_came_in_and_a_clock_that_goes_back_finds_it() -> None:
    clock = Clock("2026-11-30T23:59:59+00:00")
    accounts = Accounts(clock=clock)
    held = accounts.reserve(KEY, usd=0.9, tokens=1, trace="t")
    clock.at += 2
    accounts.settle(held, cost(0.9))
    fresh = accounts.reserve(KEY, usd=0.9, tokens=1, trace="t2")  # December
    assert standing(accounts, "key:1") == (0, 9 * NANO // 10)
    clock.at -= 10
    assert refused(accounts, KEY, 0.2).code == "budget_exceeded"  # November again
    assert standing(accounts, "key:1") == (9 * NANO // 10, 0)
    late = datetime(2027, 1, 1, tzinfo=UTC).timestamp() - 0.001
    assert refused(accounts, KEY, 0.2, at=late).code == "budget_exceeded"  # December, though the clock says November
    accounts.release(fresh)
    accounts.reserve(KEY, usd=0.2, tokens=1, trace="t3", at=late)
    accounts.reserve(KEY, usd=1.0, tokens=1, trace="t4", at=late + 0.002)  # January


def test_what_was_spent_then_is_read_where_a_clock_goes_back_to_a_month_before_the_start(ledger: Ledger) -> None:
    TraceStore(ledger).add_traces([trace("trace:1", 0.9, at="2026-10-31T23:59:59+00:00")])
    clock = Clock("2026-11-01T00:00:01+00:00")
    accounts = Accounts(SpendWatch(ledger), clock=clock)
    accounts.release(accounts.reserve(KEY, usd=0.9, tokens=1, trace="t"))
    clock.at -= 5
    assert refused(accounts, KEY, 0.2).code == "budget_exceeded"


# recorded is enforced -----------------------------------------------------------------------------------------------

def test_after_a_crash_what_is_enforced_is_what_was_recorded(ledger: Ledger) -> None:
    TraceStore(ledger).add_traces([trace("trace:1", 0.7), trace("trace:2", 0.1, Key("key:9", "x", team="support"))])
    accounts = Accounts(SpendWatch(ledger), {"support": Allowance(usd_per_month=1.0)}, clock=Clock())
    assert standing(accounts, "key:1") == (7 * NANO // 10, 0)
    assert standing(accounts, "support") == (8 * NANO // 10, 0)
    assert "the team" in refused(accounts, KEY, 0.25).message
    accounts.reserve(KEY, usd=0.2, tokens=1, trace="t")


def test_two_servers_see_each_others_spend_and_nothing_counts_twice(ledger: Ledger) -> None:
    store, ticks = TraceStore(ledger), Clock()
    here, there = (Accounts(SpendWatch(ledger), clock=Clock(), ticks=ticks) for _ in range(2))
    for n in range(1100):  # more than are asked for at once
        held = here.reserve(KEY, usd=0.0005, tokens=1, trace=f"trace:{n}")
        here.settle(held, cost(0.0004))
    assert standing(here, "key:1") == (440_000_000, 0)
    store.add_traces([trace(f"trace:{n}", 0.0004) for n in range(600)])
    for one in (here, there):
        one.refresh()
    assert standing(here, "key:1") == (440_000_000, 0)  # 600 recorded, 500 waiting
    assert standing(there, "key:1") == (240_000_000, 0)
    store.add_traces([trace(f"trace:{n}", 0.0004) for n in range(600, 1100)])
    ticks.at += 1  # read again by itself before the next request
    there.reserve(KEY, usd=0.5, tokens=1, trace="trace:there")
    assert standing(there, "key:1") == (440_000_000, NANO // 2)
    here.refresh()
    here.refresh()
    assert standing(here, "key:1") == (440_000_000, 0)
    assert sum(row.nano_usd for row in spent(ledger)) == 440_000_000


def test_what_is_enforced_never_dips_while_traces_are_written(ledger: Ledger) -> None:
    """Settled, then written, then read back, by three threads: at no moment is a dollar in neither place, nor twice."""
    store, accounts, n = TraceStore(ledger), Accounts(SpendWatch(ledger), clock=Clock()), 300
    key, stop, wrong = Key("key:1", "app"), threading.Event(), list[tuple[int, int, int]]()
    settled = 0

    def write() -> None:
        nonlocal settled
        for i in range(n):
            held = accounts.reserve(key, usd=0.001, tokens=1, trace=f"trace:{i}")
            accounts.settle(held, cost(0.001))
            settled += 1
            store.add_traces([trace(f"trace:{i}", 0.001, key)])
        stop.set()

    def read() -> None:
        while not stop.is_set():
            accounts.refresh()

    def look() -> None:
        while not stop.is_set():
            least = settled
            rows = [r["settled"] for r in accounts.standing()]
            if rows and not least <= rows[0] // 1_000_000 <= settled + 1:
                wrong.append((least, rows[0], settled))

    threads = [threading.Thread(target=one) for one in (write, read, look)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not wrong
    accounts.refresh()
    assert standing(accounts, "key:1") == (n * 1_000_000, 0)
    assert not accounts._month(None).waiting


def test_a_ledger_that_cannot_be_read_leaves_what_was_known(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    TraceStore(ledger).add_traces([trace("trace:1", 0.7)])
    watch = SpendWatch(ledger)
    accounts = Accounts(watch, clock=Clock())
    watch.close()
    watch._path = ledger.folder / "gone" / "ledger.db"
    accounts.refresh()
    accounts.refresh()
    assert standing(accounts, "key:1") == (7 * NANO // 10, 0)
    assert sum("stays in force" in r.message for r in caplog.records) == 1


def test_a_trace_that_was_lost_stays_counted_and_is_not_asked_for_forever(ledger: Ledger) -> None:
    ticks = Clock()
    accounts = Accounts(SpendWatch(ledger), clock=Clock(), ticks=ticks)
    accounts.settle(accounts.reserve(KEY, usd=0.5, tokens=1, trace="trace:lost"), cost(0.5))
    ticks.at += budgets.LOST_S + 1
    accounts.refresh()
    assert not accounts._month(None).waiting
    assert standing(accounts, "key:1") == (NANO // 2, 0)


# a minute --------------------------------------------------------------------------------------------------------

def test_requests_a_minute_are_exact_under_64_threads() -> None:
    ticks = Clock()
    key = Key("key:1", "app", requests_per_minute=100)
    accounts, let_in = Accounts(ticks=ticks), list[Reservation]()

    def ask() -> None:
        for n in range(10):
            try:
                let_in.append(accounts.reserve(key, usd=0, tokens=1, trace=f"t{n}"))
            except ApiError as error:
                assert (error.code, error.headers["retry-after"]) == ("rate_limit_exceeded", "61")  # noqa: PT017

    threads = [threading.Thread(target=ask) for _ in range(64)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(let_in) == 100
    ticks.at += 60
    assert refused(accounts, key, 0).headers["retry-after"] == "1"
    ticks.at += 0.2
    accounts.reserve(key, usd=0, tokens=1, trace="t")


@settings(max_examples=60, deadline=None)
@given(gaps=st.lists(st.floats(0, 30), min_size=1, max_size=120), most=st.integers(1, 8), tokens=st.integers(1, 40))
def test_no_minute_holds_more_than_its_limit(gaps: list[float], most: int, tokens: int) -> None:
    ticks, sent = Clock(), list[tuple[float, int]]()
    key = Key("key:1", "app", requests_per_minute=most, tokens_per_minute=100)
    accounts = Accounts(ticks=ticks)
    for gap in gaps:
        ticks.at += gap
        try:
            accounts.reserve(key, usd=0, tokens=tokens, trace="t")
        except ApiError as error:
            wait = float(error.headers["retry-after-ms"]) / 1000  # what it says is enough
            assert 0 < wait <= 60.2
            ticks.at += wait + 0.001
            accounts.reserve(key, usd=0, tokens=tokens, trace="t")
        sent.append((ticks.at, tokens))
    for at, _ in sent:
        within = [n for when, n in sent if at - 60 < when <= at]
        assert len(within) <= most
        assert sum(within) <= 100


def test_tokens_are_counted_as_asked_then_as_used() -> None:
    ticks = Clock()
    accounts = Accounts(teams={"support": Allowance(tokens_per_minute=1000)}, ticks=ticks)
    held = accounts.reserve(KEY, usd=0, tokens=900, trace="t")
    assert held.headers() == {"x-ratelimit-limit-tokens": "1000", "x-ratelimit-remaining-tokens": "100",
                              "x-ratelimit-reset-tokens": "1m1s"}
    error = refused(accounts, KEY, 0, tokens=200)
    assert "the team `support` may use 1,000 tokens a minute" in error.message
    accounts.settle(held, Usage(tokens_in=20, tokens_out=30))
    accounts.release(accounts.reserve(KEY, usd=0, tokens=950, trace="t2"))
    second = accounts.reserve(KEY, usd=0, tokens=900, trace="t3")
    ticks.at += 62
    accounts.settle(second, Usage(tokens_in=5000))  # its minute is over
    assert accounts.reserve(KEY, usd=0, tokens=1000, trace="t4").headers()["x-ratelimit-remaining-tokens"] == "0"


def test_spans_are_written_as_openai_does() -> None:
    told = {0.0004: "1ms", 0.02: "20ms", 1: "1s", 59.89: "59.9s", 59.97: "1m0s", 60.1: "1m1s", 359.2: "6m0s"}
    assert {span: span_text(span) for span in told} == told


def test_what_can_never_pass_says_so() -> None:
    key = Key("key:1", "app", tokens_per_minute=100)
    error = refused(Accounts(), key, 0, tokens=101)
    assert error.headers["x-should-retry"] == "false"
    assert "retry-after" not in error.headers
    assert "101 tokens" in error.message
    assert "none may be sent" in refused(Accounts(), Key("key:2", "b", requests_per_minute=0), 0).message


def test_the_tightest_limit_is_told_and_refusals_take_nothing() -> None:
    accounts = Accounts(teams={"support": Allowance(requests_per_minute=3)})
    key = Key("key:1", "app", team="support", requests_per_minute=2, usd_per_month=1)
    assert accounts.reserve(key, usd=0, tokens=1, trace="t").headers()["x-ratelimit-remaining-requests"] == "1"
    assert refused(accounts, key, 5.0).code == "budget_exceeded"  # counts in no minute
    accounts.reserve(key, usd=0, tokens=1, trace="t")
    assert refused(accounts, key, 0).headers["x-ratelimit-remaining-requests"] == "0"
    other = Key("key:2", "b", team="support", requests_per_minute=50)
    assert accounts.reserve(other, usd=0, tokens=1, trace="t").headers()["x-ratelimit-limit-requests"] == "3"
    assert "the team" in refused(accounts, other, 0).message


def test_the_snapshot_stands_before_it_is_asked_what_was_settled(ledger: Ledger) -> None:
    """So a trace that is written in between is in neither the spend nor the traces found: it stays waiting."""
    store, watch = TraceStore(ledger), SpendWatch(ledger)
    store.add_traces([trace("trace:1", 0.5)])

    def settled() -> list[str]:
        store.add_traces([trace("trace:2", 0.25)])
        return ["trace:1", "trace:2"]

    rows, known = watch.read(["2026-11"], settled)
    assert ([row.nano_usd for row in rows], known) == ([NANO // 2], {"trace:1"})
    rows, known = watch.read(["2026-11", "2026-10"], lambda: ["trace:1", "trace:2", "trace:3"])
    assert ([row.nano_usd for row in rows], known) == ([3 * NANO // 4], {"trace:1", "trace:2"})
    watch.close()
