"""What a provider allows a minute, kept by all who call it from this process."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Limits", "Reserved", "limits_of"]

MINUTE_S = 60.0


@dataclass
class Reserved:
    """One request's place in the minute: when it was sent, and the tokens it is counted with."""

    at: float
    tokens: int


class Limits:
    """Requests and tokens of the last minute, and the pause that the provider asked for. Threads may share it.

    A request takes its place with an estimate of its tokens (`wait`), and is counted with the actual ones once they are
    known (`settle`). In no minute are there more requests than `requests`, or tokens than `tokens` by what was known
    when each was sent (0: no limit); one request that is larger than a whole minute's tokens goes alone.
    """

    def __init__(self, requests: int = 0, tokens: int = 0) -> None:
        self.requests, self.tokens = requests, tokens
        self._lock = threading.Lock()
        self._sent: deque[Reserved] = deque()
        self._sum = 0
        self._paused_until = self._asked_until = 0.0

    def wait(self, tokens: int, sleep: Callable[[float], None], *, pause: bool = True) -> Reserved:
        """Take a place for a request of about `tokens`, after as long a `sleep` as the limits ask. Without `pause` the
        provider's pause is not waited for again: the caller has just slept it."""
        while True:
            with self._lock:
                now = time.monotonic()
                delay = self._delay(now, tokens)
                if pause:
                    delay = max(delay, self._paused_until - now)
                if delay <= 0:
                    place = Reserved(now, tokens)
                    if self.requests or self.tokens:
                        self._sent.append(place)
                        self._sum += tokens
                    return place
            sleep(delay)
            pause = False

    def settle(self, place: Reserved, tokens: int) -> None:
        """Count `place` with the tokens that it really took."""
        with self._lock:
            if place.at > time.monotonic() - MINUTE_S and (self.requests or self.tokens):
                self._sum += tokens - place.tokens
            place.tokens = tokens

    def paused(self) -> float:
        """Seconds that are left of the pause; 0 or less without one."""
        return self._paused_until - time.monotonic()

    def asked_for(self) -> float:
        """Seconds that are left of what the provider asked for, however long it is."""
        return self._asked_until - time.monotonic()

    def pause(self, seconds: float, *, longest: float = math.inf) -> None:
        """Nobody sends for `seconds`, or for the `longest`: the provider said so to one of them."""
        with self._lock:
            now = time.monotonic()
            self._paused_until = max(self._paused_until, now + min(seconds, longest))
            self._asked_until = max(self._asked_until, now + seconds)

    def _delay(self, now: float, tokens: int) -> float:
        while self._sent and self._sent[0].at <= now - MINUTE_S:
            self._sum -= self._sent.popleft().tokens
        if not self._sent:
            return 0.0
        if self.requests and len(self._sent) >= self.requests:
            return self._sent[0].at + MINUTE_S - now
        if self.tokens and self._sum + tokens > self.tokens:
            room = self.tokens - self._sum
            for place in self._sent:  # how many must leave the minute before there is room
                room += place.tokens
                if room >= tokens:
                    return place.at + MINUTE_S - now
            return self._sent[-1].at + MINUTE_S - now
        return 0.0


_known: dict[str, Limits] = {}
_lock = threading.Lock()


def limits_of(endpoint: str, requests: int, tokens: int) -> Limits:
    """The limits of `endpoint` (address and model), one object for all its callers; the latest settings count."""
    with _lock:
        found = _known.setdefault(endpoint, Limits())
        found.requests, found.tokens = requests, tokens
        return found
