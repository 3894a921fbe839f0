"""A hard budget of tokens and dollars over several models: nothing is asked that might pass it, what was spent survives
a kill."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bucle.core.errors import BucleError, UpstreamTimeout
from bucle.core.ports import ChatReply, Message
from bucle.core.records import Usage
from bucle.models.endpoint import TimedOut

__all__ = ["Budget", "BudgetSpent", "Metered"]

FRAME = 12  # tokens of a chat template around one message, at most


class BudgetSpent(BucleError):
    """What is left of a budget does not pay for what is asked next."""


class Budget:
    """What may be spent: `tokens` and `usd`, None for no limit. `file` keeps what was spent, with what is under way at
    its most, so that a kill never gives anything back. `floor` is held back: only with `everything` may it be spent."""

    def __init__(self, file: Path, *, tokens: int | None, usd: float | None) -> None:
        self.limit_tokens, self.limit_usd, self._file = tokens, usd, file
        self.floor_tokens, self.floor_usd = 0.0, 0.0
        self.ended = False
        self._ready = threading.Condition()
        self._under_way: dict[int, Usage] = {}
        self._next = 0
        kept = json.loads(file.read_text("utf-8")) if file.exists() else {}
        self.tokens, self.usd, self.calls = int(kept.get("tokens", 0)), float(kept.get("usd", 0.0)), 0

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

    def take(self, most: Usage) -> int:
        """Reserve the most that a call may use, waiting for others under way; its number. Raises BudgetSpent."""
        with self._ready:
            while not self._fits(most):
                if not self._under_way:
                    self.ended = True
                    raise BudgetSpent("The budget does not pay for the next call.")
                self._ready.wait(1.0)
            self._next += 1
            self._under_way[self._next] = most
            self._keep()
            return self._next

    def settle(self, number: int, used: Usage) -> None:
        """What the call really used."""
        with self._ready:
            self._under_way.pop(number, None)
            self.tokens += used.tokens_in + used.tokens_out
            self.usd += used.usd
            self.calls += 1
            self._keep()
            self._ready.notify_all()

    def _fits(self, most: Usage) -> bool:
        waiting = self._under_way.values()
        tokens = self.tokens + sum(u.tokens_in + u.tokens_out for u in waiting) + most.tokens_in + most.tokens_out
        usd = self.usd + sum(u.usd for u in waiting) + most.usd
        return (self.limit_tokens is None or tokens + self.floor_tokens <= self.limit_tokens) and (
            self.limit_usd is None or usd + self.floor_usd <= self.limit_usd
        )

    def _keep(self) -> None:
        waiting = self._under_way.values()
        body = {"tokens": self.tokens + sum(u.tokens_in + u.tokens_out for u in waiting),
                "usd": self.usd + sum(u.usd for u in waiting)}
        part = self._file.with_suffix(".part")
        part.write_text(json.dumps(body), "utf-8")
        os.replace(part, self._file)


class Metered:
    """A ChatModel (core.ports) that asks `model` within `budget`. Everything else is the model's own. A remote prompt
    is reserved at a token a byte, which no tokenizer passes, and settled at what the provider counted (where it counts
    nothing, at a token for three bytes)."""

    def __init__(self, model: Any, budget: Budget) -> None:
        self._model, self._budget = model, budget
        self._priced = getattr(model, "priced", None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def chat(self, messages: Sequence[Message], *, max_tokens: int, **settings: Any) -> ChatReply:
        asked = self._most(messages)
        most, used = self._usage(asked, max_tokens), Usage()
        number = self._budget.take(most)
        try:
            reply: ChatReply = self._model.chat(messages, max_tokens=max_tokens, **settings)
            used = reply.usage
            if not used.tokens_in + used.tokens_out:
                used = self._usage(asked // 3 + 1, len(reply.text.encode(errors="replace")) // 3 + 1)
            return reply
        except (TimedOut, UpstreamTimeout):
            used = most  # it may have been written, and billed
            raise
        finally:
            self._budget.settle(number, used)

    def label_scores(self, prompts: Sequence[str], labels: Sequence[str], **settings: Any) -> Any:
        """As the local model's own: each prompt counts once, and each label after it."""
        each = sum(self._model.count_tokens(labels))
        size = sum(self._model.count_tokens(prompts)) + each * len(prompts)
        number = self._budget.take(Usage(tokens_in=size))
        try:
            return self._model.label_scores(prompts, labels, **settings)
        finally:
            self._budget.settle(number, Usage(tokens_in=size))

    def _most(self, messages: Sequence[Message]) -> int:
        if hasattr(self._model, "render") and hasattr(self._model, "count_tokens"):
            return int(self._model.count_tokens([self._model.render(messages)])[0])
        return sum(len(m["content"].encode(errors="replace")) + FRAME for m in messages)

    def _usage(self, tokens_in: int, tokens_out: int) -> Usage:
        if self._priced is not None:
            priced: Usage = self._priced(Usage(tokens_in=tokens_in, tokens_out=tokens_out))
            return priced
        return Usage(tokens_in=tokens_in, tokens_out=tokens_out)
