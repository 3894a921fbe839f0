"""Whether an answer gives the system prompt away: a random token put into it, and its own words at length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Secret", "protect"]

Messages = tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """The token of one request and the system prompt that it stands in."""

    token: str
    prompt: str


def protect(messages: Sequence[Mapping[str, Any]]) -> tuple[Messages, Secret | None]:
    """`messages` with a fresh random token in the first system message, and what to look for in the answer. Without a
    system message: as they are, None."""
    return tuple(messages), None
