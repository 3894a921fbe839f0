"""JSON that was to be extracted: fields right, the schema kept, the whole equal."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from bucle.evaluate.metrics.samples import Sample
from bucle.evaluate.metrics.words import normalise

if TYPE_CHECKING:
    from bucle.data.schema import Schema

__all__ = ["MISSING", "field_f1", "json_in", "json_match", "schema_valid"]

LONGEST = 200_000
"""Characters of an output that is looked at for JSON."""
MISSING = object()
"""What `json_in` gives where there is no JSON."""
_STARTS = 20  # places where JSON may begin that are tried
_FENCED = re.compile(r"```[\w-]*[ \t]*\n(.*?)```", re.DOTALL)


def json_in(text: str) -> Any:
    """The JSON value in what a model wrote: the whole text, a fenced block, or the first object or list in it that can
    be read; MISSING where there is none. What is no number to JSON (`NaN`) is none here."""
    text = text[:LONGEST].strip().removeprefix("\ufeff")
    for piece in (text, *(match[1] for match in _FENCED.finditer(text))):
        if (found := _read(piece)) is not MISSING:
            return found
    decoder = json.JSONDecoder(parse_constant=_refuse)
    for at in [match.start() for match in re.finditer(r"[{\[]", text)][:_STARTS]:
        try:
            return decoder.raw_decode(text, at)[0]
        except (ValueError, RecursionError):
            continue
    return MISSING


def field_f1(output: str, reference: str) -> float:
    """F1 in [0, 1] of the fields of two JSON values, each a path and a value (`cliente.nombre`, `líneas[].importe`; the
    order of a list does not count). Texts are compared as `normalise` reads them, numbers as numbers, also where one is
    written as a text; null and what is empty is as good as absent. No JSON: 0."""
    said, wanted = json_in(output), json_in(reference)
    if said is MISSING or wanted is MISSING:
        return 0.0
    mine, theirs = Counter(_fields(said)), Counter(_fields(wanted))
    if not mine or not theirs:
        return float(mine == theirs)
    return 2 * (mine & theirs).total() / (mine.total() + theirs.total())


def json_match(output: str, reference: str) -> float:
    """1.0 where two texts hold the same JSON value: types, values and the order of lists; not that of keys."""
    said, wanted = json_in(output), json_in(reference)
    return float(said is not MISSING and wanted is not MISSING and _same(said, wanted))


def schema_valid(sample: Sample) -> float:
    """1.0 where the output holds JSON that keeps the schema; formats are not looked at, and nothing is fetched."""
    found = json_in(sample.output)
    if found is MISSING or sample.schema is None:
        return 0.0
    return float(not _schema(json.dumps(sample.schema, sort_keys=True)).fault(found))


@lru_cache(maxsize=8)
def _schema(text: str) -> Schema:
    from bucle.data.schema import Schema

    return Schema(json.loads(text))


def _read(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return MISSING


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _fields(value: Any) -> Iterator[tuple[str, str]]:
    """Path and value of every leaf, read without recursion, so that depth is no danger."""
    waiting: list[tuple[str, Any]] = [("", value)]
    while waiting:
        path, one = waiting.pop()
        if isinstance(one, Mapping):
            waiting += [(f"{path}.{key}" if path else str(key), part) for key, part in one.items()]
        elif isinstance(one, list):
            waiting += [(f"{path}[]", part) for part in one]
        elif (said := _value(one)) is not None:
            yield path, said


def _value(one: Any) -> str | None:
    if one is None:
        return None
    if isinstance(one, bool):
        return str(one)
    if isinstance(one, int | float):
        return _number(str(one))
    words = normalise(one)
    if len(words) == 1 and words[0][0].isdigit() and not one.strip().startswith("-"):
        return _number(words[0])
    return " ".join(words) or one.strip() or None


def _number(text: str) -> str:
    """One spelling of a number: 12.50, 12.5 and 1.25e1 are one."""
    try:
        value = float(text)
    except ValueError:  # 1.2.3
        return text
    return repr(value) if math.isfinite(value) else text


def _same(one: Any, other: Any) -> bool:
    """Equal as JSON: true is not 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(part, other[key]) for key, part in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)
