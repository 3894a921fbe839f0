"""Whether a service got slower, fails more or costs more than it may."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bucle.core.records import Trace
from bucle.monitor.windows import is_error

__all__ = ["Finding", "cost", "errors", "latency"]

TAIL = 0.05


@dataclass(frozen=True)
class Finding:
    """A measured value past its threshold; `p` of seeing it by chance; `traces` the worst, by id; `say` the key and
    the figures of the message, for other languages."""

    value: float
    threshold: float
    p: float
    message: str
    traces: tuple[str, ...]
    say: Mapping[str, Any] = field(default_factory=dict)


def latency(window: Sequence[Trace], reference: Sequence[Trace], *, p95_ms: float | None = None,
            ratio: float = 2.0, min_count: int = 20, alarm_rate: float = 0.01,
            min_rise_ms: float = 0.0) -> Finding | None:
    """The window's p95 latency past the objective `p95_ms`, or, without one, past `ratio` times the
    reference's p95 and `min_rise_ms` above it: a busy machine multiplies a few milliseconds that nobody feels.

    Either way more requests than chance allows must be slower than what 95% should stay under (one-sided
    binomial test at `alarm_rate`): one slow request is no trend. Failed requests are left out. None when
    all is well, or with fewer than `min_count` requests in the window (or in a reference that is needed).
    """
    import numpy as np
    from scipy.stats import binomtest

    ms = np.array([trace.ms for trace in window if not is_error(trace)])
    before = np.array([trace.ms for trace in reference if not is_error(trace)])
    if len(ms) < min_count or (p95_ms is None and len(before) < min_count):
        return None
    usual = float(np.percentile(before, 95)) if p95_ms is None else p95_ms
    limit = max(usual * ratio, usual + min_rise_ms) if p95_ms is None else p95_ms
    measured = float(np.percentile(ms, 95))
    p = float(binomtest(int((ms > usual).sum()), len(ms), TAIL, alternative="greater").pvalue)
    if measured <= limit or p > alarm_rate or usual <= 0:
        return None
    times = f"{measured / usual:.1f} times the "
    against = times + (f"usual {usual:.0f} ms" if p95_ms is None else f"objective of {p95_ms:.0f} ms")
    slow = sorted(window, key=lambda trace: (-trace.ms, trace.id))[:5]
    return Finding(measured, limit, p, f"p95 latency {measured:.0f} ms, {against}",
                   tuple(trace.id for trace in slow),
                   {"key": "latency_usual" if p95_ms is None else "latency_objective",
                    "figures": {"value": measured, "usual": usual, "ratio": measured / usual}})


def errors(window: Sequence[Trace], reference: Sequence[Trace], *, max_rate: float = 0.05,
           min_errors: int = 5, alarm_rate: float = 0.01) -> Finding | None:
    """The share of failed requests above `max_rate` or the reference's own rate, whichever is higher, with
    at least `min_errors` failures and a one-sided binomial test at `alarm_rate`. None when all is well."""
    from scipy.stats import binomtest

    failed = [trace for trace in window if is_error(trace)]
    if len(failed) < min_errors:
        return None
    usual = sum(map(is_error, reference)) / len(reference) if reference else 0.0
    limit = max(max_rate, usual)
    p = float(binomtest(len(failed), len(window), min(limit, 1.0), alternative="greater").pvalue)
    rate = len(failed) / len(window)
    if rate <= limit or p > alarm_rate:
        return None
    return Finding(rate, limit, p, f"{len(failed)} of {len(window)} requests failed ({rate:.0%})",
                   tuple(trace.id for trace in failed[:5]),
                   {"key": "errors", "figures": {"failed": len(failed), "requests": len(window), "rate": rate}})


def cost(window: Sequence[Trace], *, budget_usd: float) -> Finding | None:
    """What the window's requests cost in US dollars, when that is more than `budget_usd`. None when it is
    not."""
    spent = sum(trace.usage.usd for trace in window)
    if spent <= budget_usd:
        return None
    dear = sorted(window, key=lambda trace: (-trace.usage.usd, trace.id))[:5]
    return Finding(spent, budget_usd, 0.0, f"${spent:.2f} spent of a budget of ${budget_usd:.2f}",
                   tuple(trace.id for trace in dear),
                   {"key": "cost", "figures": {"spent": spent, "budget": budget_usd}})
