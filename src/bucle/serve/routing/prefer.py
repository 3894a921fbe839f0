"""Which target is asked first where not the weights decide: the cheapest, the fastest lately, the one of the text's
language, the one with the least context that holds it."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from bucle.core.engine import AskContext, ChatAsk
from bucle.serve.routing.facts import TargetFacts

__all__ = ["ByContext", "ByCost", "ByLanguage", "ByLatency", "Chooser"]

DEFAULT_TOKENS = 512
"""Tokens of an answer where the ask names no `max_tokens`: what an engine of this machine then writes at most."""
LANGUAGE_CHARS = 1000
"""Characters of a text that its language is told by."""


class Chooser(Protocol):
    """The targets that may be asked, the chosen one first."""

    def order(self, ask: ChatAsk, ctx: AskContext) -> Sequence[str]: ...


class ByCost:
    """The cheapest first, for the tokens of this ask; those of unknown price last. The others follow where it fails."""

    def __init__(self, facts: Mapping[str, TargetFacts]) -> None:
        self._facts = facts

    def order(self, ask: ChatAsk, ctx: AskContext) -> Sequence[str]:
        return sorted(self._facts, key=lambda name: _price(self._facts[name], ask))


class ByContext:
    """The least context that holds prompt and `max_tokens`, then the longer ones, those of unknown length last. Where
    none holds it by estimate the longest is asked, and may say so."""

    def __init__(self, facts: Mapping[str, TargetFacts]) -> None:
        self._facts = dict(sorted(facts.items(), key=lambda item: _context(item[1])))

    def order(self, ask: ChatAsk, ctx: AskContext) -> Sequence[str]:
        out = ask.max_tokens or DEFAULT_TOKENS
        fits = [name for name, facts in self._facts.items() if facts.tokens(ask) + out <= _context(facts)]
        return fits or list(self._facts)[-1:]


class ByLanguage:
    """The target of the text's language; the first where the text is too short to tell (12 letters), or in a language
    that no target is named for. No other target of the route follows: it speaks another language."""

    def __init__(self, languages: Mapping[str, str], first: str) -> None:
        from bucle.data.language import LANGUAGES, detect

        self._languages, self._first = dict(languages), first
        self._among = tuple(dict.fromkeys((*LANGUAGES, *languages)))
        self._detect = detect
        detect("a text long enough to have the model loaded before anybody waits for it", self._among)

    def order(self, ask: ChatAsk, ctx: AskContext) -> Sequence[str]:
        return (self._languages.get(self._detect(ask.text[:LANGUAGE_CHARS], self._among), self._first),)


class ByLatency:
    """The fastest lately first, the others after it. A target's figure is the mean of its milliseconds, in which what
    is `half_life_s` old counts half; a failure counts as `failure_ms`. One that nobody asked yet is asked first;
    `explore` of the requests begin with a random other, so that a slow one is seen to recover."""

    def __init__(self, names: Sequence[str], rng: random.Random, *, clock: Callable[[], float] = time.monotonic,
                 explore: float = 0.05, half_life_s: float = 60.0, failure_ms: float = 10_000.0) -> None:
        self._names, self._rng, self._clock = list(names), rng, clock
        self.explore, self.half_life_s, self.failure_ms = explore, half_life_s, failure_ms
        self._sums = dict.fromkeys(names, (0.0, 0.0, 0.0))  # weight, weight * ms, when

    def told(self, name: str, ok: bool, ms: float) -> None:
        if name not in self._sums:  # a fallback
            return
        weight, total, then = self._sums[name]
        now = self._clock()
        faded = 0.5 ** ((now - then) / self.half_life_s)
        self._sums[name] = (weight * faded + 1.0, total * faded + (ms if ok else max(ms, self.failure_ms)), now)

    def ms(self, name: str) -> float:
        """The target's milliseconds lately; 0 of one never asked."""
        weight, total, _ = self._sums[name]
        return total / weight if weight else 0.0

    def order(self, ask: ChatAsk, ctx: AskContext) -> Sequence[str]:
        ranked = sorted(self._names, key=self.ms)
        if len(ranked) > 1 and self._rng.random() < self.explore:
            other = self._rng.choice(ranked[1:])
            ranked.remove(other)
            ranked.insert(0, other)
        return ranked


def _price(facts: TargetFacts, ask: ChatAsk) -> float:
    if facts.price_in is None and facts.price_out is None:
        return math.inf
    return facts.usd(facts.tokens(ask), ask.max_tokens or DEFAULT_TOKENS)


def _context(facts: TargetFacts) -> float:
    return math.inf if facts.context is None else facts.context
