"""A JSON schema or a regular expression as the EBNF that openvino-genai guides an answer by.

Written here because its own two ways cannot be used: its JSON lets a weak model fill its whole budget with whitespace,
and an expression that it cannot read breaks the pipeline for everybody. So only what is understood here reaches it, and
anything else is refused by name. Everything that a grammar made here lets through fits the schema; not everything that
fits is let through (no properties beyond those named, no space but one after `:` and `,`).
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from bucle.core.engine import ChatAsk
from bucle.core.errors import BadInput
from bucle.models.engines.tools import call_schema

__all__ = ["grammar_of", "of_regex", "of_schema"]

LIMIT = 100_000
"""Characters of a schema, an expression or the grammar made of it."""
DEEP = 32
REPEATS = 1_000
"""Most repetitions, nested ones multiplied: a grammar's automaton grows with them, and everybody waits for it."""
IGNORED = frozenset({
    "$schema", "$id", "$comment", "$defs", "definitions", "title", "description", "default", "examples", "deprecated",
    "readOnly", "writeOnly", "format", "additionalProperties", "required", "strict",
    "discriminator",
})
TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")
BASIC = r'''
value ::= object | array | string | number | "true" | "false" | "null"
object ::= "{" (member ("," " "? member)*)? "}"
member ::= string ":" " "? value
array ::= "[" (value ("," " "? value)*)? "]"
string ::= "\"" char* "\""
char ::= [\x20-\x21\x23-\x5b\x5d-\x7e\U00000080-\U0000d7ff\U0000e000-\U0010ffff] | "\\" (["\\/bfnrt] | "u" code)
code ::= [0-9a-cefA-CEF] [0-9a-fA-F]{3} | [dD] [0-7] [0-9a-fA-F]{2}
integer ::= "-"? ("0" | [1-9] [0-9]{0,17})
number ::= integer ("." [0-9]{1,17})? ([eE] [+-]? [0-9]{1,2})?
'''


def grammar_of(ask: ChatAsk) -> str:
    """The grammar of what `ask` demands (schema, any JSON object, regex, a tool's call); empty where it may say
    anything. Raises BadInput for what cannot be followed."""
    if ask.schema is not None:
        return of_schema(ask.schema)
    if ask.any_json:
        return of_schema({"type": "object"})
    if ask.regex is not None:
        return of_regex(ask.regex)
    demanded = call_schema(ask)
    return "" if demanded is None else of_schema(demanded)


def of_schema(schema: Any) -> str:
    """EBNF of JSON values that fit `schema`. Raises BadInput that names the first keyword that is not followed."""
    try:
        if len(json.dumps(schema)) > LIMIT:
            raise BadInput(f"The JSON schema is longer than {LIMIT:,} characters.", "send a smaller one")
    except (RecursionError, TypeError, ValueError) as error:
        raise BadInput("The JSON schema is not JSON, or nested too deeply.", "send a smaller one") from error
    return _bounded(_Schema(schema).grammar())


def of_regex(pattern: str) -> str:
    """EBNF of texts that match `pattern` whole (Python's syntax). Raises BadInput."""
    import re
    from re import _parser  # type: ignore[attr-defined]  # nothing public tells a pattern's parts

    if len(pattern) > LIMIT:
        raise BadInput(f"The regular expression is longer than {LIMIT:,} characters.", "send a smaller one")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parsed = _parser.parse(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise BadInput(f"The regular expression cannot be read: {str(error)[:200]}") from error
    if parsed.state.flags & ~re.UNICODE:
        raise BadInput("Flags in a regular expression are not followed.", "spell both cases out: [aA]")
    return _bounded("root ::= " + (_sequence(parsed, 1, 0) or '""') + "\n")


def _bounded(grammar: str) -> str:
    if len(grammar) > LIMIT:
        raise BadInput("What guides the answer is too large.", "send a smaller schema or expression")
    return grammar


# --- JSON schema


class _Schema:
    def __init__(self, schema: Any) -> None:
        self.schema = schema
        self.rules: dict[str, str] = {}
        self.named: dict[str, str] = {}

    def grammar(self) -> str:
        root = self.rule(self.schema, 0)
        return f"root ::= {root}\n" + "".join(f"{name} ::= {body}\n" for name, body in self.rules.items()) + BASIC

    def rule(self, schema: Any, depth: int) -> str:
        """The name of a rule for `schema`."""
        body = self.body(schema, depth)
        if body in TYPES or body == "value":
            return body
        name = f"r{len(self.rules)}"
        self.rules[name] = body
        return name

    def body(self, schema: Any, depth: int) -> str:
        if depth > DEEP:
            raise BadInput(f"The JSON schema is nested more than {DEEP} deep.", "send a smaller one")
        if schema is True or schema == {}:
            return "value"
        if not isinstance(schema, Mapping):
            raise BadInput("The JSON schema has a part that is not an object.", "see json-schema.org")
        if "$ref" in schema:
            self.only(schema, {"$ref"})
            return self.reference(schema)
        if "const" in schema:
            return self.among([schema["const"]], schema, "const")
        if "enum" in schema:
            if not isinstance(schema["enum"], (list, tuple)) or not schema["enum"]:
                raise BadInput("`enum` in the JSON schema is not a list of values.")
            return self.among(schema["enum"], schema, "enum")
        for name in ("anyOf", "oneOf"):
            if name in schema:
                self.only(schema, {name})
                if not isinstance(schema[name], (list, tuple)) or not schema[name]:
                    raise BadInput(f"`{name}` in the JSON schema is not a list of schemas.")
                return " | ".join(self.rule(one, depth + 1) for one in schema[name])
        kind = schema.get("type") or ("object" if "properties" in schema else "array" if "items" in schema else "")
        kinds = list(kind) if isinstance(kind, (list, tuple)) else [kind]
        if kinds == [""]:
            self.only(schema, set())
            return "value"
        return " | ".join(self.typed(one, schema, depth) for one in kinds)

    def typed(self, kind: Any, schema: Mapping[str, Any], depth: int) -> str:
        several = {"properties", "items", "minItems", "maxItems", "minLength", "maxLength"}
        if kind == "object":
            self.only(schema, several)
            return self.object(schema, depth)
        if kind == "array":
            self.only(schema, several)
            return self.array(schema, depth)
        if kind == "string":
            self.only(schema, several | {"pattern"})
            if "pattern" in schema:
                raise BadInput("`pattern` in a JSON schema is not followed by the engine openvino.",
                               "give an `enum`, or serve with engine: transformers")
            least, most = _range(schema, "minLength", "maxLength")
            return "string" if (least, most) == (0, None) else f'"\\"" char{_times(least, most)} "\\""'
        if kind in ("integer", "number"):
            if kind == "integer" and {"minimum", "maximum"} <= schema.keys():
                self.only(schema, several | {"minimum", "maximum"})
                try:
                    low, high = math.ceil(schema["minimum"]), math.floor(schema["maximum"])
                except (TypeError, ValueError, OverflowError) as error:
                    raise BadInput("`minimum` and `maximum` in the JSON schema are not numbers.") from error
                if low <= high < low + REPEATS:
                    return " | ".join(f'"{number}"' for number in range(low, high + 1))
                raise BadInput(f"The engine openvino follows `minimum` and `maximum` over at most {REPEATS} values.",
                               "narrow them, or leave them away and check the answer")
            self.only(schema, several)
            return str(kind)
        if kind == "boolean":
            self.only(schema, several)
            return '"true" | "false"'
        if kind == "null":
            self.only(schema, several)
            return '"null"'
        raise BadInput(f"`type` in the JSON schema is {str(kind)[:50]!r}, which is none of {', '.join(TYPES)}.")

    def among(self, values: Iterable[Any], schema: Mapping[str, Any], name: str) -> str:
        """Those of the `values` that have the schema's type."""
        import jsonschema_rs

        self.only(schema, {"const", "enum"})
        kind = schema.get("type")
        try:
            fit = [one for one in values if kind is None or jsonschema_rs.is_valid({"type": kind}, one)]
        except (jsonschema_rs.ValidationError, ValueError) as error:
            raise BadInput(f"`type` in the JSON schema is {str(kind)[:50]!r}, which is none of {', '.join(TYPES)}.",
                           "see json-schema.org") from error
        if not fit:
            raise BadInput(f"No value of `{name}` in the JSON schema has its `type`.", "correct either of them")
        return " | ".join(map(_literal, fit))

    def only(self, schema: Mapping[str, Any], followed: set[str]) -> None:
        if odd := sorted(str(name) for name in schema.keys() - followed - IGNORED - {"type"}):
            raise BadInput(f"`{odd[0][:50]}` in a JSON schema is not followed by the engine openvino.",
                           "leave it away, or serve the model with engine: transformers")

    def reference(self, schema: Mapping[str, Any]) -> str:
        path = str(schema["$ref"])
        if path not in self.named:
            found: Any = self.schema
            if not path.startswith("#"):
                raise BadInput(f"`$ref` in the JSON schema leaves the schema: {path[:100]}.", "put it under $defs")
            for part in path.lstrip("#").strip("/").split("/") if path.strip("#/") else []:
                part = part.replace("~1", "/").replace("~0", "~")
                if not isinstance(found, Mapping) or part not in found:
                    raise BadInput(f"`$ref` in the JSON schema names nothing: {path[:100]}.")
                found = found[part]
            name = self.named[path] = f"d{len(self.named)}"
            self.rules[name] = ""  # its place, while it may refer to itself
            self.rules[name] = self.body(found, 1)
            if self.rules[name] == name:
                raise BadInput(f"`$ref` in the JSON schema refers to itself: {path[:100]}.")
        return self.named[path]

    def object(self, schema: Mapping[str, Any], depth: int) -> str:
        properties = schema.get("properties") or {}
        required = schema.get("required") or []
        if not isinstance(properties, Mapping) or not isinstance(required, (list, tuple)):
            raise BadInput("`properties` or `required` in the JSON schema is of the wrong type.")
        if missing := [name for name in required if name not in properties]:
            if properties or schema.get("additionalProperties") is False:
                raise BadInput(f"`required` in the JSON schema names no property: {str(missing[0])[:100]!r}.")
            raise BadInput("`required` without `properties` in a JSON schema is not followed by the engine openvino.",
                           "name them under `properties`")
        if not properties:
            more = schema.get("additionalProperties", True)
            if more is False:
                return '"{}"'
            if more is True or more == {}:
                return "object"
            one = f'string ":" " "? {self.rule(more, depth + 1)}'
            return f'"{{" ({one} ("," " "? {one})*)? "}}"'
        members = [(_literal(str(name)) + f' ":" " "? {self.rule(one, depth + 1)}', name in required)
                   for name, one in properties.items()]
        # tail(i): what may follow once a member before i has been written, each in its turn; head(i): before the first.
        tail = head = '""'
        for member, must in reversed(members):
            follows = self.keep(tail)
            begins = self.keep(head)
            tail = f'"," " "? {member} {follows}' + ("" if must else f" | {follows}")
            head = f"{member} {follows}" + ("" if must else f" | {begins}")
        return f'"{{" {self.keep(head)} "}}"'

    def keep(self, body: str) -> str:
        if body == '""':
            return body
        name = f"r{len(self.rules)}"
        self.rules[name] = body
        return name

    def array(self, schema: Mapping[str, Any], depth: int) -> str:
        items = self.rule(schema.get("items", True), depth + 1)
        least, most = _range(schema, "minItems", "maxItems")
        if most == 0:
            return '"[]"'
        rest = f'("," " "? {items}){_times(max(0, least - 1), None if most is None else most - 1)}'
        return f'"[" {items} {rest} "]"' if least else f'"[" ({items} {rest})? "]"'


def _range(schema: Mapping[str, Any], low: str, high: str) -> tuple[int, int | None]:
    least, most = schema.get(low, 0), schema.get(high)
    for number in (least, most):
        if number is not None and (not isinstance(number, int) or not 0 <= number <= REPEATS):
            raise BadInput(f"`{low}` and `{high}` in a JSON schema must lie between 0 and {REPEATS}.")
    if most is not None and most < least:
        raise BadInput(f"`{high}` is less than `{low}` in the JSON schema.")
    return int(least), most


def _times(least: int, most: int | None) -> str:
    if (least, most) == (0, None):
        return "*"
    return f"{{{least},{'' if most is None else most}}}"


def _literal(value: Any) -> str:
    return _quoted(json.dumps(value, ensure_ascii=False))


def _quoted(text: str) -> str:
    """`text` as a string of the grammar; half surrogates become a question mark."""
    out = "".join(f"\\{one}" if one in '"\\' else one if " " <= one <= "~" else f"\\U{ord(one):08x}"
                  for one in text.encode("utf-8", "replace").decode())
    return f'"{out}"'


# --- regular expressions


def _sequence(parts: Iterable[Any], times: int, depth: int) -> str:
    if depth > DEEP:
        raise BadInput(f"The regular expression is nested more than {DEEP} deep.", "send a smaller one")
    return " ".join(text for part in parts if (text := _part(part, times, depth)))


def _part(part: tuple[Any, Any], times: int, depth: int) -> str:
    kind, value = str(part[0]), part[1]
    if kind == "LITERAL":
        return _quoted(chr(value))
    if kind == "NOT_LITERAL":
        return f"[^{_in_class(value)}]"
    if kind == "ANY":
        return r"[^\n]"
    if kind == "IN":
        return _class(value)
    if kind == "BRANCH":
        return "(" + " | ".join(_sequence(one, times, depth + 1) or '""' for one in value[1]) + ")"
    if kind == "SUBPATTERN":
        if value[1] or value[2]:
            raise BadInput("Flags in a regular expression are not followed.", "spell both cases out: [aA]")
        return "(" + (_sequence(value[3], times, depth + 1) or '""') + ")"
    if kind in ("MAX_REPEAT", "MIN_REPEAT"):
        least, most, body = value
        endless = str(most) == "MAXREPEAT"
        count = times * max(1, least if endless else most)
        if count > REPEATS:
            raise BadInput(f"The regular expression repeats more than {REPEATS} times (nested repeats multiplied).",
                           "use * or +, or smaller numbers")
        return f"({_sequence(body, count, depth + 1) or chr(34) * 2}){_times(least, None if endless else most)}"
    if kind == "AT" and str(value) in ("AT_BEGINNING", "AT_BEGINNING_STRING", "AT_END", "AT_END_STRING") and not depth:
        return ""
    raise BadInput(f"The regular expression uses what the engine openvino does not follow ({kind.lower()}).",
                   "use literals, classes, groups, alternatives and repeats")


CLASSES = {"CATEGORY_DIGIT": "0-9", "CATEGORY_WORD": "a-zA-Z0-9_", "CATEGORY_SPACE": r" \t\n\r"}


def _class(items: Iterable[Any]) -> str:
    negative, text = "", ""
    for kind, value in items:
        name = str(kind)
        if name == "NEGATE":
            negative = "^"
        elif name == "LITERAL":
            text += _in_class(value)
        elif name == "RANGE":
            text += f"{_in_class(value[0])}-{_in_class(value[1])}"
        elif str(value) in CLASSES:
            text += CLASSES[str(value)]
        elif str(value).replace("_NOT_", "_") in CLASSES and not text and not negative:
            negative, text = "^", CLASSES[str(value).replace("_NOT_", "_")]
        else:
            raise BadInput("The regular expression has a character class that the engine openvino does not follow.",
                           "write its characters out")
    return f"[{negative}{text}]"


def _in_class(code: int) -> str:
    character = chr(code)
    return character if character.isascii() and character.isalnum() else f"\\U{code:08x}"
