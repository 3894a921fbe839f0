"""Words of a text and their overlap, to fit and calibrate on; evaluation has its own, fuller metrics."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

__all__ = ["exact_match", "folded", "token_f1"]


def folded(text: str) -> str:
    """Lower case, without accents."""
    text = text.lower()
    if text.isascii():
        return text
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))


def token_f1(answer: str, target: str) -> float:
    """F1 of the two texts' words, case and accents folded (as in SQuAD, Rajpurkar et al. 2016, without articles)."""
    a, b = Counter(_words(answer)), Counter(_words(target))
    common = sum((a & b).values())
    if not common:
        return 0.0
    precision, recall = common / sum(a.values()), common / sum(b.values())
    return 2 * precision * recall / (precision + recall)


def exact_match(answer: str, target: str) -> float:
    """1 where the two texts have the same words in the same order, folded; else 0."""
    return float(_words(answer) == _words(target))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", folded(text))
