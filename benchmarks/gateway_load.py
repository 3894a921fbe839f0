"""Load on an HTTP server from one process: raw sockets on uvloop, so that the measuring costs next to nothing.

    python benchmarks/gateway_load.py '{"port": 8700, "body": "…", "rate": 200, "seconds": 10}'

A run of `@` in the body is a word, another in each request, so that no cache answers for anybody.
`rate`: requests a second, sent when they are due whatever became of those before (open loop); a request's time counts
from when it was due, so that one who waits behind a slow one is not left out (coordinated omission). Without it,
`connections` ask as fast as they are answered. Prints one JSON object: requests, errors, rps, and percentiles in ms of
the first byte of the body and of the last.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import sys
import time
from collections import deque
from typing import Any

import uvloop

LETTERS = bytes.maketrans(b"0123456789", b"aeioulnrst")


class Client(asyncio.Protocol):
    """One connection; `done(self, ok)` after each reply."""

    def __init__(self, request: Any, done: Any) -> None:
        self._request, self._done, self._data = request, done, bytearray()
        self.transport: Any = None
        self.due = self.first = 0.0
        self.busy = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def ask(self, due: float) -> None:
        self.due, self.first, self.busy = due, 0.0, True
        self._data.clear()
        self._end = -1
        self.transport.write(self._request())

    def data_received(self, data: bytes) -> None:
        self._data += data
        if self._end < 0:
            end = self._data.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._data[:end]).lower()
            place = head.find(b"content-length:")
            self._ok = head.startswith(b"http/1.1 200")
            self._start = end + 4
            self._end = end + 4 + int(head[place + 15:].split(b"\r\n", 1)[0]) if place >= 0 else 0
        if not self.first and len(self._data) > self._start:
            self.first = time.perf_counter()
        whole = len(self._data) >= self._end if self._end else self._data.endswith(b"0\r\n\r\n")
        if whole and self.busy:
            self.busy = False
            self._done(self, self._ok and (bool(self._end) or b"[DONE]" in self._data))

    def connection_lost(self, error: Exception | None) -> None:
        if self.busy:
            self.busy = False
            self._done(self, False)


class Load:
    def __init__(self, plan: dict[str, Any]) -> None:
        body = plan["body"].encode()
        extra = "".join(f"{name}: {value}\r\n" for name, value in plan.get("headers", {}).items())
        path = plan.get("path", "/v1/chat/completions")
        self.request = (f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{plan['port']}\r\n"
                        f"content-type: application/json\r\n{extra}content-length: {len(body)}\r\n\r\n").encode() + body
        marks = re.search(rb"@{4,}", self.request)
        self.head, self.tail = ((self.request[:marks.start()], self.request[marks.end():]) if marks
                                else (self.request, b""))
        self.digits = len(marks[0]) if marks else 0
        self.number = secrets.randbelow(10**6)
        self.plan, self.errors, self.firsts, self.lasts = plan, 0, [], []
        self.idle: deque[Client] = deque()
        self.waiting: deque[float] = deque()
        self.ending = 0.0
        self.open, self.sent = 0, False
        self.over = asyncio.Event()

    def next(self) -> bytes:
        """The next request."""
        self.number += 1
        word = (b"%0*d" % (self.digits, self.number % 10**self.digits)).translate(LETTERS)  # digits may be a phone's
        return self.head + word + self.tail if self.digits else self.request

    async def client(self) -> Client:
        loop = asyncio.get_running_loop()
        _, made = await loop.create_connection(lambda: Client(self.next, self.done), "127.0.0.1", self.plan["port"])
        return made

    def done(self, client: Client, ok: bool) -> None:
        now = time.perf_counter()
        self.open -= 1
        if ok:
            self.firsts.append(client.first - client.due)
            self.lasts.append(now - client.due)
        else:
            self.errors += 1
        if client.transport.is_closing():
            return
        if self.waiting:
            self.ask(client, self.waiting.popleft())
        elif "rate" not in self.plan and now < self.ending:
            self.ask(client, now)
        else:
            self.idle.append(client)
        if (self.sent or now >= self.ending) and not self.open:
            self.over.set()

    def ask(self, client: Client, due: float) -> None:
        self.open += 1
        client.ask(due)

    async def run(self) -> dict[str, Any]:
        plan = self.plan
        clients = [await self.client() for _ in range(plan.get("connections", 64))]
        self.idle.extend(clients)
        began = time.perf_counter()
        self.ending = began + plan["seconds"]
        if "rate" in plan:
            total, gap = int(plan["rate"] * plan["seconds"]), 1 / plan["rate"]
            for number in range(total):
                due = began + number * gap
                while (left := due - time.perf_counter()) > 0:
                    await asyncio.sleep(max(0.0, left - 0.001))  # timers are a millisecond coarse
                if self.idle:
                    self.ask(self.idle.pop(), due)
                else:
                    self.waiting.append(due)
            self.sent = True
        else:
            while self.idle:
                self.ask(self.idle.pop(), time.perf_counter())
        if self.open:
            try:
                await asyncio.wait_for(self.over.wait(), plan["seconds"] + 60)
            except TimeoutError:
                self.errors += self.open
        took = time.perf_counter() - began
        for client in clients:
            client.transport.abort()
        return {"requests": len(self.lasts), "errors": self.errors + len(self.waiting), "seconds": round(took, 3),
                "rps": round(len(self.lasts) / took, 1), "first_ms": percentiles(self.firsts),
                "last_ms": percentiles(self.lasts)}


def percentiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {name: round(ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000, 3)
            for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0))} if ordered else {}


async def main() -> None:
    print(json.dumps(await Load(json.loads(sys.argv[1])).run()))


if __name__ == "__main__":
    uvloop.run(main())
