"""Traces to any OTLP/HTTP collector (Jaeger, Langfuse, Phoenix, MLflow, Grafana…), off the request's path.

Names follow the OpenTelemetry semantic conventions for generative AI (github.com/open-telemetry/semantic-conventions-
genai, in development as of 2026-11). A collector that asks for a key gets OTEL_EXPORTER_OTLP_HEADERS.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from datetime import datetime
from importlib import metadata
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from bucle.core.errors import ConfigError
from bucle.core.records import Trace

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

__all__ = ["TraceExport"]

log = logging.getLogger("bucle.serve")

SIZE, BATCH = 2048, 64  # traces that wait, traces a request
PAUSE_S, TIMEOUT_S, TELL_EVERY_S = 1.0, 5.0, 60.0
NS = 1_000_000  # in a millisecond
NAMES = frozenset({"kind", "error_kind", "route", "target", "engine", "on", "model", "release", "why"})
"""Texts of a step that are the project's names, and no words of users or models."""


class TraceExport:
    """Sends traces to `url` (`http://127.0.0.1:4318/v1/traces`) in batches from a thread of its own.

    At most `size` wait; one more is dropped and counted, as is what the collector does not take within a few seconds.
    What users and models wrote goes along only with `content`. Raises ConfigError for a URL that is none, and where
    the extra is not installed.
    """

    def __init__(self, url: str, *, content: bool = False, size: int = SIZE, pause_s: float = PAUSE_S,
                 timeout_s: float = TIMEOUT_S) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"`{url}` is no address of a collector.", "serve.traces.otlp: http://127.0.0.1:4318/v1/traces")
        try:
            from opentelemetry.exporter.otlp.proto.http import Compression
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        except ImportError as error:
            raise ConfigError("Sending traces to a collector needs OpenTelemetry.",
                              "pip install 'bucle[otlp]'") from error
        logging.getLogger(OTLPSpanExporter.__module__).setLevel(logging.CRITICAL)  # a dead one is told of here, rarely
        self._exporter = OTLPSpanExporter(url, timeout=timeout_s, compression=Compression.Gzip)
        self._content, self._size, self._pause_s = content, size, pause_s
        self._jobs: deque[Trace] = deque()
        self._some, self._over = threading.Event(), threading.Event()
        self._told = float("-inf")
        self.sent = self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="bucle-otlp", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        return len(self._jobs)

    def put(self, trace: Trace) -> bool:
        """Whether `trace`, redacted before, will be tried. Never blocks."""
        if self._over.is_set() or len(self._jobs) >= self._size:
            self.dropped += 1
            return False
        self._jobs.append(trace)
        if not self._some.is_set():
            self._some.set()
        return True

    def close(self, timeout_s: float = 10.0) -> bool:
        """Send what waits, for at most `timeout_s`; whether it was all tried. Calling it again is harmless."""
        self._over.set()
        self._some.set()
        self._thread.join(timeout_s)
        if (late := self._thread.is_alive()):
            self.dropped += len(self._jobs)
            self._jobs.clear()
        self._exporter.shutdown()  # ends the pauses between its tries
        return not late

    def _run(self) -> None:
        while True:
            self._some.wait()
            self._over.wait(self._pause_s)
            self._some.clear()
            while self._jobs:
                rows = [self._jobs.popleft() for _ in range(min(BATCH, len(self._jobs)))]
                self._send(rows)
            if self._over.is_set():
                return

    def _send(self, rows: list[Trace]) -> None:
        from opentelemetry.sdk.trace.export import SpanExportResult

        try:
            spans = [span for row in rows for span in _spans(row, self._content)]
            taken = self._exporter.export(spans) is SpanExportResult.SUCCESS
        except Exception as error:
            taken = False
            log.error("traces cannot be sent to the collector (%s)", type(error).__name__)
        if taken:
            self.sent += len(rows)
            return
        self.dropped += len(rows)
        if time.monotonic() - self._told > TELL_EVERY_S:
            self._told = time.monotonic()
            log.warning("the collector takes no traces; %d were dropped", self.dropped)


def _spans(trace: Trace, content: bool) -> Iterator[ReadableSpan]:
    """The request and its steps, as spans. Ids come from the trace's, so what is sent twice is one trace there."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

    resource = Resource({"service.name": "bucle", "service.version": metadata.version("bucle")})
    scope = InstrumentationScope("bucle.serve")
    digest = hashlib.sha256(trace.id.encode()).hexdigest()

    def context(step: int) -> SpanContext:
        own = hashlib.sha256(f"{trace.id} {step}".encode()).digest()[:8]
        return SpanContext(int(digest[:32], 16), int.from_bytes(own) or 1, is_remote=False,
                           trace_flags=TraceFlags(TraceFlags.SAMPLED))

    began = int(datetime.fromisoformat(trace.received_at).timestamp() * 1000) * NS
    operation = _operation(trace)
    root = context(0)
    failed = trace.status >= 400
    yield ReadableSpan(
        f"{operation} {trace.route}", context=root, resource=resource, instrumentation_scope=scope,
        attributes=_request(trace, operation, content), kind=SpanKind.SERVER, start_time=began,
        end_time=began + int(trace.ms * NS),
        status=Status(StatusCode.ERROR, trace.error if content else None) if failed else Status(StatusCode.UNSET))
    for number, step in enumerate(trace.spans, 1):
        start = began + int(_number(step.get("start_ms")) * NS)
        yield ReadableSpan(
            str(step.get("name", "step")), context=context(number), parent=root, resource=resource,
            instrumentation_scope=scope, attributes=_step(step, content), kind=SpanKind.INTERNAL, start_time=start,
            end_time=start + int(_number(step.get("ms")) * NS),
            status=Status(StatusCode.ERROR if step.get("error") or step.get("error_kind") else StatusCode.UNSET))


def _operation(trace: Trace) -> str:
    return "embeddings" if any(s.get("name") == "engine" and "texts" in s for s in trace.spans) else "chat"


def _request(trace: Trace, operation: str, content: bool) -> dict[str, Any]:
    told: dict[str, Any] = {
        "gen_ai.operation.name": operation, "gen_ai.provider.name": "bucle", "gen_ai.request.model": trace.route,
        "gen_ai.response.model": trace.served_by or trace.model, "gen_ai.response.id": trace.id,
        "gen_ai.usage.input_tokens": trace.usage.tokens_in, "gen_ai.usage.output_tokens": trace.usage.tokens_out,
        "http.response.status_code": trace.status, "bucle.usd": trace.usage.usd, "bucle.trace": trace.id,
        "bucle.guard.flagged": bool(trace.guard.get("flagged")),
    }
    for name in ("release", "candidate", "key", "team", "cached", "role", "prompt"):
        if value := getattr(trace, name):
            told[f"bucle.{name}"] = value
    told |= {"bucle.estimated": True} if trace.estimated else {}
    told |= {"enduser.id": trace.user} if trace.user else {}
    told |= {"error.type": str(trace.status)} if trace.status >= 400 else {}
    told |= {"gen_ai.response.time_to_first_chunk": trace.ms_first / 1000} if trace.ms_first else {}
    told |= {"bucle.chunks": list(trace.chunks)} if trace.chunks else {}
    if content:
        told["gen_ai.input.messages"] = _message("user", trace.input)
        told["gen_ai.output.messages"] = _message("assistant", trace.output, finish_reason="stop")
    return told


def _message(role: str, text: str, **more: str) -> str:
    return json.dumps([{"role": role, "parts": [{"type": "text", "content": text}], **more}], ensure_ascii=False)


def _step(step: Mapping[str, Any], content: bool) -> dict[str, Any]:
    told: dict[str, Any] = {}
    if step.get("name") == "retrieve" or step.get("kind") in ("retrieve", "retrieval"):
        told["gen_ai.operation.name"] = "retrieval"
    for name, value in step.items():
        if name in ("name", "start_ms", "ms"):
            continue
        if isinstance(value, bool | int | float) or (isinstance(value, str) and (content or name in NAMES)):
            told[f"bucle.{name}"] = value
        elif content or name == "chunks":
            told[f"bucle.{name}"] = json.dumps(value, ensure_ascii=False, default=str)
    return told


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
