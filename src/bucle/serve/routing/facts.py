"""What a route knows of its targets, and what it tells of what became of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from bucle.core.engine import AskContext, ChatAnswer, ChatAsk
from bucle.core.serving import Target
from bucle.models.tokens import CHARACTERS, MESSAGE, WHOLE

__all__ = ["RollBack", "ShadowRun", "TargetFacts", "target_key"]

_TOKENS_A_BYTE = 0.3
"""Added for each byte of a text beyond one a character: with it 3-byte characters (Chinese) count as one token each."""


@dataclass(frozen=True)
class TargetFacts:
    """What is known of one target. Prices in US dollars per million tokens (None: not known, taken as dearer than any
    that is), `context` in tokens (None: not known, taken as longer than any that is). `release` and `candidate` are
    what answers carry; `count` gives the tokens of an ask exactly (else they are estimated from its characters).
    `kind` `embeddings` marks what cannot be asked to chat, so that a route to it is refused."""

    price_in: float | None = None
    price_out: float | None = None
    context: int | None = None
    release: str = ""
    candidate: str = ""
    kind: Literal["chat", "embeddings"] = "chat"
    count: Callable[[ChatAsk], int] | None = None

    def tokens(self, ask: ChatAsk) -> int:
        """Tokens of the prompt: counted, or estimated on the high side."""
        return self.count(ask) if self.count is not None else estimate(ask)

    def usd(self, tokens_in: int, tokens_out: int) -> float:
        """What these tokens cost, 0 where no price is known."""
        return ((self.price_in or 0.0) * tokens_in + (self.price_out or 0.0) * tokens_out) / 1e6


@dataclass(frozen=True)
class ShadowRun:
    """What a shadow target answered to a request that another one served: for a trace of role `shadow` and for the
    ledger of spend. `ask` and `served` are the user's question and the answer they got, `ctx` the shadow's own context
    (its spans; `ctx.trace` is the user's trace), `answer` None where it failed with `error` (a class's name)."""

    route: str
    target: str
    release: str
    candidate: str
    ask: ChatAsk
    served: ChatAnswer
    ctx: AskContext
    answer: ChatAnswer | None
    error: str
    ms: float


@dataclass(frozen=True)
class RollBack:
    """One end of a canary, or its restoration by hand (`restored`). `at` is seconds since the epoch, `gate` what broke
    (`errors`, `p95`, `bad_ratings`, `hand`), `figures` what it was decided on."""

    route: str
    target: str
    gate: str
    why: str
    at: float
    restored: bool = False
    figures: Mapping[str, Any] = field(default_factory=dict)


def target_key(target: Target) -> str:
    """The name that engines, facts, spans and roll-backs know a target by: `NAME`, or `NAME@RELEASE`."""
    return f"{target.to}@{target.release}" if target.release else target.to


def estimate(ask: ChatAsk) -> int:
    """Tokens of what is asked, from its characters and bytes, on the high side: of 40 texts like those that
    models.tokens measured one takes more, and dense code may."""
    texts = [ask.prompt] if ask.prompt is not None else [str(m.get("content") or "") for m in ask.messages]
    texts += [str(m["tool_calls"]) for m in ask.messages if m.get("tool_calls")]
    texts += [str(tool) for tool in ask.tools] + ([str(ask.schema)] if ask.schema else [])
    chars = sum(map(len, texts))
    more = sum(len(text.encode(errors="replace")) for text in texts) - chars
    return int(chars / CHARACTERS[""][0] + max(0, more) * _TOKENS_A_BYTE) + WHOLE + MESSAGE * len(ask.messages)
