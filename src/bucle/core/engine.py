"""What every engine is asked and answers, whichever API the question came by and whatever runs behind.

One port for a model in a process of its own, vLLM, a provider, a task's candidate, and for what is made of them: an
alias with a canary, a fallback, a cache are engines too, made of engines.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from bucle.core.records import Prediction, Usage

__all__ = [
    "EXTRAS",
    "OFFERS",
    "AskContext",
    "ChatAnswer",
    "ChatAsk",
    "ChatEngine",
    "Choice",
    "Delta",
    "Finish",
    "added",
    "wanted",
]

Finish = Literal["stop", "length", "tool_calls", "content_filter"]

OFFERS = frozenset({
    "temperature", "top_p", "presence_penalty", "frequency_penalty", "logit_bias", "stop", "seed", "n", "logprobs",
    "tools", "json_object", "json_schema", "regex", "max_tokens", "prompt", "conversation",
})
"""What an engine may offer beyond answering one conversation: everything that `wanted` can name. `prompt` is raw text
without a chat template; `conversation` that more than the last user message reaches it."""


EXTRAS = frozenset({"reasoning_effort", "verbosity", "metadata", "prompt_cache_key", "thinking", "top_k"})
"""Parameters that only some providers have a word for: an engine that offers one gets it as the client wrote it."""


@dataclass(frozen=True, slots=True)
class ChatAsk:
    """One checked question. None is "not said": the engine's own default (an engine of this machine takes the likeliest
    token each time).

    `messages` are OpenAI's chat messages, their content text (parts joined, images refused before), with `tool_calls`
    and `tool_call_id` where there are any; `prompt` stands instead of them for raw completion. `top_logprobs` None asks
    for no logprobs, 0 for those of the chosen tokens. `schema` is a JSON schema that the answer must fit, `any_json`
    asks for any JSON object, `regex` for text that matches whole. `user` is who asks, as far as the client says.
    `extra` are those of EXTRAS that were sent, each in the words of the provider's own API.
    """

    model: str
    messages: tuple[Mapping[str, Any], ...] = ()
    prompt: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: Mapping[str, float] = field(default_factory=dict)
    stop: tuple[str, ...] = ()
    seed: int | None = None
    n: int = 1
    top_logprobs: int | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    schema: Mapping[str, Any] | None = None
    any_json: bool = False
    regex: str | None = None
    stream: bool = False
    include_usage: bool = False
    user: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """What the last user message (or the prompt) says: what a task's candidate is given, and guards look at."""
        if self.prompt is not None:
            return self.prompt
        return next((str(m.get("content") or "") for m in reversed(self.messages) if m.get("role") == "user"), "")


def wanted(ask: ChatAsk) -> tuple[str, ...]:
    """What of OFFERS and EXTRAS `ask` makes use of: what an engine must offer, or the ask is refused."""
    asked = {
        "temperature": ask.temperature is not None, "top_p": ask.top_p not in (None, 1, 1.0),
        "presence_penalty": bool(ask.presence_penalty), "frequency_penalty": bool(ask.frequency_penalty),
        "logit_bias": bool(ask.logit_bias), "stop": bool(ask.stop), "seed": ask.seed is not None, "n": ask.n > 1,
        "logprobs": ask.top_logprobs is not None, "tools": bool(ask.tools), "json_object": ask.any_json,
        "json_schema": ask.schema is not None, "regex": ask.regex is not None,
        "max_tokens": ask.max_tokens is not None, "prompt": ask.prompt is not None,
    }
    return (*(name for name, used in asked.items() if used), *ask.extra)


_NOTHING = Usage()


@dataclass(slots=True)
class AskContext:
    """Who waits, how long, and where an engine tells what it did. One a request, shared by all engines it passes.

    `deadline` in time.monotonic() seconds; `access` the labels that the asker's key holds; `forward` headers for remote
    models (a replay's); `identity` what a stable share is decided by (the user, else the key). `spans` are appended to,
    times in milliseconds since `started` (time.perf_counter). `late` is work that goes on although nobody waits any
    more (a thread cannot be stopped): each resolves to the ChatAnswer it came to, or None. `acted`: an engine may have
    done or paid something elsewhere, so nobody asks again by themselves. `spent` is what was used besides the answer,
    told by the engines that made the calls: those that were sent and gave none (too late, broken off, given up for
    another). `estimated`: some of it, or of the answer's own usage, was counted by nobody.
    """

    trace: str = ""
    identity: str = ""
    user: str = ""
    access: frozenset[str] = frozenset()
    deadline: float = float("inf")
    forward: Mapping[str, str] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)
    spans: list[Mapping[str, Any]] = field(default_factory=list)
    late: list[Future[ChatAnswer | None]] = field(default_factory=list)
    acted: bool = False
    spent: list[Usage] = field(default_factory=list)
    estimated: bool = False

    def spend(self, usage: Usage, *, estimated: bool = True) -> None:
        """A call that gives no answer has used this."""
        self.spent.append(usage)
        self.estimated = self.estimated or estimated

    def unsent(self) -> None:
        """A call that gives no answer was never sent."""
        self.spend(_NOTHING, estimated=False)

    def span(self, name: str, began: float, **detail: Any) -> None:
        """Record what ran from `began` (perf_counter) until now."""
        now = time.perf_counter()
        self.spans.append({"name": name, "start_ms": round((began - self.started) * 1000, 3),
                           "ms": round((now - began) * 1000, 3), **detail})

    @property
    def left_s(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()


def added(*used: Usage) -> Usage:
    """The sum of several."""
    if len(used) == 1:
        return used[0]
    return Usage(tokens_in=sum(u.tokens_in for u in used), tokens_out=sum(u.tokens_out for u in used),
                 usd=sum(u.usd for u in used))


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the `n` answers. `tool_calls` and `logprobs` in OpenAI's shape (`{"content": [...]}`). `stopped` is the
    stop string that ended it, where the engine says so."""

    text: str
    finish: Finish = "stop"
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    logprobs: Mapping[str, Any] | None = None
    refusal: str | None = None
    stopped: str = ""


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """A finished answer. `served_by` is the model that the engine says it is; `prediction` a task's own;
    `route`, `release` and `candidate` say who answered where an alias chose; `cached` is `exact` or `semantic`."""

    choices: tuple[Choice, ...]
    usage: Usage = _NOTHING
    served_by: str = ""
    prediction: Prediction | None = None
    route: str = ""
    release: str = ""
    candidate: str = ""
    cached: str = ""

    @property
    def text(self) -> str:
        """What the first choice says."""
        return self.choices[0].text if self.choices else ""


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of choice `index`: text, or pieces of tool calls in OpenAI's streaming shape (`index` within them)."""

    text: str = ""
    index: int = 0
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    logprobs: Mapping[str, Any] | None = None


@runtime_checkable
class ChatEngine(Protocol):
    """Answers conversations, from the event loop. Raises the errors of core.errors and models.endpoint: RateLimited,
    Refused, TimedOut, ModelUnavailable (may be asked again), BadInput, ContextOverflow (may not)."""

    name: str

    @property
    def offers(self) -> frozenset[str]:
        """What of OFFERS it takes. It may change while it lives: another model stands behind it, a target is out."""
        ...

    async def complete(self, ask: ChatAsk, ctx: AskContext) -> ChatAnswer: ...

    def stream(self, ask: ChatAsk, ctx: AskContext) -> AsyncIterator[Delta | ChatAnswer]:
        """Pieces as they come, then one ChatAnswer that holds all of it. Closing the iterator ends the work."""
        ...

    async def close(self) -> None: ...
