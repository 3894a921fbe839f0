"""`create_app`: the gateway as an ASGI app.

    POST /v1/chat/completions  POST /v1/completions  POST /v1/responses  POST /v1/messages
    POST /v1/embeddings  POST /v1/moderations  GET /v1/models  POST /v1/feedback
    GET /openapi.json  GET /healthz  GET /readyz  GET /metrics
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from bucle.core.errors import ConfigError
from bucle.core.ports import Guard
from bucle.serve.access import Access
from bucle.serve.errors import ApiError
from bucle.serve.keys import Keys, keys_from_environment, studio_keys_from_environment
from bucle.serve.routes import Limits, Route
from bucle.serve.traces import TraceQueue, TraceWriter

if TYPE_CHECKING:
    from fastapi import FastAPI

    from bucle.serve.budgets import Accounts
    from bucle.serve.gateway import Gateway
    from bucle.serve.http import Receive, Scope, Send
    from bucle.serve.journal import Journal
    from bucle.serve.people import People

__all__ = ["create_app"]


def create_app(routes: Mapping[str, Route], *, writer: TraceWriter | None, release_id: str = "",
               limits: Limits | None = None, replay: bool = False, studio: Any = None,
               guards: Any | Sequence[Guard] = (), redact: Callable[[str], str] | None = None,
               api_keys: Sequence[str] | None = None, keys: Keys | None = None, accounts: Accounts | None = None,
               journal: Journal | None = None, traces: TraceQueue | None = None,
               people: People | None = None) -> FastAPI:
    """The gateway over `routes` (name -> Route). It serves once: closing it stops its engines.

    `writer` receives every request as a Trace (None: nothing is stored), with inputs and outputs through
    `redact`. `guards` is a GuardSet, or Guards that flag. `replay` alone makes `x-bucle-at`, `x-bucle-request-id` and
    `x-upstream-ms` mean something. `studio` is an ASGI app for all other paths; where keys are set it opens to
    BUCLE_STUDIO_KEYS only. `keys` are those that are let in; without them `api_keys`, which default to BUCLE_API_KEYS.
    `accounts` hold what keys may spend. `traces` is a queue of the caller's own in the place of one to `writer` through
    `journal`; closing the app closes it. `people` names those who ask (by default as they say;
    engines get a hash of it). `app.state.traces` is that queue,
    `app.state.api_keys` the keys in force, `app.state.gateway` the Gateway (`swap` puts another route in a name's
    place). Raises ConfigError for no routes or a name that is not its route's.
    """
    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response

    from bucle.serve.gateway import Gateway
    from bucle.serve.plugged import Plugged

    wrong = [name for name, route in routes.items() if name != route.name]
    if wrong or not routes:
        raise ConfigError(f"route {wrong[0]!r} is called otherwise" if wrong else "there is nothing to serve",
                          "give each route under its own name" if wrong
                          else "see the log for what could not be had; or add `models:`, or release a task: bucle run")
    if keys is None:
        keys = Keys(keys_from_environment() if api_keys is None else tuple(api_keys), studio_keys_from_environment())
    traces = traces or TraceQueue(writer, redact=redact, journal=journal)
    checks = guards if hasattr(guards, "check_ask") else Plugged(guards) if guards else None
    gateway = Gateway(routes, traces, release_id=release_id, limits=limits or Limits(), guards=checks, replay=replay,
                      accounts=accounts, read=getattr(writer, "trace", None), people=people)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await gateway.open()
        yield
        await gateway.close()

    app = FastAPI(title="Bucle", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    if studio is not None:
        app.mount("/", studio)

    async def refused(request: Request, error: Exception) -> Response:
        status = int(getattr(error, "status_code", 404))
        known = ApiError(404, "this path is not served; see /v1/models", code="not_found")
        if status == 405:
            known = ApiError(405, "this path takes another method", code="method_not_allowed")
        return JSONResponse(known.body(), status_code=status, headers=getattr(error, "headers", None))

    app.add_exception_handler(404, refused)
    app.add_exception_handler(405, refused)
    app.add_middleware(_Door, gateway=gateway)
    app.add_middleware(Access, keys=keys, refused=gateway.metrics.refused,
                       fresh=() if accounts is None else (accounts,))
    app.state.gateway, app.state.routes = gateway, gateway.routes
    app.state.traces, app.state.api_keys = traces, keys
    return app


class _Door:
    """The gateway's own paths straight to it, without a framework's work for each request; the rest to `app`."""

    def __init__(self, app: Any, gateway: Gateway) -> None:
        self._app, self._gateway = app, gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._gateway.serves(scope["path"]):
            await self._gateway(scope, receive, send)
        else:
            await self._app(scope, receive, send)
