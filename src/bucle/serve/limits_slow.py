"""Clients that take their time: bounds on how long a connection may hold a place without a whole request.

uvicorn times only the pause between two requests. A client that sends half a head and waits (slowloris), a body byte by
byte, or that does not read its answer would hold a connection, and with it memory, a descriptor and an engine's place.
"""

from __future__ import annotations

import asyncio
import heapq
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["Patience", "patient_protocol"]


class Patience:
    """How long a client may take, in seconds and bytes, and how many may be connected.

    `head_s` from the connection to a head's first byte, and from there to the whole head, of `head_bytes` at most; a
    body gets `body_s`, and a second more for every `body_rate` bytes that came; `read_s` to read on where what was
    written waits; `linger_s` to take what is left when a connection is closed. Beyond `connections` (and three
    quarters of the descriptors that the process may hold) those go that have been without a whole request longest.
    """

    def __init__(self, *, head_s: float = 10.0, head_bytes: int = 64 * 1024, body_s: float = 10.0,
                 body_rate: int = 1000, read_s: float = 30.0, linger_s: float = 5.0, connections: int = 2000,
                 look_s: float = 0.5) -> None:
        self.head_s, self.head_bytes, self.body_s, self.body_rate = head_s, head_bytes, body_s, body_rate
        self.read_s, self.linger_s, self.connections, self.look_s = read_s, linger_s, connections, look_s


def patient_protocol(patience: Patience | None = None) -> type[HttpToolsProtocol]:
    """A protocol for `uvicorn.Config(http=…)` of one server that keeps to `patience`. One look at all connections every
    `look_s` seconds does the timing, so a request costs no timer."""
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    rules = patience or Patience()
    most = min(rules.connections, _descriptors() * 3 // 4)

    class Patient(HttpToolsProtocol):
        looking: asyncio.TimerHandle | None = None
        making_room = False

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.since = self.loop.time()  # when what is waited for now began
            self.head: int | None = 0  # bytes of a head that is not whole; None: it is
            self.head_bytes, self.refused = 0, False  # of the head being read, also of one that came in one piece
            self.body_left, self.body_bytes = False, 0
            self.unread: float | None = None  # since when the client has not read
            self.closed: float | None = None  # when the connection was found to be closing

        # what is waited for -----------------------------------------------------------------------------------

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > most and not Patient.making_room:
                Patient.making_room = True
                self.loop.call_soon(_make_room, self.connections)
            if Patient.looking is None:
                Patient.looking = self.loop.call_later(rules.look_s, _look, self.loop, self.connections)

        def idle(self) -> bool:
            """Whether no whole request was made that is not answered."""
            return self.cycle is None or self.cycle.response_complete

        def data_received(self, data: bytes) -> None:
            if self.refused:
                return
            if self.head is not None:
                if not self.head:
                    self.since = self.loop.time()
                self.head += len(data)
            super().data_received(data)
            if self.head is not None and self.head > rules.head_bytes and not self.refused:
                self.refuse(431, "the request's head is too large", "headers_too_large")

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self.head, self.head_bytes = 0 if self.head is None else self.head, 0

        def on_url(self, url: bytes) -> None:
            self.head_bytes += len(url)
            super().on_url(url)

        def on_header(self, name: bytes, value: bytes) -> None:
            self.head_bytes += len(name) + len(value) + 4
            if self.head_bytes <= rules.head_bytes:
                super().on_header(name, value)

        def on_headers_complete(self) -> None:
            if self.head_bytes > rules.head_bytes:
                self.refuse(431, "the request's head is too large", "headers_too_large")
                return
            self.head, self.body_left, self.body_bytes = None, True, 0
            self.since = self.loop.time()
            super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            if self.refused:
                return
            self.body_bytes += len(body)
            super().on_body(body)

        def on_message_complete(self) -> None:
            if self.refused:
                return
            self.body_left = False
            super().on_message_complete()
            if self.idle():  # answered before it was whole
                self.since, self.head = self.loop.time(), 0

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if not self.body_left:
                self.since, self.head = self.loop.time(), self.head or 0

        def pause_writing(self) -> None:
            super().pause_writing()
            self.unread = self.loop.time()

        def resume_writing(self) -> None:
            super().resume_writing()
            self.unread = None

        def _unsupported_upgrade_warning(self) -> None:
            """A client's wish for another protocol is no news: it is answered over HTTP."""

        # who took too long ------------------------------------------------------------------------------------

        def look(self, now: float) -> None:
            """Close the connection if its client took too long."""
            if self.transport.is_closing():
                self.closed = now if self.closed is None else self.closed
                if now - self.closed > rules.linger_s:
                    self.transport.abort()
            elif self.unread is not None and now - self.unread > rules.read_s:
                self.transport.abort()
            elif self.body_left:
                if self.flow.read_paused:  # it is we who do not read
                    self.since += rules.look_s
                elif now - self.since > rules.body_s + self.body_bytes / rules.body_rate:
                    self.refuse(408, "the body came too slowly", "timeout")
            elif self.idle() and now - self.since > rules.head_s:
                if self.head:
                    self.refuse(408, "the request's head came too slowly", "timeout")
                elif self.cycle is None:  # after an answer, uvicorn's keep-alive has its own time
                    self.transport.close()

        def refuse(self, status: int, message: str, code: str) -> None:
            """Say why, where no answer has begun, and close."""
            self.refused = True
            if self.idle() or not self.cycle.response_started:
                body = json.dumps({"error": {"message": message, "type": "invalid_request_error", "param": None,
                                             "code": code}}).encode()
                what = {408: b"408 Request Timeout", 431: b"431 Request Header Fields Too Large"}[status]
                self.transport.write(b"HTTP/1.1 " + what + b"\r\ncontent-type: application/json\r\ncontent-length: "
                                     + str(len(body)).encode() + b"\r\nconnection: close\r\n\r\n" + body)
                self.transport.close()
            else:
                self.transport.abort()

    def _look(loop: asyncio.AbstractEventLoop, connections: set[Any]) -> None:
        now = loop.time()
        for one in list(connections):
            if isinstance(one, Patient):
                one.look(now)
        Patient.looking = loop.call_later(rules.look_s, _look, loop, connections) if connections else None

    def _make_room(connections: set[Any]) -> None:
        Patient.making_room = False
        waiting = [c for c in connections if isinstance(c, Patient) and (c.body_left or c.idle())]
        for one in heapq.nsmallest(len(connections) - most + most // 20, waiting, key=lambda c: c.since):
            one.transport.abort()

    return Patient


def _descriptors() -> int:
    """How many files and sockets this process may hold."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return 1 << 20
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft
