"""What an answer must keep, written beside the row so that a program can tell: after IFEval (Zhou et al. 2023,
"Instruction-Following Evaluation for Large Language Models")."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from bucle.core.errors import BadInput
from bucle.evaluate.metrics.samples import Sample
from bucle.evaluate.metrics.structured import MISSING
from bucle.evaluate.metrics.words import token_f1

__all__ = ["CHECKS", "all_checks_passed", "checks_passed", "followed", "read_checks"]

SECONDS = 0.5
"""That a pattern may take on one answer; one that takes longer has not passed."""
LONGEST = 2000
"""Characters of a pattern."""

_BULLET = re.compile(r"^[ \t]*(?:[-*•]|\d+[.)])[ \t]+\S", re.MULTILINE)


def _words(text: str) -> int:
    return len(text.split())


def _sentences(text: str) -> int:
    from bucle.data.sentences import sentence_spans

    return len(sentence_spans(text))


def _paragraphs(text: str) -> int:
    return len([part for part in re.split(r"\n[ \t]*\n", text.replace("\r\n", "\n")) if part.strip()])


def _bullets(text: str) -> int:
    return len(_BULLET.findall(text))


def _contains(text: str, wanted: list[str]) -> bool:
    return all(one in text for one in wanted)


def _patterns(text: str, wanted: list[str], case: bool) -> list[bool] | None:
    """Whether each pattern is found; None where one takes too long."""
    import regex

    flags = regex.MULTILINE | (0 if case else regex.IGNORECASE)
    try:
        return [regex.search(one, text, flags, timeout=SECONDS) is not None for one in wanted]
    except TimeoutError:
        return None


def _language(text: str, wanted: list[str]) -> bool:
    from bucle.data.language import LANGUAGES, detect

    return detect(text, tuple(dict.fromkeys((*LANGUAGES, *wanted)))) in wanted


def _json(text: str, wanted: Any) -> bool:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = MISSING
    if not wanted:
        return found is MISSING
    return found is not MISSING and (wanted is True or isinstance(found, {"object": dict, "array": list}[wanted]))


def _letters(text: str) -> str:
    return "".join(filter(str.isalpha, text))


_TEXTS: Mapping[str, Callable[[str, list[str]], bool]] = {
    "contains": _contains,
    "contains_any": lambda text, wanted: any(one in text for one in wanted),
    "not_contains": lambda text, wanted: not any(one in text for one in wanted),
    "starts_with": lambda text, wanted: text.strip().startswith(tuple(wanted)),
    "ends_with": lambda text, wanted: text.strip().endswith(tuple(wanted)),
    "one_of": lambda text, wanted: text.strip() in wanted,
}
_PATTERNS = ("regex", "not_regex")
_COUNTS: Mapping[str, Callable[[str], int]] = {
    "words": _words, "characters": len, "sentences": _sentences, "paragraphs": _paragraphs, "bullets": _bullets,
}
_FLAGS: Mapping[str, Callable[[str], bool]] = {
    "uppercase": lambda text: bool(_letters(text)) and _letters(text).upper() == _letters(text),
    "lowercase": lambda text: bool(_letters(text)) and _letters(text).lower() == _letters(text),
}

CHECKS: tuple[str, ...] = (
    *_TEXTS, *_PATTERNS, *(f"{way}_{what}" for what in _COUNTS for way in ("min", "max")), "language", "json", *_FLAGS)
"""The names of all checks: docs/metrics.md says what each asks."""


def read_checks(text: str) -> list[tuple[str, Any, bool]]:
    """Each check in a row's `checks` as (name, value, whether case counts). It is a JSON list of objects that each hold
    one check or several, and maybe `"case": true`. Raises BadInput for what is no check."""
    try:
        told = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"the checks of a row are not JSON: {str(error)[:100]}", 'for example [{"max_words": 50}]'
                       ) from error
    found: list[tuple[str, Any, bool]] = []
    for one in [told] if isinstance(told, dict) else told if isinstance(told, list) else [told]:
        if not isinstance(one, dict):
            raise BadInput("the checks of a row are a JSON list of objects", 'for example [{"max_words": 50}]')
        case = one.get("case", False)
        found += [(name, _meant(name, value), bool(case)) for name, value in one.items() if name != "case"]
    if not found:
        raise BadInput("a row's checks ask for nothing", 'for example [{"max_words": 50}]')
    return found


def checks_passed(sample: Sample) -> float:
    """Share of its checks that an answer passes."""
    outcomes = _outcomes(sample)
    return sum(outcomes) / len(outcomes)


def all_checks_passed(sample: Sample) -> float:
    """1.0 where an answer passes all of its checks."""
    return float(all(_outcomes(sample)))


def followed(sample: Sample) -> float:
    """Share of its checks that an answer passes; where a row has none, token F1 to its reference."""
    if sample.checks:
        return checks_passed(sample)
    if not sample.references:
        raise BadInput("a row has neither checks nor a reference", "write one of them")
    return max(token_f1(sample.output, one) for one in sample.references)


def _outcomes(sample: Sample) -> list[bool]:
    return [_passes(sample.output, *one) for one in read_checks(sample.checks)]


def _meant(name: str, value: Any) -> Any:
    """The value of a check in its one form. Raises BadInput."""
    if name not in CHECKS:
        near = difflib.get_close_matches(name, CHECKS, 1)
        raise BadInput(f"there is no check {name[:80]}", f"did you mean {near[0]}?" if near else
                       f"known: {', '.join(CHECKS)}")
    if name in _FLAGS or name == "json":
        if value is True or value is False or (name == "json" and value in ("object", "array")):
            return value
        raise BadInput(f"the check {name} needs true or false, not {str(value)[:40]}")
    if name.startswith(("min_", "max_")):
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
        raise BadInput(f"the check {name} needs a whole number, not {str(value)[:40]}")
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(one, str) and one for one in texts):
        raise BadInput(f"the check {name} needs a text or a list of texts, not {str(value)[:40]}")
    if name in _PATTERNS:
        import regex

        for one in texts:
            try:
                if len(one) > LONGEST:
                    raise BadInput(f"a pattern has more than {LONGEST:,} characters")
                regex.compile(one)
            except regex.error as error:
                raise BadInput(f"the pattern {one[:60]} cannot be read: {error}", "mend the check") from error
    return texts


def _passes(text: str, name: str, value: Any, case: bool) -> bool:
    if name in _FLAGS:
        return _FLAGS[name](text) is value
    if name == "json":
        return _json(text.strip(), value)
    if name == "language":
        return _language(text, value)
    if name.startswith("min_"):
        return _COUNTS[name[4:]](text) >= value
    if name.startswith("max_"):
        return _COUNTS[name[4:]](text) <= value
    if name in _PATTERNS:
        found = _patterns(text, value, case)
        return found is not None and (all(found) if name == "regex" else not any(found))
    return _TEXTS[name](text, value) if case else _TEXTS[name](text.casefold(), [one.casefold() for one in value])
