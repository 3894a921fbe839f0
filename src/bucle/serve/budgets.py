"""What keys and teams may spend and ask: reserved before, settled after, in whole billionths of a dollar.

What is enforced is settled + reserved. Settled is what the ledger has recorded, of every process, and what was settled
here and is not yet written there; so what is enforced is what is recorded, also after a crash.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from bucle.core.errors import Infrastructure
from bucle.core.records import Usage
from bucle.core.serving import Allowance
from bucle.ledger.keys import Key
from bucle.ledger.spend import NANO, Spent, nano_usd
from bucle.ledger.spend_watch import SpendWatch
from bucle.serve.errors import ApiError
from bucle.serve.limits_minute import Minute, Slot, span_text

__all__ = ["Accounts", "Reservation"]

log = logging.getLogger("bucle.serve")

FRESH_S = 0.5
"""How old what is known of other processes' spend may be."""
LOST_S = 600.0
"""A trace that the ledger does not have after this long is not asked for again: its cost stays counted here."""

Who = tuple[Literal["key", "team"], str]


class _Purse:
    """One key's or team's month: nano-dollars recorded in the ledger, settled here but not written yet, reserved."""

    __slots__ = ("recorded", "reserved", "waiting")

    def __init__(self) -> None:
        self.recorded = self.waiting = self.reserved = 0


class _Month:
    """The purses of one UTC calendar month, and the traces settled in it that are not known to be written."""

    def __init__(self, name: str, start: float, end: float) -> None:
        self.name, self.start, self.end = name, start, end
        self.purses: dict[Who, _Purse] = {}
        self.waiting: dict[str, tuple[int, tuple[Who, ...], float]] = {}

    def purse(self, who: Who) -> _Purse:
        found = self.purses.get(who)
        if found is None:
            found = self.purses[who] = _Purse()
        return found


class Reservation:
    """What one request may cost and how many tokens it may take, held until it is settled or released."""

    __slots__ = ("_limits", "_month", "_open", "_purses", "_slots", "_whos", "nano", "tokens", "trace")

    def __init__(self, trace: str, nano: int, tokens: int) -> None:
        self.trace, self.nano, self.tokens, self._open = trace, nano, tokens, True
        self._month: _Month | None = None
        self._whos: tuple[Who, ...] = ()
        self._purses: tuple[_Purse, ...] = ()
        self._slots: tuple[tuple[Minute, Slot], ...] = ()
        self._limits: tuple[tuple[str, int, int, float], ...] = ()

    def headers(self) -> dict[str, str]:
        """OpenAI's `x-ratelimit-…` headers as they were when this was reserved; none without a limit."""
        told = {}
        for what, limit, left, reset in self._limits:
            told[f"x-ratelimit-limit-{what}"] = str(limit)
            told[f"x-ratelimit-remaining-{what}"] = str(max(0, left))
            told[f"x-ratelimit-reset-{what}"] = span_text(reset)
        return told


class Accounts:
    """The limits and budgets of every key and team. Threads and tasks may share it; each call takes microseconds under
    one lock.

    `spent` reads the ledger (None: nothing was spent before, and there is no other process); `teams` are the budgets
    of bucle.yaml by team. A key's own come with it, so a changed key is held to its new limits at its next request.

    At no moment is settled + reserved over a budget, but for what requests cost beyond what was reserved for them, and
    what other processes settled since FRESH_S (0.5 s). Whoever is over a budget is refused until the month is over.
    """

    def __init__(self, spent: SpendWatch | None = None, teams: Mapping[str, Allowance] | None = None, *,
                 clock: Callable[[], float] = time.time, ticks: Callable[[], float] = time.monotonic) -> None:
        self.teams: Mapping[str, Allowance] = dict(teams or {})
        """May be replaced while requests are at work."""
        self._spent, self._clock, self._ticks = spent, clock, ticks
        self._lock, self._reading = threading.Lock(), threading.Lock()
        self._months: dict[str, _Month] = {}
        self._minutes: dict[Who, Minute] = {}
        self._keys: dict[str, Key] = {}  # as they were when they last asked
        self._read_at, self._told = ticks(), False
        self._now: _Month | None = None
        self._month(None)

    # requests --------------------------------------------------------------------------------------------------

    def reserve(self, key: Key | None, *, usd: float | None, tokens: int, trace: str,
                at: float | None = None) -> Reservation:
        """Hold `usd` dollars and `tokens` (both at most what the request may take) for the request `trace`, which came
        at `at` (epoch seconds; its trace's `received_at`; default now).

        `usd` None says that nobody knows the price. Nothing is held for None, who has no key. Raises ApiError: 429
        `rate_limit_exceeded` with `retry-after`, 429 `budget_exceeded`, 403 `price_unknown` where a budget applies.
        """
        known = usd is not None and math.isfinite(usd)
        nano = math.ceil(min(max(usd or 0.0, 0.0), 1e6) * NANO) if known else 0
        made = Reservation(trace, nano, max(0, tokens))
        if key is None:
            return made
        if self._spent is not None and self._ticks() - self._read_at > FRESH_S:
            self.refresh()
        made._whos = _whos(key)
        self._keys[key.id] = key
        limited: list[tuple[Who, Key | Allowance]] = [(made._whos[0], key)]
        if key.team and (team := self.teams.get(key.team)) is not None:
            limited.append((made._whos[1], team))
        month, now = self._month(at), self._ticks()
        with self._lock:
            minutes = self._within_minute(limited, now, made.tokens)
            for who, rules in limited:
                if rules.usd_per_month is not None:
                    self._within_month(month.purse(who), who, rules.usd_per_month, nano if known else None)
            made._month = month
            made._purses = tuple(month.purse(who) for who in made._whos)
            for purse in made._purses:
                purse.reserved += nano
            made._slots = tuple((minute, minute.take(now, made.tokens)) for minute, _ in minutes)
            made._limits = _told(minutes, now)
        return made

    def settle(self, reservation: Reservation, usage: Usage) -> None:
        """The request used this, which may be more than was reserved: it counts all the same. Call it before the trace
        is handed to be written. Settling or releasing a second time changes nothing."""
        self._close(reservation, nano_usd(usage.usd), usage.tokens_in + usage.tokens_out)

    def release(self, reservation: Reservation) -> None:
        """The request used nothing. It still counts among the requests of its minute."""
        self._close(reservation, 0, 0)

    def _close(self, held: Reservation, nano: int, tokens: int) -> None:
        with self._lock:
            if not held._open:
                return
            held._open = False
            for minute, slot in held._slots:
                minute.correct(slot, tokens - held.tokens)
            for purse in held._purses:
                purse.reserved -= held.nano
                purse.waiting += nano
            if nano and held._month is not None and self._spent is not None:
                waiting = held._month.waiting
                before = waiting[held.trace][0] if held.trace in waiting else 0
                waiting[held.trace] = (nano + before, held._whos, self._ticks())

    def _within_minute(self, limited: Iterable[tuple[Who, Key | Allowance]], now: float,
                       tokens: int) -> list[tuple[Minute, Key | Allowance]]:
        found: list[tuple[Minute, Key | Allowance]] = []
        for who, rules in limited:
            requests_most, tokens_most = rules.requests_per_minute, rules.tokens_per_minute
            if requests_most is None and tokens_most is None:
                self._minutes.pop(who, None)  # a limit that comes later counts from then on
                continue
            minute = self._minutes.get(who)
            if minute is None:
                minute = self._minutes[who] = Minute()
            minute.forget(now)
            wait = minute.wait_s(now, requests_most, tokens_most, tokens)
            if wait:
                raise _too_many(who, rules, tokens, wait, _told([(minute, rules)], now))
            found.append((minute, rules))
        return found

    @staticmethod
    def _within_month(purse: _Purse, who: Who, usd_per_month: float, nano: int | None) -> None:
        name = "this key" if who[0] == "key" else f"the team `{who[1]}`"
        if nano is None:
            raise ApiError(403, f"{name} has a budget, and what this model costs is not known: its prices stand in "
                           "bucle.yaml as usd_per_million_in and usd_per_million_out", code="price_unknown",
                           param="model")
        limit, settled = nano_usd(usd_per_month), purse.recorded + purse.waiting
        if settled + purse.reserved + nano <= limit or (nano == 0 and settled <= limit):
            return
        hopeless = settled + nano > limit
        room = f"${settled / NANO:.6f} of ${limit / NANO:.2f} are spent this month (UTC)"
        held = f", ${purse.reserved / NANO:.6f} held for requests at work" if purse.reserved else ""
        raise ApiError(429, f"{name} has no budget left for this: {room}{held}, and it may cost ${nano / NANO:.6f}",
                       code="budget_exceeded",
                       headers={"x-should-retry": "false"} if hopeless else {"retry-after": "1"})

    # months ----------------------------------------------------------------------------------------------------

    def _month(self, at: float | None) -> _Month:
        """The month of epoch seconds `at` (None: now), as the ledger has it where it was not asked for before. Called
        without the lock."""
        at, now = self._clock() if at is None else at, self._now
        if now is not None and now.start <= at < now.end:
            return now
        day = datetime.fromtimestamp(at, UTC)
        name = day.strftime("%Y-%m")
        found = self._months.get(name)
        if found is None:
            start = datetime(day.year, day.month, 1, tzinfo=UTC)
            end = datetime(day.year + day.month // 12, day.month % 12 + 1, 1, tzinfo=UTC)
            found = _Month(name, start.timestamp(), end.timestamp())
            if self._spent is not None:  # also of the month before, where a clock went back
                try:
                    _record(found, self._spent.read([name], list)[0])
                except Infrastructure as error:
                    if now is None:  # the first month: a server does not start with budgets that it cannot know
                        raise
                    log.warning("%s It is read again in a moment.", error.message)
            with self._lock:
                found = self._months.setdefault(name, found)
        self._now = found
        return found

    def refresh(self) -> None:
        """Read what the ledger has recorded until now, by all processes. Where it cannot be read, what was known and
        settled here stays in force."""
        if self._spent is None or not self._reading.acquire(blocking=False):
            return
        try:
            self._load()
            self._told = False
        except Infrastructure as error:
            self._read_at = self._ticks()
            if not self._told:
                log.warning("%s What was known so far stays in force.", error.message)
                self._told = True
        finally:
            self._reading.release()

    def _load(self) -> None:
        if self._spent is None:
            return
        with self._lock:
            months = {name: month for name, month in self._months.items()
                      if month is self._now or month.waiting or any(p.reserved for p in month.purses.values())}
        rows, known = self._spent.read(list(months), lambda: self._settled(months.values()))
        now = self._ticks()
        with self._lock:
            for name, month in months.items():
                _record(month, [row for row in rows if row.month == name])
                for trace in [t for t, (_, _, since) in month.waiting.items() if t in known or now - since > LOST_S]:
                    nano, whos, _ = month.waiting.pop(trace)
                    if trace in known:
                        for who in whos:
                            month.purse(who).waiting -= nano
            self._read_at = now

    def _settled(self, months: Iterable[_Month]) -> list[str]:
        with self._lock:
            return [trace for month in months for trace in month.waiting]

    def standing(self) -> list[dict[str, Any]]:
        """How this month stands, of every key and team that spent or is at work: kind, name (a key's id),
        `called` (its name, once it has asked this process), month, nano-dollars `settled`, `reserved` and `limit`."""
        month = self._month(None)
        with self._lock:
            purses = [(who, p.recorded + p.waiting, p.reserved) for who, p in month.purses.items()]
        rows = []
        for (kind, name), settled, reserved in sorted(purses):
            rules: Key | Allowance | None = self.teams.get(name) if kind == "team" else self._keys.get(name)
            limit = nano_usd(rules.usd_per_month) if rules is not None and rules.usd_per_month is not None else None
            rows.append({"kind": kind, "name": name, "called": getattr(rules, "name", name), "month": month.name,
                         "settled": settled, "reserved": reserved,
                         "limit": limit})
        return rows


def _whos(key: Key) -> tuple[Who, ...]:
    return (("key", key.id), ("team", key.team)) if key.team else (("key", key.id),)


def _record(month: _Month, rows: Iterable[Spent]) -> None:
    sums: dict[Who, int] = {}
    for row in rows:
        whos: tuple[Who, ...] = (("key", row.key), ("team", row.team))
        for who in whos:
            if who[1]:
                sums[who] = sums.get(who, 0) + row.nano_usd
    for who, purse in month.purses.items():
        purse.recorded = sums.get(who, 0)
    for who in sums.keys() - month.purses.keys():
        month.purse(who).recorded = sums[who]


def _told(minutes: Iterable[tuple[Minute, Key | Allowance]], now: float) -> tuple[tuple[str, int, int, float], ...]:
    """What, limit, left and seconds until all is free again, of the tightest limit on requests and on tokens."""
    found: dict[str, tuple[str, int, int, float]] = {}
    for minute, rules in minutes:
        for what, limit, used in (("requests", rules.requests_per_minute, minute.requests),
                                  ("tokens", rules.tokens_per_minute, minute.tokens)):
            if limit is not None and (what not in found or limit - used < found[what][2]):
                found[what] = (what, limit, limit - used, minute.reset_s(now))
    return tuple(found.values())


def _too_many(who: Who, rules: Key | Allowance, tokens: int, wait: float,
              limits: tuple[tuple[str, int, int, float], ...]) -> ApiError:
    name = "this key" if who[0] == "key" else f"the team `{who[1]}`"
    parts = [f"{most:,} {what}" for what, most in (("requests", rules.requests_per_minute),
                                                  ("tokens", rules.tokens_per_minute)) if most is not None]
    held = Reservation("", 0, 0)
    held._limits = limits
    if wait == math.inf:
        why = "none may be sent" if rules.requests_per_minute == 0 else \
            f"this request counts for {tokens:,} tokens: shorten it or ask for fewer"
        return ApiError(429, f"{name} may use {' and '.join(parts)} a minute, and {why}", code="rate_limit_exceeded",
                        headers={**held.headers(), "x-should-retry": "false"})
    again = {"retry-after": str(math.ceil(wait)), "retry-after-ms": str(math.ceil(wait * 1000))}
    return ApiError(429, f"{name} may use {' and '.join(parts)} a minute; try again in {span_text(wait)}",
                    code="rate_limit_exceeded", headers={**held.headers(), **again})
