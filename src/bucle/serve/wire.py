"""What a request is before any API is chosen: its JSON, the route it names, the headers of a replay."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from bucle.core.ids import sha256_hex
from bucle.serve.errors import ApiError
from bucle.serve.routes import Route

__all__ = ["event_time", "find_route", "parse_json", "replay_trace_id"]


def parse_json(body: bytes) -> dict[str, Any]:
    """The body as an object. NaN, lone surrogates, deep nesting and endless numbers are refused with 400."""
    try:
        value = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        raise ApiError(400, "the body is not valid JSON", code="invalid_json") from None
    if not isinstance(value, dict):
        raise ApiError(400, "the body must be a JSON object", code="invalid_json")
    return value


def find_route(body: Mapping[str, Any], routes: Mapping[str, Route], *, embeddings: bool = False) -> Route:
    """The route that `model` names. 404 lists those that this endpoint has."""
    name = body.get("model")
    if not isinstance(name, str) or not name:
        raise ApiError(400, "`model` must be a string", code="invalid_type", param="model")
    fit = {n: r for n, r in routes.items() if (r.kind == "embed") == embeddings}
    if name in fit:
        return fit[name]
    if name in routes:
        right = "/v1/chat/completions" if embeddings else "/v1/embeddings"
        raise ApiError(400, f"the model {name!r} is served at {right}", code="wrong_endpoint", param="model")
    there = ", ".join(sorted(fit)) or "none"
    raise ApiError(404, f"the model {name[:100]!r} is not served here; there is: {there}",
                   code="model_not_found", param="model")


def replay_trace_id(request_id: str) -> str:
    """The trace id that a replayed request gets: the same for the same `x-bucle-request-id`."""
    return f"trace:{sha256_hex(request_id)}"


def event_time(value: str) -> str:
    """An ISO 8601 time with offset as UTC with milliseconds. Raises ApiError 400."""
    try:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            raise ValueError
        return moment.astimezone(UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError):
        raise ApiError(400, "`x-bucle-at` must be an ISO 8601 time with an offset", code="invalid_value",
                       param="x-bucle-at") from None
