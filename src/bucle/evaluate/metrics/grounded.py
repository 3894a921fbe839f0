"""Whether an answer stands on the texts it was given: sentence by sentence, by its words, its numbers and, with an
encoder, its meaning."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bucle.evaluate.metrics.samples import Sample
from bucle.evaluate.metrics.words import normalise

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SUPPORT", "groundedness"]

SUPPORT = 0.6
"""Share of a sentence's content words that must stand together in a source."""
ALIKE = 0.75
"""Cosine from which a sentence of a source means the same (with an encoder)."""
STEM = 6  # letters of a word that count: `facturación` and `facturas` do not differ in the first six
_WINDOW = 2  # sentences that stand together
_NUMBER = re.compile(r"\d")


def groundedness(samples: Sequence[Sample], encoder: Path | None = None) -> list[float]:
    """Of each output, the share in [0, 1] of its sentences that a source bears out; 0 without output or source.

    A sentence is borne out where all its numbers stand in one source and, of its content words (endings aside), at
    least 60% stand in two neighbouring sentences of that source; with an `encoder`, also where its numbers do and a
    sentence of the source has a cosine of at least 0.75. One that says nothing to look for (`Así es.`) is left out. It
    is no proof: a sentence that turns the source's own words around (`no`, another order) passes, and one in words of
    its own, or in another language, fails without an encoder. docs/metrics.md tells how often on real text.
    """
    alike = _meanings(encoder) if encoder else None
    return [_share(sample.output, tuple(sample.sources), alike) for sample in samples]


Meaning = Callable[[Sequence[str]], "NDArray[Any]"]


def _share(output: str, sources: tuple[str, ...], alike: Meaning | None) -> float:
    said = [one for one in _sentences(output) if any(_parts(one))]
    if not said or not sources:
        return 0.0
    known = [_read(source) for source in sources]
    return sum(_borne_out(one, known, sources, alike) for one in said) / len(said)


def _borne_out(sentence: str, known: list[tuple[frozenset[str], tuple[frozenset[str], ...]]],
               sources: tuple[str, ...], alike: Meaning | None) -> bool:
    numbers, words = _parts(sentence)
    for (figures, windows), source in zip(known, sources, strict=True):
        if not numbers <= figures:
            continue
        if not words or any(len(words & window) >= SUPPORT * len(words) for window in windows):
            return True
        if alike is not None and (pieces := _sentences(source)):
            mine, theirs = alike([sentence]), alike(pieces)
            if float((theirs @ mine[0]).max()) >= ALIKE:
                return True
    return False


def _sentences(text: str) -> list[str]:
    from bucle.data.sentences import sentences

    return sentences(text) or ([text.strip()] if text.strip() else [])


@lru_cache(maxsize=4096)
def _read(source: str) -> tuple[frozenset[str], tuple[frozenset[str], ...]]:
    """A source's numbers, and the content words of every two neighbouring sentences."""
    parts = [_parts(one) for one in _sentences(source)]
    numbers = frozenset().union(*(numbers for numbers, _ in parts))
    return numbers, tuple(frozenset().union(*(words for _, words in parts[at:at + _WINDOW]))
                          for at in range(max(1, len(parts) - _WINDOW + 1)))


def _parts(sentence: str) -> tuple[frozenset[str], frozenset[str]]:
    """Its numbers, and the stems of its content words."""
    words = normalise(sentence)
    numbers = frozenset(word for word in words if _NUMBER.match(word))
    return numbers, frozenset(word[:STEM] for word in words if word not in numbers and word not in _stop_words())


@lru_cache(maxsize=1)
def _stop_words() -> frozenset[str]:
    from bucle.data.topics import STOP_WORDS

    return frozenset(word for stop in STOP_WORDS for word in normalise(stop))


def _meanings(folder: Path) -> Meaning:
    from bucle.models.encoder import shared_encoder

    encoder = shared_encoder(folder)
    known: dict[str, Any] = {}

    def embed(texts: Sequence[str]) -> NDArray[Any]:
        import numpy as np

        fresh = [text for text in dict.fromkeys(texts) if text not in known]
        known.update(zip(fresh, encoder.embed_array(fresh), strict=True))
        return np.stack([known[text] for text in texts])

    return embed
