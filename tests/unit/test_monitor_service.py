"""Windows and their figures; latency, errors and cost; sinks against a real server."""

from __future__ import annotations

import http.server
import json
import logging
import threading
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from bucle.core.errors import BadInput
from bucle.core.ports import Sink
from bucle.core.records import Feedback, Trace, Usage
from bucle.monitor.service import cost, errors, latency
from bucle.monitor.sinks import LogSink, WebhookSink
from bucle.monitor.windows import summary, windows

START = datetime(2026, 9, 7, tzinfo=UTC)


def trace(number: int, *, hours: float = 0.0, route: str = "r", **more) -> Trace:
    at = (START + timedelta(hours=hours)).isoformat()
    return Trace(
        **{
            "id": f"t{number:05d}",
            "at": at,
            "received_at": "",
            "route": route,
            "model": "m",
            "input": "hola",
            "output": "x",
        }
        | more
    )


def timed(values) -> list[Trace]:
    return [trace(n, ms=float(ms)) for n, ms in enumerate(values)]


def test_windows_by_event_time_and_route() -> None:
    rows = [
        trace(1, hours=25),
        trace(2, hours=1),
        trace(3, hours=23.99, route="s"),
        trace(4, hours=24),
        trace(5, hours=24 * 9),
    ]
    found = windows(rows, length=timedelta(days=1))
    assert [(w.route, (w.start - START).days, [t.id for t in w.traces]) for w in found] == [
        ("r", 0, ["t00002"]),
        ("s", 0, ["t00003"]),
        ("r", 1, ["t00004", "t00001"]),
        ("r", 9, ["t00005"]),
    ]
    other_zone = trace(6, at="2026-09-07T01:30:00+02:00")
    assert windows([other_zone], length=timedelta(hours=1))[0].start == datetime(2026, 9, 6, 23, tzinfo=UTC)
    assert windows([], length=timedelta(days=1)) == []
    assert [w.route for w in windows(rows, length=timedelta(days=1), start=START + timedelta(days=5))] == [
        "r"
    ]


def test_windows_refuse() -> None:
    with pytest.raises(BadInput, match="t00001 has no ISO"):
        windows([trace(1, at="ayer")], length=timedelta(days=1))
    with pytest.raises(BadInput):
        windows([], length=timedelta(0))


def test_summary() -> None:
    rows = [
        trace(n, ms=float(n), score=0.5, user=f"u{n % 2}", usage=Usage(tokens_in=2, tokens_out=1, usd=0.5))
        for n in range(101)
    ]
    rows += [
        trace(200, status=503, error="upstream", ms=50, output=""),
        trace(201, status=403, error="refused", output="", ms=50),
        trace(202, output=" ", ms=50),
    ]
    said = [
        Feedback(id="f1", trace="t00001", at="", by="x", rating=1),
        Feedback(id="f2", trace="t00002", at="", by="x", rating=-1, correction="y"),
        Feedback(id="f3", trace="elsewhere", at="", by="x", rating=-1),
    ]
    found = summary(windows(rows, length=timedelta(days=1))[0], said)
    assert {
        key: found[key]
        for key in (
            "requests",
            "errors",
            "p50_ms",
            "tokens",
            "usd",
            "mean_score",
            "abstentions",
            "corrections",
            "users",
        )
    } == {
        "requests": 104,
        "errors": 1,
        "p50_ms": 50.0,
        "tokens": 303,
        "usd": 50.5,
        "mean_score": 0.5,
        "abstentions": 1,
        "corrections": 1,
        "users": 2,
    }
    assert found["ratings"]["count"] == 2
    assert found["ratings"]["low"] < 0.5 == found["ratings"]["positive"] < found["ratings"]["high"]
    json.dumps(found, allow_nan=False)


def test_latency_against_the_usual() -> None:
    rng = np.random.default_rng(0)
    usual = timed(rng.lognormal(5, 0.5, 300))
    assert latency(timed(rng.lognormal(5, 0.5, 40)), usual) is None
    assert latency(timed(3 * rng.lognormal(5, 0.5, 19)), usual) is None  # too few
    assert latency(timed([100.0] * 40 + [50_000.0]), usual) is None  # one slow request is no trend
    found = latency(timed(3 * rng.lognormal(5, 0.5, 40)), usual)
    assert found is not None
    assert found.value > found.threshold
    assert found.p < 0.001
    tail = latency(timed([*rng.lognormal(5, 0.5, 80), *[5000.0] * 20]), usual)  # a fifth of requests hang
    assert tail is not None
    assert latency(timed(rng.lognormal(5, 0.5, 40)), []) is None


def test_latency_against_an_objective() -> None:
    assert latency(timed([700.0] * 50), [], p95_ms=800) is None
    found = latency(timed([700.0] * 40 + [900.0] * 10), [], p95_ms=800)
    assert found is not None
    assert (found.value, found.threshold) == (900.0, 800.0)
    assert found.traces[0] == "t00040"
    assert latency(timed([700.0] * 38 + [900.0] * 2), [], p95_ms=800) is None


def test_false_alarms_of_latency() -> None:
    rng = np.random.default_rng(1)
    usual = timed(rng.lognormal(5, 0.7, 200))
    assert sum(latency(timed(rng.lognormal(5, 0.7, 25)), usual) is not None for _ in range(400)) <= 4


def test_errors_and_cost() -> None:
    def served(bad: int, good: int) -> list[Trace]:
        return [trace(n, status=503 if n < bad else 200) for n in range(bad + good)]

    assert errors(served(4, 0), []) is None
    assert errors(served(6, 94), []) is None  # 6% is not shown to be above 5%
    found = errors(served(20, 80), served(1, 99))
    assert found is not None
    assert found.value == 0.2
    assert errors(served(20, 80), served(20, 80)) is None  # it was always so
    assert errors([trace(n, status=403, error="refused") for n in range(50)], []) is None
    told = [trace(n, status=429, error="wait", spans=({"name": "engine", "error_kind": "RateLimited"},))
            for n in range(50)]
    assert errors(told, [trace(n) for n in range(50)]) is not None
    long = [trace(n, status=400, error="long", spans=({"name": "engine", "error_kind": "ContextOverflow"},))
            for n in range(50)]
    assert errors(long, [trace(n) for n in range(50)]) is None
    dear = [trace(n, usage=Usage(usd=0.1 * n)) for n in range(5)]
    assert cost(dear, budget_usd=1.0) is None
    spent = cost(dear, budget_usd=0.9)
    assert spent is not None
    assert spent.traces[0] == "t00004"


def test_webhook_delivers_and_never_raises(caplog: pytest.LogCaptureFixture) -> None:
    got: list[dict] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204 if self.path == "/ok" else 500)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here = f"http://127.0.0.1:{server.server_port}"
        assert WebhookSink(f"{here}/ok").send({"kind": "drift", "message": "más placas"})
        assert not WebhookSink(f"{here}/bad").send({"kind": "drift"})
        server.shutdown()
    assert got[0] == {"kind": "drift", "message": "más placas"}
    for url in (f"{here}/ok", "no address", "file:///etc/passwd", ""):
        assert not WebhookSink(url, timeout_s=1).send({"kind": "drift"})
    with caplog.at_level(logging.WARNING, "bucle.monitor"):
        assert LogSink().send({"kind": "drift", "route": "r", "message": "hola"})
    assert "drift on r: hola" in caplog.text
    assert isinstance(LogSink(), Sink)
    assert isinstance(WebhookSink(here), Sink)
