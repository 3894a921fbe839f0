"""Whether a provider changed its model under the same name: the same short prompts, asked again.

A first asking, several times each at temperature 0, is the reference: the answers and how much they vary by themselves.
A later one is tested against it: within each prompt the answers of both days are exchanged at random, which changes
nothing if the model is the same, so the false alarm rate is the one asked for whatever the model's own variability.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from functools import lru_cache
from importlib import resources
from itertools import combinations
from typing import TYPE_CHECKING, Any

from bucle.core.errors import BadInput, BucleError, ModelUnavailable
from bucle.core.ports import ChatModel, ChatReply, Report
from bucle.core.records import Usage
from bucle.models.ask import Ask, ask_all

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["AGAIN", "FIRST", "Answers", "Change", "ask_canary", "finds", "packaged_prompts", "same_model"]

FIRST, AGAIN = 5, 3
"""How often each prompt is asked for the reference, and later."""
REPLY_TOKENS = 80
THINKING_TOKENS = 2_000
"""Tokens of a reply, and of one by a model that thinks first and said nothing with so few."""
DRAWS = 9_999
_LONGEST = 2_000  # characters of an answer that are compared
_SPLITS = 500  # exchanges of one prompt's answers that are looked at; all of them for 5 and 3
_TINY = 1e-9


@dataclass(frozen=True)
class Answers:
    """What a model answered: `texts[p]` are its answers to `prompts[p]` (those that came), `served_by` every name that
    the provider gave for what answered."""

    prompts: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]
    served_by: tuple[str, ...]
    usage: Usage

    def to_json(self) -> bytes:
        return json.dumps(asdict(self) | {"usage": self.usage.model_dump()}, ensure_ascii=False).encode(
            errors="replace")

    @classmethod
    def from_json(cls, data: bytes) -> Answers:
        value = json.loads(data)
        return cls(tuple(value["prompts"]), tuple(map(tuple, value["texts"])), tuple(value["served_by"]),
                   Usage.model_validate(value["usage"]))

    @property
    def variability(self) -> float:
        """Mean dissimilarity, in [0, 1], of two answers to the same prompt."""
        apart = [1 - _alike(a, b) for texts in self.texts for a, b in combinations(texts, 2)]
        return sum(apart) / len(apart) if apart else 0.0


@dataclass(frozen=True)
class Change:
    """Whether answers changed more than the model's own variability explains: `p` of the exchange test, `changed` where
    it is at most `alarm`. `prompts` are the places of those that differ most, the clearest first; `compared` how many
    could be compared."""

    p: float
    alarm: float
    prompts: tuple[int, ...]
    compared: int

    @property
    def changed(self) -> bool:
        return self.p <= self.alarm


def packaged_prompts() -> tuple[str, ...]:
    """Two dozen short prompts in Spanish and English: facts, sums, formats, wording."""
    return tuple(json.loads(resources.files("bucle.evaluate").joinpath("canary.json").read_text("utf-8")))


def ask_canary(model: ChatModel, prompts: Sequence[str], times: int, *, report: Report | None = None) -> Answers:
    """Each prompt asked `times` times at temperature 0; remembered replies are neither used nor made. Raises
    ModelUnavailable where the model does not answer, or not half of the prompts."""
    for tokens in (REPLY_TOKENS, THINKING_TOKENS):
        asks = [Ask([{"role": "user", "content": prompt}], tokens) for prompt in prompts for _ in range(times)]
        replies = ask_all(model, asks, report=report, fresh=True)
        silent = sum(isinstance(reply, ChatReply) and not reply.text.strip() for reply in replies)
        if silent * 2 <= len(replies):
            break
    else:
        raise ModelUnavailable(f"{model.name} answered {silent} of {len(replies)} short prompts with nothing, although "
                               f"it had {THINKING_TOKENS:,} tokens", "a canary cannot watch a model that says nothing")
    rows = [replies[place:place + times] for place in range(0, len(replies), times)]
    came = [[reply for reply in row if isinstance(reply, ChatReply)] for row in rows]
    if sum(len(row) == times for row in came) * 2 < len(prompts):
        why = next((reply.message for reply in replies if isinstance(reply, BucleError)), "")
        raise ModelUnavailable(f"{model.name} answered too few of the canary's prompts: {why}", "try again later")
    every = [reply for row in came for reply in row]
    return Answers(
        tuple(prompts), tuple(tuple(" ".join(reply.text.split()) for reply in row) for row in came),
        tuple(sorted({reply.served_by for reply in every if reply.served_by})),
        Usage(tokens_in=sum(r.usage.tokens_in for r in every), tokens_out=sum(r.usage.tokens_out for r in every),
              usd=sum(r.usage.usd for r in every)))


def same_model(reference: Answers, later: Answers, *, alarm: float = 0.01, seed: int = 0,
               draws: int = DRAWS) -> Change:
    """Test `later` against `reference` (the same prompts). The chance of `changed` for a model that is the same is at
    most `alarm`: a permutation test stratified by prompt, on the energy distance (Szekely and Rizzo 2013, Journal of
    Statistical Planning and Inference 143) of the answers by their likeness (exact, and by characters), each prompt
    over its own spread under exchange. Raises BadInput for other prompts."""
    import numpy as np

    if reference.prompts != later.prompts:
        raise BadInput("the two canaries asked different prompts", "take a new reference")
    rng = np.random.default_rng(seed)
    seen, exchanged = 0.0, np.zeros(draws)
    clear: list[tuple[float, int]] = []
    compared = 0
    for place, (before, now) in enumerate(zip(reference.texts, later.texts, strict=True)):
        if len(before) < 2 or not now:
            continue
        compared += 1
        found = _distances(before, now)
        other = found[1:]
        spread = float(other.std())
        if spread < _TINY:
            continue
        mine = float(found[0]) / spread
        seen += mine
        exchanged += other[rng.integers(0, len(other), draws)] / spread
        if found[0] >= found.max() - _TINY and not set(now) & set(before):
            clear.append((mine, place))
    p = (1 + int((exchanged >= seen - _TINY).sum())) / (1 + draws)
    return Change(p, alarm, tuple(place for _, place in sorted(clear, reverse=True)), compared)


def finds(reference: Answers, *, alarm: float = 0.01, power: float = 0.8, seed: int = 0,
          trials: int = 60) -> int | None:
    """How many of the prompts must get another answer for the test to tell so with `power`, by simulation from the
    reference's own answers; None where not even all of them would."""
    import numpy as np

    rng = np.random.default_rng(seed)
    many = len(reference.prompts)

    def told(changed: int) -> bool:
        other = set(rng.choice(many, changed, replace=False).tolist())
        texts = tuple(
            ("\0",) * AGAIN if place in other else tuple(row[i] for i in rng.integers(0, len(row), AGAIN))
            for place, row in enumerate(reference.texts))
        later = Answers(reference.prompts, texts, (), Usage())
        return same_model(reference, later, alarm=alarm, seed=int(rng.integers(2**31)), draws=499).changed

    if not all(reference.texts):
        return None
    low, high = 1, many
    if np.mean([told(high) for _ in range(trials)]) < power:
        return None
    while low < high:  # power grows with the number that changed
        middle = (low + high) // 2
        if np.mean([told(middle) for _ in range(trials)]) >= power:
            high = middle
        else:
            low = middle + 1
    return low


def _distances(before: Sequence[str], now: Sequence[str]) -> NDArray[Any]:
    """Energy distances of every way to part the answers in two groups of these sizes; the real one is the first."""
    import numpy as np

    every = [*before, *now]
    alike = np.array([[_alike(a, b) for b in every] for a in every])
    later = np.zeros((1, len(every)))
    later[0, len(before):] = 1
    return _energy(alike, np.vstack([later, _parted(len(every), len(now))]), len(before), len(now))


def _energy(alike: NDArray[Any], later: NDArray[Any], old: int, new: int) -> NDArray[Any]:
    earlier = 1 - later
    within_old = _between(earlier, alike, earlier) / old**2
    within_new = _between(later, alike, later) / new**2
    return within_old + within_new - 2 * _between(earlier, alike, later) / (old * new)


def _between(a: NDArray[Any], m: NDArray[Any], b: NDArray[Any]) -> Any:
    return ((a @ m) * b).sum(axis=1)


@lru_cache(maxsize=32)
def _parted(many: int, new: int) -> NDArray[Any]:
    """Ways to choose `new` of `many` answers as 0/1 rows: all of them, or some drawn once for all."""
    import math

    import numpy as np

    if math.comb(many, new) <= _SPLITS:
        chosen = [list(one) for one in combinations(range(many), new)]
    else:
        rng = np.random.default_rng(0)
        chosen = [rng.choice(many, new, replace=False).tolist() for _ in range(_SPLITS)]
    rows = np.zeros((len(chosen), many))
    for row, some in zip(rows, chosen, strict=True):
        row[some] = 1
    return rows


@lru_cache(maxsize=50_000)
def _alike(a: str, b: str) -> float:
    """1 for the same answer, otherwise at most a half: the share of characters in common."""
    if a == b:
        return 1.0
    return 0.5 * SequenceMatcher(None, a[:_LONGEST], b[:_LONGEST], autojunk=False).ratio()
