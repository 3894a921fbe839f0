"""What one check says of one text, and the checks that need nothing but the text."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from bucle.data.personal import Finding, find
from bucle.serve.guard.leak import Secret
from bucle.serve.guard.memo import Remembered

__all__ = ["NOTHING", "Around", "Found", "Look", "findings", "forget", "language", "personal", "schema", "secrets"]

SHORT = 40
"""Letters below which no language is told: a name, a code or `ok gracias` has none that is sure."""
READ = 500
"""Characters that the language is told by."""
SURE = 0.95
"""A share of probability below which py3langid's first language is a guess."""


class Found(NamedTuple):
    """`score` in [0, 1], the kinds of what was found, and where: (start, end, what to write there when masking)."""

    score: float
    kinds: tuple[str, ...] = ()
    spans: tuple[tuple[int, int, str], ...] = ()


NOTHING = Found(0.0)


@dataclass(frozen=True, slots=True)
class Around:
    """What a check may know beside the text: the schema that an answer must fit, the system prompt's secret."""

    schema: Mapping[str, Any] | None = None
    secret: Secret | None = None


Look = Callable[[str, Around], Found]


@Remembered
def findings(text: str) -> tuple[Finding, ...]:
    """Personal data and secrets in `text`, remembered: guards, masking and storage look at the same text."""
    return tuple(find(text))


def forget() -> None:
    """Drop what is remembered of texts."""
    from bucle.serve.guard import classifier

    findings.cache_clear()
    classifier.scores.cache_clear()


def personal(text: str, around: Around) -> Found:
    """Personal data by the kinds of `bucle.data.personal`, all but secrets."""
    return _found([one for one in findings(text) if one.kind != "secret"])


def secrets(text: str, around: Around) -> Found:
    """Keys, tokens and passwords that are given away."""
    return _found([one for one in findings(text) if one.kind == "secret"])


def _found(found: list[Finding]) -> Found:
    if not found:
        return NOTHING
    return Found(1.0, tuple(sorted({one.kind for one in found})),
                 tuple((one.start, one.end, f"[{one.kind.upper()}]") for one in found))


def language(accepted: tuple[str, ...]) -> Look:
    """Flags a text that is surely in none of the `accepted` languages (ISO 639-1). Short texts stay undecided."""
    wanted = frozenset(accepted)
    _identifier()  # half a second, before the first request

    def look(text: str, around: Around) -> Found:
        head = text[:READ]
        if sum(map(str.isalpha, head)) < SHORT:
            return NOTHING
        code, sure = _identifier().classify(head)
        if code in wanted or sure < SURE:
            return NOTHING
        return Found(float(sure), (f"language_{code}",))

    return look


@functools.cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def schema(text: str, around: Around) -> Found:
    """Flags an answer that is not the JSON that was asked for."""
    if around.schema is None:
        return NOTHING
    import json

    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return Found(1.0, ("not_json",))
    return NOTHING if _validator(json.dumps(around.schema, sort_keys=True)).is_valid(value) else Found(1.0, ("schema",))


@functools.lru_cache(maxsize=64)
def _validator(schema: str) -> Any:
    import jsonschema_rs

    return jsonschema_rs.validator_for(schema)
