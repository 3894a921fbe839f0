"""Chains behind the served API, over sockets: nothing twice, nobody held up, typed errors, traces, what steps keep."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from chain_peer import Asked, Shelf, api

from bucle.core.errors import BadInput, ModelUnavailable
from bucle.core.ports import LoadContext
from bucle.core.records import Prediction, TaskKind, Trace
from bucle.customise.chain import Chain, ChainEnv, StepCache, chain, step
from bucle.customise.chain.technique import ChainPredictor
from bucle.ledger.store import Ledger
from bucle.ledger.traces import TraceStore
from bucle.models.remote import OpenAIChat
from bucle.serve.app import create_app
from bucle.serve.engine import Batcher
from bucle.serve.routes import Limits, Route
from bucle.serve.server import BackgroundServer

PRIVATE = "org-4711 has used its quota"
SHELF = Shelf(("La cuota de fibra es de 30 euros al mes. Se paga por adelantado.", ()),
              ("La cuota interna de fibra es de 12 euros", ("staff",)))
FAQ = chain("faq", step("retrieve", "buscar", cache="forever"),
            step("prompt", "redactar", model="gpt", passages="buscar", user="{{ input }}", cache=60),
            step("check", "citada", cites=True), output="{{ steps.redactar.text }}")


def said(text: str) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 2}}


def world(one: Asked) -> Any:
    """An API that takes orders, and a model that does what its question says."""
    if not one.path.endswith("/chat/completions"):
        return {"ok": True}
    question = json.loads(one.body)["messages"][-1]["content"]
    if "lento" in question:
        time.sleep(0.7)
    if "429" in question:
        return 429, {"retry-after": "7"}, json.dumps({"error": {"message": PRIVATE}}).encode()
    if "500" in question:
        return 500, {}, json.dumps({"error": {"message": PRIVATE}}).encode()
    if "400" in question:
        return 400, {}, json.dumps({"error": {"message": PRIVATE}}).encode()
    if "largo" in question:
        return 400, {}, json.dumps({"error": {"message": PRIVATE, "code": "context_length_exceeded"}}).encode()
    return said("30 euros [1]")


@contextmanager
def served(spec: Any, tmp_path: Path, *, kind: TaskKind = "answer", limits: Limits | None = None,
           **env: Any) -> Iterator[tuple[httpx.Client, Any, TraceStore, ChainPredictor]]:
    """A chain made by `spec(url of the peer)`, served; its peer; the traces; the predictor."""
    ledger = Ledger(tmp_path / "ledger")
    store = TraceStore(ledger)
    with api(world) as peer:
        gpt = OpenAIChat("gpt", peer.url + "/v1", "m", "", 5, max_retries=0)
        made = Chain(spec(peer.url), ChainEnv(models={"gpt": gpt}, **env))
        predictor = ChainPredictor(made, LoadContext(labels=(), params={}, seed=0, kind=kind))
        app = create_app({"c": Route("c", kind, candidate="candidate:c", predictor=predictor)}, writer=store,
                         api_keys=(), limits=limits)
        with BackgroundServer(app) as server, httpx.Client(base_url=server.url + "/v1", timeout=10) as http:
            yield http, peer, store, predictor
        gpt.close()
    ledger.close()


def ask(http: httpx.Client, text: str) -> httpx.Response:
    return http.post("/chat/completions", json={"model": "c", "messages": [{"role": "user", "content": text}]})


def traced(store: TraceStore, reply: httpx.Response) -> Trace:
    for _ in range(100):
        found = [t for t in store.traces() if t.id == reply.headers["x-bucle-trace"]]
        if found:
            return found[0]
        time.sleep(0.03)
    raise AssertionError("no trace")


def order_first(url: str, **more: Any) -> Any:
    return chain("c", step("http", "pide", url=url + "/pedidos", method="POST", body={"t": "{{ input }}"},
                           allow_private=True),
                 step("prompt", "redactar", model="gpt", user="{{ input }}", **more))


def test_nothing_is_asked_twice_whoever_fails(tmp_path: Path) -> None:
    with served(order_first, tmp_path) as (http, peer, store, _):
        texts = ["bien 1", "500 uno", "500 dos", "bien 2", "500 tres", "bien 3"]
        with ThreadPoolExecutor(6) as pool:
            replies = list(pool.map(lambda text: ask(http, text), texts))
        assert [r.status_code for r in replies] == [200, 502, 502, 200, 502, 200]
        orders = sorted(json.loads(one.body)["t"] for one in peer.asked if one.path == "/pedidos")
        assert orders == sorted(texts), "each order once"
        assert len(peer.asked) == 12
        bad = replies[1]
        assert bad.json()["error"]["code"] == "engine_unavailable"
        assert bad.json()["bucle"] == {"kind": "ModelUnavailable", "trace": bad.headers["x-bucle-trace"]}
        assert PRIVATE not in bad.text
        assert bad.headers["x-should-retry"] == "false", "an OpenAI client asks again by itself"
        kept = traced(store, bad)
        assert PRIVATE in kept.error
        assert [s["name"] for s in kept.spans if s["name"] != "guard"] == ["engine", "pide", "redactar"]
        assert traced(store, replies[0]).usage.tokens_in == 10


def test_a_slow_request_holds_nobody_up(tmp_path: Path) -> None:
    with served(order_first, tmp_path) as (http, _, _, _), ThreadPoolExecutor(2) as pool:
        slow = [pool.submit(ask, http, "lento") for _ in range(2)]
        time.sleep(0.1)
        began = time.monotonic()
        assert ask(http, "pronto").status_code == 200
        assert time.monotonic() - began < 0.4
        assert not any(one.done() for one in slow)
        assert [one.result().status_code for one in slow] == [200, 200]


@pytest.mark.parametrize(("text", "more", "status", "code", "kind"), [
    ("lento", {"timeout_s": 0.2}, 504, "upstream_timeout", "UpstreamTimeout"),
    ("429", {}, 429, "upstream_rate_limit", "RateLimited"),
    ("400", {}, 400, "bad_input", "BadInput"),
    ("rompe", {"json_schema": {"type": "object", "required": ["a"]}}, 502, "schema_broken", "SchemaBroken"),
    ("largo", {}, 400, "context_length_exceeded", "ContextOverflow"),
])
def test_errors_keep_their_kind(tmp_path: Path, text: str, more: dict[str, Any], status: int, code: str,
                                kind: str) -> None:
    with served(lambda url: chain("c", step("prompt", "redactar", model="gpt", user="{{ input }}", **more)),
                tmp_path) as (http, _, store, _):
        reply = ask(http, text)
        assert reply.status_code == status
        assert PRIVATE not in reply.text
        body = reply.json()
        assert body.get("error", {}).get("code", "") == code
        assert (body["bucle"].get("kind", ""), body["bucle"]["trace"]) == (kind, reply.headers["x-bucle-trace"])
        assert reply.headers.get("retry-after") == ("7" if status == 429 else None)
        kept = traced(store, reply)
        assert kept.status == status
        assert kept.spans[0].get("error_kind", "") == kind
        if kind == "SchemaBroken":
            assert kept.usage.tokens_in == 20, "the reply and its repair were paid for"


def test_what_ran_after_a_time_out_of_the_server_is_in_the_trace(tmp_path: Path) -> None:
    with served(order_first, tmp_path, limits=Limits(timeout_s=0.3)) as (http, _, store, _):
        reply = ask(http, "lento")
        assert (reply.status_code, reply.json()["error"]["code"]) == (504, "timeout")
        assert reply.headers["x-should-retry"] == "false"
        kept = traced(store, reply)
        assert (kept.status, kept.usage.tokens_in) == (504, 10)
        assert [s["name"] for s in kept.spans] == ["engine", "pide", "redactar"]


def test_a_served_chain_shows_its_passages_quotes_and_steps_and_keeps_them(tmp_path: Path) -> None:
    path = tmp_path / "chains.db"
    with served(lambda url: FAQ, tmp_path, index=SHELF, cache=StepCache(path)) as (http, peer, store, predictor):
        first = ask(http, "cuota de fibra").json()
        kept = traced(store, ask(http, "cuota de fibra"))
        assert first["choices"][0]["message"]["content"].startswith("30 euros [1]")
        assert first["bucle"]["chunks"] == first["bucle"]["citations"] == ["chunk:000"]
        assert first["bucle"]["quotes"] == ["La cuota de fibra es de 30 euros al mes."]
        assert len(peer.asked) == 1, "the second was kept"
        steps = [s for s in kept.spans if s["name"] in ("buscar", "redactar")]
        assert [s["cached"] for s in steps] == [True, True]
        assert kept.chunks == ("chunk:000",)
        assert kept.usage.tokens_in == 0
        [staff] = predictor.predict(["cuota de fibra"], access=frozenset({"staff"}))
        assert [s["cached"] for s in staff.spans[:2]] == [False, False], "other labels, nothing kept of others"
        assert path.with_name(path.name + "-wal").exists()
    assert not path.with_name(path.name + "-wal").exists(), "the file is let go of with the server"
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT count(*) FROM kept").fetchone() == (4,)
    db.close()


class Counted:
    """Fails as it is told where a text says `boom`; counts calls, and how many there are at once."""

    def __init__(self, error: Exception, max_parallel: int) -> None:
        self.error, self.max_parallel, self.lock = error, max_parallel, threading.Lock()
        self.now = self.most = 0
        self.sizes: list[int] = []

    def predict(self, inputs: Sequence[str]) -> list[Prediction]:
        with self.lock:
            self.sizes.append(len(inputs))
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.03)
        with self.lock:
            self.now -= 1
        if "boom" in inputs:
            raise self.error
        return [Prediction(output=text) for text in inputs]


@pytest.mark.parametrize(("parallel", "error", "calls"), [
    (3, BadInput("x"), 9),  # each in a call of its own, once
    (1, ModelUnavailable("x"), None),  # an outage is not asked about again
])
def test_who_says_so_is_called_side_by_side_and_once(parallel: int, error: Exception, calls: int | None) -> None:
    engine = Counted(error, parallel)
    batcher = Batcher(engine, "r", Route("r", "answer", predictor=engine).at_once)
    futures = [batcher.submit(text, {}) for text in [*"abcdefgh", "boom"]]
    with pytest.raises(type(error)):
        futures[-1].result(5)
    assert sum(engine.sizes) == 9, "nobody was asked twice"
    assert engine.most == parallel
    assert calls is None or len(engine.sizes) == calls
    batcher.close()
