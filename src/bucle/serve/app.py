"""`create_app`: the OpenAI-compatible gateway as an ASGI app.

    POST /v1/chat/completions  POST /v1/embeddings  GET /v1/models  POST /v1/feedback
    GET /healthz  GET /readyz  GET /metrics
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from bucle.core.errors import ConfigError
from bucle.core.ports import Guard
from bucle.serve.access import Access, keys_from_environment, studio_keys_from_environment
from bucle.serve.errors import ApiError
from bucle.serve.routes import Limits, Route
from bucle.serve.traces import TraceQueue, TraceWriter

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["create_app"]


def create_app(routes: Mapping[str, Route], *, writer: TraceWriter | None, release_id: str = "",
               limits: Limits | None = None, replay: bool = False, studio: Any = None,
               guards: Sequence[Guard] = (), redact: Callable[[str], str] | None = None,
               api_keys: Sequence[str] | None = None) -> FastAPI:
    """The gateway over `routes` (name -> Route). It serves once: closing it stops its engines.

    `writer` receives every request as a Trace (None: nothing is stored), with inputs and outputs through
    `redact`. `replay` alone makes `x-bucle-at`, `x-bucle-request-id` and `x-upstream-ms` mean something.
    `studio` is an ASGI app for all other paths; where keys are set it opens to BUCLE_STUDIO_KEYS only. `api_keys`
    default to BUCLE_API_KEYS. `app.state.traces` is
    the TraceQueue, `app.state.api_keys` the keys in force. Raises ConfigError for no routes or a name that is
    not its route's.
    """
    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route as Path

    from bucle.serve.gateway import Gateway

    wrong = [name for name, route in routes.items() if name != route.name]
    if wrong or not routes:
        raise ConfigError(f"route {wrong[0]!r} is called otherwise" if wrong else "there is nothing to serve",
                          "give routes as {route.name: route}")
    keys = keys_from_environment() if api_keys is None else tuple(api_keys)
    team = studio_keys_from_environment()
    traces = TraceQueue(writer, redact=redact)
    gateway = Gateway(routes, traces, release_id=release_id, limits=limits or Limits(), guards=guards,
                      replay=replay)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        import asyncio

        gateway.ready = True
        yield
        await asyncio.to_thread(gateway.close)

    def path(pattern: str, handler: Callable[[Request], Any], method: str) -> Path:
        return Path(pattern, gateway.answering(handler), methods=[method])

    app = FastAPI(title="Bucle", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan, routes=[
        path("/v1/chat/completions", gateway.chat, "POST"),
        path("/v1/embeddings", gateway.embeddings, "POST"),
        path("/v1/models", gateway.models, "GET"), path("/v1/models/{name:path}", gateway.models, "GET"),
        path("/v1/feedback", gateway.feedback, "POST"), path("/healthz", gateway.health, "GET"),
        path("/readyz", gateway.readiness, "GET"), path("/metrics", gateway.prometheus, "GET"),
    ])
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
    app.add_middleware(Access, keys=keys, team=team, refused=gateway.metrics.refused)
    app.state.traces, app.state.api_keys, app.state.routes = traces, (*keys, *team), dict(routes)
    return app
