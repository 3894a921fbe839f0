"""Times requests at the ASGI edge of a server that uvicorn runs: from the app being called until its last byte is sent.

    gateway_edge.install()                                  before uvicorn is started
    python benchmarks/gateway_edge.py --config FILE …       LiteLLM's own command, timed (its arguments)

`GET /bench/times` answers with what was timed since the last call, milliseconds to the first and the last byte of each
request, and forgets it.
"""

from __future__ import annotations

import json
import time
from typing import Any

__all__ = ["Edge", "install"]

ASKED = "/bench/times"


class Edge:
    """An ASGI layer in front of everything."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._times: list[tuple[float, float]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            if scope.get("path") == ASKED:
                await self._tell(send)
            else:
                await self._app(scope, receive, send)
            return
        began, first = time.perf_counter(), 0.0

        async def sent(message: Any) -> None:
            nonlocal first
            await send(message)
            if message["type"] == "http.response.body":
                now = time.perf_counter()
                if not first and message.get("body"):
                    first = now
                if not message.get("more_body"):
                    self._times.append(((first - began) * 1000, (now - began) * 1000))

        await self._app(scope, receive, sent)

    async def _tell(self, send: Any) -> None:
        times, self._times = self._times, []
        body = json.dumps(times).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json"),
                                                                             (b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})


def install() -> None:
    """Put an Edge in front of every app that uvicorn serves in this process."""
    import uvicorn

    load = uvicorn.Config.load

    def loaded(self: Any) -> None:
        load(self)
        self.loaded_app = Edge(self.loaded_app)

    uvicorn.Config.load = loaded  # type: ignore[method-assign]


if __name__ == "__main__":
    install()
    from litellm.proxy.proxy_cli import run_server

    run_server()
