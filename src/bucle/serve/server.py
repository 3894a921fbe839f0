"""Running an app: on a port until SIGTERM, or in the background of this process."""

from __future__ import annotations

import errno
import gc
import json
import signal
import socket
import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from bucle.core.errors import BucleError, ConfigError, Infrastructure
from bucle.core.serving import a_host
from bucle.serve.access import is_loopback
from bucle.serve.limits_slow import patient_protocol

if TYPE_CHECKING:
    from fastapi import FastAPI
    from uvicorn import Server

    from bucle.serve.gateway import Gateway

__all__ = ["BackgroundServer", "how_to_call", "serve"]

DRAIN_S = 30
"""How long requests at work may take to finish after SIGTERM."""
BACKLOG = 2048
SWITCH_S = 0.0005
"""How long a thread may keep the interpreter from the event loop (Python's 5 ms are most of a reply's time)."""

COLLECT = (10_000, 10, 20)
"""How many new objects Python's search for circles waits for (700 are two requests)."""


def serve(app: FastAPI, host: str, port: int, *, ready: Any = None) -> None:
    """Serve until SIGTERM or Ctrl+C; then finish what is at work (new requests are told to come back, for up to
    DRAIN_S), write every trace, and return. A second signal ends at once.

    `ready(url)` is called once the port is held. Raises ConfigError for an address that others can reach
    while no API keys are set, Infrastructure where the port cannot be had.
    """
    try:
        listener = _held(app, host, port)
    except BucleError:
        app.state.traces.close()  # nothing was served: no journal stays
        raise
    server = _server(app)
    before_switch, before_collect = sys.getswitchinterval(), gc.get_threshold()
    main = threading.current_thread() is threading.main_thread()
    # uvicorn raises the signal again once it has drained: it must not cut the caller's own ending short. One that comes
    # before uvicorn listens for it stops the server as well.
    before = signal.signal(signal.SIGTERM, lambda *_: server.handle_exit(signal.SIGTERM, None)) if main else None
    try:
        if ready is not None:
            ready(_url(listener))
        sys.setswitchinterval(SWITCH_S)
        gc.collect()
        gc.freeze()  # what is there now stays: looking through all of it holds requests up for tens of milliseconds
        gc.set_threshold(*COLLECT)
        server.run(sockets=[listener])
    finally:
        gc.set_threshold(*before_collect)
        gc.unfreeze()
        sys.setswitchinterval(before_switch)
        listener.close()
        if main:
            signal.signal(signal.SIGTERM, before)


class BackgroundServer:
    """`with BackgroundServer(app) as server:` serves on 127.0.0.1 from a thread; `server.url` is `http://…`.

    Leaving the block drains and writes every trace. Port 0 takes a free one.
    """

    def __init__(self, app: Any, port: int = 0) -> None:
        self._app, self._port = app, port
        self.url = ""

    def __enter__(self) -> BackgroundServer:
        self._listener = _listen("127.0.0.1", self._port)
        self.url = _url(self._listener)
        self._server: Any = _server(self._app)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]},
                                        name="bucle-server", daemon=True)
        self._thread.start()
        end = time.monotonic() + 30
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > end:
                self._listener.close()
                raise Infrastructure("the server did not start", "see the log above; bucle doctor")
            time.sleep(0.005)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._server.leave()
        self._thread.join(DRAIN_S + 35)
        self._listener.close()


def how_to_call(app: FastAPI, url: str) -> str:
    """Lines that a person can paste to call each kind of route that `app` serves at `url`."""
    key = " -H 'Authorization: Bearer '$BUCLE_API_KEY" if app.state.api_keys else ""
    lines = [f"curl {url}/v1/models{key}"]
    shown: set[str] = set()
    for route in app.state.routes.values():
        if route.kind in shown:
            continue
        shown.add(route.kind)
        path, body = "chat/completions", {"model": route.name, "messages": [{"role": "user", "content": "…"}]}
        if route.kind == "embed":
            path, body = "embeddings", {"model": route.name, "input": "…"}
        text = json.dumps(body, ensure_ascii=False).replace("'", "'\\''")
        lines.append(f"curl {url}/v1/{path}{key} -H 'Content-Type: application/json' -d '{text}'")
    return "\n".join(lines)


def _held(app: FastAPI, host: str, port: int) -> socket.socket:
    """The port, where `app` may be served there."""
    try:
        a_host(host)
    except ValueError as error:
        raise ConfigError(f"`{host:.100}`: {error}", "use --host 127.0.0.1") from None
    if not is_loopback(host) and not app.state.api_keys:
        raise ConfigError(f"{host} can be reached by others, and no API keys are set",
                          "bucle keys create NAME (or export BUCLE_API_KEYS=KEY1,KEY2), or use --host 127.0.0.1")
    return _listen(host, port)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio switches Nagle's algorithm off only where the protocol is named: without it each reply waits 40 ms
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host.strip("[]"), port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        why = {errno.EACCES: "may not be used by this user", errno.EADDRINUSE: "is in use"}
        said = why.get(error.errno or 0, f"cannot be had ({error.strerror or 'unknown name'})")
        raise Infrastructure(f"port {port} on {host} {said}",
                             f"bucle serve --port {port + 1 if port < 65535 else 0}") from error
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _server(app: Any) -> Server:
    import uvicorn

    gateway: Gateway | None = getattr(getattr(app, "state", None), "gateway", None)

    class Draining(uvicorn.Server):
        """Once told to end it goes on answering until nothing is at work, so that a stream ends as it should and who
        comes meanwhile gets a 503 and not a closed door."""

        until: float | None = None

        def handle_exit(self, sig: int, frame: Any) -> None:
            if self.until is not None or sig == signal.SIGINT:
                super().handle_exit(sig, frame)
            else:
                self.leave()

        def leave(self) -> None:
            self.until = time.monotonic() + DRAIN_S
            if gateway is None or not gateway.active:
                self.should_exit = True
            if gateway is not None:
                gateway.drain()

        async def on_tick(self, counter: int) -> bool:
            if self.until is not None and (gateway is None or not gateway.active or time.monotonic() > self.until):
                self.should_exit = True
            return await super().on_tick(counter)

    return Draining(uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, date_header=False, loop="uvloop",
        http=patient_protocol(), ws="none", proxy_headers=False, timeout_graceful_shutdown=DRAIN_S, backlog=BACKLOG))
