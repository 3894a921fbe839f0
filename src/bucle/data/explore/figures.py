"""The pieces that figures on rows and on documents share: quantiles, histograms, samples, and texts fit to be shown."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

__all__ = ["SAMPLE", "histogram", "mark", "quantiles", "ranked", "sample_by_hash", "shown"]

T = TypeVar("T")

SAMPLE = 50_000
"""Rows that the expensive figures look at; counts are of every row."""
_BINS = 24
_TEXT = 220


def quantiles(counts: Mapping[int, int]) -> dict[str, float]:
    """Minimum, quartiles, the 95th percentile, maximum and mean of values given as value -> how often; empty for
    none."""
    if not counts:
        return {}
    import numpy as np

    values = np.repeat(sorted(counts), [counts[value] for value in sorted(counts)])
    cuts = np.percentile(values, [25, 50, 75, 95])
    return {
        "min": int(values[0]),
        **{name: round(float(cut), 2) for name, cut in zip(("p25", "p50", "p75", "p95"), cuts, strict=True)},
        "max": int(values[-1]),
        "mean": round(float(values.mean()), 2),
    }


def histogram(counts: Mapping[int, int]) -> dict[str, Any]:
    """How often values (value -> how often) fall into bins of equal width.

    `width` is a bin's, `counts` has one entry a bin from 0 up, at most 24; the last bin also holds what lies beyond
    it (`open` says whether anything does), so that one endless row does not flatten the rest.
    """
    if not counts:
        return {"width": 1, "counts": [], "open": False}
    import numpy as np

    keys = np.array(sorted(counts))
    weights = np.array([counts[int(key)] for key in keys])
    reached = np.searchsorted(np.cumsum(weights), 0.995 * weights.sum())
    width = max(1, -(-(int(keys[min(reached, len(keys) - 1)]) + 1) // _BINS))
    bins = min(_BINS, int(keys[-1]) // width + 1)
    placed = np.minimum(keys // width, bins - 1)
    found = np.bincount(placed, weights=weights, minlength=bins).astype(int).tolist()
    return {"width": width, "counts": found, "open": bool(keys[-1] >= width * bins)}


def mark(key: str) -> int:
    """A number in [0, 2**64) that stands for `key`: the same on every machine."""
    return int.from_bytes(hashlib.blake2b(key.encode(errors="surrogatepass"), digest_size=8).digest())


def sample_by_hash(items: Iterable[T], most: int, key: Callable[[T], str]) -> list[T]:
    """The `most` items whose key hashes lowest, in the order given: a sample that another run, or a larger dataset
    that holds these rows, draws again. Reads `items` once and holds no more than `most`."""
    heap: list[tuple[int, int, T]] = []
    for number, item in enumerate(items):
        entry = (-mark(key(item)), -number, item)
        if len(heap) < most:
            heapq.heappush(heap, entry)
        elif entry[:2] > heap[0][:2]:
            heapq.heapreplace(heap, entry)
    return [item for _, _, item in sorted(heap, key=lambda entry: -entry[1])]


def ranked(counts: Mapping[str, int]) -> dict[str, int]:
    """`counts`, the highest first."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def shown(text: str, limit: int = _TEXT) -> str:
    """The beginning of `text` as a report may show it to others: personal data masked, secrets gone, one line."""
    from bucle.data.personal import apply

    masked, _ = apply(text[: 4 * limit], {})
    line = " ".join("".join(char if char.isprintable() else " " for char in masked).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
