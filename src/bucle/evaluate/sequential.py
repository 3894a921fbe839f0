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

__all__ = ["Share", "Shares", "Times", "later_quantile", "log_bets", "log_mean"]

_STEP = 1.01
"""Ratio between the edges of two buckets of `Times`: what a quantile's bound is rounded by, away from an alarm."""
_LEAST_MS, _BUCKETS = 0.05, 2000  # up to 22 million ms, which is six hours


GAPS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
"""How far beyond the margin each part of the evidence bets that the new one's share is."""


class Shares:
    """Counts of bad outcomes of a new and an old one, and the evidence that the new one's share exceeds the old one's
    by more than `margin` (`better`: that it does not, which is non-inferiority).

    An e-process over blocks of at least one outcome of each, in the order they come: the likelihood ratio of an
    alternative, fixed before the block, to its reverse information projection onto the null, which is the likelihood
    nearest to it there (Turner, Ly & Grünwald 2024, Generic e-variables for exact sequential k-sample tests, Journal of
    Statistical Planning and Inference 230; for a null with a margin Turner & Grünwald 2023, Exact anytime-valid
    confidence intervals for contingency tables and beyond, Statistics & Probability Letters 198). It is the mean over
    alternatives whose old share is the estimate so far and whose new one lies beyond the margin by each of GAPS.
    The level holds if at each time the shares of the two differ by no more than the margin, even where both change
    together (an outage), for any split of the traffic that is not decided by the outcomes.
    """

    def __init__(self, margin: float, *, better: bool = False) -> None:
        self.margin, self.better = margin, better
        self.new, self.old = Share(), Share()
        self._seen, self._block_old, self._block_new = Share(), Share(), Share()  # of the old one in blocks before
        self._logs: Any = 0.0

    def add(self, new: bool, bad: bool) -> bool:
        """Count one outcome; whether it closed a block, so that the evidence may have changed."""
        for one in (self.new, self._block_new) if new else (self.old, self._block_old):
            one.add(bad)
        old, fresh = self._block_old, self._block_new
        if not old.n or not fresh.n:
            return False
        self._logs = self._logs + log_bets(self._seen.bad, self._seen.n, old.bad, old.n, fresh.bad, fresh.n,
                                           self.margin, better=self.better)
        self._seen.n, self._seen.bad = self._seen.n + old.n, self._seen.bad + old.bad
        self._block_old, self._block_new = Share(), Share()
        return True

    @property
    def log_evidence(self) -> float:
        """Above log(1/level) it is decided."""
        return float(log_mean(self._logs))


def log_bets(seen_bad: Any, seen_n: Any, bad_old: Any, n_old: Any, bad_new: Any, n_new: Any, margin: float, *,
             better: bool = False) -> Any:
    """The log likelihood ratios `[..., len(GAPS)]` of one block, or of one in each of many runs (arrays of one shape).
    `seen_bad` of `seen_n` are the old one's outcomes in the blocks before. Raises BadInput where more are bad than
    there are."""
    import numpy as np
    from scipy.special import xlog1py, xlogy

    s, n0, k1, n1, k2, n2 = (np.asarray(x, dtype=float)[..., None]
                             for x in (seen_bad, seen_n, bad_old, n_old, bad_new, n_new))
    if (k2 > n2).any() or (k1 > n1).any() or (s > n0).any() or (np.minimum(k1, k2) < 0).any():
        raise BadInput("no more can be bad than there are")
    gaps = np.asarray(GAPS)
    old = (s + 0.5) / (n0 + 5.0)  # a share of a tenth before anything is known
    new = np.clip(old + margin - gaps, old * 1e-3, 1 - 1e-3) if better else np.minimum(old + margin + gaps, 1 - 1e-3)
    new = np.broadcast_to(new, (old + gaps).shape)
    outside = new - old < margin if better else new - old > margin
    edge = np.where(outside, _on_the_edge(n2 * new, n2, n1 * old, n1, margin), 0.5 * (1 - margin))

    def ratio(k: Any, n: Any, of: Any, to: Any) -> Any:
        return xlogy(k, of) + xlog1py(n - k, -of) - xlogy(k, to) - xlog1py(n - k, -to)

    return np.where(outside, ratio(k1, n1, old, edge) + ratio(k2, n2, new, edge + margin), 0.0)


def log_mean(logs: Any) -> Any:
    """The log of the mean of exp(`logs`) along the last axis: several e-processes as one."""
    import numpy as np

    many = np.atleast_1d(np.asarray(logs, dtype=float))
    most = many.max(axis=-1)
    return most + np.log(np.exp(many - most[..., None]).mean(axis=-1))


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
