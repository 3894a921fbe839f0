"""Schemas and patterns that clients write: small, without loops, and of patterns that take linear time."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from bucle.serve.dialects.fields import Wrong

__all__ = ["FreeObject", "JsonSchema", "Pattern", "depth_of"]

SCHEMA_BYTES = 65_536
SCHEMA_DEPTH = 40
SCHEMA_UNFOLDED = 20_000
"""Places of a schema once every `$ref` is replaced by what it names, a recursive one once: engines unfold them."""
PATTERN_CHARS = 1_000
PATTERN_BYTES = 65_536
"""The most a compiled pattern may take: `(a{1000}){1000}` takes more."""
PATTERNS = 32
"""Patterns of one schema: each is compiled before anything is asked."""
CLASSES = 64
"""`\\w` and the like in one pattern, or in all of a schema's: each takes a fifth of a millisecond to compile."""
REFERENCES = 100
"""References that lead to one another."""

_CLASS = re.compile(r"\\[wWdDsSpPbB]|\[")
_REFERS = ("$ref", "$dynamicRef")
_MAPS = ("properties", "patternProperties", "dependentSchemas")


@dataclass(frozen=True)
class Pattern:
    """A regular expression of the linear kind: no look-around, no back-reference, no repetition that explodes."""

    def read(self, value: Any) -> str:
        if not isinstance(value, str) or not value:
            raise Wrong("must be a regular expression", "invalid_type")
        if len(value) > PATTERN_CHARS:
            raise Wrong(f"is longer than {PATTERN_CHARS} characters")
        if not _linear(value):
            raise Wrong("is not a regular expression that can be served: no look-around, no back-reference, no "
                        "repetition of thousands", "invalid_regex")
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "minLength": 1, "maxLength": PATTERN_CHARS, "format": "regex"}


@dataclass(frozen=True)
class JsonSchema:
    """A JSON schema: an object of at most SCHEMA_BYTES, its references within itself and not in a circle."""

    def read(self, value: Any) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise Wrong("must be a JSON schema: an object", "invalid_type")
        if not value:
            return value
        if depth_of(value, SCHEMA_DEPTH) > SCHEMA_DEPTH:
            raise Wrong(f"is nested deeper than {SCHEMA_DEPTH}", "invalid_schema")
        text = json.dumps(value, sort_keys=True)
        if len(text) > SCHEMA_BYTES:
            raise Wrong(f"is longer than {SCHEMA_BYTES} bytes", "invalid_schema")
        if why := _unusable(text):
            raise Wrong(why, "invalid_schema")
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "object", "description": f"A JSON schema (draft 2020-12) of at most {SCHEMA_BYTES} bytes"}


@dataclass(frozen=True)
class FreeObject:
    """Any object of at most `longest` characters as JSON, nested no deeper than a schema."""

    longest: int

    def read(self, value: Any) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise Wrong("must be an object", "invalid_type")
        if depth_of(value, SCHEMA_DEPTH) > SCHEMA_DEPTH:
            raise Wrong(f"is nested deeper than {SCHEMA_DEPTH}")
        if len(json.dumps(value, ensure_ascii=False)) > self.longest:
            raise Wrong(f"is longer than {self.longest} characters", "input_too_long", 413)
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "object", "description": f"at most {self.longest} characters as JSON"}


def depth_of(value: Any, most: int) -> int:
    """How deep `value` is nested; looks no deeper than `most` + 1."""
    level, depth = [value], 0
    while level and depth <= most:
        inner = [v for one in level if isinstance(one, dict | list)
                 for v in (one.values() if isinstance(one, dict) else one)]
        depth += any(isinstance(one, dict | list) for one in level)
        level = inner
    return depth


@lru_cache(512)
def _linear(pattern: str) -> bool:
    import jsonschema_rs

    if len(_CLASS.findall(pattern)) > CLASSES:
        return False
    try:
        jsonschema_rs.validator_for({"pattern": pattern}, pattern_options=jsonschema_rs.RegexOptions(
            size_limit=PATTERN_BYTES))
    except (jsonschema_rs.ValidationError, ValueError):
        return False
    return True


@lru_cache(512)
def _unusable(text: str) -> str:
    """Why the schema `text` cannot be served; empty if it can."""
    import jsonschema_rs

    root = json.loads(text)
    try:
        if not jsonschema_rs.meta.is_valid(root):
            return "is not a valid JSON schema"
    except (jsonschema_rs.ReferencingError, jsonschema_rs.ValidationError, ValueError):
        return "is not a valid JSON schema that can be served: leave out `$schema`"
    seen: set[str] = set()
    for place in _places(root):
        for refers in _REFERS:
            if refers in place and (not isinstance(place[refers], str) or not place[refers].startswith("#")):
                return f"refers to another document (`{refers}`), which is not fetched; write it under $defs"
            if refers in place and _named(root, place[refers]) is None:
                return f"refers to {place[refers][:100]!r}, which is not in it"
        patterns = [place["pattern"]] if isinstance(place.get("pattern"), str) else []
        if isinstance(place.get("patternProperties"), dict):
            patterns += place["patternProperties"]
        seen.update(patterns)
        if len(seen) > PATTERNS:
            return f"holds more than {PATTERNS} patterns"
        if sum(len(_CLASS.findall(p)) for p in seen) > CLASSES:
            return f"holds patterns with more than {CLASSES} classes of characters"
        for pattern in patterns:
            if len(pattern) > PATTERN_CHARS or not _linear(pattern):
                return "holds a `pattern` that cannot be served: no look-around, no back-reference, none that explodes"
    return _unfolds(root)


def _places(root: Any) -> Iterator[dict[str, Any]]:
    """Every object in it."""
    waiting = [root]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield one
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one


def _named(root: Any, reference: str) -> Any:
    """What `#/$defs/a` names, or None."""
    if reference == "#":
        return root
    if not reference.startswith("#/"):
        return None
    for step in unquote(reference[2:]).split("/"):
        step = step.replace("~1", "/").replace("~0", "~")
        if isinstance(root, dict) and step in root:
            root = root[step]
        elif isinstance(root, list) and step.isdecimal() and int(step) < len(root):
            root = root[int(step)]
        else:
            return None
    return root


def _unfolds(root: Any) -> str:
    """Why it cannot be unfolded: a circle of references with nothing between, or more than SCHEMA_UNFOLDED places."""
    sizes: dict[str, int] = {}

    def size(value: Any, chain: frozenset[str], inside: frozenset[str]) -> int:
        """Places in `value`; `chain` are the references followed since the last step inwards."""
        if isinstance(value, list):
            return sum(size(v, chain, inside) for v in value)
        if not isinstance(value, dict):
            return 0
        total = 1
        for name, inner in value.items():
            if name in _REFERS and isinstance(inner, str):
                if inner in chain or len(inside) > REFERENCES:
                    raise RecursionError
                if inner in inside:
                    continue
                if inner not in sizes:
                    sizes[inner] = size(_named(root, inner), chain | {inner}, inside | {inner})
                total += sizes[inner]
            elif name not in ("$defs", "definitions"):  # counted where they are referred to
                same = name in ("allOf", "anyOf", "oneOf", "not", "if", "then", "else")
                if name in _MAPS and isinstance(inner, dict):
                    total += sum(size(v, frozenset(), inside) for v in inner.values())
                else:
                    total += size(inner, chain if same else frozenset(), inside)
            if total > SCHEMA_UNFOLDED:
                return total
        return total

    try:
        large = size(root, frozenset({"#"}), frozenset({"#"})) > SCHEMA_UNFOLDED
    except RecursionError:
        return f"refers to itself in a circle, or through more than {REFERENCES} references"
    return f"is longer than {SCHEMA_UNFOLDED} places once its references are followed" if large else ""
