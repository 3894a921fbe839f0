"""The process behind an EngineProcess: `python -m bucle.models.engines.worker`. It hosts one model over OpenAI's wire
on a Unix socket, and ends with the process that started it.

Standard input: one line of JSON, a HostSpec, then nothing as long as the parent lives. The socket is `s` in the current
folder, which only this user may enter. What it cannot serve is said in `error.json` there.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bucle.core.engine import ChatAnswer, Delta, wanted
from bucle.core.errors import BadInput, BucleError, ContextOverflow, ModelUnavailable
from bucle.models.endpoint import NotSetUp, Refused
from bucle.models.engines.host import Event, Host, HostSpec
from bucle.models.engines.wire_errors import NOT_SET_UP
from bucle.models.engines.words import Words, ask_of

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["main", "serve"]

BODY_LIMIT = 32 * 2**20


def main() -> int:
    """Serve the model that standard input names. Exit status 0 when the parent is gone, 3 where it cannot be served."""
    from bucle.models.engines.open import open_host

    return serve(open_host)


def serve(open_host: Callable[[HostSpec], Host]) -> int:
    """As `main`, over what `open_host` makes of the spec: it runs in a thread, while /health says `loading`."""
    parser = argparse.ArgumentParser(prog="python -m bucle.models.engines.worker", description=__doc__)
    parser.add_argument("--memory-gb", type=float, default=0.0, help="end rather than allocate more (0: no bound)")
    args = parser.parse_args()
    parent = os.getppid()
    spec = HostSpec.from_json(sys.stdin.readline())
    _bound(args.memory_gb)
    _end_with(parent)
    os.umask(0o177)
    return asyncio.run(_Worker(spec, open_host).run())


def _bound(memory_gb: float) -> None:
    if memory_gb > 0:
        import resource

        size = int(memory_gb * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # what users wrote stands in a core


def _end_with(parent: int) -> None:
    """End this process, and remove its folder, when the parent is gone: its end of standard input closes."""
    folder = Path.cwd()

    def wait() -> None:
        with contextlib.suppress(OSError, ValueError):
            while os.read(0, 4096):
                pass
        if folder.name.startswith("bucle-engine-"):
            shutil.rmtree(folder, ignore_errors=True)
        os._exit(0)

    threading.Thread(target=wait, name="parent", daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's: it drains first
    if os.getppid() != parent:
        os._exit(0)


class _Worker:
    def __init__(self, spec: HostSpec, open_host: Callable[[HostSpec], Host]) -> None:
        self.spec, self._open = spec, open_host
        self.host: Host | None = None
        self.served = 0

    async def run(self) -> int:
        from aiohttp import web

        app = web.Application(client_max_size=BODY_LIMIT)
        app.router.add_get("/health", self.health)
        app.router.add_get("/v1/models", self.models)
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_post("/v1/completions", self.completions)
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.5,
                               handler_cancellation=True)  # who is gone needs no answer
        await runner.setup()
        await web.UnixSite(runner, "s").start()
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, ended.set)
        try:
            self.host = await asyncio.to_thread(self._open, self.spec)
        except BucleError as error:
            print(error, flush=True)
            left = {"kind": type(error).__name__, "message": error.message, "hint": error.hint}
            Path("error.json").write_text(json.dumps(left), encoding="utf-8")
            return 3
        await ended.wait()
        await runner.cleanup()
        self.host.close()
        return 0

    # --- routes

    async def health(self, request: web.Request) -> web.Response:
        from aiohttp import web

        if self.host is None:
            return web.json_response({"state": "loading"}, status=503)
        return web.json_response({
            **self.host.describe(), "state": "ready", "offers": sorted(self.host.offers),
            "adapters": list(self.host.adapters), "served": self.served})

    async def models(self, request: web.Request) -> web.Response:
        from aiohttp import web

        names = [self.spec.name, *(f"{self.spec.name}:{one}" for one in self.spec.adapters)]
        return web.json_response({"object": "list", "data": [
            {"id": name, "object": "model", "created": 0, "owned_by": "bucle"} for name in names]})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, chat=True)

    async def completions(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, chat=False)

    async def _answer(self, request: web.Request, *, chat: bool) -> web.StreamResponse:
        from aiohttp import web

        from bucle.models.engines.process import adapter_of

        events: asyncio.Queue[Event] = asyncio.Queue()
        loop, cancel = asyncio.get_running_loop(), _nothing

        def on(event: Event) -> None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(events.put_nowait, event)

        try:
            try:
                body = json.loads(await request.read())
            except (ValueError, RecursionError):
                raise BadInput("the body is not JSON") from None
            ask = ask_of(body, chat=chat)
            if self.host is None:
                raise ModelUnavailable(f"{self.spec.name} is loading")
            if missing := [one for one in wanted(ask) if one not in self.host.offers]:
                raise BadInput(f"{self.spec.name} does not offer {', '.join(missing)}")
            adapter = adapter_of(ask.model, self.spec.name, self.spec.adapters)
            cancel = self.host.submit(ask, adapter, on)
            self.served += 1
            first = await events.get()
            if isinstance(first, BaseException):
                raise first
            words = Words(ask.model, chat)
            if isinstance(first, ChatAnswer) and not ask.stream:
                return web.json_response(words.whole(first))
            response = web.StreamResponse(headers={"content-type": "text/event-stream"})
            await response.prepare(request)
            await self._stream(words, first, events, response)
            return response
        except BucleError as error:
            status, said = _error(error)
            return web.json_response(said, status=status)
        except ConnectionError:  # the client is gone
            return web.Response(status=499)
        except (ValueError, TypeError, MemoryError, RuntimeError) as error:
            print(f"{type(error).__name__}: {str(error)[:300]}", file=sys.stderr, flush=True)
            status, said = _error(ModelUnavailable(f"the engine failed: {type(error).__name__}"))
            return web.json_response(said, status=status)
        finally:
            cancel()

    @staticmethod
    async def _stream(words: Words, event: Event, events: asyncio.Queue[Event], response: web.StreamResponse) -> None:
        """Send events until the last one."""
        while isinstance(event, Delta):
            await response.write(_data(words.delta(event)))
            event = await events.get()
        if isinstance(event, ChatAnswer):
            last = b"".join(_data(one) for one in words.end(event)) + b"data: [DONE]\n\n"
        else:
            last = _data(_error(event if isinstance(event, BucleError) else ModelUnavailable("the engine failed"))[1])
        await response.write(last)
        await response.write_eof()


def _nothing() -> None:
    pass


def _data(event: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(event).encode() + b"\n\n"


def _error(error: BucleError) -> tuple[int, Mapping[str, Any]]:
    """HTTP status and OpenAI's error object."""
    status, code = 503, "engine_unavailable"
    if isinstance(error, ContextOverflow):
        status, code = 400, "context_length_exceeded"
    elif isinstance(error, BadInput):
        status, code = 400, "bad_input"
    elif isinstance(error, NotSetUp):
        status, code = 501, NOT_SET_UP
    elif isinstance(error, Refused):  # an adapter that asking again does not mend
        status, code = 404, "model_not_found"
    return status, {"error": {"message": error.message, "hint": error.hint, "type": type(error).__name__, "code": code}}


if __name__ == "__main__":
    sys.exit(main())
