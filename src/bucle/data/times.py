"""When a row is from, out of the ways that people write it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime

__all__ = ["instants"]

_NUMBERS = re.compile(r"(\d{1,2})[/.-](\d{1,2})[/.-](\d{4}|\d{2})(?:[ T,]+(\d{1,2}):(\d{2})(?::(\d{2}))?)?")
_EPOCH = re.compile(r"1\d{9}(?:\d{3})?(?:\.\d+)?")


def instants(values: Sequence[str]) -> list[float | None]:
    """Seconds since the epoch of each value, None where it says no time.

    ISO 8601 (UTC where no offset is given), seconds or milliseconds since the epoch, and numbers such as
    `31/12/2024 10:30`: day first, unless a value of the column can only be month first.
    """
    parts = [_NUMBERS.fullmatch(value.strip()) for value in values]
    first = max((int(part[1]) for part in parts if part), default=0)
    second = max((int(part[2]) for part in parts if part), default=0)
    day = 1 if first > 12 or second <= 12 else 2
    return [_numbers(part, day) if part else _iso(value.strip()) for value, part in zip(values, parts, strict=True)]


def _iso(value: str) -> float | None:
    if _EPOCH.fullmatch(value):
        number = float(value)
        return number / 1000 if number > 1e11 else number
    try:
        when = datetime.fromisoformat(value)
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def _numbers(part: re.Match[str], day: int) -> float | None:
    year = int(part[3]) + (2000 if len(part[3]) == 2 else 0)
    try:
        date = datetime(year, int(part[3 - day]), int(part[day]), tzinfo=UTC)
        when = date.replace(hour=int(part[4] or 0), minute=int(part[5] or 0), second=int(part[6] or 0))
    except ValueError:
        return None
    return when.timestamp()
