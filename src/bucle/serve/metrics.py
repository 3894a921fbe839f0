"""Counts and times for Prometheus, one registry an app. Labels come from the routes, never from clients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from bucle.core.records import Trace
from bucle.serve.metrics_live import Budgets, Engines, Routes
from bucle.serve.traces import TraceQueue

if TYPE_CHECKING:
    from bucle.serve.budgets import Accounts

__all__ = ["Metrics"]

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """What `/metrics` shows. `active` tells how many requests are at work, `engines` gives each route's by its name,
    `accounts` what keys and teams spend."""

    def __init__(self, traces: TraceQueue, active: Callable[[], int], engines: Callable[[], Iterable[tuple[str, Any]]],
                 accounts: Accounts | None = None) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.registry = CollectorRegistry()
        common: dict[str, Any] = {"registry": self.registry}
        self._requests = Counter("bucle_requests", "By route and status", ["route", "status"], **common)
        self._refused = Counter("bucle_refused", "Refused before an engine", ["status", "code"], **common)
        self._seconds = Histogram("bucle_request_seconds", "Seconds to the whole reply", ["route"],
                                  buckets=_BUCKETS, **common)
        self._first = Histogram("bucle_first_token_seconds", "Seconds to the first piece", ["route"],
                                buckets=_BUCKETS, **common)
        self._tokens = Counter("bucle_tokens", "Tokens, in and out", ["route", "direction"], **common)
        self._usd = Counter("bucle_usd", "US dollars by route, its shadows' too", ["route"], **common)
        self._shadow_usd = Counter("bucle_shadow_usd", "US dollars of shadows", ["route", "target"], **common)
        self._flagged = Counter("bucle_guard_flagged", "Texts flagged, by kind", ["route", "kind"], **common)
        Gauge("bucle_requests_active", "Requests at work", **common).set_function(active)
        self.registry.register(_Queue(traces))
        for live in (Routes(engines), Engines(engines), *([Budgets(accounts)] if accounts is not None else [])):
            self.registry.register(live)
        self._routes: dict[str, tuple[Any, Any, Any, Any, Any, dict[int, Any]]] = {}  # a lookup of labels costs more

    def finished(self, trace: Trace) -> None:
        seconds, first, tokens_in, tokens_out, usd, statuses = self._of(route := trace.route)
        count = statuses.get(trace.status)
        if count is None:
            count = statuses[trace.status] = self._requests.labels(route, str(trace.status))
        count.inc()
        seconds.observe(trace.ms / 1000)
        if trace.ms_first:
            first.observe(trace.ms_first / 1000)
        usage = trace.usage
        if usage.tokens_in or usage.tokens_out:
            tokens_in.inc(usage.tokens_in)
            tokens_out.inc(usage.tokens_out)
        if usage.usd:
            usd.inc(usage.usd)
        if trace.guard.get("flagged"):
            for kind in trace.guard.get("kinds", ()):
                self._flagged.labels(route, kind).inc()

    def shadow(self, trace: Trace) -> None:
        """A copy was answered, which somebody pays for and nobody asked."""
        _, _, tokens_in, tokens_out, usd, _ = self._of(trace.route)
        tokens_in.inc(trace.usage.tokens_in)
        tokens_out.inc(trace.usage.tokens_out)
        usd.inc(trace.usage.usd)
        self._shadow_usd.labels(trace.route, trace.model).inc(trace.usage.usd)

    def _of(self, route: str) -> tuple[Any, Any, Any, Any, Any, dict[int, Any]]:
        known = self._routes.get(route)
        if known is None:
            known = self._routes[route] = (
                self._seconds.labels(route), self._first.labels(route), self._tokens.labels(route, "in"),
                self._tokens.labels(route, "out"), self._usd.labels(route), {})
        return known

    def refused(self, status: int, code: str) -> None:
        self._refused.labels(str(status), code).inc()

    def text(self) -> bytes:
        from prometheus_client import generate_latest

        return bytes(generate_latest(self.registry))


class _Queue:
    """The trace queue's own counts, read when asked."""

    def __init__(self, traces: TraceQueue) -> None:
        self._traces = traces

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        queue = self._traces
        yield CounterMetricFamily("bucle_traces_written", "Traces stored", value=queue.written)
        yield CounterMetricFamily("bucle_traces_dropped", "Dropped: the queue was full", value=queue.dropped)
        yield CounterMetricFamily("bucle_traces_lost", "Traces the ledger refused", value=queue.lost)
        yield GaugeMetricFamily("bucle_traces_waiting", "Traces waiting to be stored", value=queue.waiting)
        if queue.also is not None:
            yield CounterMetricFamily("bucle_traces_exported", "Traces the collector took", value=queue.also.sent)
            yield CounterMetricFamily("bucle_traces_export_dropped", "Traces it did not", value=queue.also.dropped)
