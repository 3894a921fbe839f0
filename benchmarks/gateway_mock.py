"""A model server that costs next to nothing, to measure gateways against: one fixed reply, plain or streamed.

    python benchmarks/gateway_mock.py        prints its port
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import uvloop

SAID = "A gateway should cost its users nothing that they can notice, today or tomorrow ."
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


PLAIN, STREAMED = _plain(), _streamed()


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
            body, self._data = self._data[end + 4:end + 4 + size], self._data[end + 4 + size:]
            if b'"stream":true' in body or b'"stream": true' in body:
                self._piece(0)
            else:
                self._transport.write(PLAIN)

    def _piece(self, place: int) -> None:
        if not self._transport.is_closing():
            self._transport.write(STREAMED[place])
            if place + 1 < len(STREAMED):
                asyncio.get_running_loop().call_soon(self._piece, place + 1)


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Mock, "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
