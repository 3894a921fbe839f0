"""The packaged classifier of injections and abuse: hashed letters and words, one linear model a category.

A logistic regression on binary features (runs of 3 to 5 bytes of the folded text, words, pairs of words) hashed into
2^15 buckets, as Weinberger et al., "Feature hashing for large scale multitask learning" (2009), eq. 1 without the sign.
Its weights are one byte each, with one scale a category. Trained by `python -m bucle.serve.guard.train`.
"""

from __future__ import annotations

import functools
import json
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bucle.monitor.injection import fold, words_of
from bucle.serve.guard.memo import Remembered

__all__ = ["BITS", "CATEGORIES", "MODEL", "Weights", "features", "load", "scores"]

CATEGORIES = ("injection", "harassment", "hate", "violence", "sexual", "self-harm")
MODEL = Path(__file__).with_name("classifier.safetensors")
BITS = 15
WINDOW, STEP = 600, 400
"""Characters that are scored at once and from one start to the next; a longer text gets its worst window's score."""
LONGEST = 32_000
"""Of a longer text its first and last half of this are read."""
_RUNS = ((3, 0x9E3779B1), (4, 0x85EBCA77), (5, 0xC2B2AE3D))
_POWERS = np.array([[31**k * prime % 2**32 if k < length else 0 for length, prime in _RUNS] for k in range(5)],
                   dtype=np.uint32)
_FIFTEEN, _MIX, _REST = np.uint32(15), np.uint32(0x2C1B3C6D), np.uint32(32 - BITS)
_ONES = np.ones(1 << BITS, dtype=np.float32)
_FIRST, _SECOND = np.uint32(0x9E3779B1), np.uint32(0x85EBCA77)


class Weights(NamedTuple):
    """`table` [2^BITS, categories], whole numbers of one byte each in the file, `scale` and `bias` [categories]."""

    table: NDArray[np.float32]
    scale: NDArray[np.float32]
    bias: NDArray[np.float32]


@Remembered
def scores(text: str) -> Mapping[str, float]:
    """The probability of each of CATEGORIES, in [0, 1], as the training texts were balanced: 0.5 is the point that one
    in 200 harmless texts of the training's own validation passes."""
    if len(text) > LONGEST:
        text = text[: LONGEST // 2] + " " + text[-LONGEST // 2 :]
    weights = load()
    folded = fold(text)
    worst = _logits(folded[:WINDOW], weights)
    for start in range(STEP, len(folded) - (WINDOW - STEP), STEP):
        worst = np.maximum(worst, _logits(folded[start : start + WINDOW], weights))
    bounded = [min(30.0, max(-30.0, one)) for one in worst.tolist()]
    return {name: 1 / (1 + math.exp(-one)) for name, one in zip(CATEGORIES, bounded, strict=True)}


def _logits(folded: str, weights: Weights) -> NDArray[np.float32]:
    found = features(folded)
    if not len(found):
        return weights.bias
    total = _ONES[: len(found)] @ weights.table.take(found, axis=0, mode="clip")  # whole numbers: exact
    return np.asarray(total * weights.scale / math.sqrt(len(found)) + weights.bias, dtype=np.float32)


def features(folded: str) -> NDArray[np.int64]:
    """The distinct buckets of a folded text, sorted."""
    words = words_of(folded)
    if not words:
        return np.empty(0, dtype=np.int64)
    raw = f" {' '.join(words)} ".encode("utf-8", "replace")
    size = len(raw)
    data = np.frombuffer(raw + b"\0\0\0\0", dtype=np.uint8).astype(np.uint32)
    codes = np.ndarray((size, 5), np.uint32, data, 0, (4, 4)) @ _POWERS  # of the runs of each length at each place
    for at, (length, _) in enumerate(_RUNS):
        codes[max(0, size - length + 1) :, at] = codes[0, 0]  # those that would go on beyond the end
    named = np.array([zlib.crc32(word.encode("utf-8", "replace")) for word in words], dtype=np.uint32)
    mixed = (codes ^ (codes >> _FIFTEEN)) * _MIX
    pairs = (named[:-1] * _FIRST + named[1:]) * _SECOND
    seen = np.zeros(1 << BITS, dtype=bool)
    seen[np.concatenate((mixed.ravel(), named, pairs)) >> _REST] = True
    return seen.nonzero()[0]


@functools.cache
def load(path: Path = MODEL) -> Weights:
    """The weights in `path`, read once."""
    from safetensors.numpy import load_file

    tensors: dict[str, Any] = load_file(path)
    return Weights(tensors["table"].astype(np.float32), tensors["scale"], tensors["bias"])


def report() -> dict[str, Any]:
    """What the training wrote beside the weights."""
    found: dict[str, Any] = json.loads(MODEL.with_suffix(".json").read_text("utf-8"))
    return found
