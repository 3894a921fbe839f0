"""The values of a prompt's inputs: each of the type that the prompt says, within its bounds. A value is data: it is
never read as a template."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from bucle.core.errors import TemplateError
from bucle.core.prompting import PromptInput, PromptSpec

__all__ = ["MAX_INPUT", "check_inputs", "coerced"]

MAX_INPUT = 2_000_000  # characters of `input` where the prompt declares no bound
MAX_ITEMS = 10_000  # of a list
GIVEN = frozenset({"input", "passages"})
_RESERVED = frozenset({"passages", "loop", "self", "range", "true", "false", "none", "True", "False", "None", "not",
                       "and", "or", "in", "is", "if", "else", "elif", "for", "set", "with", "import", "include"})
_TRUE = frozenset({"true", "yes", "on", "1", "sí", "si"})
_FALSE = frozenset({"false", "no", "off", "0"})
_EMPTY: Mapping[str, Any] = {"text": "", "choice": "", "number": None, "flag": False, "list": ()}


def check_inputs(spec: PromptSpec) -> None:
    """Raises TemplateError (its `field` says of which) for an input whose name no template can hold, a choice of
    nothing, a default that its own type refuses."""
    for name, declared in spec.inputs.items():
        try:
            _check(spec, name, declared)
        except TemplateError as error:
            vars(error).update(field=f"inputs.{name}", line=0)
            raise


def _check(spec: PromptSpec, name: str, declared: PromptInput) -> None:
    if not name.isidentifier() or name in _RESERVED or name.startswith("_"):
        raise _wrong(spec, f"`{name}` cannot be the name of an input.", "Use a word, such as `tono`.")
    if name == "input" and declared.type != "text":
        raise _wrong(spec, "`input` is a text: what the user wrote.", "Give it another name, or `type: text`.")
    if declared.type == "choice" and not declared.of:
        raise _wrong(spec, f"`inputs.{name}` is a choice of nothing.", "Add `of: [one, other]` to it.")
    if declared.type != "choice" and declared.of:
        raise _wrong(spec, f"`inputs.{name}` has `of` and is no choice.", "Write `type: choice` there.")
    if declared.default is not None:
        _value(spec, name, declared, declared.default)


def coerced(spec: PromptSpec, values: Mapping[str, Any], *, text: str | None = None) -> dict[str, Any]:
    """A value for every input, each of its type; `text` is `input`. Raises TemplateError for one that is missing, is of
    another type or too long, or is no input of the prompt (naming the nearest)."""
    given = dict(values)
    if text is not None:
        given["input"] = text
    known = {*spec.inputs, "input"}
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name), sorted(known), n=1, cutoff=0.5)
            hint = f"Did you mean `{near[0]}`?" if near else f"Inputs: {', '.join(sorted(known))}."
            raise _wrong(spec, f"`{name}` is no input of this prompt.", hint)
    found: dict[str, Any] = {}
    for name, declared in {"input": PromptInput(max_characters=MAX_INPUT), **spec.inputs}.items():
        if name in given:
            found[name] = _value(spec, name, declared, given[name])
        elif declared.default is not None:
            found[name] = _value(spec, name, declared, declared.default)
        elif declared.required:
            raise _wrong(spec, f"the input `{name}` is missing.", f"Give it a value, or `default:` in `inputs.{name}`.")
        else:
            found[name] = _EMPTY[declared.type]
    return found


def _value(spec: PromptSpec, name: str, declared: PromptInput, value: Any) -> Any:
    if declared.type == "text":
        return _text(spec, name, declared, value)
    if declared.type == "choice":
        wanted = _text(spec, name, declared, value)
        if wanted not in declared.of:
            near = difflib.get_close_matches(wanted, declared.of, n=1, cutoff=0.5)
            raise _wrong(spec, f"`{name}` cannot be {wanted[:60]!r}, only {', '.join(declared.of)}.",
                         f"Did you mean `{near[0]}`?" if near else "Choose one of them.")
        return wanted
    if declared.type == "number":
        return _number(spec, name, value)
    if declared.type == "flag":
        said = str(value).strip().lower()
        if isinstance(value, bool) or said in _TRUE | _FALSE:
            return value if isinstance(value, bool) else said in _TRUE
        raise _wrong(spec, f"`{name}` is a flag and cannot be {str(value)[:60]!r}.", "Say true or false.")
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise _wrong(spec, f"`{name}` is a list and was given {_kind(value)}.", "Give a list of texts.")
    if len(value) > MAX_ITEMS:
        raise _wrong(spec, f"`{name}` has {len(value):,} items; {MAX_ITEMS:,} are the most.", "Give fewer.")
    return tuple(_text(spec, name, declared, item) for item in value)


def _text(spec: PromptSpec, name: str, declared: PromptInput, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _wrong(spec, f"`{name}` is a text and was given {_kind(value)}.", "Put it in quotes.")
    text = str(value)
    if len(text) > declared.max_characters:
        raise _wrong(spec, f"`{name}` has {len(text):,} characters; {declared.max_characters:,} are the most.",
                     f"Shorten it, or raise `inputs.{name}.max_characters`.")
    return text.encode("utf-8", "replace").decode()  # lone surrogates, which no tokenizer takes


def _number(spec: PromptSpec, name: str, value: Any) -> int | float:
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str) or len(str(value)) > 40:
            raise ValueError
        number = float(value)
    except (ValueError, OverflowError):
        raise _wrong(spec, f"`{name}` is a number and cannot be {str(value)[:60]!r}.", "Write 3 or 2.5.") from None
    if not math.isfinite(number) or abs(number) > 1e18:
        raise _wrong(spec, f"`{name}` cannot be {str(value)[:60]}.", "Give a finite number.")
    return int(number) if number.is_integer() else number


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    named = {"bool": "a flag", "int": "a number", "float": "a number", "str": "a text", "dict": "a mapping"}
    return named.get(type(value).__name__, f"a {type(value).__name__}")


def _wrong(spec: PromptSpec, message: str, hint: str) -> TemplateError:
    return TemplateError(f"Prompt {spec.name}: {message}", hint)
