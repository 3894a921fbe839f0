"""Answers compared word by word, in Spanish and English: normalisation, exact match and token F1."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

__all__ = ["exact_match", "normalise", "token_f1"]

_ARTICLES = frozenset(("a", "an", "the", "el", "la", "los", "las", "un", "una", "unos", "unas"))
_THOUSANDS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:([.,])\d{3})(?:\1\d{3})*(?!\d)")
_TOKEN = re.compile(r"\d+(?:\.\d+)+|\d+|[^\W\d_]+")


def normalise(text: str) -> list[str]:
    """The words of `text` as SQuAD's evaluation compares them (Rajpurkar et al. 2016), for Spanish and
    English.

    Lower case; accents folded (the letter n with tilde is kept: it is another letter); articles of both
    languages and punctuation dropped. Figures keep their meaning: `1.250,50` and `1,250.50` are both
    `1250.50`, and the euro sign is the word.
    """
    text = _THOUSANDS.sub(lambda match: re.sub(r"[.,]", "", match[0]), text)
    text = re.sub(r"(?<=\d),(?=\d)", ".", text).replace("€", " euros ")
    composed = unicodedata.normalize("NFC", text.casefold())
    folded = "".join(
        letter if letter == "ñ" else unicodedata.normalize("NFD", letter)[0] for letter in composed
    )
    words = _TOKEN.findall(folded)
    kept = [word for word in words if word not in _ARTICLES]
    return kept or words


def exact_match(answer: str, gold: str) -> float:
    """1.0 when the normalised words are equal, else 0.0."""
    return float(normalise(answer) == normalise(gold))


def token_f1(answer: str, gold: str) -> float:
    """F1 in [0, 1] of the bags of normalised words (SQuAD's second metric). Two empty texts agree."""
    said, wanted = Counter(normalise(answer)), Counter(normalise(gold))
    if not said or not wanted:
        return float(said == wanted)
    common = (said & wanted).total()
    return 2 * common / (said.total() + wanted.total())
