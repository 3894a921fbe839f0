"""HTTP as the gateway needs it, straight on ASGI: a bounded body, headers looked up raw, one reply or a stream."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

import msgspec

from bucle.serve.errors import ApiError
from bucle.serve.routes import Limits

__all__ = ["Exchange", "Receive", "Scope", "Send"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_JSON = (b"content-type", b"application/json")
_EVENTS = ((b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"),
           (b"x-accel-buffering", b"no"))  # a proxy that keeps pieces back would make a stream of it no more


class Exchange:
    """One request and its reply. `started` once the status went out, `ended` once its last bytes are on their way,
    `gone` once the client has left."""

    __slots__ = ("_receive", "_send", "ended", "gone", "path", "scope", "started")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope, self._receive, self._send = scope, receive, send
        self.path: str = scope["path"]
        self.started = self.ended = self.gone = False

    def header(self, name: bytes) -> str | None:
        """The first header of this (lower case) name, or None."""
        for key, value in self.scope["headers"]:
            if key == name:
                return str(value.decode("latin-1"))
        return None

    @property
    def key(self) -> Any:
        """The Key that the request came with; None where none are asked for."""
        state = self.scope.get("state")
        return state.get("key") if state else None

    @property
    def client(self) -> str:
        """The address it came from."""
        client = self.scope.get("client")
        return str(client[0]) if client else ""

    async def body(self, limits: Limits) -> bytes:
        """The body, within `limits.body_bytes` and `limits.timeout_s`. Raises ApiError 408, 413 or 499.

        One that is too long is read on for a while and thrown away, so that the client can read the refusal.
        """
        data = bytearray()
        size, more = 0, True
        try:
            async with asyncio.timeout(limits.timeout_s):
                while more and size <= 16 * limits.body_bytes:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        self.gone = True
                        raise ApiError(499, "the client closed the connection", code="client_closed")
                    piece: bytes = message.get("body", b"")
                    size, more = size + len(piece), message.get("more_body", False)
                    if size == len(piece) and not more:
                        data = piece  # type: ignore[assignment]  # in one piece, as nearly all are
                    elif size <= limits.body_bytes:
                        data += piece
        except TimeoutError:
            raise ApiError(408, "the body did not arrive in time", code="timeout",
                           headers={"connection": "close"}) from None
        if size > limits.body_bytes:
            raise ApiError(413, f"the body is longer than {limits.body_bytes} bytes", code="body_too_large")
        return bytes(data)

    async def left(self) -> None:
        """Returns once the client has gone."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone = True

    async def json(self, value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """Reply with `value` as JSON (bytes: JSON already)."""
        data = value if isinstance(value, bytes) else msgspec.json.encode(value)
        await self.reply(data, status, [_JSON, *_raw(headers)])

    async def reply(self, data: bytes, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.started = True
        headers.append((b"content-length", b"%d" % len(data)))
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": b"" if self.scope["method"] == "HEAD" else data})

    async def begin(self, headers: Mapping[str, str]) -> None:
        """Begin a stream of events."""
        self.started = True
        await self._send({"type": "http.response.start", "status": 200, "headers": [*_EVENTS, *_raw(headers)]})

    async def piece(self, data: bytes) -> None:
        """Send a piece of the stream. Waits while the client does not read, so nothing piles up here."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        self.ended = True
        await self._send({"type": "http.response.body", "body": data})


def _raw(headers: Mapping[str, str] | None) -> list[tuple[bytes, bytes]]:
    return [(k.encode("latin-1"), v.encode("latin-1", "replace")) for k, v in headers.items()] if headers else []
