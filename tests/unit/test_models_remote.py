"""OpenAIChat and OpenAIEmbedder against a server on loopback that fails in scripted ways."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from bucle.core.errors import BadInput, ConfigError, ContextOverflow, ModelUnavailable, UpstreamTimeout
from bucle.core.ports import ChatModel, ChatReply, Embedder
from bucle.models import endpoint
from bucle.models.catalogue import context_window, price, provider_of
from bucle.models.remote import OpenAIChat, OpenAIEmbedder, RateLimited, TimedOut, forward_headers

HELLO = [{"role": "user", "content": "hola"}]
GOOD = {"choices": [{"message": {"content": "qué tal"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 500}}
Script = Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]


def reply(handler: BaseHTTPRequestHandler, status: int, body: bytes | dict[str, Any], **headers: str) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler.send_response(status)
    for name, value in {"content-length": str(len(data)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(data)


class Peer:
    """Answers each request with the next step of `script`, keeping the last; remembers what it was asked."""

    def __init__(self) -> None:
        self.script: list[Script] = []
        self.seen: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.pauses: list[float] = []
        peer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                peer.seen.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                step = peer.script.pop(0) if len(peer.script) > 1 else peer.script[0]
                step(self, body)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def chat(self, *script: Script, model: str = "m-1", **options: Any) -> OpenAIChat:
        self.script = list(script)
        return OpenAIChat("remoto", self.url, model, "TEST_KEY", sleep=self.pauses.append, **options)


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Peer]:
    monkeypatch.setenv("TEST_KEY", "sk-very-secret-123")
    one = Peer()
    yield one
    one.server.shutdown()
    one.server.server_close()


def says(status: int, body: bytes | dict[str, Any], **headers: str) -> Script:
    return lambda handler, _: reply(handler, status, body, **headers)


def sse(*events: dict[str, Any] | str) -> Script:
    lines = [e if isinstance(e, str) else json.dumps(e) for e in events]
    data = "".join(f"data: {line}\n\n" for line in lines)
    return says(200, data.encode(), content_type="text/event-stream")


def piece(text: str, finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": text}, "finish_reason": finish}]}


def test_a_chat_with_usage_and_configured_price(peer: Peer) -> None:
    chat = peer.chat(says(200, GOOD), usd_per_million_in=2.0, usd_per_million_out=4.0)
    found = chat.chat(HELLO, max_tokens=9, temperature=0.5, stop=["x"], seed=4)
    assert (found.text, found.finish) == ("qué tal", "stop")
    assert (found.usage.tokens_in, found.usage.tokens_out) == (1000, 500)
    assert found.usage.usd == pytest.approx(0.004)
    path, headers, body = peer.seen[0]
    assert (path, headers["authorization"]) == ("/v1/chat/completions", "Bearer sk-very-secret-123")
    assert body == {"model": "m-1", "messages": HELLO, "max_tokens": 9, "temperature": 0.5, "stop": ["x"],
                    "seed": 4}
    assert isinstance(chat, ChatModel)
    assert isinstance(OpenAIEmbedder("e", peer.url, "m"), Embedder)


def test_a_stream_ends_with_the_whole_reply(peer: Peer) -> None:
    usage = {"choices": [], "usage": GOOD["usage"]}
    chat = peer.chat(sse(piece("qué "), piece("tal", "length"), usage, "[DONE]"))
    *parts, last = chat.stream(HELLO, max_tokens=9)
    assert parts == ["qué ", "tal"]
    assert isinstance(last, ChatReply)
    assert (last.text, last.finish, last.usage.tokens_out) == ("qué tal", "length", 500)


@pytest.mark.parametrize("script", [sse(piece("a")), sse(piece("a"), "[DONE]"), sse("{"), sse("[1]"),
                                    sse(piece("a"), {"error": {"message": "boom"}}), says(200, b"\xff\x00")])
def test_a_broken_stream_is_said_to_be_broken(peer: Peer, script: Script) -> None:
    with pytest.raises(ModelUnavailable):
        list(peer.chat(script).stream(HELLO, max_tokens=9))


def test_retries_wait_as_told_then_succeed(peer: Peer) -> None:
    chat = peer.chat(says(429, {}, retry_after="7"), says(503, b""), says(200, GOOD))
    assert chat.chat(HELLO, max_tokens=9).text == "qué tal"
    assert peer.pauses[0] == 7
    assert 0.5 <= peer.pauses[1] <= 1.0
    date = formatdate(time.time() + 5, usegmt=True)
    peer.pauses.clear()
    peer.chat(says(429, {}, retry_after=date), says(200, GOOD), model="another").chat(HELLO, max_tokens=9)
    assert 2 < peer.pauses[0] <= 5


def test_a_long_wait_is_reported_not_waited_for(peer: Peer) -> None:
    with pytest.raises(RateLimited) as caught:
        peer.chat(says(429, {"error": {"message": "slow down"}}, retry_after="999")).chat(HELLO, max_tokens=1)
    assert caught.value.retry_after == 999
    assert "slow down" in caught.value.message
    assert (peer.pauses, len(peer.seen)) == ([], 1)


@pytest.mark.parametrize(("status", "kind", "tries"), [
    (400, BadInput, 1), (401, ModelUnavailable, 1), (404, ModelUnavailable, 1), (418, ModelUnavailable, 1),
    (429, RateLimited, 3), (500, ModelUnavailable, 3), (302, ModelUnavailable, 1)])
def test_errors_are_typed_and_never_hold_the_key(peer: Peer, status: int, kind: type[Exception],
                                                 tries: int) -> None:
    body = {"error": {"message": "wrong key sk-very-secret-123\nof yours"}}
    with pytest.raises(kind) as caught:
        peer.chat(says(status, body, location="http://127.0.0.1:9/")).chat(HELLO, max_tokens=9)
    assert "secret" not in str(caught.value)
    assert "\n" not in caught.value.message
    assert len(peer.seen) == tries


def test_no_connection_is_tried_again_and_explained(peer: Peer) -> None:
    chat = OpenAIChat("remoto", "http://127.0.0.1:9/v1", "m", api_key_env="", sleep=peer.pauses.append)
    with pytest.raises(ModelUnavailable, match="cannot be reached") as caught:
        chat.chat(HELLO, max_tokens=1)
    assert "base_url" in caught.value.hint
    assert len(peer.pauses) == 2
    dropped = peer.chat(lambda handler, _: handler.connection.close(), says(200, GOOD))
    assert dropped.chat(HELLO, max_tokens=1).text == "qué tal"


@pytest.mark.parametrize("error", [
    {"message": "no", "code": "context_length_exceeded"},
    "This model's maximum context length is 400 tokens. However, you requested 912 tokens.",
    {"message": "'max_tokens' or 'max_completion_tokens' is too large: 9. This model's maximum context length is 4."},
    {"message": "Your input exceeds the context window of this model."},
    {"message": "The decoder prompt (length 5000) is longer than the maximum model length of 4096."},
    {"message": "the request exceeds the available context size, try increasing it"},
    {"message": "prompt is too long: 210000 tokens > 200000 maximum"},
    {"message": "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000"},
    {"message": "too many tokens: total number of tokens in the prompt cannot exceed 4081"},
    {"message": "The input token count (99) exceeds the maximum number of tokens allowed (9)."},
    {"message": "Prompt contains 40000 tokens, too large for model with 32768 maximum context length"},
])
def test_a_prompt_longer_than_the_context_is_that_error(peer: Peer, error: Any) -> None:
    chat = peer.chat(says(400, {"error": error}))
    with pytest.raises(ContextOverflow, match="longer than its context") as caught:
        chat.chat(HELLO, max_tokens=9)
    assert "fewer passages" in caught.value.hint
    assert len(peer.seen) == 1, "it names a field, and is not about it"


@pytest.mark.parametrize("body", [
    {"error": {"message": "max_tokens is too large: 9999. This model supports at most 4096 completion tokens."}},
    {"error": {"message": "Invalid value for temperature in this context"}},
    {"message": "the model answers no questions about tokens"},
])
def test_other_refusals_are_not_about_the_context(peer: Peer, body: Any) -> None:
    with pytest.raises(BadInput) as caught:
        peer.chat(says(400, body)).chat(HELLO, max_tokens=9)
    assert not isinstance(caught.value, ContextOverflow)
    assert (body.get("message") or body["error"]["message"])[:20] in caught.value.message


def test_a_connection_that_is_closed_or_cut_was_reached(peer: Peer) -> None:
    def closes(handler: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
        handler.close_connection = True

    with pytest.raises(ModelUnavailable, match="closed the connection without a reply") as caught:
        peer.chat(closes, max_retries=1).chat(HELLO, max_tokens=9)
    assert "start http" not in caught.value.hint
    assert len(peer.pauses) == 1

    def cuts(handler: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
        handler.send_response(200)
        handler.send_header("content-length", "900")
        handler.end_headers()
        handler.wfile.write(b'{"choices": [')
        handler.close_connection = True

    with pytest.raises(UpstreamTimeout, match="broke off its reply half-way"):
        peer.chat(cuts).chat(HELLO, max_tokens=9)


def test_a_missing_key_names_the_variable(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEST_KEY")
    far = OpenAIChat("m", "https://provider.example/v1", "m", "TEST_KEY", 1)
    with pytest.raises(ModelUnavailable, match="TEST_KEY is not set"):
        far.chat(HELLO, max_tokens=1)  # before anything is sent
    far.close()
    assert peer.chat(says(200, GOOD)).chat(HELLO, max_tokens=1).text, "a server of this machine may ask for none"
    assert "authorization" not in peer.seen[0][1]


def test_a_drip_is_cut_off_at_the_timeout(peer: Peer) -> None:
    def drip(handler: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            for _ in range(100):
                handler.wfile.write(b" ")
                time.sleep(0.05)
        except OSError:
            pass

    started = time.monotonic()
    with pytest.raises(TimedOut):
        peer.chat(drip, timeout_s=0.3).chat(HELLO, max_tokens=1)
    assert time.monotonic() - started < 2


def test_an_endless_reply_is_refused(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "RESPONSE_LIMIT", 2**20)
    with pytest.raises(ModelUnavailable, match="more than 1 MiB"):
        peer.chat(says(200, b" " * 2**21)).chat(HELLO, max_tokens=1)
    with pytest.raises(ModelUnavailable, match="more than 1 MiB"):
        list(peer.chat(says(200, b"data: " + b"x" * 2**21)).stream(HELLO, max_tokens=1))


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"choices": [3]}', b'{"choices": [{"message": 1}]}',
                                  b"[" * 10**5])
def test_nonsense_is_a_typed_error(peer: Peer, body: bytes) -> None:
    with pytest.raises(ModelUnavailable):
        peer.chat(says(200, body)).chat(HELLO, max_tokens=1)


def test_a_reasoning_model_gets_the_other_limit_field(peer: Peer) -> None:
    refusal = {"error": {"message": "Unsupported: 'max_tokens'. Use 'max_completion_tokens' instead."}}
    chat = peer.chat(says(400, refusal), says(200, GOOD))
    chat.chat(HELLO, max_tokens=5)
    chat.chat(HELLO, max_tokens=6)
    assert [b.get("max_completion_tokens") for _, _, b in peer.seen] == [None, 5, 6]
    assert "max_tokens" not in peer.seen[1][2]


def test_forwarded_headers_last_as_long_as_the_context(peer: Peer) -> None:
    chat = peer.chat(says(200, GOOD))
    token = forward_headers.set({"x-upstream-ms": "5"})
    chat.chat(HELLO, max_tokens=1)
    forward_headers.reset(token)
    chat.chat(HELLO, max_tokens=1)
    assert [h.get("x-upstream-ms") for _, h, _ in peer.seen] == ["5", None]


def test_embeddings_are_ordered_unit_vectors_in_batches(peer: Peer) -> None:
    def embed(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        rows = [{"index": i, "embedding": [3.0 * len(t), 4.0 * len(t)]} for i, t in enumerate(body["input"])]
        reply(handler, 200, {"data": rows[::-1], "usage": {"prompt_tokens": len(rows)}})

    peer.script = [embed]
    model = OpenAIEmbedder("e", peer.url, "m", "TEST_KEY", batch=2, usd_per_million_in=1e6)
    vectors, usage = model.embed_metered(["a", "bb", "ccc"])
    assert vectors == [pytest.approx([0.6, 0.8])] * 3
    assert (len(peer.seen), usage.tokens_in, usage.usd, model.dimensions) == (2, 3, 3.0, 2)
    with pytest.raises(ModelUnavailable, match="dimensions"):
        OpenAIEmbedder("e", peer.url, "m", "TEST_KEY", dimensions=5).embed(["a"])


@pytest.mark.parametrize("data", [None, [], [{"index": 0}], [{"index": 0, "embedding": ["x"]}],
                                  [{"index": 0, "embedding": [1e999]}], [{"embedding": [1]}, 3]])
def test_wrong_embeddings_are_refused(peer: Peer, data: Any) -> None:
    peer.script = [says(200, json.dumps({"data": data}).encode())]
    with pytest.raises(ModelUnavailable):
        OpenAIEmbedder("e", peer.url, "m", "TEST_KEY").embed(["a"])


@pytest.mark.parametrize(("vector", "says_what"), [
    ("[0, 0]", "zeros only"), ("[NaN, 1]", "not finite"), ("[-Infinity, 1]", "not finite"), 
    ("[1e300, 1e300]", "not finite"),
])
def test_vectors_that_are_near_to_nothing_are_refused_with_advice(peer: Peer, vector: str, says_what: str) -> None:
    whole = f'{{"data": [{{"index": 0, "embedding": [1, 0]}}, {{"index": 1, "embedding": {vector}}}]}}'
    peer.script = [says(200, whole.encode())]
    with pytest.raises(ModelUnavailable, match=says_what) as caught:
        OpenAIEmbedder("e", peer.url, "m", "TEST_KEY").embed(["a", "b"])
    assert "precision" in caught.value.hint


def test_a_text_without_a_letter_may_have_no_direction(peer: Peer) -> None:
    peer.script = [says(200, json.dumps({"data": [{"index": 0, "embedding": [0, 0]}]}).encode())]
    assert OpenAIEmbedder("e", peer.url, "m", "TEST_KEY").embed(["¿?"]) == [[0.0, 0.0]]


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://x", "http://", "nonsense", "http://u:p@host/v1"])
def test_a_base_url_that_is_none(url: str) -> None:
    with pytest.raises(ConfigError):
        OpenAIChat("remoto", url, "m")


def test_prices_and_windows_from_the_tables() -> None:
    one, ten = price("gpt-4o-mini", "openai", 1000, 0), price("gpt-4o-mini", "openai", 10_000, 0)
    assert one is not None
    assert ten == pytest.approx(10 * one)
    assert price("gpt-4o-mini", None, 1000, 0) == one
    assert price("no-such-model-9", "openai", 1, 1) is None
    assert price("gpt-4o-mini", "no-such-provider", 1, 1) is None
    assert (context_window("gpt-4o-mini", "openai") or 0) >= 100_000
    assert context_window("no-such-model-9") is None
    assert provider_of("https://api.openai.com/v1") == "openai"
    assert provider_of("http://127.0.0.1:8000/v1") is None
