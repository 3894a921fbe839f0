"""What a body may hold, said once: the parsers check by it and the OpenAPI document is written from it.

A field's `read` gives the checked value or raises Wrong; its `schema` is the same in JSON Schema. Paths are put
together only when something is wrong, so that what is right is read in microseconds.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from bucle.serve.errors import ApiError

__all__ = ["Choice", "Either", "Exactly", "Field", "Flag", "ListOf", "MapOf", "Named", "Number", "Refused", "Shape",
           "Tagged", "Text", "Whole", "Wrong", "read"]


EXACT = 2**53
"""A larger number that came as a float may have been another: JSON readers make floats of integers beyond 64 bits."""


class Wrong(Exception):
    """Why a value is refused. `message` begins after the field's name; `path` leads to it, outermost first."""

    def __init__(self, message: str, code: str = "invalid_value", status: int = 400, at: str = "") -> None:
        super().__init__(message)
        self.message, self.code, self.status = message, code, status
        self.path: list[str | int] = [at] if at else []

    @property
    def where(self) -> str:
        """`messages[0].content`, as clients know it."""
        text = ""
        for step in self.path:
            text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
        return text

    def error(self) -> ApiError:
        where = _short(self.where)
        return ApiError(self.status, f"`{where}` {self.message}" if where else f"the body {self.message}",
                        code=self.code, param=where or None)


class Field(Protocol):
    def read(self, value: Any) -> Any: ...

    def schema(self) -> dict[str, Any]: ...


def read(shape: Field, body: Any) -> Any:
    """`body` as `shape` reads it. Raises ApiError that names the field."""
    try:
        return shape.read(body)
    except Wrong as wrong:
        raise wrong.error() from None


@dataclass(frozen=True)
class Text:
    """A string of `shortest` to `longest` characters. `too_long` is the status for a longer one."""

    longest: int
    shortest: int = 0
    too_long: int = 400

    def read(self, value: Any) -> str:
        if not isinstance(value, str):
            raise Wrong("must be a string", "invalid_type")
        if len(value) > self.longest:
            raise Wrong(f"is longer than {self.longest} characters",
                        "input_too_long" if self.too_long == 413 else "invalid_value", self.too_long)
        if len(value) < self.shortest:
            raise Wrong("must not be empty" if self.shortest == 1 else f"needs {self.shortest} characters or more")
        return value

    def schema(self) -> dict[str, Any]:
        low = {"minLength": self.shortest} if self.shortest else {}
        return {"type": "string", "maxLength": self.longest, **low}


@dataclass(frozen=True)
class Named:
    """A string that matches `pattern` (both Python's and JSON Schema's); `says` what that is."""

    pattern: str
    says: str

    def read(self, value: Any) -> str:
        if not isinstance(value, str) or not re.fullmatch(self.pattern, value):
            raise Wrong(f"must be {self.says}")
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "pattern": f"^{self.pattern}$"}


@dataclass(frozen=True)
class Flag:
    def read(self, value: Any) -> bool:
        if not isinstance(value, bool):
            raise Wrong("must be true or false", "invalid_type")
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}


@dataclass(frozen=True)
class Whole:
    low: int
    high: int

    def read(self, value: Any) -> int:
        if isinstance(value, float) and value.is_integer() and abs(value) < EXACT:
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not self.low <= value <= self.high:
            raise Wrong(f"must be a whole number from {self.low} to {self.high}")
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": self.low, "maximum": self.high}


@dataclass(frozen=True)
class Number:
    low: float
    high: float

    def read(self, value: Any) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not self.low <= value <= self.high:
            raise Wrong(f"must be a number from {self.low:g} to {self.high:g}")
        return float(value)

    def schema(self) -> dict[str, Any]:
        return {"type": "number", "minimum": self.low, "maximum": self.high}


@dataclass(frozen=True)
class Choice:
    """One of some strings."""

    values: tuple[str, ...]

    def read(self, value: Any) -> str:
        if not isinstance(value, str) or value not in self.values:
            raise Wrong(f"must be {_listed(self.values)}")
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "enum": list(self.values)}


@dataclass(frozen=True)
class Exactly:
    """A field of the official API that does nothing here: taken with values that ask for nothing."""

    values: tuple[Any, ...]
    instead: str = "leave it out"

    def read(self, value: Any) -> Any:
        if any(value == v and isinstance(value, bool) == isinstance(v, bool) for v in self.values):
            return value
        raise Wrong(f"is not served; {self.instead}", "unsupported_parameter")

    def schema(self) -> dict[str, Any]:
        return {"enum": list(self.values)}


@dataclass(frozen=True)
class Refused:
    """A field of the official API that is refused by name."""

    instead: str = "leave it out"

    def read(self, value: Any) -> Any:
        raise Wrong(f"is not served; {self.instead}", "unsupported_parameter")

    def schema(self) -> dict[str, Any]:
        return {"type": "null", "description": f"not served: {self.instead}"}


@dataclass(frozen=True)
class ListOf:
    """A list of `least` to `most`; more is refused with `too_many`, its status."""

    item: Field
    most: int
    least: int = 0
    too_many: int = 400

    def read(self, value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise Wrong("must be a list", "invalid_type")
        if len(value) > self.most:
            raise Wrong(f"holds {len(value)}; at most {self.most} are taken", "too_many", self.too_many)
        if len(value) < self.least:
            raise Wrong(f"must hold at least {self.least}")
        place, found, item = 0, [], self.item.read
        try:
            for place, given in enumerate(value):  # noqa: B007
                found.append(item(given))
        except Wrong as wrong:
            wrong.path.insert(0, place)
            raise
        return found

    def schema(self) -> dict[str, Any]:
        low = {"minItems": self.least} if self.least else {}
        return {"type": "array", "items": self.item.schema(), "maxItems": self.most, **low}


@dataclass(frozen=True)
class MapOf:
    """An object of up to `most` free names."""

    value: Field
    most: int
    keys: Field = Text(200)

    def read(self, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise Wrong("must be an object", "invalid_type")
        if len(value) > self.most:
            raise Wrong(f"holds {len(value)}; at most {self.most} are taken", "too_many")
        found = {}
        for name, given in value.items():
            try:
                found[self.keys.read(name)] = self.value.read(given)
            except Wrong as wrong:
                wrong.path.insert(0, name)
                raise
        return found

    def schema(self) -> dict[str, Any]:
        return {"type": "object", "maxProperties": self.most, "propertyNames": self.keys.schema(),
                "additionalProperties": self.value.schema()}


@dataclass(frozen=True)
class Shape:
    """An object of named fields. Null is "not said"; an unknown name is refused with the nearest right one."""

    fields: Mapping[str, Field]
    required: tuple[str, ...] = ()

    def read(self, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise Wrong("must be an object", "invalid_type")
        found, fields = {}, self.fields
        name = ""
        try:
            for name, given in value.items():
                field = fields.get(name)
                if field is None:
                    raise Wrong(f"is not a field here{self._near(name)}", "unknown_parameter")
                if given is not None:
                    found[name] = field.read(given)
        except Wrong as wrong:
            wrong.path.insert(0, name)
            raise
        for name in self.required:
            if name not in found:
                raise Wrong("is missing", "missing", at=name)
        return found

    def schema(self) -> dict[str, Any]:
        named = {n: f.schema() if n in self.required else nullable(f.schema()) for n, f in self.fields.items()}
        must = {"required": list(self.required)} if self.required else {}
        return {"type": "object", "properties": named, "additionalProperties": False, **must}

    def _near(self, name: str) -> str:
        served = [n for n, f in self.fields.items() if not isinstance(f, Refused | Exactly)]
        near = difflib.get_close_matches(name[:100], served, 1, 0.7)
        return f"; did you mean `{near[0]}`?" if near else "; leave it out"


@dataclass(frozen=True)
class Tagged:
    """An object whose `tag` says which shape it has, `default` where it says nothing. `refused` are tags of the
    official API that are not served, with what they are."""

    tag: str
    shapes: Mapping[str, Shape]
    refused: Mapping[str, str] | None = None
    default: str = ""

    def read(self, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise Wrong("must be an object", "invalid_type")
        tag = value.get(self.tag)
        tag = self.default if tag is None else tag
        shape = self.shapes.get(tag) if isinstance(tag, str) else None
        if shape is None:
            if isinstance(tag, str) and self.refused is not None and tag in self.refused:
                raise Wrong(f"{self.refused[tag]}", "unsupported_value", at=self.tag)
            raise Wrong(f"must be {_listed(tuple(self.shapes))}", "unsupported_value", at=self.tag)
        return shape.read(value)

    def schema(self) -> dict[str, Any]:
        return {"oneOf": [shape.schema() for shape in self.shapes.values()]}


@dataclass(frozen=True)
class Either:
    """A string, or what `other` reads (anything but a string)."""

    text: Field
    other: Field

    def read(self, value: Any) -> Any:
        return self.text.read(value) if isinstance(value, str) else self.other.read(value)

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [self.text.schema(), self.other.schema()]}


def nullable(schema: dict[str, Any]) -> dict[str, Any]:
    """`schema`, or null."""
    if "enum" in schema:
        types = {"type": [schema["type"], "null"]} if isinstance(schema.get("type"), str) else {}
        return {**schema, **types, "enum": [*schema["enum"], None]}
    kind = schema.get("type")
    if isinstance(kind, str):
        return schema if kind == "null" else {**schema, "type": [kind, "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def _listed(values: Sequence[str]) -> str:
    return values[0] if len(values) == 1 else f"{', '.join(values[:-1])} or {values[-1]}"


def _short(text: str) -> str:
    """A name that a client wrote, fit for a message: one line, at most 100 characters."""
    return "".join(c if c.isprintable() else "?" for c in text[:101])[:100]
