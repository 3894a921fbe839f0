"""What a client may send, checked field by field. What an engine cannot do is refused by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from bucle.core.ids import sha256_hex
from bucle.core.ports import Message
from bucle.serve.errors import ApiError
from bucle.serve.routes import Limits, Route

__all__ = ["ChatRequest", "EmbedRequest", "FeedbackRequest", "event_time", "find_route", "parse_chat",
           "parse_embed", "parse_feedback", "parse_json", "replay_trace_id"]

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}

_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (1,), "top_p": (1,), "presence_penalty": (0,), "frequency_penalty": (0,), "logprobs": (False,),
    "top_logprobs": (0,), "response_format": ({"type": "text"},), "tools": ([],), "functions": ([],),
    "tool_choice": ("none",), "function_call": ("none",), "logit_bias": ({},), "store": (False,),
    "modalities": (["text"],), "metadata": ({},), "service_tier": ("auto", "default"),
}
"""Fields of the OpenAI API that no engine here serves, with the values that ask for nothing."""

_CHAT_FIELDS = frozenset({"model", "messages", "stream", "stream_options", "temperature", "max_tokens",
                          "max_completion_tokens", "stop", "seed", "user", "safety_identifier"})


@dataclass(frozen=True)
class ChatRequest:
    """A checked chat request. `text` is the input of a task's route: the last user message, or of a converse task the
    whole conversation as a JSON list of messages, as its rows hold it."""

    messages: tuple[Message, ...]
    text: str
    stream: bool
    include_usage: bool
    temperature: float
    max_tokens: int
    stop: tuple[str, ...]
    seed: int
    user: str


@dataclass(frozen=True)
class EmbedRequest:
    texts: tuple[str, ...]
    base64: bool
    user: str


@dataclass(frozen=True)
class FeedbackRequest:
    trace: str
    rating: Literal[-1, 1] | None
    correction: str | None
    reason: str
    by: str


def parse_json(body: bytes) -> dict[str, Any]:
    """The body as an object. NaN, lone surrogates, deep nesting and endless numbers are refused with 400."""
    def refuse(_: str) -> Any:
        raise ValueError

    try:
        value = json.loads(body, parse_constant=refuse)
        if b"\\u" in body:
            json.dumps(value, ensure_ascii=False).encode()
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


def parse_chat(body: Mapping[str, Any], route: Route, limits: Limits) -> ChatRequest:
    _refuse_unserved(body, _CHAT_FIELDS, f"the route {route.name!r}")
    messages = _messages(body.get("messages"), limits)
    users = [m["content"] for m in messages if m["role"] == "user"]
    if not users or not users[-1].strip():
        raise ApiError(400, "the last user message is missing or empty", code="empty_input", param="messages")
    temperature = _number(body, "temperature", 0.0, 0.0, 2.0)
    stop = _stop(body.get("stop"))
    asked = [f for f in ("max_completion_tokens", "max_tokens") if body.get(f) is not None]
    max_tokens = min((_integer(body, f, 1, limits.max_tokens) for f in asked), default=limits.default_tokens)
    if route.kind != "chat":
        asked += ["temperature"] * (temperature != 0) + ["stop"] * bool(stop)
        if asked:
            raise ApiError(400, f"`{asked[0]}` is not served by {route.name!r}: a {route.kind} route "
                                "gives one fixed answer; leave it out",
                           code="unsupported_parameter", param=asked[0])
    stream, include_usage = _boolean(body, "stream"), False
    options = body.get("stream_options")
    if options is not None:
        if not stream or not isinstance(options, dict) or set(options) - {"include_usage"}:
            raise ApiError(400, "`stream_options` may hold include_usage, and only with stream",
                           code="unsupported_parameter", param="stream_options")
        include_usage = _boolean(options, "include_usage")
    seed = 0 if body.get("seed") is None else _integer(body, "seed", -2**63, 2**63 - 1)
    text = users[-1]
    if route.kind == "converse":
        if messages[-1]["role"] != "user":
            raise ApiError(400, "the last message must be the user's", code="invalid_value", param="messages")
        text = json.dumps([dict(message) for message in messages], ensure_ascii=False)
    return ChatRequest(messages, text, stream, include_usage, temperature, max_tokens, stop, seed,
                       _text(body, "safety_identifier", 512) or _text(body, "user", 512))


def parse_embed(body: Mapping[str, Any], route: Route, limits: Limits) -> EmbedRequest:
    _refuse_unserved(body, frozenset({"model", "input", "encoding_format", "dimensions", "user"}),
                     f"the route {route.name!r}")
    given = body.get("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) and t.strip() for t in texts):
        raise ApiError(400, "`input` must be a text or a list of texts, none empty; token ids are not served",
                       code="invalid_type", param="input")
    if len(texts) > limits.embed_inputs:
        raise ApiError(413, f"`input` holds {len(texts)} texts; at most {limits.embed_inputs} are taken",
                       code="too_many_inputs", param="input")
    if any(len(t) > limits.input_chars for t in texts):
        raise _too_long("input", limits)
    form = body.get("encoding_format")
    if form not in (None, "float", "base64"):
        raise ApiError(400, "`encoding_format` must be float or base64", code="invalid_value",
                       param="encoding_format")
    size = route.embedder.dimensions if route.embedder else 0
    if body.get("dimensions") is not None and _integer(body, "dimensions", 1, 1_000_000) != size:
        raise ApiError(400, f"`dimensions` cannot be changed: {route.name!r} gives {size}",
                       code="unsupported_parameter", param="dimensions")
    return EmbedRequest(tuple(texts), form == "base64", _text(body, "user", 512))


def parse_feedback(body: Mapping[str, Any], limits: Limits) -> FeedbackRequest:
    _refuse_unserved(body, frozenset({"trace_id", "rating", "correction", "reason", "by"}), "feedback")
    trace = _text(body, "trace_id", 200)
    if not trace:
        raise ApiError(400, "`trace_id` is missing: it is the `id` of the reply", code="missing",
                       param="trace_id")
    rating = body.get("rating")
    if rating is not None and (isinstance(rating, bool) or rating not in (-1, 1)):
        raise ApiError(400, "`rating` must be 1 or -1", code="invalid_value", param="rating")
    correction = body.get("correction")
    if correction is not None:
        correction = _text(body, "correction", limits.input_chars)
    if rating is None and not correction:
        raise ApiError(400, "give a `rating`, a `correction` or both", code="missing", param="rating")
    thumb: Literal[-1, 1] | None = None if rating is None else 1 if rating == 1 else -1
    return FeedbackRequest(trace, thumb, correction or None,
                           _text(body, "reason", 2000), _text(body, "by", 512) or "anonymous")


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


def _refuse_unserved(body: Mapping[str, Any], served: frozenset[str], by: str) -> None:
    for field, value in body.items():
        if field in served or value is None:
            continue
        if field in _NEUTRAL and any(value == v and isinstance(value, bool) == isinstance(v, bool)
                                     for v in _NEUTRAL[field]):
            continue
        known = field in _NEUTRAL
        raise ApiError(400, f"`{field[:100]}` is not served by {by}; leave it out",
                       code="unsupported_parameter" if known else "unknown_parameter", param=field[:100])


def _messages(value: Any, limits: Limits) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise ApiError(400, "`messages` must be a list with at least one message", code="invalid_type",
                       param="messages")
    if len(value) > limits.messages:
        raise ApiError(413, f"`messages` holds {len(value)} messages; at most {limits.messages} are taken",
                       code="too_many_messages", param="messages")
    found: list[Message] = []
    for place, item in enumerate(value):
        where = f"messages[{place}]"
        role = item.get("role") if isinstance(item, dict) else None
        if not isinstance(role, str) or role not in _ROLES:
            raise ApiError(400, f"`{where}.role` must be system, developer, user or assistant",
                           code="unsupported_value", param=where)
        extra = {k for k, v in item.items() if v is not None} - {"role", "content"}
        if extra:
            raise ApiError(400, f"`{where}.{sorted(extra)[0][:100]}` is not served; send role and content",
                           code="unsupported_parameter", param=where)
        found.append({"role": _ROLES[role], "content": _content(item.get("content"), where)})
    if sum(len(m["content"]) for m in found) > limits.input_chars:
        raise _too_long("messages", limits)
    return tuple(found)


def _content(value: Any, where: str) -> str:
    if isinstance(value, str):
        return value
    texts: list[str] = []
    for part in value if isinstance(value, list) and value else [None]:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ApiError(400, f"`{where}.content` must be text; images, audio and files are not served",
                           code="unsupported_content", param=where)
        texts.append(part["text"])
    return "\n".join(texts)


def _too_long(param: str, limits: Limits) -> ApiError:
    return ApiError(413, f"`{param}` is longer than {limits.input_chars} characters", code="input_too_long",
                    param=param)


def _text(body: Mapping[str, Any], field: str, longest: int) -> str:
    value = body.get(field)
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > longest:
        raise ApiError(400, f"`{field}` must be a text of at most {longest} characters", code="invalid_value",
                       param=field)
    return value


def _boolean(body: Mapping[str, Any], field: str) -> bool:
    value = body.get(field)
    if value is not None and not isinstance(value, bool):
        raise ApiError(400, f"`{field}` must be true or false", code="invalid_type", param=field)
    return bool(value)


def _integer(body: Mapping[str, Any], field: str, low: int, high: int) -> int:
    value = body.get(field)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ApiError(400, f"`{field}` must be a whole number from {low} to {high}", code="invalid_value",
                       param=field)
    return value


def _number(body: Mapping[str, Any], field: str, default: float, low: float, high: float) -> float:
    value = body.get(field)
    if value is None:
        return default
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
        raise ApiError(400, f"`{field}` must be a number from {low:g} to {high:g}", code="invalid_value",
                       param=field)
    return float(value)


def _stop(value: Any) -> tuple[str, ...]:
    given = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(given, list) or len(given) > 4 or not all(isinstance(s, str) and s for s in given):
        raise ApiError(400, "`stop` must be a text or a list of at most four", code="invalid_value",
                       param="stop")
    return tuple(given)
