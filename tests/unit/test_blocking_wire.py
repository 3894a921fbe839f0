"""An OpenAI-compatible server asked from plain threads, through an engine: as OpenAIChat asks it; and Ollama's wire."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from chat_peer import Peer

from bucle.core.engine import AskContext, ChatAnswer, ChatAsk
from bucle.core.errors import BadInput, ModelUnavailable
from bucle.core.ports import ChatReply
from bucle.models.ask import Ask, ask_all
from bucle.models.endpoint import Refused
from bucle.models.engines.blocking import BlockingChat
from bucle.models.engines.ollama import OLLAMA_OFFERS, offers_at
from bucle.models.engines.wire import WIRE_OFFERS, WireEngine
from bucle.models.remote import OpenAIChat

HI = ({"role": "user", "content": "hola"},)


def test_it_asks_and_answers_as_openai_chat_does() -> None:
    peer = Peer(lambda messages, body: "CUT never ends" if "long" in messages[-1]["content"] else "ya")
    ours = BlockingChat(WireEngine("gpt", peer.url, "m", usd_per_million_in=1, usd_per_million_out=2), max_retries=0)
    theirs = OpenAIChat("gpt", peer.url, "m", "", 10, 0, usd_per_million_in=1, usd_per_million_out=2)
    try:
        for text in ("hola", "long"):
            ask = Ask([{"role": "user", "content": text}], 9, 0.5, ("x",), 3, {"type": "object"})
            both = [ask_all(model, [ask], fresh=True)[0] for model in (ours, theirs)]
            first, second = [(r.text, r.usage, r.finish) for r in both if isinstance(r, ChatReply)]
            assert first == second
            mine, other = peer.asked[-2:]
            assert mine.pop("response_format")["json_schema"]["schema"] == {"type": "object"}
            other.pop("response_format")
            assert mine == other
        assert ours.identity == theirs.identity
        assert ours.max_parallel == theirs.max_parallel == 16
    finally:
        ours.close()
        theirs.close()
        peer.server.shutdown()
        peer.server.server_close()


def test_what_fails_fails_alike() -> None:
    def says(messages: Any, body: Any) -> str:
        raise BadInput("this is refused")

    peer = Peer(says)
    chat = BlockingChat(WireEngine("gpt", peer.url, "m"), max_retries=2, sleep=lambda seconds: None)
    try:
        with pytest.raises(BadInput, match="this is refused"):
            chat.chat(HI, max_tokens=9)
        assert len(peer.asked) == 1
    finally:
        chat.close()
        peer.server.shutdown()
        peer.server.server_close()
    with pytest.raises(ModelUnavailable):
        chat.chat(HI, max_tokens=9)
    chat.close()


@contextmanager
def ollama() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """What Ollama's /v1/chat/completions does with the fields it knows, and with those that it does not."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            asked.append(body)
            head = {"id": "chatcmpl-1", "created": 1, "model": body["model"], "system_fingerprint": "fp_ollama"}
            if body["model"] != "llama3.2":
                error = {"message": f"model '{body['model']}' not found", "type": "not_found_error", "param": None,
                         "code": None}
                self._send(404, json.dumps({"error": error}).encode())
                return
            call = {"id": "call_1", "index": 0, "type": "function",
                    "function": {"name": "weather", "arguments": '{"town":"León"}'}}
            message: dict[str, Any] = {"role": "assistant", "content": "hola"}
            finish = "stop"
            if body.get("tools"):
                message, finish = {"role": "assistant", "content": "", "tool_calls": [call]}, "tool_calls"
            usage = {"prompt_tokens": 26, "completion_tokens": 2, "total_tokens": 28}
            if not body.get("stream"):  # one answer, whatever n says
                self._send(200, json.dumps({**head, "object": "chat.completion", "usage": usage, "choices": [
                    {"index": 0, "message": message, "finish_reason": finish}]}).encode())
                return
            chunks = [{"index": 0, "delta": message, "finish_reason": None},
                      {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": finish}]
            events = [{**head, "object": "chat.completion.chunk", "choices": [c]} for c in chunks]
            events.append({**head, "object": "chat.completion.chunk", "choices": [], "usage": usage})
            lines = [*map(json.dumps, events), "[DONE]"]
            self._send(200, "".join(f"data: {line}\n\n" for line in lines).encode(), "text/event-stream")

        def _send(self, status: int, data: bytes, media: str = "application/json") -> None:
            self.send_response(status)
            self.send_header("content-type", media)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", asked
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("stream", [False, True])
def test_ollamas_wire(stream: bool) -> None:
    async def go(engine: WireEngine, **more: Any) -> ChatAnswer:
        ask = ChatAsk("llama", HI, stream=stream, **more)
        if not stream:
            return await engine.complete(ask, AskContext())
        *_, answer = [p async for p in engine.stream(ask, AskContext())]
        assert isinstance(answer, ChatAnswer)
        return answer

    async def all_of_it(url: str) -> None:
        engine = WireEngine("llama", url, "llama3.2", offers=OLLAMA_OFFERS)
        answer = await go(engine)
        assert (answer.text, answer.usage.tokens_in, answer.served_by) == ("hola", 26, "llama3.2 fp_ollama")
        answer = await go(engine, tools=({"type": "function", "function": {"name": "weather"}},))
        assert answer.choices[0].finish == "tool_calls"
        assert json.loads(answer.choices[0].tool_calls[0]["function"]["arguments"]) == {"town": "León"}
        await engine.close()
        other = WireEngine("llama", url, "no-such")
        with pytest.raises(Refused, match="no-such"):
            await go(other)
        await other.close()

    with ollama() as (url, _):
        asyncio.run(all_of_it(url))


def test_what_ollama_ignores_is_not_offered() -> None:
    assert offers_at("http://127.0.0.1:11434/v1") == OLLAMA_OFFERS
    assert {"n", "logit_bias"} & OLLAMA_OFFERS == set()
    for url in ("https://api.openai.com/v1", "http://127.0.0.1:8000/v1", "http://[", ""):
        assert offers_at(url) == WIRE_OFFERS
