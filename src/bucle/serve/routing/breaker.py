"""A circuit breaker: a target that keeps failing is left alone for a while, then tried by one request.

Nygard, Release It! (2nd edition 2018, chapter 5): closed -> open after so many failures in a row -> half-open, in which
one probe decides.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from bucle.core.errors import ModelUnavailable
from bucle.models.endpoint import LONGEST_PAUSE_S, RateLimited

__all__ = ["Breaker", "Resting"]

State = Literal["closed", "open", "half-open"]


class Resting(ModelUnavailable):
    """A target that failed too often rests: it was not asked. `retry_after` in seconds."""

    def __init__(self, message: str, hint: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, hint)
        self.retry_after = retry_after


class Breaker:
    """Opens after `failures` in a row, for `rest_s`; then lets one request through at a time until one succeeds."""

    def __init__(self, name: str, failures: int, rest_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.name, self.failures, self.rest_s, self._clock = name, failures, rest_s, clock
        self.in_a_row, self.opened = 0, 0
        self._until: float | None = None
        self._probing = self._limited = False

    @property
    def state(self) -> State:
        if self._until is None:
            return "closed"
        return "open" if self._clock() < self._until or self._probing else "half-open"

    @property
    def lets_in(self) -> bool:
        """Whether a request that came now would be let through."""
        return self.state != "open"

    def enter(self) -> bool:
        """Begin a request; whether it is the probe. Its end must be told by one of `succeeded`, `failed`, `left`.
        Raises Resting, or RateLimited where that is why."""
        if (state := self.state) == "closed":
            return False
        if state == "half-open":
            self._probing = True
            return True
        left = max(0.0, (self._until or 0.0) - self._clock())
        why = RateLimited if self._limited else Resting
        raise why(f"{self.name} rests after {self.in_a_row} failures in a row" if why is Resting
                  else f"{self.name} limits its requests", f"try again in {left:.0f} s", left)

    def succeeded(self, probe: bool = False) -> None:
        """It answered. An answer to a request from before the breaker opened does not close it: only a probe's does."""
        if self._until is None or probe:
            self._until, self.in_a_row = None, 0
        if probe:
            self._probing = False

    def failed(self, probe: bool = False, pause_s: float | None = None, *, limited: bool = False) -> None:
        """It failed; `pause_s` is the pause that it asked for, `limited` that it limits its requests."""
        self.in_a_row += 1
        if probe:
            self._probing = False
        if probe or self.in_a_row >= self.failures or pause_s:
            rest = min(pause_s, LONGEST_PAUSE_S) if pause_s else self.rest_s
            self.opened += self._until is None or probe
            self._until = max(self._until or 0.0, self._clock() + rest)
            self._limited = limited

    def left(self, probe: bool = False) -> None:
        """Nobody waited for its answer: nothing is known. The next request is the probe."""
        if probe:
            self._probing = False
