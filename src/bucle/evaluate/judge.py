"""Models that judge answers: by a rubric, or one answer against another, as far as people agree with them.

Scores on a scale asked as JSON after Zheng et al., "Judging LLM-as-a-judge" (2023): both orders of a pair, disagreement
is a tie. A judge's costs are its own (`Rating.usage`), never the judged model's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from bucle.core.errors import BadInput, BucleError, ModelUnavailable
from bucle.core.ports import ChatModel, Message, Report
from bucle.core.records import Interval, Usage
from bucle.evaluate.judging.agreement import Agreement, HumanRow, agree, rank_correlation
from bucle.evaluate.judging.prompts import pair_messages, rating_messages, repair
from bucle.evaluate.judging.reading import read_verdict
from bucle.models.ask import Ask, ask_all

if TYPE_CHECKING:
    from bucle.core.choosing import Judge as Settings

__all__ = ["Agreement", "HumanRow", "Judge", "PairBias", "Preference", "Rating", "pair_bias", "rank_correlation",
           "win_rate"]

REPLY_TOKENS = 800
"""Tokens of a judge's reply: a reasoning model needs some before it answers."""
TEMPERATURE = 0.7
"""Of a judge that is asked several times; 0 where it is asked once."""
LONGEST = 400_000
"""Characters of what is judged; a longer one is an error of its row."""


@dataclass(frozen=True)
class Rating:
    """What a judge gave one answer: `score` in [0, 1] (None where it could not be read), the mean over its samples;
    `spread` their standard deviation in the same unit; `error` why there is none."""

    score: float | None
    spread: float
    reason: str
    usage: Usage
    error: str = ""


@dataclass(frozen=True)
class Preference:
    """Which of two answers a judge prefers: 1.0 the first (a), 0.0 the second (b), 0.5 neither. `agreed`: both orders
    said the same; where they did not, it is a tie. `orders`: the place of the winner when a was shown first, and when b
    was (1 the first shown, 2 the second, 0 neither). `outcome` is None where a reply could not be read."""

    outcome: float | None
    agreed: bool
    orders: tuple[int, ...]
    reason: str
    usage: Usage
    error: str = ""


@dataclass(frozen=True)
class PairBias:
    """What sways a judge of pairs: `swapped`, the share of pairs on which it changed its mind with the order; `first`,
    of its verdicts that name a winner, the share that name the one shown first (0.5 without a bias); `longer`, of the
    pairs with a winner, the share won by the longer answer. None where nothing was there to count."""

    swapped: float | None
    first: float | None
    longer: float | None


class Judge:
    """The judge called `name` in bucle.yaml. `seed` moves the seeds of its samples."""

    def __init__(self, name: str, settings: Settings, model: ChatModel, *, seed: int = 0) -> None:
        self.name, self.settings, self.model, self._seed = name, settings, model, seed

    def probe(self) -> None:
        """One short call: raises ModelUnavailable that names the setting where the judge does not answer, so that
        nothing is scored in vain."""
        try:
            replies = ask_all(self.model, [Ask([{"role": "user", "content": "Reply with OK."}], REPLY_TOKENS)],
                              fresh=True)
        except ModelUnavailable as error:
            raise self._unreachable(error) from error
        if isinstance(replies[0], BucleError):
            raise self._unreachable(replies[0]) from replies[0]

    def rate(self, inputs: Sequence[str], outputs: Sequence[str], references: Sequence[str],
             report: Report | None = None) -> list[Rating]:
        """A rating of each output, by the rubric; an empty reference is not shown. A reply that cannot be read is asked
        for once more, then an error of its row. Raises ModelUnavailable where the judge does not answer."""
        scale, samples = self.settings.scale, self.settings.samples
        conversations: list[list[Message] | None] = [
            rating_messages(self.settings.rubric, scale, *row) if sum(map(len, row)) <= LONGEST else None
            for row in zip(inputs, outputs, references, strict=True)]
        asked = self._verdicts([one for one in conversations for _ in range(samples)], "score", 1, scale, report)
        return [_rating(asked[place * samples:(place + 1) * samples], scale) for place in range(len(conversations))]

    def prefer(self, inputs: Sequence[str], a: Sequence[str], b: Sequence[str],
               report: Report | None = None) -> list[Preference]:
        """Which output of each pair is better, asked in both orders. Raises as `rate`."""
        pairs = []
        for given, one, other in zip(inputs, a, b, strict=True):
            short = len(given) + len(one) + len(other) <= LONGEST
            for first, second in ((one, other), (other, one)):
                pairs.append(pair_messages(self.settings.rubric, given, first, second) if short else None)
        asked = self._verdicts(pairs, "better", 0, 2, report, several=False)
        return [_preference(asked[place], asked[place + 1]) for place in range(0, len(asked), 2)]

    def agreement(self, rows: Sequence[HumanRow], report: Report | None = None) -> Agreement:
        """How far its ratings agree with people's on `rows`. Raises BadInput where that cannot be measured, and as
        `rate`."""
        scale = self.settings.scale
        ratings = self.rate([r.input for r in rows], [r.output for r in rows], [r.reference for r in rows], report)
        points = [None if r.score is None else 1 + r.score * (scale - 1) for r in ratings]
        if points.count(None) == len(points) and points:
            raise BadInput(f"the judge {self.name} could not score a single row: {ratings[0].error}",
                           f"name another model in judges.{self.name}.model")
        return agree(rows, points, [r.spread * (scale - 1) for r in ratings], scale, _sum([r.usage for r in ratings]),
                     seed=self._seed)

    def _verdicts(self, conversations: Sequence[list[Message] | None], key: str, low: int, high: int,
                  report: Report | None, *, several: bool = True) -> list[_Verdict]:
        """What each conversation (None: too long) came to, after one repair."""
        samples = self.settings.samples if several else 1
        warm = TEMPERATURE if samples > 1 else 0.0
        found = [_Verdict(error=f"over {LONGEST:,} characters are too many to judge") for _ in conversations]
        places = [place for place, one in enumerate(conversations) if one is not None]
        seeds = [self._seed + 1 + place % samples if samples > 1 else 0 for place in places]
        asks = [Ask(conversations[place] or [], REPLY_TOKENS, warm, seed=seed)
                for place, seed in zip(places, seeds, strict=True)]
        form = f'{{"reason": "one sentence", "{key}": a whole number from {low} to {high}}}'
        self._read(found, places, asks, lambda said: read_verdict(said, key, low, high), report)
        again = [(place, ask) for place, ask in zip(places, asks, strict=True)
                 if found[place].value is None and not found[place].failed]
        repaired = [Ask(repair(list(ask.messages), found[place].said, form), ask.max_tokens, ask.temperature,
                        seed=ask.seed) for place, ask in again]
        self._read(found, [place for place, _ in again], repaired, lambda said: read_verdict(said, key, low, high),
                   None)
        return found

    def _read(self, found: list[_Verdict], places: Sequence[int], asks: Sequence[Ask],
              read: Callable[[str], tuple[int, str] | None], report: Report | None) -> None:
        """Ask, and put what was read into `found`."""
        try:
            replies = ask_all(self.model, asks, report=report)
        except ModelUnavailable as error:
            raise self._unreachable(error) from error
        for place, reply in zip(places, replies, strict=True):
            usage = found[place].usage
            if isinstance(reply, BucleError):
                found[place] = _Verdict(usage=usage, error=reply.message, failed=True)
                continue
            value, reason = read(reply.text) or (None, "")
            why = "" if value is not None else f"the judge's reply is no verdict: {reply.text[:80]!r}"
            found[place] = _Verdict(value, reason, _sum([usage, reply.usage]), why, reply.text)

    def _unreachable(self, error: BucleError) -> ModelUnavailable:
        where = f"judges.{self.name}.model is `{self.settings.model}`"
        return ModelUnavailable(f"The judge {self.name} does not answer: {error.message} ({where}).",
                                error.hint or f"correct models.{self.settings.model}, or judge by another model")


def win_rate(preferences: Sequence[Preference], clusters: Sequence[str], *, level: float = 0.95) -> Interval:
    """The share of pairs that the first side wins, a tie for half, over those that could be judged, with its interval
    clustered by source. Raises BadInput where there is none."""
    from bucle.evaluate.statistics import interval

    kept = [(p.outcome, c) for p, c in zip(preferences, clusters, strict=True) if p.outcome is not None]
    return interval([outcome for outcome, _ in kept], clusters=[c for _, c in kept], level=level)


def pair_bias(preferences: Sequence[Preference], a: Sequence[str], b: Sequence[str]) -> PairBias:
    """What swayed the judge that gave `preferences` of `a` against `b`."""
    kept = [(p, one, other) for p, one, other in zip(preferences, a, b, strict=True) if p.outcome is not None]
    named = [place for p, _, _ in kept for place in p.orders if place]
    won = [(p.outcome == 1.0) == (len(one) > len(other)) for p, one, other in kept
           if p.outcome != 0.5 and len(one) != len(other)]
    return PairBias(sum(not p.agreed for p, _, _ in kept) / len(kept) if kept else None,
                    named.count(1) / len(named) if named else None,
                    sum(won) / len(won) if won else None)


@dataclass(frozen=True)
class _Verdict:
    value: int | None = None
    reason: str = ""
    usage: Usage = field(default_factory=Usage)
    error: str = ""
    said: str = ""
    failed: bool = False


def _rating(verdicts: Sequence[_Verdict], scale: int) -> Rating:
    """One answer's samples as a rating; those that could not be read are left out of it."""
    usage = _sum([one.usage for one in verdicts])
    scores = [(one.value - 1) / (scale - 1) for one in verdicts if one.value is not None]
    if not scores:
        return Rating(None, 0.0, "", usage, verdicts[0].error)
    reason = next(one.reason for one in verdicts if one.value is not None)
    return Rating(fmean(scores), stdev(scores) if len(scores) > 1 else 0.0, reason, usage)


def _preference(one: _Verdict, other: _Verdict) -> Preference:
    """The verdicts with a shown first and with b shown first."""
    usage = _sum([one.usage, other.usage])
    if one.value is None or other.value is None:
        return Preference(None, False, (), "", usage, one.error or other.error)
    agreed = other.value == {0: 0, 1: 2, 2: 1}[one.value]
    outcome = {0: 0.5, 1: 1.0, 2: 0.0}[one.value] if agreed else 0.5
    return Preference(outcome, agreed, (one.value, other.value), one.reason, usage)


def _sum(parts: Sequence[Usage]) -> Usage:
    return Usage(tokens_in=sum(p.tokens_in for p in parts), tokens_out=sum(p.tokens_out for p in parts),
                 usd=sum(p.usd for p in parts))
