"""Keys and budgets through the whole gateway, over real sockets: what was spent is what was recorded."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from chat_peer import Peer

from bucle.core.ports import ChatReply, Message
from bucle.core.records import Usage
from bucle.core.serving import Allowance
from bucle.ledger import Ledger, TraceStore
from bucle.ledger.keys import Key, KeyStore
from bucle.ledger.spend import spent
from bucle.ledger.spend_watch import SpendWatch
from bucle.models.engines.wire import WireEngine
from bucle.serve.app import create_app
from bucle.serve.budgets import Accounts
from bucle.serve.guard import PersonalDataGuard
from bucle.serve.keys import Keys
from bucle.serve.routes import Limits, Route
from bucle.serve.server import BackgroundServer
from bucle.serve.upstream import TemplateDrafter

NANO = 10**9
ASK = {"messages": [{"role": "user", "content": "hola"}], "max_tokens": 5}


class Slowly(TemplateDrafter):
    """Writes a word every 20 ms, for money."""

    def stream(self, messages: Sequence[Message], **settings: Any) -> Iterator[str | ChatReply]:
        for piece in super().stream(messages, **settings):
            time.sleep(0.02)
            paid = Usage(tokens_in=3, tokens_out=9, usd=0.021)
            yield piece if isinstance(piece, str) else ChatReply(piece.text, paid)


class Numbers:
    name, dimensions = "numbers", 2

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return [[float(len(text)), 1.0] for text in texts]

    def embed_metered(self, texts: Sequence[str]) -> tuple[list[list[float]], Usage]:
        return self.embed(texts), Usage(tokens_in=3, usd=0.003)


class Served:
    """A gateway with priced routes on a port, and what it leaves in the ledger."""

    def __init__(self, folder: Path, teams: dict[str, Allowance] | None = None) -> None:
        self.ledger = Ledger(folder)
        self.store, self.traces = KeyStore(self.ledger), TraceStore(self.ledger)
        self.peer = Peer(lambda messages, body: "uno dos tres")
        self.keys, self.accounts = Keys(store=self.store), Accounts(SpendWatch(self.ledger), teams)
        routes = {"far": Route("far", "chat", engine=WireEngine("far", self.peer.url, "m", max_parallel=64,
                                                                usd_per_million_in=1000, usd_per_million_out=2000)),
                  "slow": Route("slow", "chat", chat=Slowly(), usd_per_million_in=1000, usd_per_million_out=2000),
                  "numbers": Route("numbers", "embed", embedder=Numbers(), usd_per_million_in=1000)}
        self.app = create_app(routes, writer=self.traces, guards=[PersonalDataGuard()], keys=self.keys,
                              accounts=self.accounts, limits=Limits(timeout_s=20))
        self.server = BackgroundServer(self.app)

    def __enter__(self) -> Served:
        self.server.__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        self.server.__exit__(None, None, None)
        self.peer.server.shutdown()
        self.peer.server.server_close()

    def key(self, name: str, **settings: Any) -> tuple[Key, str]:
        made = self.store.create(name, by="ana", **settings)
        self.keys.refresh()  # by itself it would within half a second
        return made

    def client(self, secret: str) -> httpx.Client:
        return httpx.Client(base_url=self.server.url + "/v1", headers={"authorization": f"Bearer {secret}"}, timeout=20)

    def recorded(self, key: str) -> int:
        return sum(row.nano_usd for row in spent(self.ledger) if row.key == key)

    def settled(self, key: str) -> tuple[int, int]:
        return next((r["settled"], r["reserved"]) for r in self.accounts.standing() if r["name"] == key)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    yield made
    made.store.close()
    made.ledger.close()


def code(answer: httpx.Response) -> str:
    return str(answer.json()["error"]["code"]) if answer.status_code != 200 else ""


def test_64_clients_spend_a_budget_and_not_more(served: Served) -> None:
    key, secret = served.key("app", usd_per_month=1.0)
    with served, served.client(secret) as http:
        gate = threading.Barrier(64)

        def spend(_: int) -> list[str]:
            gate.wait()
            return [code(http.post("/chat/completions", json={"model": "far", **ASK})) for _ in range(5)]

        with ThreadPoolExecutor(64) as pool:
            codes = [c for row in pool.map(spend, range(64)) for c in row]
        assert set(codes) == {"", "budget_exceeded"}
        answered = codes.count("")
        assert served.settled(key.id) == (answered * 7_000_000, 0)  # 1 token in, 3 out: 0.007 dollars each
        assert 0 < answered * 7_000_000 <= NANO
    assert served.recorded(key.id) == answered * 7_000_000
    again = Accounts(SpendWatch(served.ledger))  # a server that starts now knows it
    assert [r["settled"] for r in again.standing() if r["name"] == key.id] == [answered * 7_000_000]


def test_limits_are_told_in_openais_headers_and_every_route_counts(served: Served) -> None:
    key, secret = served.key("app", requests_per_minute=5, usd_per_month=5)
    with served, served.client(secret) as http:
        first = http.post("/chat/completions", json={"model": "far", **ASK})
        assert first.headers["x-ratelimit-limit-requests"] == "5"
        assert first.headers["x-ratelimit-remaining-requests"] == "4"
        assert first.headers["x-ratelimit-reset-requests"].startswith("1m")
        assert http.post("/embeddings", json={"model": "numbers", "input": "a b c"}).status_code == 200
        with http.stream("POST", "/chat/completions", json={"model": "slow", **ASK, "stream": True}) as streamed:
            assert streamed.headers["x-ratelimit-remaining-requests"] == "2"
            streamed.read()
        assert http.post("/moderations", json={"input": "a"}).headers["x-ratelimit-remaining-requests"] == "1"
        rating = {"trace_id": first.headers["x-bucle-trace"], "rating": 1}
        end = time.monotonic() + 5
        while not served.traces.known([rating["trace_id"]]) and time.monotonic() < end:
            time.sleep(0.02)
        assert http.post("/feedback", json=rating).status_code == 200
        assert code(http.post("/moderations", json={"input": "a"})) == "rate_limit_exceeded"
        refused = http.post("/chat/completions", json={"model": "far", **ASK})
        assert (refused.status_code, code(refused)) == (429, "rate_limit_exceeded")
        assert 55 <= int(refused.headers["retry-after"]) <= 61
        assert http.get("/models").status_code == 200  # asks no engine
        assert len(served.peer.asked) == 1
    by_route = {t.route: t.usage.usd for t in served.traces.traces() if t.status == 200}
    assert set(by_route) == {"far", "numbers", "slow"}
    assert all(usd > 0 for usd in by_route.values())
    assert served.recorded(key.id) == round(sum(by_route.values()) * NANO) == served.settled(key.id)[0]


def test_a_stream_that_its_client_leaves_is_paid_for_and_one_of_a_revoked_key_ends_well(served: Served) -> None:
    key, secret = served.key("app", usd_per_month=50)
    ask = {"model": "slow", "messages": [{"role": "user", "content": "una pregunta larga"}], "max_tokens": 50,
           "stream": True}
    with served, served.client(secret) as http:
        with http.stream("POST", "/chat/completions", json=ask) as left:
            for _, _line in zip(range(6), left.iter_lines(), strict=False):
                pass
        end = time.monotonic() + 5
        while served.settled(key.id)[1] or not served.settled(key.id)[0]:
            assert time.monotonic() < end
            time.sleep(0.01)
        with http.stream("POST", "/chat/completions", json=ask) as whole:
            lines = whole.iter_lines()
            next(lines)
            served.store.revoke("app", by="ana")
            time.sleep(0.6)
            assert code(http.post("/chat/completions", json={"model": "slow", **ASK})) == "key_revoked"
            assert "[DONE]" in "".join(lines)
    kept = {t.status: t for t in served.traces.traces()}
    assert set(kept) == {200, 499}
    assert kept[499].usage.usd > 0
    assert served.recorded(key.id) == served.settled(key.id)[0]
    assert served.settled(key.id)[1] == 0


def test_a_team_shares_its_budget_and_no_secret_is_left_anywhere(tmp_path: Path,
                                                                 caplog: pytest.LogCaptureFixture) -> None:
    served = Served(tmp_path, {"soporte": Allowance(usd_per_month=0.02)})
    made = [served.key(name, team="soporte", labels=["rrhh"]) for name in ("a", "b")]
    _, other = served.key("c")
    with served:
        codes = []
        for _ in range(3):
            for _, secret in made:
                with served.client(secret) as http:
                    codes.append(code(http.post("/chat/completions", json={"model": "far", **ASK})))
        assert "budget_exceeded" in codes
        with served.client(other) as http:
            assert code(http.post("/chat/completions", json={"model": "far", **ASK})) == ""
            assert code(http.post("/chat/completions?api_key=" + other, json={"model": "far", **ASK})) == "key_in_url"
            metrics = httpx.get(served.server.url + "/metrics", headers={"authorization": f"Bearer {other}"})
            assert metrics.status_code == 403
    rows = [row for row in spent(served.ledger) if row.team == "soporte"]
    assert sum(row.nano_usd for row in rows) <= 20_000_000
    metrics_text = served.app.state.gateway.metrics.text()
    everywhere = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()) + metrics_text
    everywhere += caplog.text.encode() + str([t.model_dump() for t in served.traces.traces()]).encode()
    for secret in (*(s for _, s in made), other):
        assert secret[8:].encode() not in everywhere
    assert made[0][0].id.encode() in everywhere
    served.store.close()
    served.ledger.close()


def test_a_model_whose_price_nobody_knows_is_refused_to_a_key_with_a_budget(tmp_path: Path) -> None:
    from bucle.loop.serving import app_for
    from bucle.loop.workspace import Workspace

    (tmp_path / "bucle.yaml").write_text(
        "project: p\ntasks:\n  t: {kind: generate, data: t.tsv}\nmodels:\n"
        "  free: {kind: openai, base_url: 'http://127.0.0.1:9/v1', model: m}\n"  # the team's own machine
        "  paid: {kind: openai, base_url: 'https://127.0.0.2.invalid/v1', model: m, usd_per_million_in: 1, "
        "usd_per_million_out: 0}\n"
        "  unknown: {kind: openai, base_url: 'https://127.0.0.2.invalid/v1', model: m}\n"
        "serve:\n  routes:\n    some: {to: [{to: paid}], fallback: [unknown]}\n    outer: {to: [{to: some}]}\n"
        "    fine: {to: [{to: paid}, {to: free}]}\n", "utf-8")
    ws = Workspace.open(tmp_path)
    for name, model in ws.config.models.items():
        ws.ledger.put("base_model", {"name": name, **model.model_dump(mode="json", exclude_none=True)})
    _, rich = KeyStore(ws.ledger).create("rich", by="ana")
    _, poor = KeyStore(ws.ledger).create("poor", by="ana", usd_per_month=0.000001)
    app = app_for(ws, None)
    known = {name: route.price_known for name, route in app.state.gateway.routes.items()}
    assert known == {"free": True, "paid": True, "unknown": False, "some": False, "outer": False, "fine": True}
    with BackgroundServer(app) as server, httpx.Client(base_url=server.url + "/v1", timeout=20) as http:
        def said(model: str, secret: str) -> tuple[int, str]:
            answer = http.post("/chat/completions", json={"model": model, **ASK},
                               headers={"authorization": f"Bearer {secret}"})
            return answer.status_code, code(answer)

        assert said("unknown", poor) == said("outer", poor) == (403, "price_unknown")
        assert said("paid", poor) == said("fine", poor) == (429, "budget_exceeded")
        assert said("free", poor)[0] == said("free", rich)[0] == said("unknown", rich)[0] == 502  # they were asked
    ws.close()
