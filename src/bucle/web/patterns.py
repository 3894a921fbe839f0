"""The sample that `/studio/patterns` shows: made-up shapes for every component, and no measurement of anything."""

from __future__ import annotations

from typing import Any

__all__ = ["sample"]


def sample() -> dict[str, Any]:
    """A small story whose values only exercise the components."""
    rows = [("A", 0.9, 0.04, "beats", False), ("B", 0.82, 0.01, "ties", False), ("C", 0.8, None, "", True),
            ("D", 0.6, -0.2, "loses", False), ("E", 0.95, 0.15, "ruled_out", False)]
    candidates = [
        {"name": f"sample {name}", "technique": f"technique_{name.lower()}", "value": value, "low": value - 0.03,
         "high": value + 0.03, "diff": diff, "diff_low": None if diff is None else diff - 0.02,
         "diff_high": None if diff is None else diff + 0.02, "verdict": verdict, "baseline": baseline,
         "ms_p50": 4.0 * 3 ** i, "ms_p95": 6.0 * 3 ** i, "usd_per_1k": 0.001 * 5 ** i, "fit_seconds": 2.0 * i}
        for i, (name, value, diff, verdict, baseline) in enumerate(rows)]
    windows = [{"start": f"2026-01-{day:02d}T00:00:00+00:00", "end": f"2026-01-{day + 1:02d}T00:00:00+00:00",
                "route": route, "requests": 10 + day * (1 + i), "p95_ms": 20.0 + day * 3 * i, "score": 0.9 - 0.01 * day}
               for day in range(1, 12) for i, route in enumerate(("sample-a", "sample-b"))]
    statuses = ("done", "cached", "done", "running", "failed", "pending", "pending", "pending", "pending")
    stages = ("data", "models", "choose", "customise", "evaluate", "release", "serve", "monitor", "feedback")
    return {
        "project": {"name": "patterns"},
        "steps": [{"name": stage, "stage": stage, "status": status} for stage, status in
                  zip(stages, statuses, strict=True)],
        "models": [{"name": "sample", "loss_curve": [[i, 4 / (i + 1) + 1] for i in range(20)]}],
        "comparisons": [{"task": "sample", "kind": "classify", "metric": "accuracy", "n_test": 0,
                         "candidates": candidates,
                         "recommended": "sample A", "pareto": ["sample A", "sample E", "sample C"],
                         "confusion": {"labels": ["one", "two", "three"],
                                       "matrix": [[8, 1, 0], [2, 7, 0], [0, 1, 9]]}}],
        "monitor": {"windows": windows, "alerts": [
            {"rule": "sample", "kind": "latency", "route": "sample-b", "start": "2026-01-07T00:00:00+00:00",
             "end": "2026-01-10T00:00:00+00:00", "value": 50.0, "threshold": 40.0, "message": "sample",
             "next": "bucle monitor"}]},
        "feedback": {"dataset": {"by_label": {"one": {"v1": 20, "v2": 24}, "two": {"v1": 12, "v2": 12},
                                              "three": {"v1": 0, "v2": 9}}}},
        "gain": {"diff": {"value": 0.08, "low": 0.05, "high": 0.11}, "slices": [
            {"name": "sample slice", "diff": -0.01, "low": -0.05, "high": 0.03}]},
    }
