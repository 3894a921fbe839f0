"""The API described as OpenAPI 3.1, from the same declaration of fields that the parsers read by."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from typing import Any

from bucle.serve.dialects import DIALECTS, Messages
from bucle.serve.dialects.fields import Shape
from bucle.serve.dialects.others import embeddings_shape, feedback_shape, moderations_shape
from bucle.serve.routes import Limits, Route

__all__ = ["openapi"]

_TEXT: dict[str, Any] = {"type": "string"}
_COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}
_NULLABLE: dict[str, Any] = {"type": ["string", "null"]}

_SAYS = {
    400: "the body cannot be taken; `param` names the field", 401: "no valid key", 403: "this key may not",
    404: "no such model or trace", 408: "the body came too late", 413: "too long, or too many",
    415: "not application/json", 429: "a limit or budget, here or of a provider; `retry-after` says how long",
    500: "a mistake in the engine's code", 502: "the engine failed", 503: "overloaded or restarting; ask again",
    504: "the engine did not answer in time",
}
_SUMMARIES = {
    "chat": "Chat completions, as OpenAI's", "completions": "Completions of raw text, as OpenAI's",
    "responses": "Responses, as OpenAI's; stateless", "messages": "Messages, as Anthropic's"}


def openapi(routes: Mapping[str, Route], limits: Limits | None = None) -> dict[str, Any]:
    """The OpenAPI 3.1 document of a gateway that serves `routes` within `limits`."""
    limits = limits or Limits()
    chats = [name for name, route in routes.items() if route.kind != "embed"]
    embeds = [name for name, route in routes.items() if route.kind == "embed"]
    schemas: dict[str, Any] = {"Error": _error(), "AnthropicError": _anthropic_error(), "Bucle": _bucle(),
                               "Model": _model(), **_replies()}
    paths: dict[str, Any] = {}
    for dialect in DIALECTS:
        title = dialect.name.capitalize()
        schemas[f"{title}Request"] = _request(dialect.shape(limits), chats)
        paths[dialect.path] = {"post": _operation(
            dialect.name, _SUMMARIES[dialect.name], f"{title}Request", f"{title}Reply", stream=True,
            error="AnthropicError" if dialect.name == "messages" else "Error")}
    for name, path, shape, models, summary in (
            ("embeddings", "/v1/embeddings", embeddings_shape(limits), embeds, "Embeddings, as OpenAI's"),
            ("moderations", "/v1/moderations", moderations_shape(limits), None, "What the server's guards say"),
            ("feedback", "/v1/feedback", feedback_shape(limits), None, "A rating or correction of an answer")):
        schemas[f"{name.capitalize()}Request"] = _request(shape, models)
        paths[path] = {"post": _operation(name, summary, f"{name.capitalize()}Request", f"{name.capitalize()}Reply")}
    schemas["CountRequest"] = _request(Messages().counted_shape(limits), chats)
    paths["/v1/messages/count_tokens"] = {"post": _operation(
        "count", "Tokens of a conversation, as Anthropic's", "CountRequest", "CountReply", error="AnthropicError")}
    paths |= _plain_paths()
    return {
        "openapi": "3.1.0",
        "info": {"title": "Bucle", "version": metadata.version("bucle"),
                 "description": "One door to every model of this project. Under `bucle` stands what the other APIs "
                                "have no word for. A field that is not listed is refused by name."},
        "servers": [{"url": "/"}], "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {
            "bearer": {"type": "http", "scheme": "bearer"},
            "key": {"type": "apiKey", "in": "header", "name": "x-api-key"}}},
        "security": [{"bearer": []}, {"key": []}, {}],
    }


def _request(shape: Shape, models: list[str] | None) -> dict[str, Any]:
    """`shape` with the models that are served."""
    schema = shape.schema()
    if models is not None:
        schema["properties"] = {**schema["properties"], "model": {"type": "string", "enum": models}}
        if not models:  # nobody serves it: there is nothing that would be taken
            schema["properties"]["model"] = {"type": "string", "not": {}}
    return schema


def _operation(name: str, summary: str, request: str, reply: str, *, stream: bool = False,
               error: str = "Error") -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": {"$ref": f"#/components/schemas/{reply}"}}}
    if stream:
        content["text/event-stream"] = {"schema": _EVENT}
    return {"operationId": name, "summary": summary, "requestBody": {"required": True, "content": {
        "application/json": {"schema": {"$ref": f"#/components/schemas/{request}"}}}},
        "responses": {"200": {"description": "the reply", "headers": _HEADERS, "content": content}, **_errors(error)}}


_EVENT = {"type": "object", "properties": {"event": _TEXT, "data": _TEXT}, "required": ["data"],
          "description": "each server-sent event; `data` is JSON, or [DONE]"}
_HEADERS = {"x-bucle-trace": {"schema": _TEXT, "description": "the trace's id, which feedback names"},
            "x-bucle-release": {"schema": _TEXT}}


def _errors(schema: str) -> dict[str, Any]:
    """Who is not let in, or sends what is not JSON, is told so before any API is chosen, in OpenAI's shape."""
    either = {"anyOf": [{"$ref": f"#/components/schemas/{name}"} for name in dict.fromkeys((schema, "Error"))]}
    return {str(status): {"description": text, "content": {"application/json": {"schema": either}}}
            for status, text in _SAYS.items()}


def _plain_paths() -> dict[str, Any]:
    def get(name: str, summary: str, schema: Mapping[str, Any], media: str = "application/json",
            statuses: tuple[int, ...] = (401, 403), **more: Any) -> dict[str, Any]:
        told = {k: v for k, v in _errors("Error").items() if int(k) in statuses}
        return {"get": {"operationId": name, "summary": summary, **more, "responses": {
            "200": {"description": summary, "content": {media: {"schema": schema}}}, **told}}}

    model = {"$ref": "#/components/schemas/Model"}
    ready = {"type": "object", "properties": {"ready": {"type": "boolean"}}, "required": ["ready"]}
    paths = {
        "/v1/models": get("models", "Every task, model and encoder that is served", {
            "type": "object", "properties": {"object": {"const": "list"}, "data": {"type": "array", "items": model}},
            "required": ["object", "data"]}),
        "/v1/models/{name}": get("model", "One of them", model, statuses=(401, 403, 404), parameters=[
            {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}]),
        "/metrics": get("metrics", "Counters and histograms for Prometheus", _TEXT, "text/plain"),
        "/openapi.json": get("openapi", "This document", {"type": "object"}),
        "/healthz": get("health", "The process is there", {"type": "object"}, statuses=(), security=[]),
        "/readyz": get("ready", "Requests are taken", ready, statuses=(), security=[]),
    }
    paths["/readyz"]["get"]["responses"]["503"] = {
        "description": "not yet, or no more", "content": {"application/json": {"schema": ready}}}
    return paths


def _object(required: Mapping[str, Any], optional: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {"type": "object", "properties": {**required, **(optional or {})}, "required": list(required)}


def _list(item: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": item}


def _error() -> dict[str, Any]:
    known = {"kind": {**_TEXT, "description": "the class of what failed"}, "trace": _TEXT}
    return _object({"error": _object({"message": _TEXT, "type": _TEXT, "param": _NULLABLE, "code": _TEXT})},
                   {"bucle": _object({}, known)})


def _anthropic_error() -> dict[str, Any]:
    return _object({"type": {"const": "error"}, "error": _object({"type": _TEXT, "message": _TEXT}),
                    "bucle": _object({"code": _TEXT}, {"param": _TEXT, "kind": _TEXT, "trace": _TEXT})},
                   {"request_id": _NULLABLE})


def _bucle() -> dict[str, Any]:
    """What stands beside a reply."""
    number = {"type": ["number", "null"]}
    return _object({"trace": _TEXT, "usd": {"type": "number", "description": "US dollars"}},
                   {"release": _TEXT, "candidate": _TEXT, "guard": {"type": ["object", "array", "null"]},
                    "estimated": {"type": "boolean"}, "cached": {"enum": ["exact", "semantic"]}, "score": number,
                    "abstained": {"type": "boolean"},
                    "chunks": _list(_TEXT), "citations": _list(_TEXT), "quotes": _list(_TEXT)})


def _model() -> dict[str, Any]:
    return _object({"id": _TEXT, "object": {"const": "model"}, "created": _COUNT, "owned_by": _TEXT},
                   {"bucle": _object({"kind": _TEXT}, {"candidate": _TEXT, "release": _TEXT})})


def _replies() -> dict[str, Any]:
    bucle = {"$ref": "#/components/schemas/Bucle"}
    usage = _object({"prompt_tokens": _COUNT, "completion_tokens": _COUNT, "total_tokens": _COUNT})
    head = {"id": _TEXT, "created": _COUNT, "model": _TEXT}
    finish = {"enum": ["stop", "length", "tool_calls", "content_filter"]}
    call = _object({"id": _TEXT, "type": {"const": "function"},
                    "function": _object({"name": _TEXT, "arguments": _TEXT})})
    message = _object({"role": {"const": "assistant"}, "content": _NULLABLE, "refusal": _NULLABLE},
                      {"tool_calls": _list(call)})
    logprobs = {"type": ["object", "null"]}
    block = {"anyOf": [_object({"type": {"const": "text"}, "text": _TEXT}),
                       _object({"type": {"const": "tool_use"}, "id": _TEXT, "name": _TEXT,
                                "input": {"type": "object"}})]}
    categories = {"type": "object", "additionalProperties": {"type": ["boolean", "null"]}}
    scores = {"type": "object", "additionalProperties": {"type": ["number", "null"],
                                                          "description": "null: not measured"}}
    return {
        "ChatReply": _object({**head, "object": {"const": "chat.completion"}, "usage": usage, "bucle": bucle,
                              "choices": _list(_object({"index": _COUNT, "message": message, "finish_reason": finish,
                                                        "logprobs": logprobs}))}),
        "CompletionsReply": _object({**head, "object": {"const": "text_completion"}, "usage": usage, "bucle": bucle,
                                     "choices": _list(_object({"index": _COUNT, "text": _TEXT, "logprobs": logprobs,
                                                               "finish_reason": finish}))}),
        "ResponsesReply": _object({
            "id": _TEXT, "object": {"const": "response"}, "created_at": _COUNT, "model": _TEXT, "bucle": bucle,
            "status": {"enum": ["completed", "incomplete"]}, "store": {"const": False},
            "output": _list(_object({"type": {"enum": ["message", "function_call"]}, "id": _TEXT})),
            "usage": _object({"input_tokens": _COUNT, "output_tokens": _COUNT, "total_tokens": _COUNT})}),
        "MessagesReply": _object({
            "id": _TEXT, "type": {"const": "message"}, "role": {"const": "assistant"}, "model": _TEXT, "bucle": bucle,
            "content": _list(block), "stop_sequence": _NULLABLE,
            "stop_reason": {"enum": ["end_turn", "stop_sequence", "max_tokens", "tool_use", "refusal"]},
            "usage": _object({"input_tokens": _COUNT, "output_tokens": _COUNT})}),
        "CountReply": _object({"input_tokens": _COUNT, "bucle": _object({"estimated": {
            "type": "boolean", "description": "no tokenizer of it is at hand, or tools are in it"}})}),
        "EmbeddingsReply": _object({
            "object": {"const": "list"}, "model": _TEXT, "bucle": bucle,
            "usage": _object({"prompt_tokens": _COUNT, "total_tokens": _COUNT}),
            "data": _list(_object({"object": {"const": "embedding"}, "index": _COUNT,
                                   "embedding": {"anyOf": [_list({"type": "number"}), _TEXT]}}))}),
        "ModerationsReply": _object({"id": _TEXT, "model": _TEXT, "results": _list(_object({
            "flagged": {"type": "boolean"}, "categories": categories, "category_scores": scores}))}),
        "FeedbackReply": _object({"id": _TEXT, "object": {"const": "bucle.feedback"}, "trace_id": _TEXT,
                                  "new": {"type": "boolean"}}),
    }
