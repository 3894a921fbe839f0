"""Reading a judge's reply: one JSON object with a whole number in it, or nothing."""

from __future__ import annotations

import json
import re
from typing import Any

__all__ = ["read_verdict"]

_LONGEST = 20_000  # characters of a reply that are looked at
_OBJECTS = 50
_BARE = re.compile(r"\s*(?:\*\*)?(?:score|better)?\W{0,4}(\d{1,2})(?:\s*/\s*\d{1,2})?\W{0,4}", re.I | re.ASCII)


def read_verdict(reply: str, field: str, low: int, high: int) -> tuple[int, str] | None:
    """The whole number from `low` to `high` under `field` in the JSON object of `reply`, and its `reason`; None where
    there is none, or where several objects differ (a judge that quotes what it judged). A reply that is nothing but the
    number is read too. JSON may stand in a code fence or between other words."""
    text = reply[:_LONGEST]
    found = {}
    for value in _objects(text):
        number = _whole(value.get(field), high)
        if number is not None:
            found[number] = str(value.get("reason", ""))[:1000]
    if not found and (bare := _BARE.fullmatch(text)):
        found[int(bare[1])] = ""
    if len(found) != 1:
        return None
    (number, reason), = found.items()
    return (number, reason) if low <= number <= high else None


def _objects(text: str) -> list[dict[str, Any]]:
    """The JSON objects in `text` that do not stand in one another."""
    decoder, found, start = json.JSONDecoder(), list[dict[str, Any]](), 0
    for _ in range(_OBJECTS):
        start = text.find("{", start)
        if start < 0:
            break
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            start += 1
            continue
        if isinstance(value, dict):
            found.append(value)
        start = end
    return found


def _whole(value: Any, high: int) -> int | None:
    """`4`, `4.0`, `"4"` and `"4/5"` (of a scale to 5) as a whole number."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        match = re.fullmatch(rf"\s*(\d{{1,2}})(?:\.0)?(?:\s*/\s*{high})?\s*", value, re.ASCII)
        return int(match[1]) if match else None
    return int(value) if isinstance(value, int | float) and abs(value) < 100 and value == int(value) else None
