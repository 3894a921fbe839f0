"""A model server that costs next to nothing, to measure gateways against: a reply, plain or streamed, with a word
that is another each time, so that no cache answers for a guard.

    python benchmarks/gateway_mock.py        prints its port

`GET /bench/times` tells the milliseconds from each request being whole to its first and last bytes being written, since
the last call.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import uvloop

SAID = "@@@@@@ A gateway should cost its users nothing that they can notice, today or tomorrow ."
TEXT = SAID.split(" ")
USAGE = {"prompt_tokens": 21, "completion_tokens": len(TEXT), "total_tokens": 21 + len(TEXT)}


def _plain() -> bytes:
    body = json.dumps({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "mock", "usage": USAGE,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": " ".join(TEXT)}, "finish_reason": "stop"}],
    }).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body


def _streamed() -> list[bytes]:
    def event(delta: Any, finish: str | None = None, **more: Any) -> bytes:
        value = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "mock",
                 "choices": [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}], **more}
        data = b"data: " + json.dumps(value).encode() + b"\n\n"
        return b"%x\r\n%b\r\n" % (len(data), data)

    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    pieces = [head + event({"role": "assistant", "content": ""})]
    pieces += [event({"content": word if n == 0 else " " + word}) for n, word in enumerate(TEXT)]
    end = b"data: [DONE]\n\n"
    return [*pieces, event({}, "stop"), event(None, usage=USAGE) + b"%x\r\n%b\r\n0\r\n\r\n" % (len(end), end)]


PLAIN, STREAMED = _plain().split(b"@@@@@@"), _streamed()
times: list[tuple[float, float]] = []
_number = 0
LETTERS = bytes.maketrans(b"0123456789", b"aeioulnrst")


def _next() -> bytes:
    global _number
    _number = (_number + 1) % 10**6
    return (b"%06d" % _number).translate(LETTERS)


class Mock(asyncio.Protocol):
    """Answers each request as soon as it is whole; a stream's pieces are writes of their own."""

    def connection_made(self, transport: Any) -> None:
        self._transport, self._data = transport, b""

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            head = self._data[:end].lower()
            place = head.find(b"content-length:")
            size = int(head[place + 15:].split(b"\r\n", 1)[0]) if place >= 0 else 0
            if len(self._data) < end + 4 + size:
                return
            began = time.perf_counter()
            if head.startswith(b"get /bench/times"):
                told = json.dumps(times).encode()
                times.clear()
                self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(told) + told)
                self._data = self._data[end + 4:]
                continue
            body, self._data = self._data[end + 4:end + 4 + size], self._data[end + 4 + size:]
            if b'"stream":true' in body or b'"stream": true' in body:
                self._piece(0, began, 0.0)
            else:
                self._transport.write(_next().join(PLAIN))
                took = (time.perf_counter() - began) * 1000
                times.append((took, took))

    def _piece(self, place: int, began: float, first: float) -> None:
        if not self._transport.is_closing():
            piece = STREAMED[place]
            self._transport.write(piece.replace(b"@@@@@@", _next()) if place == 1 else piece)
            now = (time.perf_counter() - began) * 1000
            if place + 1 < len(STREAMED):
                asyncio.get_running_loop().call_soon(self._piece, place + 1, began, first or now)
            else:
                times.append((first, now))


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Mock, "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
