"""The REST API of labelling, for the studio and for scripts: JSON in, JSON out, errors as `{"error": {…}}`.

    GET  /api/label/{task}/next?by=ana&n=5          rows to label next, reserved for half an hour
    POST /api/label/{task}/annotations              {"row", "label", "by", "note"?, "new"?}; label null takes back
    GET  /api/label/{task}/status
    GET  /api/label/{task}/agreement
    GET  /api/label/{task}/disagreements?limit=100
    POST /api/label/{task}/disagreements            {"row", "label", "by", "note"?, "new"?}: decides for everybody

`by` is what the caller says: an API key says who may call, not who they are. Behind the gateway keys are asked for
where there are any; here foreign host names are refused, and a POST that is not JSON or comes from another site.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from bucle.serve.call import read_body
from bucle.serve.errors import ApiError, from_exception
from bucle.serve.routes import Limits
from bucle.web.guard import HEADERS, host_allowed

if TYPE_CHECKING:
    from fastapi import APIRouter, FastAPI
    from starlette.requests import Request
    from starlette.responses import Response

    from bucle.loop.label import Labelling

__all__ = ["LabelSource", "label_app", "label_router"]

LIMITS = Limits(body_bytes=256 * 1024, timeout_s=10)
_FIELDS = {"row": str, "label": str, "by": str, "note": str, "new": bool}


@runtime_checkable
class LabelSource(Protocol):
    """Who knows the tasks; methods are called from worker threads."""

    def labelling(self, task: str) -> Labelling:
        """The labelling of a task; the same object each time. Raises NotFound."""
        ...


def label_router(source: LabelSource, *, hosts: Sequence[str] = ()) -> APIRouter:
    """The routes over `source`. 400 bad_input, 403 host_not_allowed or cross_site, 404 not_found, 413
    body_too_large, 415 unsupported_media_type; anything that is not explained is 500 and says no more."""
    from fastapi import APIRouter
    from starlette.requests import Request as Asked
    from starlette.responses import JSONResponse

    routes = APIRouter(include_in_schema=False)

    def answering(
        work: Callable[[Labelling, Request, dict[str, Any]], Any],
    ) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        async def handle(request: Asked) -> Response:
            try:
                _check(request, hosts)
                body = _parsed(await read_body(request, LIMITS)) if request.method == "POST" else {}
                task = str(request.path_params["task"])
                told = await asyncio.to_thread(lambda: work(source.labelling(task), request, body))
                return JSONResponse(told, headers=HEADERS)
            except Exception as error:  # each becomes an answer; what is not explained says only its kind
                known = from_exception(error)
                if known.status == 500:
                    import logging

                    logging.getLogger("bucle.label").exception("labelling failed")
                answer = known.body()
                answer["error"]["hint"] = str(getattr(error, "hint", ""))
                return JSONResponse(answer, status_code=known.status, headers={**HEADERS, **known.headers})

        return handle

    def add(path: str, method: str, work: Callable[[Labelling, Request, dict[str, Any]], Any]) -> None:
        routes.add_route(f"/api/label/{{task}}/{path}", answering(work), methods=[method])

    add("next", "GET", _next)
    add("status", "GET", lambda labelling, request, body: labelling.status())
    add("agreement", "GET", lambda labelling, request, body: labelling.agreement())
    add("annotations", "POST", lambda labelling, request, body: _say(labelling, body, decide=False))
    add(
        "disagreements", "GET", lambda labelling, request, body: labelling.disagreements(_number(request, "limit", 100))
    )
    add("disagreements", "POST", lambda labelling, request, body: _say(labelling, body, decide=True))
    return routes


def label_app(source: LabelSource, *, hosts: Sequence[str] = ()) -> FastAPI:
    """The routes as an app of their own, for a project that has released nothing yet."""
    from fastapi import FastAPI

    app = FastAPI(title="Bucle labelling", docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(label_router(source, hosts=hosts))
    return app


def _next(labelling: Labelling, request: Request, body: dict[str, Any]) -> Any:
    known = {"by", "n", "review", "overlap", "people", "random"}
    if unknown := sorted(set(request.query_params) - known):
        raise ApiError(400, f"unknown parameter `{unknown[0][:60]}`", code="bad_input", param=unknown[0][:60])
    review = request.query_params.get("review", "false")
    if review not in ("true", "false"):
        raise ApiError(400, "`review` is true or false", code="bad_input", param="review")
    return labelling.next(
        request.query_params.get("by", ""),
        _number(request, "n", 1),
        review=review == "true",
        overlap=_share(request, "overlap", 0.1),
        people=_number(request, "people", 2),
        random_share=_share(request, "random", 0.2),
    )


def _say(labelling: Labelling, body: dict[str, Any], *, decide: bool) -> Any:
    for name, value in body.items():
        if name not in _FIELDS:
            raise ApiError(400, f"unknown field `{name[:60]}`", code="bad_input", param=name[:60])
        if not isinstance(value, _FIELDS[name]) and not (name == "label" and value is None):
            raise ApiError(400, f"`{name}` has the wrong type", code="bad_input", param=name)
    if missing := [name for name in ("row", "label", "by") if name not in body]:
        raise ApiError(400, f"`{missing[0]}` is missing", code="bad_input", param=missing[0])
    if body["label"] is None:
        if decide:
            raise ApiError(400, "a decision needs a label", code="bad_input", param="label")
        return labelling.take_back(body["row"], body["by"])
    more = {"note": body.get("note", ""), "new": body.get("new", False)}
    return labelling.add(body["row"], body["label"], body["by"], decide=decide, **more)


def _check(request: Request, hosts: Sequence[str]) -> None:
    if not host_allowed(request.headers.get("host", ""), hosts):
        raise ApiError(403, "this host name is not served; use localhost", code="host_not_allowed")
    if request.method != "POST":
        return
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise ApiError(403, "a page of another site may not send this", code="cross_site")
    media = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if media != "application/json":
        raise ApiError(415, "send `Content-Type: application/json`", code="unsupported_media_type")


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, "the body is not JSON", code="bad_input") from error
    if not isinstance(value, dict):
        raise ApiError(400, "the body must be a JSON object", code="bad_input")
    return value


def _number(request: Request, name: str, default: int) -> int:
    raw = request.query_params.get(name, str(default))
    if not (raw.isascii() and raw.isdigit() and len(raw) < 7 and int(raw) >= 1):
        raise ApiError(400, f"`{name}` must be a whole number from 1", code="bad_input", param=name)
    return int(raw)


def _share(request: Request, name: str, default: float) -> float:
    raw = request.query_params.get(name, str(default))
    try:
        value = float(raw)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ApiError(400, f"`{name}` must be a number from 0 to 1", code="bad_input", param=name)
    return value
