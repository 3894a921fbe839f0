"""From a release to an app: who is asked side by side, and a chain served whole, with what its steps keep."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from chat_peer import remote

from bucle.core.config import EncoderModel, OpenAIModel
from bucle.core.ports import FitContext
from bucle.core.records import Node
from bucle.customise.chain import ChainTechnique, chain, step
from bucle.ledger.spend import spent
from bucle.loop.candidates import Candidate
from bucle.loop.serving import app_for
from bucle.loop.workspace import Workspace
from bucle.serve.gateway import Live
from bucle.serve.server import BackgroundServer

SPEC = chain("c", step("prompt", "resume", model="gpt", user="{{ input }}", cache=60), language="es")


@pytest.fixture
def ws(tmp_path: Path) -> Any:
    (tmp_path / "bucle.yaml").write_text(
        "project: p\nlanguage: es\ndata: {}\ntasks:\n  t: {kind: generate, data: t.tsv}\n"
        "models:\n  gpt: {kind: openai, base_url: 'http://127.0.0.1:9/v1', model: m}\n", "utf-8")
    found = Workspace.open(tmp_path)
    yield found
    found.close()


def model(ws: Workspace, url: str, **more: Any) -> Node:
    settings = OpenAIModel(kind="openai", base_url=url, model="m", api_key_env="", **more)
    return ws.ledger.put("base_model", {"name": "gpt", **settings.model_dump(mode="json", exclude_none=True)})


def released(ws: Workspace, technique: str, parents: list[tuple[str, str]], folder: Path | None = None,
             **attrs: Any) -> Node:
    candidate = Candidate(name=technique, task="t", kind="generate", technique=technique, **attrs)
    fitted = (ws.ledger.put("candidate", candidate.model_dump(mode="json"), parents=parents) if folder is None else
              ws.ledger.put_folder("candidate", folder, candidate.model_dump(mode="json"), parents=parents))
    return ws.ledger.put("release", {"tasks": {"t": fitted.id}}, parents=[("candidate", fitted.id)])


def test_a_released_chain_is_served_side_by_side_and_its_steps_are_kept(ws: Workspace, tmp_path: Path) -> None:
    both = threading.Barrier(2, timeout=5)

    def says(messages: Any, body: Any) -> str:
        if "junto" in messages[-1]["content"]:
            both.wait()  # comes through only where two are asked at once
        return "resumen"

    with remote(says) as (_, peer):
        params = {"chain": SPEC.model_dump(mode="json")}
        out = tmp_path / "out"
        out.mkdir()
        node = model(ws, peer.url)
        here = OpenAIModel(kind="openai", base_url=peer.url, model="m", api_key_env="")
        ws = replace(ws, config=ws.config.model_copy(update={"models": {"gpt": here}}))
        ChainTechnique().fit(FitContext(out=out, work=out, train=(), validation=(), labels=(), params=params, seed=0,
                                        kind="generate", report=lambda done, total, note="": None,
                                        models={"gpt": remote}, project=tmp_path))  # type: ignore[dict-item]
        release = released(ws, "chain", [("model gpt", node.id)], out, params=params, models=("gpt",))

        def reply(http: httpx.Client, text: str, name: str = "t") -> httpx.Response:
            return http.post("/chat/completions", json={"model": name, "messages": [
                {"role": "user", "content": text}]})

        for _ in range(2):  # and once more in the same process: what was let go of is opened again
            asked = len(peer.asked)
            with BackgroundServer(app_for(ws, release)) as server, \
                    httpx.Client(base_url=server.url + "/v1", timeout=10) as http, ThreadPoolExecutor(2) as pool:
                first = list(pool.map(lambda text, http=http: reply(http, text), (f"junto {_} a", f"junto {_} b")))
                again = reply(http, f"junto {_} a")
                assert [r.status_code for r in (*first, again)] == [200] * 3
                assert len(peer.asked) - asked == 2, "the second time it was kept"
                chat = list(pool.map(lambda text, http=http: reply(http, text, "gpt"), ("junto 1", "junto 2")))
                assert [r.status_code for r in chat] == [200, 200], "a provider's model is asked side by side too"
                assert "max_tokens" not in peer.asked[-1], "a provider is told no length that nobody asked for"
            assert not (ws.ledger.folder / "chains.db-wal").exists()
            kept = {t.id: t for t in ws.traces.traces()}[again.headers["x-bucle-trace"]]
            assert [s["cached"] for s in kept.spans if s["name"] == "resume"] == [True]


def test_a_shadow_is_paid_for_in_the_metrics_too(tmp_path: Path) -> None:
    """What they say of a route is what `bucle spend --by route` says."""
    with remote(lambda messages, body: "uno dos tres") as (_, peer):
        gpt = f"kind: openai, base_url: '{peer.url}', api_key_env: '', usd_per_million_in: 0, usd_per_million_out: 1000"
        (tmp_path / "bucle.yaml").write_text(
            f"project: p\nmodels:\n  a: {{{gpt}, model: a}}\n  b: {{{gpt}, model: b}}\n"
            "serve:\n  routes:\n    sh: {to: [{to: a}], shadow: [b]}\n", "utf-8")
        ws = Workspace.open(tmp_path)
        with BackgroundServer(app_for(ws, None)) as server, httpx.Client(base_url=server.url) as http:
            body = {"model": "sh", "messages": [{"role": "user", "content": "hola"}]}
            assert http.post("/v1/chat/completions", json=body).json()["bucle"]["usd"] == pytest.approx(0.003)
            end = time.monotonic() + 5
            while "bucle_shadow_usd_total{" not in (told := http.get("/metrics").text) and time.monotonic() < end:
                time.sleep(0.02)
        assert 'bucle_usd_total{route="sh"} 0.006' in told
        assert 'bucle_shadow_usd_total{route="sh",target="b"} 0.003' in told
        assert sum(row.nano_usd for row in spent(ws.ledger)) == 6_000_000
        ws.close()


def test_an_encoders_price_is_reserved_and_its_tokens_count(tmp_path: Path) -> None:
    """A remote one costs what bucle.yaml says and its vectors do not depend on it; one at a local address is free."""
    (tmp_path / "bucle.yaml").write_text(
        "project: p\nmodels:\n"
        "  far: {kind: encoder, base_url: 'https://models.example.org/v1', model: e, usd_per_million_in: 1000}\n"
        "  near: {kind: encoder, base_url: 'http://127.0.0.1:9/v1', model: e}\n"
        "  who: {kind: encoder, base_url: 'https://models.example.org/v1', model: f}\n"
        "  small: {kind: encoder}\n", "utf-8")
    ws = Workspace.open(tmp_path)
    served = {name: Live(route) for name, route in app_for(ws, None).state.gateway.routes.items()}
    assert {name: live.priced(1000, 0) for name, live in served.items()} == {
        "far": 1.0, "near": 0.0, "who": None, "small": 0.0}
    assert "usd_per_million_in" not in ws.ledger.get(served["far"].route.candidate).attrs
    small: Any = served["small"].route.embedder
    small.embed = lambda texts: [[1.0]] * len(texts)  # its vectors are not what is looked at
    _, used = small.embed_metered(["la factura de mayo", "hola"])
    assert 6 <= used.tokens_in <= 14
    ws.close()


@pytest.mark.parametrize(("technique", "kind", "at_once"), [
    ("zero-shot", "openai", 5), ("zero-shot", "local", 1), ("majority", "", 1)])
def test_only_who_waits_for_others_gets_several_calls(ws: Workspace, monkeypatch: pytest.MonkeyPatch, technique: str,
                                                      kind: str, at_once: int) -> None:
    class Made:
        def predict(self, inputs: Any) -> list[Any]:
            return []

    monkeypatch.setattr("bucle.loop.task_route.open_candidate", lambda *args, **more: Made())
    attrs = {"name": "m", "kind": kind, **({"max_parallel": 5, "base_url": "http://x"} if kind == "openai" else {})}
    parents = [("base", ws.ledger.put("base_model", attrs).id)] if kind else []
    app = app_for(ws, released(ws, technique, parents))
    assert app.state.routes["t"].engine.parallel == at_once


def test_a_providers_key_that_is_not_set_is_told_at_the_start(ws: Workspace, caplog: pytest.LogCaptureFixture,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    there = OpenAIModel(kind="openai", base_url="https://api.example.invalid/v1", model="m", api_key_env="SOME_KEY")
    here = there.model_copy(update={"base_url": "http://localhost:9/v1"})
    free = there.model_copy(update={"api_key_env": ""})
    ws = replace(ws, config=ws.config.model_copy(update={"models": {"gpt": there, "own": here, "free": free}}))
    monkeypatch.delenv("SOME_KEY", raising=False)
    assert app_for(ws, None).state.routes["gpt"].answer_tokens == 4096, "what budgets reserve then"
    assert [r.message.split(" has")[0] for r in caplog.records if "SOME_KEY is not set" in r.message] == ["gpt"]
    caplog.clear()
    monkeypatch.setenv("SOME_KEY", "sk-1")
    app_for(ws, None)
    assert "SOME_KEY" not in caplog.text
    assert "sk-1" not in caplog.text


def test_routes_know_how_their_tokens_are_counted_and_read(ws: Workspace) -> None:
    models = {"gpt": OpenAIModel(kind="openai", base_url="http://localhost:9/v1", model="gpt-4o"),
              "own": OpenAIModel(kind="openai", base_url="http://localhost:9/v1", model="qualquiera"),
              "emb": EncoderModel(kind="encoder", base_url="http://localhost:9/v1", model="text-embedding-3-small"),
              "bge": EncoderModel(kind="encoder", base_url="http://localhost:9/v1", model="bge")}
    ws = replace(ws, config=ws.config.model_copy(update={"models": models}))
    routes = app_for(ws, None).state.routes
    assert [routes[name].counter().how for name in ("gpt", "own")] == ["encoding", "estimate"]
    assert [routes[name].vocabulary for name in ("emb", "bge")] == ["cl100k_base", ""]
