"""The gateway's promises about what people say: what reaches engines and embedders, what is stored, who waits."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from bucle.core.engine import OFFERS, AskContext, ChatAnswer, ChatAsk, Choice, Delta
from bucle.core.errors import ModelUnavailable
from bucle.core.records import Feedback, Trace, Usage
from bucle.core.serving import Guards
from bucle.serve.app import create_app
from bucle.serve.guard import GuardSet
from bucle.serve.journal import Journal
from bucle.serve.people import People
from bucle.serve.routes import Route
from bucle.serve.server import BackgroundServer
from bucle.serve.traces import TraceQueue


class Says:
    """An engine that answers `text`, and remembers what it was asked."""

    name, offers = "says", OFFERS

    def __init__(self, text: str = "vale", *, fails: bool = False) -> None:
        self.text, self.fails, self.asked = text, fails, list[tuple[ChatAsk, AskContext]]()

    async def complete(self, ask: ChatAsk, ctx: AskContext) -> ChatAnswer:
        self.asked.append((ask, ctx))
        if self.fails:
            raise ModelUnavailable("it is away", "ask again")
        return ChatAnswer((Choice(self.text),), Usage(tokens_in=1, tokens_out=1))

    async def stream(self, ask: ChatAsk, ctx: AskContext) -> AsyncIterator[Delta | ChatAnswer]:
        yield Delta(self.text)
        yield await self.complete(ask, ctx)

    async def close(self) -> None:
        pass


class Vectors:
    """An embedder that remembers the texts it was given."""

    name, dimensions, max_parallel = "vectors", 2, 1

    def __init__(self) -> None:
        self.asked: list[str] = []

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        self.asked += texts
        return [[1.0, 0.0]] * len(texts)


class Kept:
    """Where traces and feedback go."""

    def __init__(self) -> None:
        self.rows, self.heard = list[Trace](), list[Feedback]()

    def add_traces(self, traces: Sequence[Trace]) -> int:
        self.rows += traces
        return len(traces)

    def add_feedback(self, items: Sequence[Feedback]) -> int:
        self.heard += items
        return len(items)


@contextmanager
def served(route: Route, **options: Any) -> Iterator[tuple[httpx.Client, Kept, TraceQueue]]:
    kept = Kept()
    app = create_app({route.name: route}, writer=kept, api_keys=(), **options)
    with BackgroundServer(app) as server, httpx.Client(base_url=server.url, timeout=30) as http:
        yield http, kept, app.state.traces


def body(text: str = "hola", **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], **more}


def test_who_asks_is_named_neither_to_the_engine_nor_in_the_ledger(tmp_path: Path) -> None:
    engine, people = Says(), People(tmp_path)
    with served(Route("m", "chat", engine=engine), people=people) as (http, kept, traces):
        trace = http.post("/v1/chat/completions", json=body(user="ana@empresa.es")).json()["bucle"]["trace"]
        http.post("/v1/chat/completions", json=body(safety_identifier="u-4711"))
        reply = http.post("/v1/responses", json={"model": "m", "input": "hola", "user": "ana@empresa.es"}).json()
        said = {"trace_id": trace, "rating": 1, "by": "612 345 678"}
        assert http.post("/v1/feedback", json=said).json()["new"]
        assert traces.flush()
    assert reply["user"] == "ana@empresa.es"  # to whoever said so
    told = [people.told(user) for user in ("ana@empresa.es", "u-4711", "ana@empresa.es")]
    assert [ask.user for ask, _ in engine.asked] == told
    ana = people.stored("ana@empresa.es")
    assert [row.user for row in kept.rows] == [ana, "u-4711", ana]
    assert [ctx.identity for _, ctx in engine.asked] == [ana, "u-4711", ana]
    assert [item.by for item in kept.heard] == [people.stored("612345678")]
    assert "empresa" not in str(kept.rows) + str([(a.user, c) for a, c in engine.asked])


GITHUB = "ghp_" + "a1B2" * 9
"""A key in GitHub's form."""
RULES = GuardSet(Guards.model_validate({"personal_data": {"input": "mask"}, "secrets": {"input": "block"}}))


def test_texts_for_an_encoder_pass_the_guards() -> None:
    vectors = Vectors()
    with served(Route("e", "embed", embedder=vectors), guards=RULES) as (http, kept, traces):
        asked = {"model": "e", "input": ["hola", "escribe a ana@x.es"]}
        reply = http.post("/v1/embeddings", json=asked).json()
        assert vectors.asked == ["hola", "escribe a [EMAIL]"]
        assert reply["bucle"]["guard"]["kinds"] == ["email"]
        many = http.post("/v1/embeddings", json={"model": "e", "input": ["llama al 612345678"] * 250})
        assert many.status_code == 200
        assert vectors.asked[2:] == ["llama al [PHONE]"] * 250
        refused = http.post("/v1/embeddings", json={"model": "e", "input": ["hola", f"usa {GITHUB}"]})
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "content_filter")
        assert len(vectors.asked) == 252
        assert traces.flush()
    assert [row.status for row in kept.rows] == [200, 200, 400]
    assert kept.rows[2].guard["kinds"] == ["secret"]
    assert [s["name"] for s in kept.rows[0].spans] == ["guard", "engine"]


def test_a_guard_that_flags_lets_texts_for_an_encoder_pass() -> None:
    vectors = Vectors()
    with served(Route("e", "embed", embedder=vectors), guards=GuardSet(Guards())) as (http, _, _):
        reply = http.post("/v1/embeddings", json={"model": "e", "input": GITHUB}).json()
    assert vectors.asked == [GITHUB]
    assert reply["bucle"]["guard"]["flagged"]


ARGUMENTS = {"token": GITHUB, "a": "ana@x.es"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": json.dumps(ARGUMENTS)}}
TOLD = {"role": "user", "content": "hola"}
AGENTS = {
    "/v1/chat/completions": {"messages": [TOLD, {"role": "assistant", "tool_calls": [CALL]},
                                          {"role": "tool", "tool_call_id": "c1", "content": "vale"}]},
    "/v1/messages": {"max_tokens": 9, "messages": [
        TOLD, {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "f", "input": ARGUMENTS}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "vale"}]}]},
    "/v1/responses": {"input": [
        TOLD, {"type": "function_call", "call_id": "c1", "name": "f", "arguments": json.dumps(ARGUMENTS)},
        {"type": "function_call_output", "call_id": "c1", "output": "vale"}]},
}


@pytest.mark.parametrize("path", AGENTS)
def test_an_agent_s_earlier_calls_pass_the_guards_by_every_api(path: str) -> None:
    engine = Says()
    with served(Route("m", "chat", engine=engine), guards=RULES) as (http, _, _):
        sent = {"model": "m", **AGENTS[path]}
        assert http.post(path, json=sent).status_code == 400
        assert not engine.asked
        plain = json.loads(json.dumps(sent).replace(GITHUB, "no"))
        assert http.post(path, json=plain).status_code == 200
    turn = next(m for m in engine.asked[0][0].messages if m.get("tool_calls"))
    assert json.loads(turn["tool_calls"][0]["function"]["arguments"]) == {"token": "no", "a": "[EMAIL]"}


def slowly(text: str) -> str:
    """Redaction that takes half a second for a long text, and lets other threads work meanwhile."""
    time.sleep(0.5 if len(text) > 8_000 else 0)
    return text.replace("ana@x.es", "[EMAIL]")


@pytest.mark.parametrize("way", ["input", "output", "stream", "refused", "embeddings"])
def test_nobody_waits_while_a_long_text_is_redacted(way: str, tmp_path: Path) -> None:
    said = "ana@x.es " * 2_000
    engine = Says(said if way in ("output", "stream") else "vale", fails=way == "refused")
    long = body("hola" if way in ("output", "stream") else said, stream=way == "stream")
    path, route = "/v1/chat/completions", Route("m", "chat", engine=engine)
    if way == "embeddings":
        path, long, route = "/v1/embeddings", {"model": "e", "input": said}, Route("e", "embed", embedder=Vectors())
    journal = Journal(tmp_path / "journal")
    with served(route, redact=slowly, journal=journal) as (http, kept, traces), ThreadPoolExecutor(4) as pool:
        http.get("/healthz")
        working = [pool.submit(http.post, path, json=long) for _ in range(4)]
        slowest = 0.0
        while not all(one.done() for one in working):
            started = time.perf_counter()
            assert http.get("/healthz").status_code == 200
            slowest = max(slowest, time.perf_counter() - started)
        assert {one.result().status_code for one in working} == {502 if way == "refused" else 200}
        lines = b"".join(p.read_bytes() for p in journal.own.iterdir())
        assert lines.count(b" e {") == 4  # before the last byte went out
        assert traces.flush()
    assert slowest < 0.4
    assert len(kept.rows) == 4
    assert all(("[EMAIL]" in row.input + row.output) and "ana@x.es" not in str(row) for row in kept.rows)
