"""OpenAI's responses: `POST /v1/responses`. Nothing is stored, so what needs an earlier response is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from bucle.core.engine import ChatAnswer, ChatAsk
from bucle.serve.dialects import fields as f
from bucle.serve.dialects.base import Events, Head, extra_of
from bucle.serve.dialects.common import (
    EXTRA,
    MAX_PARTS,
    MAX_TOOLS,
    MODEL,
    NAME,
    NOT_TEXT,
    USER,
    asked_by,
    bounded,
    extra_of_body,
    form_of,
    tag,
    tool_choice,
)
from bucle.serve.dialects.responses_events import ResponseEvents, item_id, outputs_of
from bucle.serve.dialects.schemas import JsonSchema
from bucle.serve.errors import ApiError
from bucle.serve.routes import Limits

__all__ = ["Responses"]

_STATELESS = "nothing is stored: send the whole conversation as `input`"
_LOGPROBS = "message.output_text.logprobs"
_STATUS = f.Choice(("in_progress", "completed", "incomplete"))
_ANNOTATED = f.ListOf(f.MapOf(f.Refused(), 0), 0)


class Responses:
    name, path = "responses", "/v1/responses"
    words: Mapping[str, str] = {"json_object": "text.format", "json_schema": "text.format",
                                "max_tokens": "max_output_tokens", "logprobs": "include",
                                "reasoning_effort": "reasoning", "verbosity": "text.verbosity"}
    needs = frozenset[str]()

    def shape(self, limits: Limits) -> f.Shape:
        """What a body may hold."""
        return _shape(limits)

    def parse(self, body: Mapping[str, Any], limits: Limits) -> ChatAsk:
        got = f.read(_shape(limits), body)
        messages: list[Mapping[str, Any]] = []
        if got.get("instructions"):
            messages.append({"role": "system", "content": got["instructions"]})
        given = got["input"]
        messages += [{"role": "user", "content": given}] if isinstance(given, str) else _messages(given)
        bounded(messages, limits, "input")
        tools = tuple({"type": "function", "function": {n: v for n, v in t.items() if n != "type"}}
                      for t in got.get("tools", ()))
        chosen = got.get("tool_choice")
        if isinstance(chosen, dict):
            chosen = {"type": "function", "function": {"name": chosen["name"]}}
        names = [str(t["name"]) for t in got.get("tools", ())]
        form: Mapping[str, Any] | None = got.get("text", {}).get("format")
        logprobs = _LOGPROBS in got.get("include", ())
        if got.get("top_logprobs") and not logprobs:
            raise ApiError(400, f"`top_logprobs` is taken only with include: [{_LOGPROBS}]", code="invalid_value",
                           param="top_logprobs")
        if "stream_options" in got and not got.get("stream"):
            raise ApiError(400, "`stream_options` is taken only with stream", code="unsupported_parameter",
                           param="stream_options")
        parallel = got.get("parallel_tool_calls")
        if parallel is not None and not tools:
            parallel = None  # official clients and agents send it with every request
        return ChatAsk(
            got["model"], tuple(messages), max_tokens=got.get("max_output_tokens"), temperature=got.get("temperature"),
            top_p=got.get("top_p"), top_logprobs=got.get("top_logprobs", 0) if logprobs else None, tools=tools,
            tool_choice=tool_choice({"tool_choice": chosen}, names), parallel_tool_calls=parallel,
            stream=got.get("stream", False), user=asked_by(got), extra=extra_of_body({
                **got, "reasoning_effort": got.get("reasoning", {}).get("effort"),
                "verbosity": got.get("text", {}).get("verbosity")}),
            **form_of("text.format", form, (form or {}).get("schema")))

    def whole(self, head: Head, ask: ChatAsk, answer: ChatAnswer, extra: Mapping[str, Any]) -> dict[str, Any]:
        return {**described(head, ask), **finished(answer),
                "output": [o for o, _ in outputs_of(item_id(head), answer)], "bucle": extra_of(answer, extra)}

    def events(self, head: Head, ask: ChatAsk) -> Events:
        return ResponseEvents(head, described(head, ask), finished)

    def error_body(self, error: ApiError) -> dict[str, Any]:
        return error.body()


@lru_cache(16)
def _shape(limits: Limits) -> f.Shape:
    text = f.Text(limits.input_chars, too_long=413)
    mark: dict[str, f.Field] = {"id": f.Text(200), "status": _STATUS}  # of an item that is sent back as it was answered
    read = {"input_text": tag("input_text", {"text": text}, "text")}
    said = {"output_text": tag("output_text", {"text": text, "annotations": _ANNOTATED, "logprobs": _Anything()},
                               "text"),
            "refusal": tag("refusal", {"refusal": text}, "refusal")}
    texts = f.Either(text, f.ListOf(f.Tagged("type", {**read, **said}, NOT_TEXT), MAX_PARTS, 1))
    outputs = f.Either(text, f.ListOf(f.Tagged("type", read, NOT_TEXT), MAX_PARTS, 1))
    item = f.Tagged("type", {
        "message": f.Shape({"type": f.Choice(("message",)), "content": texts, **mark,
                            "role": f.Choice(("user", "assistant", "system", "developer")),
                            "phase": f.Choice(("commentary", "final_answer"))}, ("role", "content")),
        "function_call": tag("function_call", {**mark, "call_id": f.Text(200, 1), "name": NAME, "arguments": text},
                             "call_id", "name", "arguments"),
        "function_call_output": tag("function_call_output", {**mark, "call_id": f.Text(200, 1), "output": outputs},
                                    "call_id", "output"),
    }, {"reasoning": "is hidden reasoning, which no model here reads back: leave the item out",
        "item_reference": f"refers to a stored item; {_STATELESS}"}, default="message")
    form = f.Tagged("type", {
        "text": tag("text", {}), "json_object": tag("json_object", {}),
        "json_schema": tag("json_schema", {"name": NAME, "schema": JsonSchema(), "description": f.Text(8192),
                                           "strict": f.Flag()}, "name", "schema")})
    function = tag("function", {"name": NAME, "description": f.Text(8192), "parameters": JsonSchema(),
                                "strict": f.Flag()}, "name")
    hosted = {kind: f"is {kind}: only tools of type function are served" for kind in (
        "web_search", "web_search_preview", "file_search", "code_interpreter", "computer_use_preview", "mcp",
        "image_generation", "local_shell", "shell", "custom", "apply_patch", "computer", "tool_search", "namespace")}
    return f.Shape({
        "model": MODEL, "input": f.Either(text, f.ListOf(item, limits.messages, 1, 413)), "instructions": text,
        "max_output_tokens": f.Whole(1, limits.max_tokens), "temperature": f.Number(0, 2), "top_p": f.Number(0, 1),
        "tools": f.ListOf(f.Tagged("type", {"function": function}, hosted), MAX_TOOLS),
        "tool_choice": f.Either(f.Choice(("none", "auto", "required")), f.Tagged(
            "type", {"function": tag("function", {"name": NAME}, "name")},
            {"allowed_tools": "is not served; send those tools", **hosted})),
        "parallel_tool_calls": f.Flag(), "text": f.Shape({"format": form, "verbosity": EXTRA["verbosity"]}),
        "reasoning": f.Shape({"effort": EXTRA["reasoning_effort"], "summary": f.Refused(),
                              "generate_summary": f.Refused()}),
        "stream": f.Flag(), "stream_options": f.Shape({"include_obfuscation": f.Exactly((False,))}),
        "include": f.ListOf(f.Choice((_LOGPROBS,)), 1), "top_logprobs": f.Whole(0, 20),
        "user": USER, "safety_identifier": USER,
        "store": f.Exactly((False,), "nothing is stored"), "background": f.Exactly((False,), "nothing is stored"),
        "truncation": f.Exactly(("disabled",)), "service_tier": f.Exactly(("auto", "default")),
        "metadata": EXTRA["metadata"], "prompt_cache_key": EXTRA["prompt_cache_key"],
        "previous_response_id": f.Refused(_STATELESS),
        "conversation": f.Refused(_STATELESS), "prompt": f.Refused("send its text as `instructions`"),
        "max_tokens": f.Refused("send `max_output_tokens`"), "messages": f.Refused("send `input`"),
        "response_format": f.Refused("send `text.format`"),
        **{name: f.Refused() for name in (
            "max_tool_calls", "prompt_cache_options", "prompt_cache_retention",
            "context_management", "moderation", "access_programs", "image", "seed", "stop", "n")},
    }, ("model", "input"))


class _Anything:
    """What a client sends back as it got it, and nobody reads."""

    def read(self, value: Any) -> Any:
        if not isinstance(value, list):
            raise f.Wrong("must be a list", "invalid_type")
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "array"}


def described(head: Head, ask: ChatAsk) -> dict[str, Any]:
    """The response before anything is answered: what was asked for, in this API's words."""
    form: dict[str, Any] = {"type": "text"}
    if ask.any_json:
        form = {"type": "json_object"}
    if ask.schema is not None:
        form = {"type": "json_schema", "name": "answer", "schema": dict(ask.schema), "strict": True}
    chosen, effort = ask.tool_choice, ask.extra.get("reasoning_effort")
    tools = [{"type": "function", "parameters": {}, "strict": None, "description": None, **t["function"]}
             for t in ask.tools]
    return {"id": head.id, "object": "response", "created_at": head.created, "status": "in_progress",
            "background": False, "error": None, "incomplete_details": None, "instructions": None,
            "max_output_tokens": ask.max_tokens, "metadata": dict(ask.extra.get("metadata", {})),
            "model": head.model, "output": [], "parallel_tool_calls": ask.parallel_tool_calls is not False,
            "previous_response_id": None, "store": False,
            "temperature": ask.temperature, "text": {"format": form, **_said(ask, "verbosity")}, "tools": tools,
            "top_p": ask.top_p, "tool_choice": {"type": "function", **chosen["function"]} if isinstance(chosen, Mapping)
            else chosen or "auto",
            "top_logprobs": ask.top_logprobs or 0, "truncation": "disabled", "usage": None, "user": ask.user or None,
            **({"reasoning": {"effort": effort, "summary": None}} if effort else {}), **_said(ask, "prompt_cache_key")}


def _said(ask: ChatAsk, name: str) -> dict[str, Any]:
    return {name: ask.extra[name]} if name in ask.extra else {}


def finished(answer: ChatAnswer) -> dict[str, Any]:
    """How it ended and what it used."""
    finish = answer.choices[0].finish if answer.choices else "stop"
    why = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(finish)
    used = answer.usage
    return {"status": "incomplete" if why else "completed", "incomplete_details": {"reason": why} if why else None,
            "usage": {"input_tokens": used.tokens_in, "output_tokens": used.tokens_out,
                      "total_tokens": used.tokens_in + used.tokens_out,
                      "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                      "output_tokens_details": {"reasoning_tokens": 0}}}


def _messages(items: list[dict[str, Any]]) -> list[Mapping[str, Any]]:
    """Items as chat messages: calls that follow each other are one message's."""
    found: list[dict[str, Any]] = []
    for item in items:
        kind = item.get("type", "message")
        if kind == "function_call":
            call = {"id": item["call_id"], "type": "function",
                    "function": {"name": item["name"], "arguments": item["arguments"]}}
            if found and found[-1]["role"] == "assistant":
                found[-1].setdefault("tool_calls", []).append(call)
            else:
                found.append({"role": "assistant", "content": "", "tool_calls": [call]})
        elif kind == "function_call_output":
            found.append({"role": "tool", "tool_call_id": item["call_id"], "content": _text(item["output"])})
        else:
            role = "system" if item["role"] == "developer" else item["role"]
            found.append({"role": role, "content": _text(item["content"])})
    return list(found)


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(p["text"] if "text" in p else p["refusal"] for p in content)
