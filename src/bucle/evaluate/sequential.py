"""Is the new one worse than the old one? Tests that may be looked at after every request, for as long as it lasts.

Each gives evidence as an e-process: a figure that, where the null hypothesis holds, ever exceeds 1/level with a chance
of at most `level` (Ville 1939). So the false-alarm rate holds over the whole run, whenever one looks or stops
(Ramdas, Grünwald, Vovk & Shafer 2023, Statistical Science 38(4)); benchmarks/routing.py simulates it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from bucle.core.errors import BadInput

__all__ = ["Share", "Times", "later_quantile", "log_evidence"]

_STEP = 1.01
"""Ratio between the edges of two buckets of `Times`: what a quantile's bound is rounded by, away from an alarm."""
_LEAST_MS, _BUCKETS = 0.05, 2000  # up to 22 million ms, which is six hours


def log_evidence(bad_new: Any, n_new: Any, bad_old: Any, n_old: Any, margin: float, *, better: bool = False) -> Any:
    """The log of the evidence that the new one's share of bad outcomes exceeds the old one's by more than `margin`
    (`better`: that it does not, which is non-inferiority); above log(1/level) it is decided.

    Counts are numbers or arrays of one shape, and so is what returns. The likelihood of both shares, mixed over
    Jeffreys's prior of each, over the greatest likelihood under the null: a universal-inference e-process (Wasserman,
    Ramdas & Balakrishnan 2020, PNAS 117(29), section 7, with the mixture of Robbins 1970 as its numerator), valid for
    any share of the traffic. The maximum on the null's edge has the closed form of Miettinen & Nurminen (1985,
    Statistics in Medicine 4). Outcomes of one arm must be alike and independent given the past.
    Raises BadInput where more are bad than there are.
    """
    import numpy as np
    from scipy.special import betaln, xlog1py, xlogy

    k2, n2, k1, n1 = (np.asarray(x, dtype=float) for x in (bad_new, n_new, bad_old, n_old))
    if (k2 > n2).any() or (k1 > n1).any() or (np.minimum(k1, k2) < 0).any():
        raise BadInput("no more can be bad than there are")

    def likelihood(p1: Any, p2: Any) -> Any:
        return xlogy(k1, p1) + xlog1py(n1 - k1, -p1) + xlogy(k2, p2) + xlog1py(n2 - k2, -p2)

    mixed = sum(betaln(k + 0.5, n - k + 0.5) - betaln(0.5, 0.5) for k, n in ((k1, n1), (k2, n2)))
    p1, p2 = k1 / np.maximum(n1, 1), k2 / np.maximum(n2, 1)
    edge = _on_the_edge(k2, n2, k1, n1, margin)
    null = (p2 - p1 > margin) if better else (p2 - p1 <= margin)
    found = mixed - np.where(null, likelihood(p1, p2), likelihood(edge, edge + margin))
    return found if found.ndim else float(found)


def _on_the_edge(k2: Any, n2: Any, k1: Any, n1: Any, margin: float) -> Any:
    """The likeliest old share where the new one's is `margin` above it: the cubic's middle root."""
    import numpy as np

    n = np.maximum(n1 + n2, 1)
    c = k1 + k2
    l2 = ((2 * n1 + n2) * margin - n - c) / (3 * n)
    l1 = ((n1 * margin - n - 2 * k1) * margin + c) / (3 * n)
    l0 = k1 * margin * (1 - margin) / n
    q = l2**3 - 1.5 * l1 * l2 + l0 / 2
    p = np.where(q >= 0, 1.0, -1.0) * np.sqrt(np.maximum(l2**2 - l1, 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        turn = np.where(p == 0, 1.0, q / p**3)
    a = (math.pi + np.arccos(np.clip(turn, -1, 1))) / 3
    return np.clip(2 * p * np.cos(a) - l2, 0.0, 1.0 - margin)


@dataclass
class Share:
    """A count of outcomes, `bad` of `n`."""

    n: int = 0
    bad: int = 0

    def add(self, bad: bool) -> None:
        self.n += 1
        self.bad += bad


@dataclass
class Times:
    """Milliseconds by how often they came, in buckets 1% wide: 16 kB however long it runs."""

    n: int = 0
    counts: Any = field(default=None)

    def add(self, ms: float) -> None:
        if self.counts is None:
            import numpy as np

            self.counts = np.zeros(_BUCKETS, dtype=np.int64)
        at = int(math.log(max(ms, _LEAST_MS) / _LEAST_MS) / math.log(_STEP)) if ms < 1e9 else _BUCKETS
        self.counts[min(at, _BUCKETS - 1)] += 1
        self.n += 1

    def quantile(self, q: float) -> float:
        """The upper edge of the bucket that holds the `q` quantile, in ms; 0 of nothing."""
        return self._edge(max(1, math.ceil(q * self.n))) if self.n else 0.0

    def low(self, q: float, level: float) -> float:
        """A bound that the true `q` quantile is above at all times, but for a chance of `level`; 0 where none is
        known."""
        above = _fewest(self.n, 1 - q, level)  # so many above a point say that the quantile is above it
        return self._edge(self.n - above + 1) / _STEP if above <= self.n else 0.0

    def high(self, q: float, level: float) -> float:
        """A bound that the true `q` quantile is below at all times, but for a chance of `level`; infinite where none is
        known."""
        below = _fewest(self.n, q, level)
        return self._edge(below) if below <= self.n else math.inf

    def _edge(self, rank: int) -> float:
        import numpy as np

        return float(_LEAST_MS * _STEP ** (int(np.searchsorted(np.cumsum(self.counts), rank)) + 1))


def later_quantile(new: Times, old: Times, q: float, ratio: float, level: float) -> bool:
    """Whether the new one's `q` quantile is beyond `ratio` times the old one's, at a false-alarm rate of `level` over
    the whole run: the bounds of both at half of it no longer touch (confidence sequences of a quantile by inverting a
    sequential test of a share, Howard & Ramdas 2022, Bernoulli 28(3), theorem 1's construction with the beta-binomial
    mixture of its section 3)."""
    return new.low(q, level / 2) > ratio * old.high(q, level / 2)


def _fewest(n: int, share: float, level: float) -> int:
    """The fewest of `n` that say, at all times, that more than `share` are so; n + 1 where even all would not.

    One-sided: the likelihood ratio to `share` mixed over the part of Jeffreys's prior above it, a supermartingale
    wherever the true share is at most `share`.
    """
    low, high, needed = math.ceil(share * n), n + 1, math.log(1 / level)
    while low < high:
        middle = (low + high) // 2
        if middle <= n and _log_above(middle, n, share) < needed:
            low = middle + 1
        else:
            high = middle
    return low


def _log_above(k: int, n: int, share: float) -> float:
    from scipy.special import betaincc, betaln

    tail = float(betaincc(k + 0.5, n - k + 0.5, share))
    if tail <= 0:
        return -math.inf
    mixed = float(betaln(k + 0.5, n - k + 0.5) - betaln(0.5, 0.5)) + math.log(tail / float(betaincc(0.5, 0.5, share)))
    return mixed - k * math.log(share) - (n - k) * math.log1p(-share)
