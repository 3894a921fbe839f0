"""WireEngine against servers that behave well, badly and maliciously, over TCP and a Unix socket."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bucle.core.engine import AskContext, ChatAnswer, ChatAsk, Delta
from bucle.core.errors import BadInput, BucleError, ContextOverflow, ModelUnavailable, UpstreamTimeout
from bucle.core.records import Usage
from bucle.models.endpoint import RateLimited, Refused, TimedOut
from bucle.models.engines import wire
from bucle.models.engines.wire import Unsupported, WireEngine

ASK = ChatAsk("m", ({"role": "user", "content": "hola"},))


class Peer:
    """Answers each request with the bytes that `says(head, body, connection)` gives; None closes the connection."""

    def __init__(self, says: Callable[[str, dict[str, Any], int], bytes | None], uds: Path | None = None) -> None:
        self.says, self.connections, self.heads, self.ended = says, 0, list[str](), threading.Event()
        self.bodies: list[dict[str, Any]] = []
        self.listener = socket.socket(socket.AF_UNIX if uds else socket.AF_INET)
        self.listener.bind(str(uds) if uds else ("127.0.0.1", 0))
        self.listener.listen(32)
        self.url = "http://localhost/v1" if uds else f"http://127.0.0.1:{self.listener.getsockname()[1]}/v1"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                line, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self.serve, args=(line, self.connections), daemon=True).start()

    def serve(self, line: socket.socket, number: int) -> None:
        try:
            self.talk(line, number)
        except OSError:
            pass
        finally:
            self.ended.set()

    def talk(self, line: socket.socket, number: int) -> None:
        data = b""
        with line:
            while True:
                while b"\r\n\r\n" not in data:
                    if not (piece := line.recv(65536)):
                        return
                    data += piece
                head, _, data = data.partition(b"\r\n\r\n")
                size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                while len(data) < size:
                    data += line.recv(65536)
                body, data = json.loads(data[:size]), data[size:]
                self.heads.append(head.decode().lower())
                self.bodies.append(body)
                said = self.says(self.heads[-1], body, number)
                if said is None:
                    return
                line.sendall(said)


def reply(value: Any, status: str = "200 OK", **headers: str) -> bytes:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    more = "".join(f"{k.replace('_', '-')}: {v}\r\n" for k, v in headers.items())
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(data)}\r\n{more}\r\n".encode() + data


def events(*values: Any, done: bool = True) -> bytes:
    lines = [v if isinstance(v, bytes) else b"data: " + json.dumps(v).encode() + b"\n\n" for v in values]
    data = b"".join([*lines, b"data: [DONE]\n\n" if done else b""])
    return (b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data))


def whole(*texts: str, **more: Any) -> dict[str, Any]:
    return {"model": "m-1", "system_fingerprint": "fp", "new_field": [1],
            "usage": {"prompt_tokens": 3, "completion_tokens": 2},
            "choices": [{"index": n, "message": {"role": "assistant", "content": t, "new": 1}, "finish_reason": "stop"}
                        for n, t in enumerate(texts)], **more}


def piece(text: str = "", index: int = 0, finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"model": "m-1", "choices": [{"index": index, "delta": {"content": text, **delta}, "finish_reason": finish}]}


@contextmanager
def against(says: Callable[[str, dict[str, Any], int], bytes | None], uds: Path | None = None, **options: Any
            ) -> Iterator[tuple[WireEngine, Peer]]:
    peer = Peer(says, uds)
    yield WireEngine("gpt", peer.url, "m", **{"timeout_s": 2.0, "uds": uds, **options}), peer
    peer.listener.close()


def complete(engine: WireEngine, ask: ChatAsk = ASK, times: int = 1, **ctx: Any) -> ChatAnswer:
    async def run() -> ChatAnswer:
        try:
            for _ in range(times):
                answer = await engine.complete(ask, AskContext(**ctx))
            return answer
        finally:
            await engine.close()
    return asyncio.run(run())


def stream(engine: WireEngine, ask: ChatAsk = ASK, times: int = 1) -> list[Delta | ChatAnswer]:
    async def run() -> list[Delta | ChatAnswer]:
        try:
            for _ in range(times):
                found = [one async for one in engine.stream(ask, AskContext())]
            return found
        finally:
            await engine.close()
    return asyncio.run(run())


def test_an_answer_with_what_was_asked_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEER_KEY", "sk-1")
    with against(lambda *_: reply(whole("b", "a")), api_key_env="PEER_KEY", usd_per_million_in=1.0,
                 usd_per_million_out=2.0, headers={"x-org": "7"}) as (engine, peer):
        tool = {"type": "function", "function": {"name": "f"}}
        ask = ChatAsk("m", ASK.messages, n=2, seed=0, stop=("x",), top_logprobs=0, tools=(tool,),
                      schema={"type": "object"})
        answer = complete(engine, ask, times=3, forward={"x-upstream-ms": "5"})
        assert [c.text for c in answer.choices] == ["b", "a"]
        assert (answer.served_by, answer.usage) == ("m-1 fp", Usage(tokens_in=3, tokens_out=2, usd=7e-6))
        assert peer.connections == 1, "connections are kept"
        assert peer.bodies[0] == {
            "model": "m", "messages": [{"role": "user", "content": "hola"}], "n": 2, "seed": 0, "stop": ["x"],
            "logprobs": True, "tools": [tool],
            "response_format": {"type": "json_schema",
                                "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True}}}
        assert all(text in peer.heads[0] for text in ("authorization: bearer sk-1", "x-org: 7", "x-upstream-ms: 5"))
        monkeypatch.setenv("PEER_KEY", "sk-2")
        complete(engine)
        assert "sk-2" in peer.heads[-1], "the key is read at each call"
        monkeypatch.delenv("PEER_KEY")
        complete(engine)
        assert "authorization" not in peer.heads[-1], "a server of this machine may ask for none"
    with pytest.raises(Refused, match="PEER_KEY is not set"):
        complete(WireEngine("m", "https://api.example.invalid/v1", "m", api_key_env="PEER_KEY"))


def test_a_unix_socket_and_raw_completion(tmp_path: Path) -> None:
    answer = {"choices": [{"text": "c", "finish_reason": "length", "index": 0, "logprobs": {
        "tokens": ["c"], "token_logprobs": [-0.5], "top_logprobs": [{"c": -0.5}]}}]}
    with against(lambda head, body, n: reply(answer), uds=tmp_path / "s") as (engine, peer):
        found = complete(engine, ChatAsk("m", prompt="ab", top_logprobs=1)).choices[0]
        assert peer.heads[0].startswith("post /v1/completions ")
        assert (found.text, found.finish) == ("c", "length")
        assert found.logprobs is not None
        assert found.logprobs["content"][0]["top_logprobs"][0]["token"] == "c"


def test_a_stream_gathers_choices_calls_and_logprobs() -> None:
    def call(**function: str) -> list[dict[str, Any]]:
        return [{"index": 0, "id": "c1", "type": "function", "function": function}]

    said = events(b": a comment\n\n", b"event: message\n", piece("a"), piece("x", 1), piece("b", 0, "stop"),
                  piece(index=1, tool_calls=call(name="f")), piece(index=1, tool_calls=call(arguments="{}")),
                  piece("", 1, "tool_calls"), {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}})
    with against(lambda *_: said) as (engine, peer):
        *deltas, answer = stream(engine, ChatAsk("m", ASK.messages, n=2), times=3)
        assert isinstance(answer, ChatAnswer)
        assert [c.text for c in answer.choices] == ["ab", "x"]
        assert answer.choices[1].tool_calls == ({"id": "c1", "type": "function",
                                                 "function": {"name": "f", "arguments": "{}"}},)
        assert answer.usage.tokens_out == 4
        assert [(d.text, d.index) for d in deltas if isinstance(d, Delta) and d.text] == [("a", 0), ("x", 1), ("b", 0)]
        assert peer.bodies[0]["stream_options"] == {"include_usage": True}
        assert peer.connections == 1, "a stream read to its end leaves its connection"


def test_pieces_that_came_at_once_are_one() -> None:
    likely = piece("d")
    likely["choices"][0]["logprobs"] = {"content": [{"token": "d", "logprob": -1.0}]}
    said = events(piece("a"), piece("b"), piece("x", 1), piece("c"), likely, piece("e"), piece("f", 0, "stop"),
                  piece("", 1, "stop"))
    with against(lambda *_: said) as (engine, _):
        *deltas, answer = stream(engine, ChatAsk("m", ASK.messages, n=2))
        assert isinstance(answer, ChatAnswer)
        assert [c.text for c in answer.choices] == ["abcdef", "x"]
        told = [(d.text, d.index) for d in deltas if isinstance(d, Delta)]
        assert told == [("ab", 0), ("x", 1), ("c", 0), ("d", 0), ("ef", 0)]


@pytest.mark.parametrize(("said", "error", "words"), [
    (reply({"error": {"message": "slow down"}}, "429 Too Many Requests", retry_after="7"), RateLimited, "slow down"),
    (reply({"error": {"message": "bad key sk-1"}}, "401 Unauthorized"), Refused, "refused the key"),
    (reply({"detail": "no such"}, "404 Not Found"), Refused, "no such"),
    (reply({"error": {"message": "x", "code": "context_length_exceeded"}}, "400 Bad Request"), ContextOverflow,
     "longer"),
    (reply({"error": "wrong"}, "422 Unprocessable Entity"), BadInput, "wrong"),
    (reply({"error": {"message": "Unsupported value: 'temperature' does not", "param": "temperature"}},
           "400 Bad Request"), Unsupported, "temperature"),
    (reply(b"<html>", "500 Oh"), ModelUnavailable, "HTTP 500"),
    (reply(b"<html>"), ModelUnavailable, "not a JSON object"),
    (reply(b"[" * 100_000), ModelUnavailable, "not a JSON object"),
    (reply({"choices": []}), ModelUnavailable, "without a message"),
    (reply({"choices": [{"message": "text"}]}), ModelUnavailable, "without a message"),
    (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{", UpstreamTimeout, "half-way|did not answer"),
    (b"HTTP/1.1 302 Found\r\nlocation: http://example.org/\r\ncontent-length: 0\r\n\r\n", ModelUnavailable, "302"),
    (b"SSH-2.0-OpenSSH\r\n\r\n", ModelUnavailable, "cannot be reached|closed"),
    (None, ModelUnavailable, "closed the connection"),
])
def test_failures_have_their_kind_and_never_the_key(said: bytes | None, error: type[BucleError], words: str,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEER_KEY", "sk-1")
    ask = ChatAsk("m", ASK.messages, temperature=0.5)
    for way in (complete, stream):
        with against(lambda *_: said, api_key_env="PEER_KEY", timeout_s=0.4) as (engine, _):
            with pytest.raises(error, match=words) as caught:
                way(engine, ask)
            assert type(caught.value) is error or error in (ModelUnavailable, UpstreamTimeout)
            assert "sk-1" not in str(caught.value)
            assert getattr(caught.value, "retry_after", None) == (7 if error is RateLimited else None)
            if isinstance(caught.value, Unsupported):
                assert caught.value.what == "temperature"
            if said is not None and said.startswith(b"HTTP/1.1 200"):
                break  # as a stream it is one without an end, see below


@pytest.mark.parametrize(("said", "error"), [
    (events(piece("a"), done=False), UpstreamTimeout), (events(piece("a")), UpstreamTimeout),
    (events(piece("a"), b"data: {broken\n\n"), ModelUnavailable),
    (events(piece("a"), b"data: 7\n\n"), ModelUnavailable),
    (events(piece("a"), {"error": {"message": "boom", "code": "rate_limit_exceeded"}}), RateLimited),
    (events(piece("a"), {"error": "boom"}), ModelUnavailable), (events(piece("a", 5)), ModelUnavailable),
    (events(piece("a", tool_calls=[{"index": n} for n in range(500)])), ModelUnavailable),
    (events(piece("a"))[:-20], UpstreamTimeout),
])
def test_broken_streams_end_in_an_error_after_what_came(said: bytes, error: type[BucleError]) -> None:
    with against(lambda *_: said, timeout_s=0.5) as (engine, _), pytest.raises(error):
        stream(engine)


def test_endless_lines_and_replies_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "RESPONSE_LIMIT", 300_000)
    monkeypatch.setattr(wire, "LINE_LIMIT", 100_000)
    for said in (events(b"data: " + b"x" * 200_000), reply(b'"' + b"x" * 400_000)):
        with against(lambda *_, said=said: said) as (engine, _), pytest.raises(ModelUnavailable, match="more than"):
            (stream if b"event-stream" in said else complete)(engine)
    many = events(*[piece("x" * 1000)] * 400)
    with against(lambda *_: many) as (engine, _), pytest.raises(ModelUnavailable, match="in one reply"):
        stream(engine)


def test_silence_and_deadlines_end_a_call() -> None:
    slow = events(piece("a"))[:-20]
    for timeout, left in ((0.3, 9.0), (9.0, 0.3)):
        def silent(head: str, body: dict[str, Any], number: int) -> bytes | None:
            time.sleep(1.2)
            return None

        with against(silent, timeout_s=timeout) as (engine, _):
            began = time.monotonic()
            with pytest.raises(TimedOut, match="did not answer"):
                complete(engine, deadline=time.monotonic() + left)
            assert time.monotonic() - began < 1
    with against(lambda *_: slow, timeout_s=0.3) as (engine, _), pytest.raises(UpstreamTimeout):
        stream(engine)
    gone = WireEngine("gone", "http://127.0.0.1:9/v1", "m")
    with pytest.raises(ModelUnavailable, match="cannot be reached"):
        complete(gone)


def test_a_kept_connection_that_the_server_closed_is_replaced_and_max_tokens_renamed() -> None:
    def says(head: str, body: dict[str, Any], number: int) -> bytes | None:
        if number == 1 and len(peer.bodies) == 2:
            return None  # closes it just as it is asked again
        if "max_tokens" in body:
            return reply({"error": {"message": "Unsupported: use max_completion_tokens"}}, "400 Bad Request")
        return reply(whole("ok"))

    with against(says) as (engine, peer):
        assert complete(engine, times=2).text == "ok"
        assert peer.connections == 2
        asked = ChatAsk("m", ASK.messages, max_tokens=9)
        assert complete(engine, asked, times=2).text == "ok"
        assert [set(b) & {"max_tokens", "max_completion_tokens"} for b in peer.bodies[-3:]] == [
            {"max_tokens"}, {"max_completion_tokens"}, {"max_completion_tokens"}]


def test_closing_a_stream_lets_go_of_the_connection() -> None:
    async def run(engine: WireEngine, peer: Peer) -> None:
        pieces = engine.stream(ASK, AskContext())
        assert isinstance(await anext(pieces), Delta)
        await pieces.aclose()  # type: ignore[attr-defined]
        assert await asyncio.to_thread(peer.ended.wait, 2), "the server goes on for nobody"
        await engine.close()

    with against(lambda *_: events(piece("a"))[:-20]) as (engine, peer):  # and then nothing more
        asyncio.run(run(engine, peer))
