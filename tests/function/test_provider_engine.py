"""Other providers through the real any-llm library, against a local server that speaks OpenAI's and Azure's wire.

They run where the extra is installed (any-llm asks for an older `anthropic` client than the newest).
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from scripted_engine import Scripted

from bucle.core.engine import AskContext, ChatAnswer, ChatAsk, ChatEngine, Delta
from bucle.core.errors import BadInput, ConfigError, ContextOverflow, ModelUnavailable
from bucle.core.ports import ChatReply
from bucle.models.endpoint import RateLimited, Refused, TimedOut
from bucle.models.engines.blocking import BlockingChat
from bucle.models.engines.provider import PROVIDER_OFFERS, ProviderEngine
from bucle.serve.app import create_app
from bucle.serve.routes import Route
from bucle.serve.server import BackgroundServer

HI = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "hola mundo"})
TOOL = {"type": "function", "function": {"name": "weather", "description": "of a town", "parameters": {
    "type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]}}}

installed = pytest.mark.skipif(importlib.util.find_spec("any_llm") is None,
                               reason="needs pip install 'bucle[providers]'")


def says(ask: ChatAsk) -> Any:
    from scripted_engine import echo

    return {"late": RateLimited("wait", retry_after=7), "long": ContextOverflow("too long"), "bad": BadInput("bad"),
            "gone": ModelUnavailable("gone")}.get(ask.text) or echo(ask)


@pytest.fixture(scope="module")
def server() -> Iterator[BackgroundServer]:
    app: Any = create_app({"gpt": Route("gpt", "chat", engine=Scripted("gpt", says))}, writer=None,
                          api_keys=["bk_azure"])

    async def azure(scope: Any, receive: Any, send: Any) -> None:
        """Azure's path for the same API, and its header for the key."""
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            key = headers.get(b"api-key")
            more = [(b"authorization", b"Bearer " + key)] if key and b"authorization" not in headers else []
            scope = {**scope, "path": scope["path"].replace("/openai/v1/", "/v1/"),
                     "headers": [*scope["headers"], *more]}
        await app(scope, receive, send)

    azure.state = app.state  # type: ignore[attr-defined]
    with BackgroundServer(azure) as running:
        yield running


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_AZURE_KEY", "bk_azure")


def opened(server: BackgroundServer, provider: str = "azureopenai", **more: Any) -> ProviderEngine:
    base = server.url if provider == "azureopenai" else server.url + "/v1"
    return ProviderEngine("azure", provider, "gpt", **{
        "base_url": base, "api_key_env": "MY_AZURE_KEY", "timeout_s": 10, "usd_per_million_in": 1.0,
        "usd_per_million_out": 2.0, **more})


def asked(engine: ChatEngine, **ask: Any) -> tuple[list[Delta], ChatAnswer]:
    async def go() -> tuple[list[Delta], ChatAnswer]:
        question = ChatAsk(**{"model": "azure", "messages": HI, **ask})
        try:
            if not question.stream:
                return [], await engine.complete(question, AskContext())
            *pieces, answer = [p async for p in engine.stream(question, AskContext())]
            return pieces, answer  # type: ignore[return-value]
        finally:
            await engine.close()

    return asyncio.run(go())


@installed
@pytest.mark.parametrize("provider", ["azureopenai", "openai"])
@pytest.mark.parametrize("stream", [False, True])
def test_answers_tools_schemas_and_cost(server: BackgroundServer, provider: str, stream: bool) -> None:
    engine = opened(server, provider)
    assert isinstance(engine, ChatEngine)
    assert engine.offers > PROVIDER_OFFERS
    pieces, answer = asked(engine, stream=stream, stop=("mundo",), max_tokens=50, temperature=0.2, seed=3)
    assert answer.text == "You said: hola "
    assert "".join(p.text for p in pieces) == (answer.text if stream else "")
    used = answer.usage
    assert used.tokens_out > 0
    assert used.usd == pytest.approx((used.tokens_in + 2 * used.tokens_out) / 1e6)
    _, answer = asked(engine, stream=stream, tools=(TOOL,), tool_choice="required")
    (call,) = answer.choices[0].tool_calls
    assert (answer.choices[0].finish, json.loads(call["function"]["arguments"])) == ("tool_calls", {"town": "Ávila"})
    said = (*HI, {"role": "assistant", "content": "", "tool_calls": [dict(call)]},
            {"role": "tool", "tool_call_id": call["id"], "content": "18"})
    assert asked(engine, stream=stream, messages=said, tools=(TOOL,))[1].text == "The tool says 18."
    schema = TOOL["function"]["parameters"]  # type: ignore[index]
    assert json.loads(asked(engine, stream=stream, schema=schema)[1].text) == {"town": "Ávila"}


@installed
@pytest.mark.parametrize(("text", "kind"), [
    ("late", RateLimited), ("long", ContextOverflow), ("bad", BadInput), ("gone", ModelUnavailable)])
@pytest.mark.parametrize("stream", [False, True])
def test_errors_have_their_classes(server: BackgroundServer, text: str, kind: type[Exception], stream: bool) -> None:
    with pytest.raises(kind) as caught:
        asked(opened(server), messages=({"role": "user", "content": text},), stream=stream)
    assert type(caught.value) is kind
    if kind is RateLimited:
        assert caught.value.retry_after == 7  # type: ignore[attr-defined]


@installed
def test_keys_models_and_time(server: BackgroundServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_AZURE_KEY", "wrong-key-1234")
    with pytest.raises(Refused) as caught:
        asked(opened(server))
    assert "wrong-key-1234" not in str(caught.value)
    monkeypatch.delenv("MY_AZURE_KEY")
    with pytest.raises(Refused, match="MY_AZURE_KEY is not set"):
        asked(opened(server))
    monkeypatch.setenv("MY_AZURE_KEY", "bk_azure")
    unknown = opened(server)
    unknown.model = "no-such"
    with pytest.raises(Refused, match="no-such"):
        asked(unknown)
    with pytest.raises(TimedOut):
        asked(opened(server, timeout_s=0.0001))
    with pytest.raises(ModelUnavailable):
        asked(ProviderEngine("x", "openai", "m", base_url="http://127.0.0.1:9/v1", api_key_env="MY_AZURE_KEY"))
    with pytest.raises(ConfigError, match="knows no provider"):
        ProviderEngine("x", "nosuch", "m")


@installed
def test_from_plain_threads(server: BackgroundServer) -> None:
    chat = BlockingChat(opened(server), max_retries=1, sleep=lambda seconds: None)
    assert chat.chat(HI, max_tokens=20).text == "You said: hola mundo"
    *pieces, reply = chat.stream(HI, max_tokens=20)
    assert isinstance(reply, ChatReply)
    assert "".join(str(p) for p in pieces) == reply.text
    chat.close()


@contextmanager
def bedrock() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Bedrock's Converse API, as much of it as a plain reply needs."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            asked.append({"path": self.path, "signed": self.headers["authorization"], **body})
            text = body["messages"][-1]["content"][0].get("text", "")
            content: Any = [{"text": f"You said: {text}"}]
            if body.get("toolConfig"):
                content = [{"toolUse": {"toolUseId": "t1", "name": "weather", "input": {"town": "León"}}}]
            reply = {"output": {"message": {"role": "assistant", "content": content}},
                     "stopReason": "tool_use" if body.get("toolConfig") else "end_turn", "metrics": {"latencyMs": 1},
                     "usage": {"inputTokens": 3, "outputTokens": 2, "totalTokens": 5}}
            data = json.dumps({"message": "Too many requests"} if text == "late" else reply).encode()
            self.send_response(429 if text == "late" else 200)
            if text == "late":
                self.send_header("x-amzn-errortype", "ThrottlingException")
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()


@installed
def test_bedrock_by_its_own_sdk_and_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("boto3")
    for name, value in {"AWS_ACCESS_KEY_ID": "AKIATEST", "AWS_SECRET_ACCESS_KEY": "secret-1234",
                        "AWS_DEFAULT_REGION": "eu-west-1", "AWS_MAX_ATTEMPTS": "1"}.items():
        monkeypatch.setenv(name, value)
    with bedrock() as (url, peer):
        engine = ProviderEngine("claude", "bedrock", "anthropic.claude-test", base_url=url, timeout_s=10)
        assert engine.offers == PROVIDER_OFFERS  # what the library would drop in silence is not offered
        _, answer = asked(engine, max_tokens=50, temperature=0.5, stop=("x",))
        assert (answer.text, answer.usage.tokens_in, answer.usage.tokens_out) == ("You said: hola mundo", 3, 2)
        assert peer[0]["inferenceConfig"] == {"maxTokens": 50, "temperature": 0.5, "stopSequences": ["x"]}
        assert peer[0]["system"][0]["text"] == "Be brief."
        assert "AKIATEST" in peer[0]["signed"]
        _, answer = asked(engine, tools=(TOOL,))
        (call,) = answer.choices[0].tool_calls
        assert (answer.choices[0].finish, json.loads(call["function"]["arguments"])) == (
            "tool_calls", {"town": "León"})
        with pytest.raises(RateLimited) as caught:
            asked(engine, messages=({"role": "user", "content": "late"},))
        assert "secret-1234" not in str(caught.value)


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "any_llm", None)
    with pytest.raises(ConfigError) as caught:
        ProviderEngine("claude", "bedrock", "m")
    assert "bucle[providers]" in caught.value.hint
