"""Bodies for every endpoint: right ones, and what becomes of them when anybody may write them."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

WEATHER = {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]}
FUNCTION = {"name": "weather", "description": "of a town", "parameters": WEATHER, "strict": True}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"town": "León"}'}}

RIGHT: dict[str, list[dict[str, Any]]] = {
    "/v1/chat/completions": [
        {"model": "m", "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hola"}],
         "temperature": 0.5, "top_p": 0.9, "n": 2, "seed": 3, "stop": ["a", "b"], "logprobs": True, "top_logprobs": 2,
         "max_tokens": 5, "logit_bias": {"5": -1}, "user": "u", "stream": True,
         "stream_options": {"include_usage": True}},
        {"model": "m", "messages": [
            {"role": "developer", "content": [{"type": "text", "text": "x"}]}, {"role": "user", "content": "hola"},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c1", "content": "18"}],
         "tools": [{"type": "function", "function": FUNCTION}], "parallel_tool_calls": True,
         "tool_choice": {"type": "function", "function": {"name": "weather"}},
         "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": WEATHER, "strict": True}}},
        {"model": "tickets", "messages": [{"role": "user", "content": "hola"}], "structured_outputs": {"regex": "a+"}}],
    "/v1/completions": [
        {"model": "m", "prompt": ["hola"], "logprobs": 2, "max_tokens": 3, "echo": False, "stop": "x", "stream": True},
        {"model": "m", "prompt": "hola", "guided_json": WEATHER}],
    "/v1/responses": [
        {"model": "m", "input": "hola", "instructions": "Be brief.", "max_output_tokens": 9, "stream": True,
         "store": False, "text": {"format": {"type": "json_schema", "name": "a", "schema": WEATHER}}},
        {"model": "m", "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "x"}]},
            {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "18"}],
         "tools": [{"type": "function", **FUNCTION}], "tool_choice": "auto",
         "include": ["message.output_text.logprobs"], "top_logprobs": 2}],
    "/v1/messages": [
        {"model": "m", "max_tokens": 9, "system": [{"type": "text", "text": "x"}], "stream": True, "messages": [
            {"role": "user", "content": "hola"}, {"role": "assistant", "content": [
                {"type": "text", "text": "a"}, {"type": "tool_use", "id": "t1", "name": "weather",
                                                "input": {"town": "León"}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "18",
                                          "is_error": True}, {"type": "text", "text": "go on"}]}],
         "tools": [{"name": "weather", "input_schema": WEATHER}], "tool_choice": {"type": "tool", "name": "weather"},
         "stop_sequences": ["x"], "metadata": {"user_id": "u"}, "temperature": 1},
        {"model": "tickets", "max_tokens": 9, "messages": [{"role": "user", "content": "hola"}]}],
    "/v1/embeddings": [{"model": "letters", "input": ["a", "b"], "encoding_format": "base64", "dimensions": 26}],
    "/v1/moderations": [{"model": "x", "input": ["a", {"type": "text", "text": "b"}]}],
    "/v1/feedback": [{"trace_id": "trace:1", "rating": -1, "correction": "c", "reason": "r", "by": "ana"}],
}

DEEP: Any = []
for _ in range(300):
    DEEP = [DEEP]
LONG = "x" * 40_000
NASTY: list[Any] = [
    None, True, False, 0, 1, -1, 2, 0.5, 1.0, -0.0, 1e308, -1e308, 5e-324, 2**63, 10**30, "", " ", "x", "\0", "hola",
    "𝔘\u202e\u0301", "\r\n", LONG, [], {}, [[]], [None], {"": ""}, {"type": "text"}, {"type": "image_url"}, {"x": DEEP},
    DEEP, ["a"] * 300, {str(n): n for n in range(400)}, {"$ref": "#"}, {"type": ["object", None]}, "(a+)+$", "(?=x)y",
    "[", "(a{900}){900}", {"$ref": "https://example.com/s.json"}, {"pattern": "(?<!a)b"}, "assistant", "tool",
    {"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"$ref": "#/$defs/a"}}}, "function", "required", "__proto__",
    "../../etc/passwd", "file:///etc/passwd", {"model": {"model": {}}},
]
NAMES = ["model", "messages", "input", "prompt", "stream", "tools", "type", "content", "role", "text", "n", "x", "",
         "temperture", "stop", "function", "schema", "$ref", "constructor", "max_tokens", "tool_calls", "\0", "é" * 99]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value within `value`."""
    yield path
    if isinstance(value, dict | list) and len(path) < 12:
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            if not (isinstance(inner, list) and len(inner) == 1 and len(path) > 8):
                yield from places(inner, (*path, key))


def nasty(rng: random.Random) -> Any:
    """One of NASTY, nobody else's."""
    return copy.deepcopy(rng.choice(NASTY))


def mutated(rng: random.Random, body: dict[str, Any]) -> Any:
    """`body` with one to three things wrong, or none."""
    body = copy.deepcopy(body)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        path = rng.choice(list(places(body)))
        if not path:
            if rng.random() < 0.1:
                return nasty(rng)
            body[rng.choice(NAMES)] = nasty(rng)
            continue
        holder: Any = body
        for step in path[:-1]:
            holder = holder[step]
        what = rng.random()
        if what < 0.6:
            holder[path[-1]] = nasty(rng)
        elif what < 0.75:
            del holder[path[-1]]
        elif what < 0.9 and isinstance(holder, dict):
            holder[rng.choice(NAMES)] = nasty(rng)
        elif isinstance(holder, list):
            holder.append(nasty(rng))
        else:
            holder[path[-1]] = [holder[path[-1]]] * rng.randint(0, 5)
    return body


def raw(rng: random.Random, body: dict[str, Any]) -> bytes:
    """`mutated` as bytes, or bytes that are no JSON."""
    if rng.random() < 0.85:
        return json.dumps(mutated(rng, body)).encode()
    text = json.dumps(body).encode()
    at = rng.randrange(len(text))
    return rng.choice([
        text[:at], text[:at] + bytes([rng.randrange(256)]) + text[at + 1:], rng.randbytes(rng.randint(0, 200)),
        text.replace(b"hola", rb"\ud800"), text.replace(b"hola", b"\xff\xfe"), text.replace(b"9", b"9" * 5000),
        text.replace(b"9", b"NaN"), text.replace(b"9", b"1e999"), b"[" * 100_000, b'{"a":' * 50_000,
        b"\xef\xbb\xbf" + text,
        text + text, b"\x1f\x8b" + text, b"", b"null", b'"x"', text.replace(b'"model"', b'"model": "n", "model"')])


def bodies(seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """`count` pairs of path and body."""
    rng, paths = random.Random(seed), list(RIGHT)
    for n in range(count):
        path = paths[n % len(paths)]
        yield path, raw(rng, rng.choice(RIGHT[path]))
