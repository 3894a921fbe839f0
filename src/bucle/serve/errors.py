"""Errors as the OpenAI API words them: `{"error": {"message", "type", "param", "code"}}` and a status.

Beside `error` stands `bucle`: the `kind` of what failed (the name of its class) and the id of the `trace` that has the
rest. What a provider, a model or a step said stays there: whoever asked is told the fact, in our words.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from typing import Any

from bucle.core.errors import (
    BadInput,
    BucleError,
    ContextOverflow,
    Infrastructure,
    ModelUnavailable,
    NotFound,
    SchemaBroken,
    UpstreamTimeout,
)
from bucle.core.records import Prediction
from bucle.models.endpoint import BrokenOff, NotSetUp, RateLimited, Refused, TimedOut
from bucle.models.engines.process import EngineDied
from bucle.models.engines.queued import Crowded
from bucle.models.engines.wire_errors import BadSchema, Unsupported
from bucle.serve.routing.breaker import Resting

__all__ = ["ApiError", "from_exception", "from_prediction"]

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error",
          429: "rate_limit_error"}


class ApiError(Exception):
    """A refusal or failure with its HTTP status. `code` is stable and for programs, `param` the field's name; `kind`
    the class of what failed, `detail` what only the trace is told.

    `traced` is set once the request stands in a trace and in the counts, `trace` to its id.
    """

    def __init__(self, status: int, message: str, *, code: str, param: str | None = None,
                 headers: dict[str, str] | None = None, kind: str = "", detail: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers, self.kind, self.detail = dict(headers or {}), kind, detail
        self.traced, self.trace = False, ""

    def body(self) -> dict[str, Any]:
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        known = {name: value for name, value in (("kind", self.kind), ("trace", self.trace)) if value}
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code},
                **({"bucle": known} if known else {})}


_FACTS: Mapping[type[BaseException], tuple[int, str, str]] = {  # status, code, what the asker is told; nearest first
    BrokenOff: (502, "engine_unavailable", "what this model asks broke the connection off before its answer ended"),
    NotSetUp: (502, "model_not_set_up", "this model has no chat template, which is the server's to mend; raw text to "
                                        "continue can be sent to /v1/completions"),
    TimedOut: (504, "upstream_timeout", "what this model asks did not answer in time"),
    UpstreamTimeout: (504, "upstream_timeout", "what this model asks did not answer in time"),
    RateLimited: (429, "upstream_rate_limit", "what this model asks takes no more requests for now; try again later"),
    Refused: (502, "upstream_refused", "what this model asks refuses to answer the server"),
    Crowded: (503, "overloaded", "what this model asks takes no more at once; ask again"),
    Resting: (503, "engine_resting", "what this model asks failed too often and rests for a while; ask again"),
    EngineDied: (503, "engine_restarting", "the model behind this is being started again; ask again"),
    ModelUnavailable: (502, "engine_unavailable", "what this model asks cannot be reached or failed"),
    SchemaBroken: (502, "schema_broken", "no answer in the form that was asked for came of this input"),
    ContextOverflow: (400, "context_length_exceeded", "the input does not fit the model's context; shorten it"),
    BadInput: (400, "bad_input", "this input cannot be answered as it is"),
    Infrastructure: (502, "engine_unavailable", "the machine behind this model said no"),
}
_ALSO = {TimedOut.__name__: UpstreamTimeout.__name__}  # one name for what everybody waits for
_BY_NAME = {kind.__name__: fact for kind, fact in _FACTS.items()}


def from_prediction(found: Prediction, retry_after: float | None = None) -> ApiError:
    """The answer to an input that failed. `retry_after`: the pause in seconds that was asked for."""
    kind = found.error_kind
    status, code, message = _BY_NAME.get(kind, (502, "engine_failed", "the candidate failed on this input"))
    return ApiError(status, message, code=code, kind=kind, detail=found.error, headers=_wait(status, retry_after))


def from_exception(error: BaseException) -> ApiError:
    """The answer to a failure of an engine or the ledger."""
    if isinstance(error, ApiError):
        return error
    kind = type(error).__name__
    if (found := getattr(error, "prediction", None)) is not None:
        return from_prediction(found, getattr(error, "retry_after", None))
    if isinstance(error, Unsupported):
        return ApiError(400, f"`{error.what}` is not served by this model; leave it out", code="unsupported_parameter",
                        param=error.what, kind=kind, detail=error.message)
    if isinstance(error, BadSchema):
        what = "regular expression" if error.field == "regex" else "JSON schema"
        said = f"this model does not follow `{error.keyword}` in the {what}; leave it out" if error.keyword else \
            f"this model cannot follow the {what}; send a simpler one"
        return ApiError(400, said, code="unsupported_schema", param=error.field, kind=kind, detail=error.message)
    if isinstance(error, NotFound):
        return ApiError(404, error.message, code="not_found", kind=kind)
    for known, (status, code, message) in _FACTS.items():
        if isinstance(error, known):
            detail = getattr(error, "message", "")
            return ApiError(status, message, code=code, kind=_ALSO.get(kind, kind), detail=detail,
                            headers=_wait(status, getattr(error, "retry_after", None)))
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        return ApiError(504, "the model did not answer in time", code="timeout", kind=kind)
    if isinstance(error, BucleError):
        return ApiError(502, "the candidate failed", code="engine_unavailable", kind=kind, detail=error.message)
    return ApiError(500, f"the engine failed ({kind}); the server's log has the rest", code="internal_error", kind=kind)


def _wait(status: int, seconds: float | None) -> dict[str, str]:
    return {"retry-after": str(max(1, math.ceil(seconds)))} if status in (429, 503) and seconds is not None else {}
