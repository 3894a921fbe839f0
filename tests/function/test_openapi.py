"""What the OpenAPI document says is what is taken and answered, and no body brings the server down."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import jsonschema_rs
import pytest
from fuzzing import RIGHT, bodies, mutated
from scripted_engine import Scripted
from test_clients import Labels, Letters

from bucle.core.records import Trace
from bucle.core.serving import Guards
from bucle.serve.app import create_app
from bucle.serve.dialects import DIALECTS
from bucle.serve.dialects.fields import Field, Wrong
from bucle.serve.dialects.others import embeddings_shape, feedback_shape, moderations_shape
from bucle.serve.errors import ApiError
from bucle.serve.guard import GuardSet
from bucle.serve.openapi import openapi
from bucle.serve.routes import Limits, Route

LIMITS = Limits()
SHAPES: dict[str, Field] = {d.path: d.shape(LIMITS) for d in DIALECTS} | {
    "/v1/embeddings": embeddings_shape(LIMITS), "/v1/moderations": moderations_shape(LIMITS),
    "/v1/feedback": feedback_shape(LIMITS)}


class Kept:
    """A writer that keeps nothing but count."""

    def __init__(self) -> None:
        self.count = 0

    def add_traces(self, traces: Sequence[Trace]) -> int:
        self.count += len(traces)
        return len(traces)

    def add_feedback(self, items: Sequence[Any]) -> int:
        return len(items)


def routes() -> dict[str, Route]:
    found = [Route("m", "chat", engine=Scripted("m")), Route("letters", "embed", embedder=Letters()),
             Route("tickets", "answer", predictor=Labels(), places={"chunk:1": "bajas.md"})]
    return {route.name: route for route in found}


class InProcess:
    """The app without a socket: `post` gives status, headers and body."""

    def __init__(self) -> None:
        self.app = create_app(routes(), writer=Kept(), guards=GuardSet(Guards()), api_keys=[])  # type: ignore[arg-type]

    async def post(self, path: str, body: bytes, method: str = "POST") -> tuple[int, dict[str, str], bytes]:
        status, headers, data, told = 0, dict[str, str](), b"", [False]

        async def receive() -> dict[str, Any]:
            if told[0]:
                await asyncio.sleep(60)
            told[0] = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            nonlocal status, headers, data
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = {k.decode(): v.decode("latin-1") for k, v in message["headers"]}
            else:
                data += message.get("body", b"")

        sent = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        await self.app({"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method,
                        "path": path, "raw_path": path.encode(), "root_path": "", "scheme": "http",
                        "query_string": b"", "headers": sent, "client": ("127.0.0.1", 5), "server": ("localhost", 80),
                        "state": {}}, receive, send)
        return status, headers, data


async def fuzzed(seed: int, count: int) -> Counter[int]:
    """Statuses of `count` bodies."""
    server, found = InProcess(), Counter[int]()
    async with server.app.router.lifespan_context(server.app):
        for path, body in bodies(seed, count):
            status, headers, data = await server.post(path, body)
            found[status] += 1
            assert status != 500, (path, body[:3000], data)
            assert status in (200, 400, 404, 413), (path, status, body[:500], data)
            if headers["content-type"] == "application/json":
                reply = json.loads(data)
                assert status == 200 or reply["error"]["message"]
                if status != 200 and path == "/v1/messages":
                    assert reply["type"] == "error"
            else:
                assert b'"error"' not in data.replace(b'"error":null', b""), (path, body[:500], data)
    return found


def test_garbage_gives_no_500() -> None:
    found = asyncio.run(fuzzed(1, 10_000))
    assert found[200] > 1_000  # some of it is right
    assert found[400] > 3_000


def refusal(shape: Field, body: Any) -> Wrong | None:
    try:
        shape.read(body)
    except Wrong as wrong:
        return wrong
    return None


def test_what_the_document_takes_is_what_the_parsers_take() -> None:
    """Each mutation is valid against the schema exactly if it is read. The parsers alone know schemas and patterns
    (which JSON Schema has no words for), and how long a free object is."""
    rng, seen = random.Random(3), Counter[str]()
    for path, shape in SHAPES.items():
        validator = jsonschema_rs.validator_for(shape.schema())
        for _ in range(1_000):
            body = mutated(rng, rng.choice(RIGHT[path]))
            refused = refusal(shape, body)
            if refused is not None and (refused.code in ("invalid_schema", "invalid_regex")
                                        or refused.path[-1:] == ["input"]):
                seen["known to the parser alone"] += 1
                continue
            assert validator.is_valid(body) == (refused is None), (path, refused, body)
            seen["refused" if refused else "taken"] += 1
    assert seen["taken"] > 1_000
    assert seen["refused"] > 1_000


def test_every_field_of_the_document_is_read_and_every_other_is_refused_by_name() -> None:
    for dialect in DIALECTS:
        good = next(b for b in RIGHT[dialect.path] if dialect.parse(b, LIMITS))
        with pytest.raises(ApiError) as caught:
            dialect.parse({**good, "modle": 1}, LIMITS)
        assert caught.value.param == "modle"
        assert "did you mean `model`" in caught.value.message
        properties = dialect.shape(LIMITS).schema()["properties"]
        for name, schema in properties.items():
            if schema.get("type") == "null":
                with pytest.raises(ApiError, match="is not served") as caught:
                    dialect.parse({**good, name: "x"}, LIMITS)
                assert caught.value.param == name


def test_replies_and_errors_are_as_the_document_says() -> None:
    document = openapi(routes(), LIMITS)
    schemas = {n: {"$ref": f"#/components/schemas/{n}", "components": document["components"]}
               for n in document["components"]["schemas"]}

    async def go() -> list[tuple[str, int, Any]]:
        server, found = InProcess(), []
        async with server.app.router.lifespan_context(server.app):
            for path, right in RIGHT.items():
                for body in [{**b, "stream": False, "stream_options": None} if "stream" in b else b for b in right]:
                    body = {k: v for k, v in body.items() if v is not None}
                    for wrong in ({}, {"nope": 1}):
                        status, _, data = await server.post(path, json.dumps({**body, **wrong}).encode())
                        found.append((path, status, json.loads(data)))
        return found

    seen = Counter[int]()
    for path, status, reply in asyncio.run(go()):
        seen[status] += 1
        operation = document["paths"][path]["post"]
        schema = operation["responses"][str(status)]["content"]["application/json"]["schema"]
        name = schema["$ref"].rpartition("/")[2] if "$ref" in schema else "Error"
        name = "AnthropicError" if path == "/v1/messages" and status != 200 else name
        jsonschema_rs.validate(schemas[name], reply)
    assert seen[200] >= 10
    assert seen[400] >= 12


def test_bombs_are_refused_at_once() -> None:
    chat, messages = DIALECTS[0], DIALECTS[3]
    base = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    laughs: dict[str, Any] = {"$defs": {"l0": {"type": "string"}}, "$ref": "#/$defs/l20"}
    for n in range(1, 21):
        laughs["$defs"][f"l{n}"] = {"type": "array", "prefixItems": [{"$ref": f"#/$defs/l{n - 1}"}] * 9}
    deep: dict[str, Any] = {}
    for _ in range(200):
        deep = {"properties": {"a": deep}}
    circle = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"anyOf": [{"$ref": "#/$defs/a"}]}}}
    wide = {"properties": {f"p{n}": {"type": "string"} for n in range(9000)}}
    for schema in (laughs, deep, circle, wide, {"$ref": "#/$defs/none"}, {"$ref": "http://127.0.0.1/x.json"},
                   {"$ref": "/etc/passwd"}, {"type": "nonsense"}, {"pattern": "(?=a)"}, {"pattern": "(x+x+)+y" * 200},
                   {"patternProperties": {"(a{999}){999}": {}}}):
        for more in ({"guided_json": schema}, {"response_format": {"type": "json_schema", "json_schema": {
                "name": "a", "schema": schema}}}, {"tools": [{"type": "function", "function": {
                    "name": "f", "parameters": schema}}]}):
            with pytest.raises(ApiError) as caught:
                chat.parse({**base, **more}, LIMITS)
            assert caught.value.code == "invalid_schema", schema
        with pytest.raises(ApiError):
            messages.parse({**base, "max_tokens": 1, "tools": [{"name": "f", "input_schema": schema}]}, LIMITS)
    for regex in ("(?=a)", r"(a)\1", "(a{999}){999}", "[", "a" * 2000, "(" * 500 + ")" * 500):
        with pytest.raises(ApiError) as caught:
            chat.parse({**base, "guided_regex": regex}, LIMITS)
        assert caught.value.param == "guided_regex"
    linked = {"type": "object", "properties": {"next": {"$ref": "#"}, "value": {"type": "integer"}}}
    assert chat.parse({**base, "guided_json": linked}, LIMITS).schema == linked  # recursive, and no circle
    assert chat.parse({**base, "guided_regex": "(a+)+b"}, LIMITS).regex == "(a+)+b"  # linear where it is matched


@pytest.fixture
def schema() -> Any:
    import schemathesis

    app = create_app(routes(), writer=Kept(), guards=GuardSet(Guards()), api_keys=[])  # type: ignore[arg-type]
    refusals = {"checks": {"negative_data_rejection": {"expected-statuses": ["400", "404", "405", "413"]}}}
    return schemathesis.openapi.from_asgi("/openapi.json", app, headers={"host": "localhost"},
                                          config=schemathesis.Config.from_dict(refusals))


def conforms(schema: Any, examples: int) -> int:
    """Runs schemathesis over every operation; how many requests it made."""
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis.errors import Unsatisfiable
    from schemathesis import GenerationMode
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        negative_data_rejection,
        response_schema_conformance,
        status_code_conformance,
    )

    checks = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance,
              negative_data_rejection]
    nothing = (schemathesis.errors.SchemathesisError, Unsatisfiable)  # a GET that takes nothing takes nothing wrong
    made = 0
    for result in schema.get_all_operations():
        operation = result.ok()
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            with suppress(*nothing if mode is GenerationMode.NEGATIVE and operation.method == "get" else ()):
                strategy = operation.as_strategy(generation_mode=mode)

                @settings(max_examples=examples, deadline=None, database=None, derandomize=True,
                          suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate])
                @given(case=strategy)
                def run(case: Any) -> None:
                    nonlocal made
                    made += 1
                    case.call_and_validate(checks=checks, headers={"host": "localhost"})

                run()
    return made


def test_schemathesis_finds_nothing(schema: Any) -> None:
    assert conforms(schema, 4) >= 60


@pytest.mark.slow
def test_schemathesis_finds_nothing_in_many(schema: Any) -> None:
    assert conforms(schema, 100) >= 1000
