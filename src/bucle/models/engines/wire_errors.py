"""What a server's refusal means, in the words and classes that models.endpoint uses."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from bucle.core.engine import ChatAsk, wanted
from bucle.core.errors import BadInput, BucleError, ContextOverflow, ModelUnavailable
from bucle.models.endpoint import (
    TOO_LONG,
    NotSetUp,
    RateLimited,
    Refused,
    come_back,
    retry_after_s,
    span_of,
    words_of,
)

__all__ = ["NOT_SET_UP", "BadSchema", "Unsupported", "key_of", "refusal"]

NOT_SET_UP = "not_set_up"
"""The code by which an engine of this machine says that it lacks what a kind of question needs."""

_NOT_TAKEN = re.compile(r"unsupported|not support|unrecogni|unknown|not permitted|extra inputs|unexpected", re.I)


class Unsupported(BadInput):
    """The server takes no field that the request uses. `what` is its name, as core.engine.OFFERS has it."""

    def __init__(self, message: str, what: str) -> None:
        super().__init__(message)
        self.what = what


class BadSchema(BadInput):
    """The server does not follow the schema or expression in `field` of the request. `keyword` is the word of the
    asker's own schema that it names, if any."""

    def __init__(self, message: str, field: str, keyword: str = "") -> None:
        super().__init__(message)
        self.field, self.keyword = field, keyword


def refusal(name: str, base_url: str, model: str, key_env: str, body: Mapping[str, Any], *, status: int = 0,
            retry_after: str | None = None, ask: ChatAsk | None = None) -> BucleError:
    """The error that `body` (and its HTTP `status`; 0: it came in the middle of a stream) tells of."""
    said = _said(body, key_env)
    if not status:
        return _midway(name, body, said)
    if status in (401, 403):
        return Refused(f"{name} refused the key (HTTP {status})",
                       f"check {key_env}" if key_env else f"set models.{name}.api_key_env")
    wait = retry_after_s(retry_after)
    if status == 429:
        asks = f" and asks for a pause of {span_of(wait)}" if wait else ""
        return RateLimited(f"{name} is limiting requests (HTTP 429){asks}{said}", come_back(wait), wait)
    if status == 404:
        return Refused(f"{name} does not know the model {model!r} or the path (HTTP 404){said}",
                       f"list its models: curl {base_url}/models")
    if status == 501 and _code(body) == NOT_SET_UP:
        return NotSetUp(f"{name} is not set up for this{said}", "see docs/engines.md")
    if status in (400, 413, 422):
        if TOO_LONG.search(words_of(body)):
            return _overflow(name, model, f" (HTTP {status}){said}")
        field = "" if ask is None else _guiding(said, ask)
        if ask is not None and field and (keyword := _keyword(said, ask)):
            return BadSchema(f"{name} refused the request (HTTP {status}){said}", field, keyword)
        if ask is not None and (what := _field(body, said, ask)):
            return Unsupported(f"{name} takes no `{what}` (HTTP {status}){said}", what)
        if field:
            return BadSchema(f"{name} refused the request (HTTP {status}){said}", field)
        return BadInput(f"{name} refused the request (HTTP {status}){said}")
    failed = ModelUnavailable(f"{name} failed (HTTP {status}){said}", "try again later or use another one")
    vars(failed)["status"] = status  # it was answered so, and not broken off
    if wait is not None:
        vars(failed)["retry_after"] = wait
    return failed


def key_of(variable: str) -> str:
    """The key as it is now."""
    return os.environ.get(variable, "").strip()


def _midway(name: str, body: Mapping[str, Any], said: str) -> BucleError:
    """An error event says in its code or type what a status would have said."""
    error = body.get("error")
    told = {str(error.get(k)) for k in ("code", "type")} if isinstance(error, dict) else set()
    if told & {"rate_limit_exceeded", "rate_limit_error", "429", "upstream_rate_limit"}:
        return RateLimited(f"{name} is limiting requests, and broke off its reply{said}", come_back(None))
    if TOO_LONG.search(words_of(body)):
        return _overflow(name, "", said)
    return ModelUnavailable(f"{name} failed while streaming{said}")


def _overflow(name: str, model: str, said: str) -> ContextOverflow:
    longer = f"choose a model with a longer context than {model}" if model else "choose a model with a longer context"
    return ContextOverflow(f"{name} refused the prompt as longer than its context{said}",
                           f"leave something out of the prompt (fewer passages, a shorter input), lower max_tokens, or "
                           f"{longer}")


def _field(body: Mapping[str, Any], said: str, ask: ChatAsk) -> str:
    """Which setting of `ask` the server does not take, if it names one."""
    error = body.get("error")
    param = error.get("param") if isinstance(error, dict) else None
    if not _NOT_TAKEN.search(said):
        return ""
    names = {"json_schema": "response_format", "json_object": "response_format"}
    for what in wanted(ask):
        word = names.get(what, what)
        if what != "max_tokens" and (param == word or (not isinstance(param, str) and re.search(rf"\b{word}\b", said))):
            return what
    return ""


def _code(body: Mapping[str, Any]) -> str:
    error = body.get("error")
    return str(error.get("code")) if isinstance(error, dict) else ""


def _guiding(said: str, ask: ChatAsk) -> str:
    """The field of `ask` whose schema or expression a server says it does not follow."""
    if ask.regex is not None and re.search(r"regular expression|regex", said, re.I):
        return "regex"
    if not re.search(r"schema", said, re.I):
        return ""
    return "response_format" if ask.schema is not None else "tools" if ask.tools else ""


def _keyword(said: str, ask: ChatAsk) -> str:
    """The first word in quotes of what was said that is a key of the asker's own schema: nothing of a server's."""
    quoted = re.findall(r"[`'\"“]([$\w]{1,50})[`'\"”]", said)
    keys: set[str] = set()
    todo: list[Any] = [ask.schema, *ask.tools]
    while todo and len(keys) < 2000:
        one = todo.pop()
        if isinstance(one, Mapping):
            keys |= set(map(str, one))
            todo += one.values()
        elif isinstance(one, list | tuple):
            todo += one
    return next((word for word in quoted if word in keys), "")


def _said(body: Mapping[str, Any], key_env: str) -> str:
    """`: MESSAGE` from an error's body, short, on one line and without the key."""
    error = body.get("error")
    text = error.get("message") if isinstance(error, dict) else error or body.get("message") or body.get("detail")
    if not isinstance(text, str) or not text.strip():
        return ""
    key = key_of(key_env) if key_env else ""
    text = text.replace(key, "[key]") if key else text
    return ": " + "".join(c if c.isprintable() else " " for c in text)[:300]
