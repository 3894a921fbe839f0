"""Which language a text is in, by py3langid among the languages a team expects."""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Sequence
from typing import Any

__all__ = ["LANGUAGES", "detect", "detect_all", "is_other", "known_languages"]

LANGUAGES = ("es", "en", "ca", "gl", "eu", "pt", "fr", "de", "it")
MIN_LETTERS = 12
MIN_CONFIDENCE = 0.3
"""Of py3langid's normalised probability: `OK gracias` has 0.38 for es, a text it knows nothing of 1/9."""
LEAST_ALLOWED = 0.02
"""Below this probability of all languages that a team works in together, a text is surely in another."""
_ROUNDS = 5
_LEAST_SHARE = 0.01
_LOCK = threading.Lock()


def detect(text: str, languages: Sequence[str] = LANGUAGES) -> str:
    """ISO 639-1 code of the language of `text`, one of `languages`, or `und` where it is too short."""
    return _decide(_chances(text, tuple(languages)), {})


def detect_all(texts: Sequence[str], languages: Sequence[str] = LANGUAGES) -> list[str]:
    """The language of each of `texts`, which are of one collection: codes as in detect.

    Short texts of sister languages (es, gl, pt, ca) are told apart by how often each is met in the
    collection: the shares are estimated from the texts themselves (Saerens et al., "Adjusting the outputs of
    a classifier to new a priori probabilities", Neural Computation 14, 2002).
    """
    chances = [_chances(text, tuple(languages)) for text in texts]
    told = [one for one in chances if one]
    shares = dict.fromkeys(languages, 1 / len(languages))
    for _ in range(_ROUNDS if told else 0):
        weighed = [_weigh(one, shares) for one in told]
        shares = {code: max(_LEAST_SHARE, sum(one[code] for one in weighed) / len(told)) for code in languages}
    return [_decide(one, shares) for one in chances]


def is_other(text: str, allowed: Sequence[str]) -> str:
    """The language of `text` where it is surely none of `allowed`; empty where it may be one of them, or is too short
    to be told."""
    chances = _chances(text, tuple(dict.fromkeys((*LANGUAGES, *allowed))))
    if not chances or sum(chances[code] for code in allowed) >= LEAST_ALLOWED:
        return ""
    return max(chances.items(), key=lambda item: item[1])[0]


def _chances(text: str, languages: tuple[str, ...]) -> dict[str, float]:
    """The probability of each language, or nothing where the text has too few letters."""
    words = re.sub(r"https?://\S+|\S+@\S+|[\d_]+", " ", text[:20_000])
    if sum(char.isalpha() for char in words[:400]) < MIN_LETTERS:
        return {}
    with _LOCK:
        return {str(code): float(chance) for code, chance in _identifier(languages).rank(words)}


def _weigh(chances: dict[str, float], shares: dict[str, float]) -> dict[str, float]:
    products = {code: chance * shares.get(code, 1.0) for code, chance in chances.items()}
    total = sum(products.values())
    return {code: product / total for code, product in products.items()}


def _decide(chances: dict[str, float], shares: dict[str, float]) -> str:
    if not chances:
        return "und"
    code, chance = max(_weigh(chances, shares).items(), key=lambda item: item[1])
    return code if chance >= MIN_CONFIDENCE else "und"


@functools.lru_cache(maxsize=1)
def known_languages() -> frozenset[str]:
    """The codes (ISO 639-1, and a few of 639-3) of all languages that can be told apart."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return frozenset(map(str, LanguageIdentifier.from_model_file(MODEL_FILE).labels))


@functools.lru_cache(maxsize=8)
def _identifier(languages: tuple[str, ...]) -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(languages)
    return identifier
