"""A budget of tokens and dollars over several models, as hard as one can be that learns what a call took only when it
is over; what was spent survives a kill.

A call is reserved at the most that it may take: its prompt at a token a byte, its answer at `max_tokens`, or at the
largest that this model has taken so far, since a model that thinks out of sight is billed for more than `max_tokens`.
Until that is known, calls go one at a time, then in growing waves. So what may pass the limit is what the calls under
way take beyond the largest before them: at first, and near the limit, one call.
"""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bucle.core.errors import BadInput, BucleError
from bucle.core.ports import ChatReply, Message
from bucle.core.records import Usage
from bucle.models.endpoint import RateLimited, Refused, troubles

__all__ = ["Budget", "BudgetSpent", "Metered", "Peak"]

FRAME = 12  # tokens of a chat template around one message, at most
ALONE = 3
"""Calls of a model that are asked one at a time, until what they take is known; then as many at once as are known."""
UNSERVED = (Refused, RateLimited, BadInput)
"""Refusals: nothing was written, and nothing is billed."""
UNSENT = ("ConnectError", "ConnectTimeout")
LOST = "closed the connection without a reply"  # of a try that the endpoint makes again


class BudgetSpent(BucleError):
    """What is left of a budget does not pay for what is asked next."""


@dataclass
class Peak:
    """The largest that calls of a model took: tokens of the prompt over its reckoned ones (`ratio`), and tokens of the
    answer (`out`). `calls` took no more than was reserved for them since one last did."""

    calls: int = 0
    ratio: float = 1.0
    out: int = 0


@dataclass(frozen=True)
class _Call:
    model: str
    most: Usage
    asked: int


class Budget:
    """What may be spent: `tokens` and `usd`, None for no limit. `file` keeps what was spent, with what is under way at
    its most, so that a kill never gives anything back. `floor` is held back: only with `everything` may it be spent.
    `largest` is the largest reservation so far."""

    def __init__(self, file: Path, *, tokens: int | None, usd: float | None) -> None:
        self.limit_tokens, self.limit_usd, self._file = tokens, usd, file
        self.floor_tokens, self.floor_usd = 0.0, 0.0
        self.ended = False
        self.largest = Usage()
        self._ready = threading.Condition()
        self._under_way: dict[int, _Call] = {}
        self._next = 0
        kept = json.loads(file.read_text("utf-8")) if file.exists() else {}
        self.tokens, self.usd = int(kept.get("tokens", 0)), float(kept.get("usd", 0.0))
        self.calls = int(kept.get("calls", 0))
        self._peaks = {model: Peak(**one) for model, one in kept.get("peaks", {}).items()}

    @contextmanager
    def everything(self) -> Iterator[None]:
        """Inside it, what was held back may be spent too."""
        held = self.floor_tokens, self.floor_usd
        self.floor_tokens = self.floor_usd = 0.0
        self.ended = False
        try:
            yield
        finally:
            self.floor_tokens, self.floor_usd = held

    @property
    def passed_by(self) -> dict[str, float]:
        """Tokens and dollars spent beyond the limits; 0 where they were kept."""
        return {"tokens": max(0, self.tokens - self.limit_tokens) if self.limit_tokens is not None else 0,
                "usd": max(0.0, self.usd - self.limit_usd) if self.limit_usd is not None else 0.0}

    def wave(self, model: str) -> int:
        """Calls of `model` that may be under way at once, for what is known of them."""
        calls = self._peaks.get(model, Peak()).calls
        return 1 if calls < ALONE else calls

    def take(self, most: Callable[[Peak], Usage], model: str = "", *, asked: int = 0) -> int:
        """Reserve the most that a call of `model` may use, given the largest before it, waiting for others under way;
        its number. `asked` is its prompt as reckoned. Raises BudgetSpent."""
        with self._ready:
            while True:
                reserved = most(self._peaks.setdefault(model, Peak()))
                fits = self._fits(reserved)
                ours = sum(call.model == model for call in self._under_way.values())
                if fits and (not ours or ours < self.wave(model)):
                    break
                if not fits and not self._under_way:
                    self.ended = True
                    raise BudgetSpent("The budget does not pay for the next call.")
                self._ready.wait(1.0)
            self.largest = max(self.largest, reserved, key=lambda one: one.tokens_in + one.tokens_out)
            self._next += 1
            self._under_way[self._next] = _Call(model, reserved, asked)
            self._keep()
            return self._next

    def settle(self, number: int, used: Usage | None, lost: int = 0) -> None:
        """What the call really used; None for what is not known: it counts at its reservation, and so does each of the
        `lost` tries before it whose connection broke."""
        with self._ready:
            call = self._under_way.pop(number)
            if used is not None:
                self._learn(call, used)
            for spent in [call.most if used is None else used, *[call.most] * lost]:
                self.tokens += spent.tokens_in + spent.tokens_out
                self.usd += spent.usd
            self.calls += 1
            self._keep()
            self._ready.notify_all()

    def _learn(self, call: _Call, used: Usage) -> None:
        if not used.tokens_in + used.tokens_out:  # it was refused
            return
        peak, most = self._peaks[call.model], call.most
        more = used.tokens_in > most.tokens_in or used.tokens_out > most.tokens_out
        peak.calls = 0 if more else peak.calls + 1
        peak.out = max(peak.out, used.tokens_out)
        if call.asked:
            peak.ratio = max(peak.ratio, used.tokens_in / call.asked)

    def _fits(self, most: Usage) -> bool:
        tokens, usd = self._waiting()
        tokens += self.tokens + most.tokens_in + most.tokens_out
        usd += self.usd + most.usd
        return (self.limit_tokens is None or tokens + self.floor_tokens <= self.limit_tokens) and (
            self.limit_usd is None or usd + self.floor_usd <= self.limit_usd
        )

    def _waiting(self) -> tuple[int, float]:
        calls = [call.most for call in self._under_way.values()]
        return sum(u.tokens_in + u.tokens_out for u in calls), sum(u.usd for u in calls)

    def _keep(self) -> None:
        tokens, usd = self._waiting()
        body = {"tokens": self.tokens + tokens, "usd": self.usd + usd, "calls": self.calls + len(self._under_way),
                "peaks": {model: asdict(peak) for model, peak in self._peaks.items()}}
        part = self._file.with_suffix(".part")
        part.write_text(json.dumps(body), "utf-8")
        os.replace(part, self._file)


class Metered:
    """A ChatModel (core.ports) that asks `model` within `budget`. Everything else is the model's own. A remote prompt
    is reserved at a token a byte, which no tokenizer passes, and settled at what the provider counted (where it counts
    nothing, at a token for three bytes). What failed after it was sent may be billed, and counts at its reservation."""

    def __init__(self, model: Any, budget: Budget) -> None:
        self._model, self._budget = model, budget
        self._priced = getattr(model, "priced", None)
        self._key = str(getattr(model, "identity", "") or getattr(model, "name", ""))
        self._counted = hasattr(model, "render") and hasattr(model, "count_tokens")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    @property
    def max_parallel(self) -> int:
        """The model's own, and no more than the budget lets be under way. AttributeError where the model has none."""
        own = int(self._model.max_parallel)
        return own if self._counted else min(own, self._budget.wave(self._key))

    @property
    def wave(self) -> int:
        """Prompts to ask before the next look at the budget: 0 for as many as there are."""
        own = 1 if self._counted else int(getattr(self._model, "max_parallel", 1))
        now = self._budget.wave(self._key)
        return 0 if now >= own else now

    def chat(self, messages: Sequence[Message], *, max_tokens: int, **settings: Any) -> ChatReply:
        asked = self._most(messages)

        def most(peak: Peak) -> Usage:
            return self._usage(math.ceil(asked * peak.ratio), max(max_tokens, peak.out))

        number = self._budget.take(most, self._key, asked=asked)
        used: Usage | None = None
        outer, tried = troubles.get(), list[str]()
        token = troubles.set(tried)
        try:
            reply: ChatReply = self._model.chat(messages, max_tokens=max_tokens, **settings)
            used = reply.usage
            if not used.tokens_in + used.tokens_out:
                used = self._usage(asked // 3 + 1, len(reply.text.encode(errors="replace")) // 3 + 1)
            return reply
        except BucleError as error:
            if _unbilled(error):
                used = Usage()
            raise
        finally:
            troubles.reset(token)
            if outer is not None:
                outer += tried
            self._budget.settle(number, used, sum(LOST in one for one in tried))

    def label_scores(self, prompts: Sequence[str], labels: Sequence[str], **settings: Any) -> Any:
        """As the local model's own: each prompt counts once, and each label after it."""
        each = sum(self._model.count_tokens(labels))
        used = Usage(tokens_in=sum(self._model.count_tokens(prompts)) + each * len(prompts))
        number = self._budget.take(lambda _: used)
        try:
            return self._model.label_scores(prompts, labels, **settings)
        finally:
            self._budget.settle(number, used)

    def _most(self, messages: Sequence[Message]) -> int:
        if self._counted:
            return int(self._model.count_tokens([self._model.render(messages)])[0])
        return sum(len(m["content"].encode(errors="replace")) + FRAME for m in messages)

    def _usage(self, tokens_in: int, tokens_out: int) -> Usage:
        if self._priced is not None:
            priced: Usage = self._priced(Usage(tokens_in=tokens_in, tokens_out=tokens_out))
            return priced
        return Usage(tokens_in=tokens_in, tokens_out=tokens_out)


def _unbilled(error: BucleError) -> bool:
    """Whether a call that failed was refused, or never arrived: then nothing was written."""
    return isinstance(error, UNSERVED) or type(error.__cause__).__name__ in UNSENT or hasattr(error, "status")
