"""What may be kept of a step: nothing that holds personal data or a secret."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["unfit"]


def unfit(value: Any, hide: Callable[[str], str]) -> str:
    """Why `value` (JSON) may not be kept: `personal data`, `a secret`, or empty where it may. Personal data are what
    the redaction of traces finds too (data.personal), secrets also what `hide` takes out of a text."""
    from bucle.data.personal import find

    text = "\n".join(_texts(value, ""))
    if hide(text) != text:
        return "a secret"
    kinds = {one.kind for one in find(text)}
    return "a secret" if "secret" in kinds else "personal data" if kinds else ""


def _texts(value: Any, name: str) -> Iterator[str]:
    """Every text and number in a value, with the name that it has there: `phone: 600…`."""
    if isinstance(value, dict):
        for key, one in value.items():
            yield from _texts(one, str(key))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one, name)
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        yield f"{name}: {value}" if name else str(value)
