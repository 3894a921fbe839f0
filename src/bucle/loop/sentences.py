"""Sentences that the loop makes, in both languages, from a key and its figures; the words are in sentences.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from string import Formatter
from typing import Any

__all__ = ["HUNDREDS", "alert_text", "say"]

HUNDREDS = {"bleu", "chrf"}
"""Metrics that people know from 0 to 100. As a comparison decides by them they are in [0, 1], the mean of the rows;
among a candidate's figures they are the corpus's, from 0 to 100."""

_SPANISH = str.maketrans({".": ",", ",": "\u202f"})


@cache
def _sentences() -> dict[str, dict[str, str]]:
    text = resources.files("bucle.loop").joinpath("sentences.json").read_text("utf-8")
    found: dict[str, dict[str, str]] = json.loads(text)
    return found


class _Words(Formatter):
    """`str.format` whose numbers follow the language: `76.5%` in English, `76,5 %` in Spanish. `score` is what a
    comparison decides by, in [0, 1]: a percentage, or of BLEU and chrF a number from 0 to 100."""

    def __init__(self, language: str, hundreds: bool) -> None:
        self.language = language
        self.hundreds = hundreds

    def format_field(self, value: Any, format_spec: str) -> Any:
        if format_spec == "score":
            value, format_spec = (100 * value, ".1f") if self.hundreds else (value, ".1%")
        text = format(value, format_spec)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return text
        text = text.replace("-", "−")
        return text.translate(_SPANISH).replace("%", "\u00a0%") if self.language == "es" else text


def say(key: str, figures: Mapping[str, Any] | None = None) -> dict[str, str]:
    """The sentence of `key` as `{"es": …, "en": …}`, its scores in the unit of the figure `metric`. Empty for a key or
    figures that it does not know (an older ledger's), so that the caller can fall back on the text that was stored."""
    told: dict[str, str] = {}
    for language, sentences in _sentences().items():
        try:
            words = _Words(language, (figures or {}).get("metric") in HUNDREDS)
            told[language] = words.vformat(sentences[key], (), figures or {})
        except (KeyError, ValueError, TypeError):
            return {}
    return told


def alert_text(alert: Mapping[str, Any]) -> dict[str, str]:
    """What an alert (as JSON) says, in both languages; its English message where its figures are not stored."""
    found = (alert.get("detail") or {}).get("say") or {}
    return say(f"alert.{found.get('key')}", found.get("figures")) or dict.fromkeys(
        _sentences(), str(alert.get("message", ""))
    )
