"""Errors as the OpenAI API words them: `{"error": {"message", "type", "param", "code"}}` and a status."""

from __future__ import annotations

import asyncio
from typing import Any

from bucle.core.errors import BadInput, BucleError, NotFound
from bucle.models.remote import RateLimited, TimedOut

__all__ = ["ApiError", "from_exception"]

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error",
          429: "rate_limit_error"}


class ApiError(Exception):
    """A refusal or failure with its HTTP status. `code` is stable and for programs, `param` the field's name.

    `traced` is set once the request stands in a trace and in the counts.
    """

    def __init__(self, status: int, message: str, *, code: str, param: str | None = None,
                 headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = headers or {}
        self.traced = False

    def body(self) -> dict[str, Any]:
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def from_exception(error: BaseException) -> ApiError:
    """The answer to a failure of an engine or the ledger: what Bucle explains is told, the rest is not."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RateLimited):
        wait = {} if error.retry_after is None else {"retry-after": str(max(1, round(error.retry_after)))}
        return ApiError(429, error.message, code="upstream_rate_limit", headers=wait)
    if isinstance(error, TimedOut | TimeoutError | asyncio.TimeoutError):
        text = error.message if isinstance(error, TimedOut) else "the model did not answer in time"
        return ApiError(504, text, code="timeout")
    if isinstance(error, NotFound):
        return ApiError(404, error.message, code="not_found")
    if isinstance(error, BadInput):
        return ApiError(400, error.message, code="bad_input")
    if isinstance(error, BucleError):
        return ApiError(502, error.message, code="engine_unavailable")
    return ApiError(500, f"the engine failed ({type(error).__name__}); the server's log has the rest",
                    code="internal_error")
