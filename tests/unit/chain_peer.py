"""A real HTTP API on loopback for chains' http steps; a function answers each request."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from bucle.core.ports import Hit
from bucle.core.records import Chunk


@dataclass
class Asked:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: str = ""


Answer = tuple[int, dict[str, str], bytes]


@dataclass
class Api:
    url: str
    asked: list[Asked] = field(default_factory=list)


@contextmanager
def api(answers: Callable[[Asked], Any]) -> Iterator[Api]:
    """`answers` gives JSON (200), or (status, headers, bytes). `asked` holds every request."""
    found = Api("")

    class Handler(BaseHTTPRequestHandler):
        def _any(self) -> None:
            size = int(self.headers.get("content-length") or 0)
            one = Asked(self.command, self.path, {k.lower(): v for k, v in self.headers.items()},
                        self.rfile.read(size).decode())
            found.asked.append(one)
            said = answers(one)
            whole = said if isinstance(said, tuple) else (
                200, {"content-type": "application/json"}, json.dumps(said).encode())
            try:
                self.send_response(whole[0])
                for name, value in whole[1].items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(whole[2])))
                self.end_headers()
                self.wfile.write(whole[2])
            except OSError:
                pass  # the other side went away

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _any

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()


class Shelf:
    """A SearchIndex in memory: passages that hold a word of the question, with their labels enforced."""

    def __init__(self, *passages: tuple[str, tuple[str, ...]]) -> None:
        self.chunks = [Chunk(id=f"chunk:{n:03d}", document_id=f"d{n}", path=f"{n}.md", text=text, access=access)
                       for n, (text, access) in enumerate(passages)]
        self.searches = 0
        self.meta = {"chunks": len(self.chunks)}

    def search(self, question: str, *, k: int, weight: float, vector: Any = None,
               access: frozenset[str] = frozenset(), where: Any = None) -> list[Hit]:
        self.searches += 1
        words = set(question.lower().split())
        found = [c for c in self.chunks if set(c.access) <= access and words & set(c.text.lower().split())]
        return [Hit(c, 1 / n) for n, c in enumerate(found[:k], 1)]

    def get(self, ids: Any, access: frozenset[str] = frozenset()) -> dict[str, Chunk]:
        return {c.id: c for c in self.chunks if c.id in ids and set(c.access) <= access}

    def count(self, access: frozenset[str] = frozenset()) -> int:
        return len(self.get([c.id for c in self.chunks], access))
