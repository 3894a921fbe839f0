"""What several APIs share: names, models, tools, the form of an answer, how long a question may be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bucle.serve.dialects import fields as f
from bucle.serve.dialects.schemas import JsonSchema, Pattern
from bucle.serve.errors import ApiError
from bucle.serve.routes import Limits

__all__ = ["EXTRA", "MAX_PARTS", "MAX_TOOLS", "MODEL", "NAME", "NOT_TEXT", "SAMPLING", "USER", "asked_by", "bounded",
           "extra_of_body", "form_of", "guided", "sampling_of", "tag", "tool_choice"]

MAX_N = 16
MAX_TOOLS = 128
MAX_PARTS = 100
MAX_STOPS = 4
MODEL = f.Text(200, 1)
USER = f.Text(512)
STOP = f.Text(500, 1)

NOT_TEXT = {"image_url": "is an image: only text is served", "input_image": "is an image: only text is served",
            "image": "is an image: only text is served", "input_audio": "is audio: only text is served",
            "audio_url": "is audio: only text is served", "video_url": "is a video: only text is served",
            "file": "is a file: only text is served", "input_file": "is a file: only text is served",
            "document": "is a document: send its text"}
"""Parts of messages that the official APIs take and nobody reads here."""


NAME = f.Named("[a-zA-Z0-9_-]{1,64}", "1 to 64 letters, digits, _ or -")
"""The name of a tool or schema."""
TOKEN = f.Named("[0-9]{1,9}", "the number of a token")

SAMPLING: dict[str, f.Field] = {
    "temperature": f.Number(0, 2), "top_p": f.Number(0, 1), "presence_penalty": f.Number(-2, 2),
    "frequency_penalty": f.Number(-2, 2), "seed": f.Whole(-2**63, 2**63 - 1), "n": f.Whole(1, MAX_N),
    "stop": f.Either(STOP, f.ListOf(STOP, MAX_STOPS)), "logit_bias": f.MapOf(f.Number(-100, 100), 300, TOKEN),
    "stream": f.Flag(),
    "stream_options": f.Shape({"include_usage": f.Flag(), "include_obfuscation": f.Exactly((False,))}),
    "user": USER, "safety_identifier": USER,
    "guided_regex": Pattern(), "guided_json": JsonSchema(),
    "structured_outputs": f.Shape({"regex": Pattern(), "json": JsonSchema(), "json_object": f.Flag()}),
}
"""What chat completions and completions share. `guided_*` and `structured_outputs` are vLLM's words."""


EXTRA: dict[str, f.Field] = {
    "reasoning_effort": f.Named("[a-z]{1,20}", "a word such as low or high"),
    "verbosity": f.Choice(("low", "medium", "high")), "metadata": f.MapOf(f.Text(512), 16, f.Text(64)),
    "prompt_cache_key": f.Text(512),
}
"""What some of OpenAI's models take."""


def tag(name: str, more: Mapping[str, f.Field], *required: str) -> f.Shape:
    """An object whose `type` is `name`."""
    return f.Shape({"type": f.Choice((name,)), **more}, ("type", *required))


def sampling_of(got: Mapping[str, Any]) -> dict[str, Any]:
    """SAMPLING as ChatAsk names it."""
    stream, options = got.get("stream", False), got.get("stream_options")
    if options is not None and not stream:
        raise ApiError(400, "`stream_options` is taken only with stream", code="unsupported_parameter",
                       param="stream_options")
    stop = got.get("stop", ())
    return {"temperature": got.get("temperature"), "top_p": got.get("top_p"), "seed": got.get("seed"),
            "presence_penalty": got.get("presence_penalty"), "frequency_penalty": got.get("frequency_penalty"),
            "logit_bias": got.get("logit_bias", {}), "n": got.get("n", 1), "stream": stream,
            "stop": (stop,) if isinstance(stop, str) else tuple(stop),
            "include_usage": bool(options and options.get("include_usage")), "user": asked_by(got)}


def extra_of_body(got: Mapping[str, Any], names: Iterable[str] = EXTRA) -> dict[str, Any]:
    """Those of `names` that say something."""
    return {name: got[name] for name in names if got.get(name) not in (None, "", {})}


def asked_by(got: Mapping[str, Any]) -> str:
    """Who asks, as far as the client says."""
    return got.get("safety_identifier") or got.get("user") or ""


def guided(got: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The forms of answer that vLLM's fields ask for, each with the field that says so."""
    also = got.get("structured_outputs", {})
    named = (("guided_regex", "regex", got.get("guided_regex")), ("guided_json", "schema", got.get("guided_json")),
             ("structured_outputs", "regex", also.get("regex")), ("structured_outputs", "schema", also.get("json")),
             ("structured_outputs", "any_json", also.get("json_object") or None))
    return [(field, {name: value}) for field, name, value in named if value is not None]


def form_of(field: str, given: Mapping[str, Any] | None, schema: Any = None,
            also: Sequence[tuple[str, dict[str, Any]]] = ()) -> dict[str, Any]:
    """`schema`, `any_json` or `regex` of a ChatAsk: what `given` (a response format, its schema) asks for, or one of
    `also`. Raises ApiError for two."""
    asked = list(also)
    kind = (given or {}).get("type")
    if kind == "json_object":
        asked.append((field, {"any_json": True}))
    if kind == "json_schema":
        asked.append((field, {"schema": schema}))
    if len(asked) > 1:
        raise ApiError(400, f"`{asked[1][0]}` asks for one form of answer and `{asked[0][0]}` for another; send one",
                       code="invalid_value", param=asked[1][0])
    return asked[0][1] if asked else {}


def tool_choice(got: Mapping[str, Any], names: Sequence[str]) -> Any:
    """The checked `tool_choice` of a body in OpenAI's shape, of tools called `names`; a function it names is one."""
    chosen = got.get("tool_choice")
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice:
        raise ApiError(400, f"`tools` holds {twice!r} twice", code="invalid_value", param="tools")
    if not names:
        if chosen not in (None, "none", "auto"):
            raise ApiError(400, "`tool_choice` is taken only with tools", code="invalid_value", param="tool_choice")
        if got.get("parallel_tool_calls") is not None:
            raise ApiError(400, "`parallel_tool_calls` is taken only with tools", code="invalid_value",
                           param="parallel_tool_calls")
        return None
    if isinstance(chosen, Mapping) and chosen["function"]["name"] not in names:
        raise ApiError(400, "`tool_choice` names a function that is not among the tools", code="invalid_value",
                       param="tool_choice")
    return chosen


def bounded(messages: Sequence[Mapping[str, Any]], limits: Limits, field: str = "messages") -> None:
    """Raises ApiError where a conversation is too long, or its last user message says nothing."""
    if sum(map(_characters, messages)) > limits.input_chars:
        raise ApiError(413, f"`{field}` is longer than {limits.input_chars} characters", code="input_too_long",
                       param=field)
    last = next((m for m in reversed(messages) if m["role"] == "user"), None)
    if last is None or not last["content"].strip():
        raise ApiError(400, "the last user message is missing or empty", code="empty_input", param=field)


def _characters(message: Mapping[str, Any]) -> int:
    return len(message["content"] or "") + sum(
        len(c["function"]["name"]) + len(c["function"]["arguments"]) for c in message.get("tool_calls", ()))
