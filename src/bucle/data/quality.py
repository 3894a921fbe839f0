"""Quality filters: documents that are no text a person would read, each told by a named threshold.

After Rae et al., "Scaling Language Models: Methods, Analysis & Insights from Training Gopher" (2021), table A1. A price
list is good text here: numbers and the marks of a table count neither for nor against a document, and tables are only
asked whether they hold any words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from bucle.core.config import Quality
from bucle.core.records import Document

__all__ = ["failing", "measure"]

NGRAM = 5
"""Rae et al. look at 2 to 10 words; from 5 on, an office's phrases (`IVA incluido`) no longer count as repeats."""
_LEAST_LINES = 8
_LEAST_WORDS = 50
_LEAST_CHARACTERS = 20
_MOST_CHARACTERS = 400_000
"""Of a longer document the beginning is measured."""
_NUMBER = re.compile(r"[-+±~(]*[€$£]?\d[\d.,:/%€$£ºª°)x*+-]*|[|€$£%]|(?<!\S)[-–—•·*]+(?!\S)")
_URL = re.compile(r"https?://\S+|www\.\S+|(?<!\S)[^\s@]{1,64}@\S+")
_IDEOGRAPH = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0e00-\u0eff]")
"""Scripts that put no space between words: each character is counted as a word."""
_PUNCTUATION = frozenset(".,;:!?¡¿'\"()-/%&’‘“”«»…–—·ºª°\u00ad")


def measure(document: Document) -> dict[str, float]:
    """What the thresholds of core.config.Quality are held against, by their names.

    `min_words` words of the whole document; of the text that is no table: `min_letters` share of letters among the
    characters (spaces and numbers apart), `max_symbols` share of characters that are neither letters nor digits nor
    punctuation, `max_repeated_lines` share of lines that stood before, `max_repeated_ngrams` share of words inside a
    run of five words that stood before, `max_word_length` mean letters of a word (addresses apart). What is too small
    to be told is left out.
    """
    prose = "\n".join(block.text for block in document.blocks if block.kind != "table")[:_MOST_CHARACTERS]
    found: dict[str, float] = {"min_words": sum(1 for _ in _words(document.text))}
    plain = _URL.sub(" ", prose)
    words = list(_words(plain))
    bare = "".join(_NUMBER.sub(" ", plain).split())
    if len(bare) >= _LEAST_CHARACTERS:
        found["min_letters"] = sum(char.isalpha() for char in bare) / len(bare)
        found["max_symbols"] = sum(not char.isalnum() and char not in _PUNCTUATION for char in bare) / len(bare)
        if words:
            found["max_word_length"] = sum(map(len, words)) / len(words)
    lines = [line for line in (" ".join(one.split()) for one in prose.splitlines()) if line]
    if len(lines) >= _LEAST_LINES:
        found["max_repeated_lines"] = 1 - len(set(lines)) / len(lines)
    if len(words) >= _LEAST_WORDS:
        found["max_repeated_ngrams"] = _repeated(words)
    return found


def failing(document: Document, quality: Quality) -> tuple[str, str] | None:
    """The first threshold that `document` does not keep, and its value against it; None where it keeps all. A
    threshold of 0 (a `min_`) or 1 (a share) never acts."""
    measured = measure(document)
    for name in Quality.model_fields:
        value, limit = measured.get(name), float(getattr(quality, name))
        if value is None or (name.startswith("max_") and name != "max_word_length" and limit >= 1):
            continue
        if value < limit if name.startswith("min_") else value > limit:
            shown = f"{value:.0f}" if name == "min_words" else f"{value:.2f}"
            return name, f"{shown} against {name} {limit:g}"
    return None


def _words(text: str) -> Iterator[str]:
    for word in text.split():
        if _IDEOGRAPH.search(word):
            yield from _IDEOGRAPH.findall(word)
        elif any(char.isalnum() for char in word):
            yield word


def _repeated(words: list[str]) -> float:
    """Share of `words` in a run of NGRAM that stood before; a run with a number in it is a row of a list."""
    plain = [word.casefold() for word in words]
    numbered = [any(char.isdigit() for char in word) for word in plain]
    seen: Counter[tuple[str, ...]] = Counter()
    inside = bytearray(len(plain))
    for at in range(len(plain) - NGRAM + 1):
        run = tuple(plain[at : at + NGRAM])
        if seen[run] and not any(numbered[at : at + NGRAM]):
            inside[at : at + NGRAM] = b"\1" * NGRAM
        seen[run] += 1
    return sum(inside) / len(plain)
