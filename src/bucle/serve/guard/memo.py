"""What is remembered of texts: several hundred short ones, a few long ones, so that memory stays small."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Remembered"]

T = TypeVar("T")

SHORT = 20_000
"""Characters up to which a text is one of many."""
MANY, FEW = 256, 8


class Remembered(Generic[T]):
    """`work` of a text, done once for a text that comes again soon. Use as a decorator."""

    def __init__(self, work: Callable[[str], T]) -> None:
        functools.update_wrapper(self, work)
        self._short, self._long = functools.lru_cache(MANY)(work), functools.lru_cache(FEW)(work)

    def __call__(self, text: str) -> T:
        return self._short(text) if len(text) <= SHORT else self._long(text)

    def cache_clear(self) -> None:
        """Forget all."""
        self._short.cache_clear()
        self._long.cache_clear()
