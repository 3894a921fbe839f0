"""Sentences that the loop makes, in both languages, from a key and its figures; the words are in sentences.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from string import Formatter
from typing import Any

__all__ = ["alert_text", "say"]

_SPANISH = str.maketrans({".": ",", ",": "\u202f"})


@cache
def _sentences() -> dict[str, dict[str, str]]:
    text = resources.files("bucle.loop").joinpath("sentences.json").read_text("utf-8")
    found: dict[str, dict[str, str]] = json.loads(text)
    return found


class _Words(Formatter):
    """`str.format` whose numbers follow the language: `76.5%` in English, `76,5 %` in Spanish."""

    def __init__(self, language: str) -> None:
        self.language = language

    def format_field(self, value: Any, format_spec: str) -> Any:
        text = format(value, format_spec)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return text
        text = text.replace("-", "−")
        return text.translate(_SPANISH).replace("%", "\u00a0%") if self.language == "es" else text


def say(key: str, figures: Mapping[str, Any] | None = None) -> dict[str, str]:
    """The sentence of `key` as `{"es": …, "en": …}`. Empty for a key or figures that it does not know (an older
    ledger's), so that the caller can fall back on the text that was stored."""
    told: dict[str, str] = {}
    for language, sentences in _sentences().items():
        try:
            told[language] = _Words(language).vformat(sentences[key], (), figures or {})
        except (KeyError, ValueError, TypeError):
            return {}
    return told


def alert_text(alert: Mapping[str, Any]) -> dict[str, str]:
    """What an alert (as JSON) says, in both languages; its English message where its figures are not stored."""
    found = (alert.get("detail") or {}).get("say") or {}
    return say(f"alert.{found.get('key')}", found.get("figures")) or dict.fromkeys(
        _sentences(), str(alert.get("message", ""))
    )
