"""Export over OTLP/HTTP, to a real receiver on loopback that decodes the protobuf; and to one that is dead."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from bucle.core.errors import ConfigError
from bucle.core.records import Trace, Usage
from bucle.serve.otlp import TraceExport
from bucle.serve.traces import TraceQueue

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")

AT = "2026-03-02T09:00:00.500+00:00"
BEGAN = 1_772_442_000_500_000_000


class Receiver:
    """What came, decoded."""

    def __init__(self) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        self.spans: list[Any] = []
        self.resources: list[Any] = []
        self.requests, self.status = 0, 200
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                receiver.requests += 1
                asked = ExportTraceServiceRequest.FromString(body)
                if receiver.status == 200:
                    for resource in asked.resource_spans:
                        receiver.resources.append(resource.resource)
                        receiver.spans += [span for scope in resource.scope_spans for span in scope.spans]
                self.send_response(receiver.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1/traces"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def trace(number: int = 1, **more: Any) -> Trace:
    steps = ({"name": "guard", "start_ms": 0.5, "ms": 1.0, "on": "input"},
             {"name": "retrieve", "start_ms": 2.0, "ms": 3.0, "input": "texto privado", "chunks": ["chunk:1"]},
             {"name": "prompt", "start_ms": 5.0, "ms": 0.25}, {"name": "cache", "start_ms": 5.5, "ms": 0.1},
             {"name": "engine", "start_ms": 6.0, "ms": 90.0, "batch": 4, "note": "otro texto privado"})
    return Trace(**{"id": f"trace:{number:064x}", "at": AT, "received_at": AT, "route": "respuestas", "model": "nano",
                    "served_by": "nano-2026", "release": "release:1", "input": "pregunta privada", "user": "ana",
                    "output": "respuesta privada", "ms": 100.0, "ms_first": 20.0, "key": "key:7", "team": "ventas",
                    "usage": Usage(tokens_in=12, tokens_out=34, usd=0.002), "spans": steps, **more})


def told(span: Any) -> dict[str, Any]:
    return {a.key: getattr(a.value, str(a.value.WhichOneof("value"))) for a in span.attributes}


def sent(receiver: Receiver, *traces: Trace, content: bool = False) -> list[Any]:
    export = TraceExport(receiver.url, content=content, pause_s=0.01)
    assert all(export.put(one) for one in traces)
    assert export.close()
    assert export.close()
    assert (export.sent, export.dropped, export.waiting) == (len(traces), 0, 0)
    return receiver.spans


def test_a_request_is_one_trace_with_its_steps_in_the_conventions_words(receiver: Receiver) -> None:
    root, *steps = sent(receiver, trace())
    assert root.name == "chat respuestas"
    assert [s.name for s in steps] == ["guard", "retrieve", "prompt", "cache", "engine"]
    assert {s.parent_span_id for s in steps} == {root.span_id}
    assert {s.trace_id for s in steps} == {root.trace_id}
    assert len({s.span_id for s in [root, *steps]}) == 6
    assert (root.start_time_unix_nano, root.end_time_unix_nano) == (BEGAN, BEGAN + 100_000_000)
    assert (steps[4].start_time_unix_nano - BEGAN, steps[4].end_time_unix_nano - BEGAN) == (6_000_000, 96_000_000)
    said = told(root)
    assert {name: said[name] for name in (
        "gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model", "gen_ai.response.model",
        "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens", "gen_ai.response.time_to_first_chunk", "bucle.team",
        "bucle.key", "bucle.release", "bucle.usd")
    } == {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "bucle", "gen_ai.request.model": "respuestas",
          "gen_ai.response.model": "nano-2026", "gen_ai.usage.input_tokens": 12, "gen_ai.usage.output_tokens": 34,
          "gen_ai.response.time_to_first_chunk": 0.02, "bucle.team": "ventas", "bucle.key": "key:7",
          "bucle.release": "release:1", "bucle.usd": 0.002}
    assert told(steps[4]) == {"bucle.batch": 4}
    assert told(steps[1])["gen_ai.operation.name"] == "retrieval"
    assert {a.key: a.value.string_value for a in receiver.resources[0].attributes}["service.name"] == "bucle"


def test_what_people_wrote_goes_along_only_where_that_is_wanted(receiver: Receiver) -> None:
    sent(receiver, trace(status=500, error="falló con: texto privado"))
    assert "privad" not in "".join(map(str, receiver.spans))
    root = receiver.spans[0]
    assert (root.status.code, told(root)["error.type"]) == (2, "500")
    receiver.spans.clear()
    with_content = sent(receiver, trace(2), content=True)
    [asked] = json.loads(told(with_content[0])["gen_ai.input.messages"])
    [answered] = json.loads(told(with_content[0])["gen_ai.output.messages"])
    assert asked == {"role": "user", "parts": [{"type": "text", "content": "pregunta privada"}]}
    assert (answered["role"], answered["parts"][0]["content"]) == ("assistant", "respuesta privada")
    assert told(with_content[2])["bucle.input"] == "texto privado"


def test_many_go_in_few_requests_and_what_is_sent_twice_has_the_same_ids(receiver: Receiver) -> None:
    sent(receiver, *[trace(n) for n in range(300)])
    assert receiver.requests <= 6
    assert len(receiver.spans) == 6 * 300
    ids = {s.span_id for s in receiver.spans}
    assert len(ids) == 6 * 300
    sent(receiver, trace(0))
    assert {s.span_id for s in receiver.spans} == ids


def test_embeddings_are_called_so(receiver: Receiver) -> None:
    [root, _] = sent(receiver, trace(spans=({"name": "engine", "start_ms": 0.0, "ms": 1.0, "texts": 3},)))
    assert root.name == "embeddings respuestas"


def test_steps_of_any_shape_are_sent(receiver: Receiver) -> None:
    odd = ({}, {"name": 3, "start_ms": None, "ms": "x", "deep": {"a": [1]}, "none": None, "big": 2**70})
    assert len(sent(receiver, trace(spans=odd), content=True)) == 3


def test_a_dead_collector_slows_nobody_and_what_it_misses_is_counted() -> None:
    export = TraceExport("http://127.0.0.1:9/v1/traces", size=10, pause_s=0.01, timeout_s=0.5)
    queue = TraceQueue(None, also=export)
    slowest = 0.0
    for number in range(2000):
        began = time.perf_counter()
        assert queue.put(trace(number))
        slowest = max(slowest, time.perf_counter() - began)
    assert slowest < 0.25
    assert queue.close()
    assert (export.sent, export.dropped) == (0, 2000)


def test_a_collector_that_refuses_is_counted_too(receiver: Receiver) -> None:
    receiver.status = 400
    export = TraceExport(receiver.url, pause_s=0.01)
    export.put(trace())
    assert export.close()
    assert (export.sent, export.dropped) == (0, 1)
    assert not export.put(trace(2))
    assert export.dropped == 2


@pytest.mark.parametrize("url", ["", "127.0.0.1:4318", "file:///etc/passwd", "http://"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="no address"):
        TraceExport(url)
