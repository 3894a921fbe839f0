"""The texts inside a text: the strings of JSON one by one, so that each can be changed without breaking it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

__all__ = ["leaves", "mapped"]


def leaves(text: str, *, is_json: bool) -> list[str]:
    """The strings in JSON, keys too, in their order; `text` itself where it is no JSON."""
    found: list[str] = []

    def keep(one: str) -> str:
        found.append(one)
        return one

    mapped(text, keep, is_json=is_json)
    return found


def mapped(
    text: str, change: Callable[[str], str], *, is_json: bool, number: Callable[[int], Any] = lambda value: value
) -> str:
    """`text` with `change` made to it, or of JSON to each string in it and `number` to each whole number; what nothing
    changes stays as it is written."""
    if not is_json:
        return change(text)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return change(text)
    new = _walked(value, change, number)
    return text if new == value else json.dumps(new, ensure_ascii=False)


def _walked(value: Any, change: Callable[[str], str], number: Callable[[int], Any]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return number(value)
    if isinstance(value, list):
        return [_walked(one, change, number) for one in value]
    if isinstance(value, dict):
        return {change(key): _walked(inner, change, number) for key, inner in value.items()}
    return value
