"""Which language a text is in, by py3langid among the languages a team expects."""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Sequence
from typing import Any

__all__ = ["LANGUAGES", "detect"]

LANGUAGES = ("es", "en", "ca", "gl", "eu", "pt", "fr", "de", "it")
MIN_LETTERS = 12
MIN_CONFIDENCE = 0.3
"""Of py3langid's normalised probability: `OK gracias` has 0.38 for es, a text it knows nothing of 1/9."""
_LOCK = threading.Lock()


def detect(text: str, languages: Sequence[str] = LANGUAGES) -> str:
    """ISO 639-1 code of the language of `text`, one of `languages`, or `und` where it is too short."""
    words = re.sub(r"https?://\S+|\S+@\S+|[\d_]+", " ", text[:20_000])
    if sum(char.isalpha() for char in words[:400]) < MIN_LETTERS:
        return "und"
    with _LOCK:
        found, confidence = _identifier(tuple(languages)).classify(words)
    return str(found) if confidence >= MIN_CONFIDENCE else "und"


@functools.lru_cache(maxsize=8)
def _identifier(languages: tuple[str, ...]) -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(languages)
    return identifier
