"""Nobody takes all places: neither one key, nor one slow model; and long conversations hold nobody else up."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from test_serve_gateway import Words, ask, served, until

from bucle.core.serving import Guards
from bucle.ledger.keys import Key
from bucle.models.engines import queued
from bucle.models.engines.queued import Queued
from bucle.serve.budgets import Accounts
from bucle.serve.guard import GuardSet
from bucle.serve.guard.memo import Remembered
from bucle.serve.keys import Keys
from bucle.serve.routes import Limits, Route

SLOW = "slow"


class _Each(Keys):
    """Every secret is a key of that id."""

    def __init__(self) -> None:
        super().__init__(("other",))

    def check(self, secret: str | bytes) -> Key:
        name = secret.decode() if isinstance(secret, bytes) else secret
        return Key(name, name, usd_per_month=100.0)


def two(seconds: float, places: int = 64) -> dict[str, Route]:
    slow = Queued(Words("a", pause_s=seconds, name=SLOW), places)
    return {SLOW: Route(SLOW, "chat", engine=slow), "quick": Route("quick", "chat", engine=Words("b", name="quick"))}


def flood(http: Any, many: int, **headers: str) -> tuple[ThreadPoolExecutor, list[Any]]:
    pool = ThreadPoolExecutor(many)
    return pool, [pool.submit(ask, http, SLOW, headers=headers) for _ in range(many)]


def test_one_key_cannot_take_all_places() -> None:
    limits = Limits(in_flight=8, per_route=8)
    with served(two(0.6), keys=_Each(), limits=limits, accounts=Accounts()) as (http, _, app):
        pool, asked = flood(http, 12, authorization="Bearer one")
        until(lambda: app.state.gateway.active == 4)
        for model in ("quick", SLOW):
            mine = ask(http, model, headers={"authorization": "Bearer one"})
            assert (mine.status_code, mine.json()["error"]["code"]) == (429, "rate_limit_exceeded")
            assert mine.headers["retry-after"] == "1"
            assert ask(http, model, headers={"authorization": "Bearer two"}).status_code == 200
        assert Counter(a.result().status_code for a in asked) == {200: 4, 429: 8}
        pool.shutdown()
        again = ask(http, "quick", headers={"authorization": "Bearer one"})
        assert again.status_code == 200, "its places are free again"
        assert not app.state.gateway._of_keys


def test_one_slow_model_cannot_take_all_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queued, "BEFORE_S", 0.5)
    with served(two(0.95, places=2), limits=Limits(in_flight=8, timeout_s=1.2)) as (http, kept, app):
        pool, asked = flood(http, 12)
        until(lambda: app.state.gateway.active == 6)
        full = ask(http, SLOW)
        assert (full.status_code, full.json()["error"]["code"], full.headers["retry-after"]) == (503, "overloaded", "1")
        assert ask(http, "quick").status_code == 200
        replies = [a.result() for a in asked]
        codes = Counter(200 if r.status_code == 200 else r.json()["error"]["code"] for r in replies)
        assert codes == {200: 2, "overloaded": 10}, "those who found no place in time were never sent"
        pool.shutdown()
        until(lambda: len(kept.rows) == 7)
        assert Counter((t.status, t.usage.usd) for t in kept.rows) == {(200, 0.25): 3, (503, 0.0): 4}


def test_a_long_conversation_goes_through_and_the_others_do_not_wait_for_it() -> None:
    talk = [{"role": r, "content": f"{n} llame al 6{n:08d} " + "o escriba un texto largo sin nada dentro. " * 20}
            for n in range(450) for r in ("user", "assistant")]
    talk.append({"role": "user", "content": "¿y ahora?"})
    engine = Words("a")
    with served(engine, guards=GuardSet(Guards()), redact=None) as (http, _, _):
        ask(http)
        late = []
        over = threading.Event()

        def beside() -> None:
            while not over.is_set():
                since = time.perf_counter()
                assert ask(http).status_code == 200
                late.append(time.perf_counter() - since)

        small = threading.Thread(target=beside)
        small.start()
        sent = http.post("/v1/chat/completions", json={"model": "m", "messages": talk, "max_tokens": 100_000})
        over.set()
        small.join()
        assert sent.status_code == 200, sent.text
        assert sum(len(m["content"]) for m in talk) > 700_000
        assert len(late) > 5
        assert max(late) < 0.4


def test_long_texts_are_not_remembered_by_the_hundred() -> None:
    done: list[int] = []

    @Remembered
    def work(text: str) -> int:
        done.append(len(text))
        return len(text)

    for _ in range(2):
        for n in range(100):
            assert work("x" * n) == n
    assert len(done) == 100
    for n in (*range(20), *range(20)):
        assert work("x" * (100_000 + n)) == 100_000 + n
    assert len(done) == 140, "the first of them were given up"
    assert work("x" * 100_019) == 100_019
    work.cache_clear()
    work("")
    assert len(done) == 141
    assert work.__name__ == "work"
