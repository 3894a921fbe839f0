"""Requests and tokens of the last minute: a sliding window, exact to a tenth of a second and never too generous."""

from __future__ import annotations

import math
from collections import deque

__all__ = ["Minute", "Slot", "span_text"]

SLOTS = 10  # a second
MINUTE = 60 * SLOTS


class Slot:
    """What came within one tenth of a second."""

    __slots__ = ("alive", "at", "requests", "tokens")

    def __init__(self, at: int) -> None:
        self.at, self.requests, self.tokens, self.alive = at, 0, 0, True


class Minute:
    """The window of one key or team. Times are a monotonic clock's, in seconds; the caller holds a lock.

    A slot counts until its last moment is a minute ago, so no 60 s hold more than a limit, and no window more than 601
    slots, however many requests there are.
    """

    __slots__ = ("_slots", "requests", "tokens")

    def __init__(self) -> None:
        self._slots: deque[Slot] = deque()
        self.requests = self.tokens = 0

    def forget(self, now: float) -> None:
        """Leave out what is older than a minute."""
        slots, oldest = self._slots, int(now * SLOTS) - MINUTE
        while slots and slots[0].at < oldest:
            gone = slots.popleft()
            gone.alive = False
            self.requests -= gone.requests
            self.tokens -= gone.tokens

    def take(self, now: float, tokens: int) -> Slot:
        """Count one request of `tokens`."""
        at = int(now * SLOTS)
        slots = self._slots
        if not slots or slots[-1].at < at:
            slots.append(Slot(at))
        slot = slots[-1]
        slot.requests += 1
        slot.tokens += tokens
        self.requests += 1
        self.tokens += tokens
        return slot

    def correct(self, slot: Slot, tokens: int) -> None:
        """`tokens` more (or fewer) than were counted in `slot`; nothing where a minute has passed."""
        if slot.alive:
            slot.tokens += tokens
            self.tokens += tokens

    def wait_s(self, now: float, requests: int | None, tokens: int | None, more: int) -> float:
        """Seconds until one request of `more` tokens fits limits (None: none). inf: never."""
        free_requests = self.requests + 1 - requests if requests is not None else 0
        free_tokens = self.tokens + more - tokens if tokens is not None else 0
        if free_requests <= 0 and free_tokens <= 0:
            return 0.0
        for slot in self._slots:
            free_requests -= slot.requests
            free_tokens -= slot.tokens
            if free_requests <= 0 and free_tokens <= 0:
                return self._ends(slot, now)
        return math.inf

    def reset_s(self, now: float) -> float:
        """Seconds until nothing is counted any more, if nothing comes."""
        return self._ends(self._slots[-1], now) if self._slots else 0.0

    @staticmethod
    def _ends(slot: Slot, now: float) -> float:
        return max((slot.at + 1 + MINUTE) / SLOTS - now, 0.001)


def span_text(seconds: float) -> str:
    """A time as OpenAI's headers write it: `6m0s`, `1.2s`, `20ms`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    if (tenths := math.ceil(seconds * 10)) < 600:
        return f"{tenths / 10:g}s"
    whole = math.ceil(seconds)
    return f"{whole // 60}m{whole % 60}s"
