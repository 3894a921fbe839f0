"""What runs inside an engine's own process: a model that answers many requests at once, and how it is described."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

from bucle.core.engine import ChatAnswer, ChatAsk, Delta

__all__ = ["Cancel", "Event", "Host", "HostSpec", "On"]

Event = Delta | ChatAnswer | BaseException
On = Callable[[Event], None]
Cancel = Callable[[], None]


@dataclass(frozen=True, slots=True)
class HostSpec:
    """One base model, as an engine's process is told to serve it. Values only: nothing in it names code.

    `folder` is a checked Hugging Face folder (safetensors, no code), `adapters` PEFT folders by the names they are
    called by, of which at most `adapters_loaded` are in memory; `precision` as in bucle.yaml. `threads` 0: what this
    machine's default says. `parallel` sequences are generated at once, the rest wait; `max_tokens` is the answer's
    length where a request says none; `cache_gb` bounds the keys and values of all sequences; `cached` is where
    converted models are kept (empty: the user's cache folder).
    """

    name: str
    folder: str
    engine: Literal["auto", "transformers", "openvino"] = "auto"
    precision: str = "auto"
    adapters: Mapping[str, str] = field(default_factory=dict)
    adapters_loaded: int = 4
    threads: int = 0
    parallel: int = 16
    max_tokens: int = 512
    cache_gb: float = 1.0
    cached: str = ""

    def to_json(self) -> str:
        """One line of JSON, for a child's standard input."""
        return json.dumps(asdict(self) | {"adapters": dict(self.adapters)})

    @classmethod
    def from_json(cls, text: str) -> HostSpec:
        """The spec that `to_json` wrote."""
        return cls(**json.loads(text))


class Host(Protocol):
    """A model in memory. Made by `open_host` (bucle.models.engines.open), inside the process that serves it.

    `adapters` are the names that `submit` takes besides `""` (the base model alone).
    """

    offers: frozenset[str]
    adapters: tuple[str, ...]

    def submit(self, ask: ChatAsk, adapter: str, on: On) -> Cancel:
        """Queue `ask` for the base model (`adapter` empty) or one of its adapters; returns at once, never blocks.

        `on` is called from a thread of the host: with Deltas as text comes (of all `n` choices, by their index; only
        where `ask.stream`), then exactly once with the ChatAnswer that holds everything, or with the error: BadInput,
        ContextOverflow, ModelUnavailable. It must not block. The function returned ends the work early, from any
        thread and any number of times: its place is free within a step, and `on` need not be called any more.
        """
        ...

    def describe(self) -> Mapping[str, Any]:
        """`engine`, `precision`, `context` (tokens), `note` (why this engine, one line or empty), `loaded` (the
        adapters in memory now), `running` and `waiting` (requests), and what else the engine can tell."""
        ...

    def close(self) -> None:
        """Stop the threads and free the model; requests at work get ModelUnavailable."""
        ...
