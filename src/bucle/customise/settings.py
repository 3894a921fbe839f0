"""Settings that bucle.yaml gives a technique, checked where they are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bucle.core.errors import ConfigError

__all__ = ["whole"]


def whole(params: Mapping[str, Any], name: str, default: int, *, least: int = 1, most: int = 100_000) -> int:
    """The whole number called `name`, or the default. Raises ConfigError for anything else, or out of bounds."""
    value = params.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ConfigError(
            f"The setting `{name}` is {str(value)[:40]!r}; it is a whole number from {least} to {most}.",
            "Correct it under `choose.techniques` in bucle.yaml.",
        )
    return value
