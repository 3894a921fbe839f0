"""What a request costs where its provider does not say: no usage, too late, broken off, given up, asked twice."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from bucle.core.engine import AskContext, ChatAsk
from bucle.core.errors import BucleError
from bucle.core.records import Prediction, Trace
from bucle.core.serving import RouteRule
from bucle.ledger import Ledger, TraceStore
from bucle.ledger.keys import KeyStore
from bucle.ledger.spend import spent
from bucle.ledger.spend_watch import SpendWatch
from bucle.models.ask import without_waiting
from bucle.models.endpoint import TimedOut
from bucle.models.engines.blocking import BlockingChat
from bucle.models.engines.host import HostSpec
from bucle.models.engines.process import EngineProcess
from bucle.models.engines.wire import WireEngine
from bucle.models.remote import OpenAIChat, OpenAIEmbedder
from bucle.serve.app import create_app
from bucle.serve.budgets import Accounts
from bucle.serve.keys import Keys
from bucle.serve.metrics_live import Engines
from bucle.serve.routes import Limits, Route
from bucle.serve.routing import TargetFacts, build_routes
from bucle.serve.server import BackgroundServer
from bucle.serve.tasks import TaskEngine

WORDS = "una respuesta de unas cuantas palabras " * 10
CALL = {"index": 0, "id": "c1", "type": "function", "function": {"name": "buscar", "arguments": ""}}
TOOL = {"type": "function", "function": {"name": "buscar", "parameters": {"type": "object"}}}


class Provider(ThreadingHTTPServer):
    """Speaks the OpenAI wire, never says `usage`, and does as the model's name says."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append(body["model"])  # type: ignore[attr-defined]
        if body["model"] == "slow":
            time.sleep(0.8)
        if self.path.endswith("/embeddings"):
            self._whole(200, {"data": [{"index": n, "embedding": [1.0, 0.0]} for n in range(len(body["input"]))]})
        elif body["model"] == "refuses":
            self._whole(500, {"error": {"message": "no"}})
        elif body.get("stream"):
            self._stream(body)
        else:
            rows = [{"index": n, "message": {"role": "assistant", "content": WORDS}, "finish_reason": "stop"}
                    for n in range(body.get("n", 1))]
            self._whole(200, {"choices": rows}, cut=body["model"] == "breaks")

    def _whole(self, status: int, said: dict[str, Any], cut: bool = False) -> None:
        data = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[:-60] if cut else data)
        self.close_connection = cut

    def _stream(self, body: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        n = body.get("n", 1)
        for at in range(300):
            delta = {"content": "palabra "} if not body.get("tools") else {
                "tool_calls": [CALL if not at else {"index": 0, "function": {"arguments": "palabra "}}]}
            for index in range(n):
                self._event({"index": index, "delta": delta})
            if body["model"] != "long" and at == 20:
                break
            time.sleep(0.002)
        for index in range(n):
            self._event({"index": index, "delta": {}, "finish_reason": "stop"})
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, row: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps({"choices": [row]}).encode() + b"\n\n")

    def log_message(self, *args: object) -> None:
        pass


def engine(provider: Provider, model: str, **more: Any) -> WireEngine:
    return WireEngine(model, more.pop("url", provider.url), model, timeout_s=0.3 if model == "slow" else 5,
                      usd_per_million_in=1000, usd_per_million_out=2000, **more)


class Served:
    def __init__(self, folder: Path) -> None:
        self.ledger = Ledger(folder)
        self.traces, self.provider = TraceStore(self.ledger), Provider()
        store = KeyStore(self.ledger)
        self.key, self.secret = store.create("app", by="ana", usd_per_month=100.0)
        self.accounts = Accounts(SpendWatch(self.ledger))
        engines = {name: engine(self.provider, name) for name in ("plain", "slow", "breaks", "long", "refuses")}
        facts = {name: TargetFacts(price_in=1000, price_out=2000) for name in engines}
        rule = RouteRule.model_validate({"to": [{"to": "slow"}], "fallback": ["plain"], "retries": 1, "cache": {},
                                        "shadow": ["refuses"]})
        routes = {name: Route(name, "chat", engine=e) for name, e in engines.items()}
        kept = RouteRule.model_validate({"to": [{"to": "plain"}], "cache": {}})
        built = build_routes({"r": rule, "kept": kept}, engines, facts, seed=1)
        routes |= {name: Route(name, "chat", engine=one) for name, one in built.items()}
        self.embedders: list[OpenAIEmbedder] = []
        for name, own in (("emb", "emb"), ("late emb", "slow")):
            embedder = OpenAIEmbedder(name, self.provider.url, own, "", 0.3 if own == "slow" else 5, max_retries=0,
                                      usd_per_million_in=1000)
            routes[name] = Route(name, "embed", embedder=embedder, usd_per_million_in=1000)
            self.embedders.append(embedder)
        app = create_app(routes, writer=self.traces, keys=Keys(store=store), accounts=self.accounts,
                         limits=Limits(timeout_s=5))
        self.gateway, self.server = app.state.gateway, BackgroundServer(app)
        self.http = httpx.Client(headers={"authorization": f"Bearer {self.secret}"}, timeout=10)

    def ask(self, model: str, **more: Any) -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": "hola " * 80}], "max_tokens": 900, **more}
        return self.http.post(self.server.url + "/v1/chat/completions", json=body)

    def cut(self, model: str, pieces: int, **more: Any) -> None:
        body = {"model": model, "messages": [{"role": "user", "content": "hola " * 80}], "max_tokens": 900,
                "stream": True, **more}
        with self.http.stream("POST", self.server.url + "/v1/chat/completions", json=body) as answer:
            for n, _ in enumerate(answer.iter_lines()):
                if n >= pieces:
                    return

    def last(self, count: int) -> Trace:
        """The newest trace, once there are `count`; what it cost is what its key is held to and the ledger has."""
        end = time.monotonic() + 5
        while len(found := self.traces.traces(limit=100)) < count and time.monotonic() < end:
            time.sleep(0.01)
        assert len(found) == count
        total = sum(round(t.usage.usd * 10**9) for t in found)
        [(settled, reserved)] = [(r["settled"], r["reserved"]) for r in self.accounts.standing()
                                 if r["name"] == self.key.id]
        assert (settled, reserved) == (total, 0)
        assert sum(row.nano_usd for row in spent(self.ledger) if row.key == self.key.id) == total
        return max(found, key=lambda t: t.received_at)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    with made.server:
        yield made
        made.http.close()
    for embedder in made.embedders:
        embedder.close()
    made.provider.shutdown()
    made.provider.server_close()
    made.ledger.close()


def usd(tokens_in: int, tokens_out: int) -> float:
    return (1000 * tokens_in + 2000 * tokens_out) / 1e6


def test_no_reply_is_free(served: Served) -> None:
    """400 characters of prompt are about 95 tokens and 10 of framing; WORDS about 91."""
    told = served.ask("plain").json()
    one = served.last(1)
    assert one.estimated
    assert told["bucle"]["estimated"] is True
    assert told["bucle"]["usd"] == one.usage.usd > 0
    assert (told["usage"]["prompt_tokens"], told["usage"]["completion_tokens"]) == (one.usage.tokens_in,
                                                                                    one.usage.tokens_out)
    prompt, answer = one.usage.tokens_in, one.usage.tokens_out
    assert 90 <= prompt <= 120
    assert 80 <= answer <= 110
    assert served.ask("plain", stream=True).status_code == 200
    streamed = served.last(2)
    assert (streamed.estimated, streamed.usage.tokens_in) == (True, prompt)
    assert 30 <= streamed.usage.tokens_out <= 60  # 21 times 8 characters

    assert served.ask("slow").status_code == 504  # it was sent: the prompt was read
    late = served.last(3)
    assert (late.estimated, late.usage.usd) == (True, pytest.approx(usd(prompt, 0)))

    assert served.ask("breaks").status_code == 502
    broken = served.last(4)
    assert (broken.status, broken.estimated, broken.usage.tokens_in) == (502, True, prompt)
    assert answer - 20 <= broken.usage.tokens_out <= answer  # what had come of it

    assert served.ask("refuses").status_code == 502  # an error is not billed
    refused = served.last(5)
    assert (refused.estimated, refused.usage.usd) == (False, 0)

    assert served.ask("r").status_code == 200  # two that came too late, then the answer of the fallback
    three = served.last(6)
    asked = [s["target"] for s in three.spans if s["name"] == "attempt"]
    assert asked == ["slow", "slow", "plain"]
    assert (three.usage.tokens_in, three.usage.tokens_out) == (3 * prompt, answer)
    assert (three.estimated, three.usage.usd) == (True, pytest.approx(usd(3 * prompt, answer)))


def metrics(served: Served) -> dict[str, float]:
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
            for line in served.gateway.metrics.text().decode().splitlines() if not line.startswith("#")}


def test_what_routes_budgets_and_shadows_do_is_measured(served: Served) -> None:
    assert served.ask("r").status_code == 200
    cost = served.last(1).usage.usd
    told = metrics(served)
    assert told['bucle_route_attempts_total{outcome="TimedOut",route="r",target="slow"}'] == 2
    assert told['bucle_route_attempts_total{outcome="ok",route="r",target="plain"}'] == 1
    assert told['bucle_route_retries_total{route="r"}'] == told['bucle_route_fallbacks_total{route="r"}'] == 1
    assert told['bucle_route_breaker{route="r",state="closed",target="slow"}'] == 1
    assert told['bucle_cache_requests_total{outcome="missed",route="r"}'] == 1
    assert told['bucle_shadow_requests_total{outcome="asked",route="r",target="refuses"}'] == 1
    assert told['bucle_usd_total{route="r"}'] == pytest.approx(cost)
    who = f'{{id="{served.key.id}",kind="key",name="app"}}'
    assert told["bucle_budget_used_usd" + who] == pytest.approx(cost)
    assert (told["bucle_budget_reserved_usd" + who], told["bucle_budget_limit_usd" + who]) == (0, 100)
    assert served.secret not in str(told)
    assert served.ask("kept").json()["bucle"]["usd"] > 0
    assert served.ask("kept").json()["bucle"]["usd"] == 0
    alias: Any = served.gateway.routes["r"].engine
    alias.chain.targets["slow"].attempt.breaker.failed(pause_s=60.0)
    told = metrics(served)
    assert told['bucle_cache_requests_total{outcome="exact",route="kept"}'] == 1
    assert told['bucle_route_breaker{route="r",state="open",target="slow"}'] == 1
    assert told['bucle_route_breaker_opened_total{route="r",target="slow"}'] == 1


def test_an_engines_process_is_measured() -> None:
    engine = EngineProcess("casa", HostSpec("casa", "/nowhere"))
    engine.state, engine.restarts = "restarting", 3
    registry = CollectorRegistry()
    registry.register(Engines(lambda: [("casa", engine), ("casa:legal", engine)]))
    told = generate_latest(registry).decode()
    assert 'bucle_engine_state{model="casa",state="restarting"} 1.0' in told
    assert 'bucle_engine_state{model="casa",state="ready"} 0.0' in told
    assert 'bucle_engine_restarts_total{model="casa"} 3.0' in told
    assert "legal" not in told


def test_all_choices_and_calls_of_tools_count_in_a_stream_that_is_cut(served: Served) -> None:
    served.cut("long", 40)
    one = served.last(1)
    assert (one.status, one.estimated) == (499, True)
    assert one.usage.tokens_out >= 20
    served.cut("long", 160, n=4)  # as many pieces of each choice as before of one
    four = served.last(2)
    assert four.usage.tokens_out >= 60
    assert len(four.output) < 4 * four.usage.tokens_out * 4 / 2, "the text of one choice, the cost of all four"
    served.cut("long", 200, tools=[TOOL])
    calls = served.last(3)
    assert (calls.status, calls.estimated) == (499, True)
    assert calls.usage.tokens_out >= 100
    assert calls.usage.usd == pytest.approx(usd(calls.usage.tokens_in, calls.usage.tokens_out))


def test_texts_cost_what_they_may_and_not_more(served: Served) -> None:
    """A text of 400 characters is about 95 tokens, and at most so many as its request has bytes."""
    def embed(model: str, texts: int) -> httpx.Response:
        body = {"model": model, "input": ["hola " * 80] * texts}
        return served.http.post(served.server.url + "/v1/embeddings", json=body)

    told = embed("emb", 2).json()
    one = served.last(1)
    assert one.estimated
    assert told["bucle"]["estimated"] is True
    assert told["usage"]["prompt_tokens"] == one.usage.tokens_in == pytest.approx(186, abs=12)
    assert one.usage.usd == pytest.approx(usd(one.usage.tokens_in, 0))
    assert embed("late emb", 1).status_code == 504
    late = served.last(2)
    assert (late.estimated, late.usage.usd) == (True, pytest.approx(one.usage.usd / 2))
    with ThreadPoolExecutor(16) as pool:  # each asks for 20 dollars at most and takes 5: 100 are never passed
        codes = [r.status_code for r in pool.map(lambda _: embed("emb", 50), range(32))]
    paid = codes.count(200)
    assert set(codes) == {200, 429}
    assert paid * one.usage.usd * 25 <= 100
    served.last(2 + paid + 1)  # of many refusals one leaves a trace
    assert embed("emb", 1).status_code == 200, "a small one is not held to what the dearest cost"


def test_what_a_task_lost_on_the_way_is_told_to_whoever_pays(served: Served) -> None:
    """Its model is asked by threads, through another client."""
    chat = OpenAIChat("slow", served.provider.url, "slow", "", 0.3, max_retries=0, usd_per_million_in=1000)
    with without_waiting() as told, pytest.raises(TimedOut):
        chat.chat([{"role": "user", "content": "hola " * 80}], max_tokens=9)
    assert [u.usd for u in told.spent] == [pytest.approx(usd(told.spent[0].tokens_in, 0))]
    assert 80 <= told.spent[0].tokens_in <= 110
    other = OpenAIChat("plain", served.provider.url, "plain", "", 5, usd_per_million_in=1000)
    blocking = BlockingChat(engine(served.provider, "slow"), timeout_s=5, max_retries=0)
    with without_waiting() as told:
        assert other.chat([{"role": "user", "content": "hola"}], max_tokens=9).usage.tokens_out > 80
        assert (told.spent, told.estimated) == ([], True)
        with pytest.raises(TimedOut):
            blocking.chat([{"role": "user", "content": "hola " * 80}], max_tokens=9)
        assert len(told.spent) == 1

    class Candidate:
        max_parallel = 2

        def predict(self, texts: Sequence[str]) -> list[Prediction]:
            return [Prediction(output=chat.chat([{"role": "user", "content": t}], max_tokens=9).text) for t in texts]

    async def asked() -> AskContext:
        task, ctx = TaskEngine(Candidate(), "t", "answer"), AskContext()  # type: ignore[arg-type]
        with pytest.raises(TimedOut):
            await task.complete(ChatAsk("t", ({"role": "user", "content": "hola " * 80},)), ctx)
        await task.close()
        return ctx

    ctx = asyncio.run(asked())
    assert [u.usd > 0 for u in ctx.spent] == [True]
    assert ctx.estimated
    for one in (chat, other, blocking):
        one.close()  # type: ignore[attr-defined]


def test_64_clients_of_providers_that_count_nothing_spend_a_budget_and_not_more(served: Served) -> None:
    """Whole answers, streams cut half-way, replies too late and broken off; each asks for 2 dollars and more of 100."""
    gate, over = threading.Barrier(64), list[object]()

    def spend(n: int) -> set[int]:
        gate.wait()
        codes = set()
        for model in ("plain", "breaks", "long", "slow")[n % 4:]:
            if model == "long":
                served.cut(model, 20)
            else:
                codes.add(served.ask(model).status_code)
            over.extend(r for r in served.accounts.standing() if r["settled"] + r["reserved"] > 100 * 10**9)
        return codes

    with ThreadPoolExecutor(64) as pool:
        codes = set().union(*pool.map(spend, range(64)))
    assert codes == {200, 429, 502, 504}
    assert not over
    end = time.monotonic() + 5
    while served.gateway.active and time.monotonic() < end:
        time.sleep(0.01)
    settled = next(r["settled"] for r in served.accounts.standing() if r["name"] == served.key.id)
    while (kept := sum(r.nano_usd for r in spent(served.ledger))) != settled and time.monotonic() < end:
        time.sleep(0.01)
    assert 0 < settled == kept <= 100 * 10**9


@contextmanager
def _deaf() -> Iterator[str]:
    """An address that nobody listens at."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/v1"


def test_what_was_never_sent_costs_nothing(served: Served) -> None:
    async def asked(one: WireEngine, wait_s: float = 1.0) -> AskContext:
        ctx = AskContext()
        try:
            async with asyncio.timeout(wait_s):
                await one.complete(ChatAsk("m", ({"role": "user", "content": "hola"},)), ctx)
        except (BucleError, TimeoutError):
            return ctx
        raise AssertionError("it was answered")

    async def queued() -> tuple[AskContext, AskContext]:
        one = engine(served.provider, "slow", max_parallel=1)
        found = await asyncio.gather(asked(one, 0.3), asked(one, 0.15))
        await one.close()
        return found[0], found[1]

    async def unheard(url: str) -> AskContext:
        one = engine(served.provider, "plain", url=url)
        found = await asked(one)
        await one.close()
        return found

    with _deaf() as url:
        ctx = asyncio.run(unheard(url))
    assert [u.usd for u in ctx.spent] == [0]
    assert not ctx.estimated
    first, second = asyncio.run(queued())
    assert sorted([bool(first.spent[0].usd), bool(second.spent[0].usd)]) == [False, True], "one waited here, in a queue"
    assert served.provider.asked == ["slow"]
