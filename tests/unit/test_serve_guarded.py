"""The gateway's promises about what people say: what reaches engines and embedders, what is stored, who waits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from bucle.core.engine import OFFERS, AskContext, ChatAnswer, ChatAsk, Choice
from bucle.core.records import Feedback, Trace, Usage
from bucle.serve.app import create_app
from bucle.serve.people import People
from bucle.serve.routes import Route
from bucle.serve.server import BackgroundServer
from bucle.serve.traces import TraceQueue


class Says:
    """An engine that answers `text`, and remembers what it was asked."""

    name, offers = "says", OFFERS

    def __init__(self, text: str = "vale") -> None:
        self.text, self.asked = text, list[tuple[ChatAsk, AskContext]]()

    async def complete(self, ask: ChatAsk, ctx: AskContext) -> ChatAnswer:
        self.asked.append((ask, ctx))
        return ChatAnswer((Choice(self.text),), Usage(tokens_in=1, tokens_out=1))

    async def close(self) -> None:
        pass


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
