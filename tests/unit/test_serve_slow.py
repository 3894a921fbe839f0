"""Clients that take their time, over real sockets: none holds a connection for longer than it is given."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import pytest

from bucle.serve.limits_slow import Patience, patient_protocol

QUICK = Patience(head_s=0.4, body_s=0.4, body_rate=10_000, read_s=0.5, linger_s=0.3, connections=20, look_s=0.05,
                 head_bytes=8192)
SEEN: list[str] = []
LARGE = 8_000_000


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the size of the body; `/large` with eight megabytes, `/early` before it has read any of it."""
    if scope["type"] != "http":
        return
    size, path = 0, scope["path"]
    while path != "/early":
        message = await receive()
        if message["type"] == "http.disconnect":
            SEEN.append("left")
            return
        size += len(message["body"])
        if path == "/reads-late":
            await asyncio.sleep(0.02)
        if not message["more_body"]:
            break
    body = b"x" * LARGE if path == "/large" else str(size).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for start in range(0, len(body), 100_000):
        await send({"type": "http.response.body", "body": body[start:start + 100_000], "more_body": True})
    await send({"type": "http.response.body", "body": b""})
    SEEN.append("answered")


class Server:
    def __init__(self, patience: Patience) -> None:
        import uvicorn

        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        config = uvicorn.Config(app, log_level="error", access_log=False, http=patient_protocol(patience), ws="none",
                                lifespan="off", timeout_keep_alive=2)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listener]})

    @property
    def connected(self) -> int:
        return len(self.server.server_state.connections)

    @contextmanager
    def client(self) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as client:
            yield client


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    made = Server(QUICK)
    made.thread.start()
    while not made.server.started:
        time.sleep(0.01)
    yield made
    made.server.should_exit = True
    made.thread.join(10)
    assert not made.thread.is_alive()


def until_closed(client: socket.socket) -> tuple[bytes, float]:
    """What came before the server closed, and after how many seconds it did."""
    began, told = time.monotonic(), b""
    try:
        while piece := client.recv(65536):
            told += piece
    except ConnectionResetError:
        pass
    return told, time.monotonic() - began


def drip(client: socket.socket, piece: bytes) -> float:
    """Send `piece` again and again; after how many seconds the server had enough (3: it had not)."""
    began = time.monotonic()
    while (taken := time.monotonic() - began) < 3:
        try:
            client.sendall(piece)
        except OSError:
            return taken
        time.sleep(0.03)
    return taken


def test_half_a_head_is_refused_and_nothing_at_all_is_closed(server: Server) -> None:
    with server.client() as silent, server.client() as half:
        half.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ")
        told, took = until_closed(half)
        assert told.startswith(b"HTTP/1.1 408 ")
        assert json.loads(told.partition(b"\r\n\r\n")[2])["error"]["code"] == "timeout"
        assert until_closed(silent)[0] == b""
        assert took < 2


def test_a_head_that_drips_is_refused_however_often_it_drips(server: Server) -> None:
    with server.client() as client:
        client.sendall(b"GET / HTTP/1.1\r\n")
        assert drip(client, b"X: y\r\n") < 2


def test_empty_lines_do_not_keep_an_answered_connection_alive(server: Server) -> None:
    with server.client() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"200" in client.recv(4096)
        assert drip(client, b"\r\n") < 2


@pytest.mark.parametrize("path", ["/", "/early"])
def test_a_body_byte_by_byte_is_given_up(server: Server, path: str) -> None:
    SEEN.clear()
    with server.client() as client:
        client.sendall(f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n".encode())
        assert drip(client, b"z") < 2
    told = ["left"] if path == "/" else ["answered"]
    assert told == SEEN


def test_a_long_body_at_a_fair_pace_and_one_that_the_app_reads_late_arrive_whole(server: Server) -> None:
    with server.client() as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 40000\r\n\r\n")
        for _ in range(20):
            client.sendall(b"z" * 2000)
            time.sleep(0.04)
        assert client.recv(4096).startswith(b"HTTP/1.1 200")
    told = httpx.post(f"http://127.0.0.1:{server.port}/reads-late", content=b"z" * 3_000_000)
    assert (told.status_code, told.text) == (200, "3000000")


def test_who_does_not_read_the_answer_is_cut_off(server: Server) -> None:
    SEEN.clear()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", server.port))
        client.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        before = time.monotonic()
        while server.connected and time.monotonic() - before < 5:
            time.sleep(0.02)
        assert time.monotonic() - before < 3
    assert httpx.get(f"http://127.0.0.1:{server.port}/large").content == b"x" * LARGE  # who reads gets all of it


def test_a_head_without_end_is_refused_before_it_fills_the_memory(server: Server) -> None:
    with server.client() as client:
        client.sendall(b"GET / HTTP/1.1\r\n" + b"X-A: " + b"a" * 20_000)
        assert until_closed(client)[0].startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"])
def test_a_head_that_comes_whole_is_measured_too(server: Server, sent: bytes) -> None:
    with server.client() as client:
        client.sendall(sent + b"POST / HTTP/1.1\r\nContent-Length: 2\r\nX-A: " + b"a" * 20_000 + b"\r\n\r\nhi")
        told = until_closed(client)[0]
        assert told.startswith(b"HTTP/1.1 431 ")
        assert told.count(b"HTTP/1.1 ") == 1
    with server.client() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nX-A: " + b"a" * 7_000 + b"\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 200 ")


def test_a_full_house_drops_who_waits_longest_not_who_asks(server: Server) -> None:
    held = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(60)]
    try:
        assert httpx.get(f"http://127.0.0.1:{server.port}/").text == "0"
        time.sleep(0.05)
        assert server.connected <= QUICK.connections
    finally:
        for one in held:
            one.close()


def test_bodies_that_never_end_do_not_fill_the_house(server: Server) -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nz"
    held = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(40)]
    try:
        for one in held:
            with suppress(OSError):
                one.sendall(head)
        assert httpx.get(f"http://127.0.0.1:{server.port}/").text == "0"
    finally:
        for one in held:
            one.close()


def test_a_process_with_few_descriptors_takes_fewer_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    from bucle.serve import limits_slow

    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 4096))
    assert limits_slow._descriptors() == 100
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
    assert limits_slow._descriptors() > 100_000


def test_quick_clients_notice_nothing(server: Server) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}") as http:
        for size in (0, 1, 70_000, 500_000):
            assert http.post("/", content=b"z" * size).text == str(size)
        time.sleep(0.8)  # longer than a head may take: the connection is kept alive all the same
        assert http.get("/").text == "0"
    with server.client() as client:  # two requests at once
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 2)
        time.sleep(0.2)
        assert client.recv(65536).count(b"200 OK") == 2
