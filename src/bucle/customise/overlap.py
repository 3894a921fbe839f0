"""Word overlap of two short texts, to calibrate on; evaluation has its own, fuller metrics."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

__all__ = ["token_f1"]


def token_f1(answer: str, target: str) -> float:
    """F1 of the two texts' words, case and accents folded (as in SQuAD, Rajpurkar et al. 2016, without articles)."""
    a, b = Counter(_words(answer)), Counter(_words(target))
    common = sum((a & b).values())
    if not common:
        return 0.0
    precision, recall = common / sum(a.values()), common / sum(b.values())
    return 2 * precision * recall / (precision + recall)


def _words(text: str) -> list[str]:
    folded = unicodedata.normalize("NFKD", text.lower())
    return re.findall(r"\w+", "".join(c for c in folded if not unicodedata.combining(c)))
