"""What the gateway serves: routes by the model name that clients use, and the limits of a request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from bucle.core.engine import ChatEngine
from bucle.core.errors import ConfigError
from bucle.core.ports import ChatModel, Embedder, Predictor
from bucle.core.records import TaskKind
from bucle.models.tokens import Counter

__all__ = ["ANSWER_TOKENS", "Limits", "Route", "RouteKind"]

RouteKind = TaskKind | Literal["chat", "embed"]
ANSWER_TOKENS = 512
"""What an engine of this machine writes at most where nobody says how much."""
_KINDS = frozenset({*get_args(TaskKind), "chat", "embed"})


@dataclass(frozen=True)
class Route:
    """One name in `/v1/models` and what answers there.

    `engine` answers conversations; instead of it a task's `predictor` or a `chat` model of this process may be given,
    which the gateway wraps. Of kind `embed` it is an `embedder`. `candidate` is the id that traces carry, `prompt` that
    of the prompt behind it. `places` says where each passage that may be cited stands (its id -> document and place): a
    reply cites that, its `chunks` stay ids. `release` overrides the gateway's own, for a route that was released by
    itself. `usd_per_million_in` and `_out` are what budgets reserve by; None leaves it to the engine (a method
    `priced(tokens_in, tokens_out)`), and what computes in this process costs nothing by the token.
    Where a request says no `max_tokens`, the engine's own default holds, and budgets reserve `answer_tokens`. Without
    `price_known` it costs, and nobody knows what: a key with a budget is refused. `counter` gives
    what counts its tokens; it is asked in a thread, at each count. `vocabulary` is an
    encoder's published one, by which its clients may send token ids.

    A predictor or chat model gets one call at a time, unless it says otherwise by a `max_parallel` of its own, or
    `parallel` is given. A predictor that gets one call at a time is given what waits as one batch, and where it raises
    each input again alone. One with more gets each input once, in a call and a thread of its own: give one whose work
    costs or changes something elsewhere (it asks a provider, it writes) at least 2.
    """

    name: str
    kind: RouteKind
    candidate: str = ""
    predictor: Predictor | None = None
    chat: ChatModel | None = None
    embedder: Embedder | None = None
    release: str = ""
    places: Mapping[str, str] = field(default_factory=dict)
    parallel: int = 0
    engine: ChatEngine | None = None
    prompt: str = ""
    usd_per_million_in: float | None = None
    usd_per_million_out: float | None = None
    price_known: bool = True
    answer_tokens: int = ANSWER_TOKENS
    counter: Callable[[], Counter] | None = None
    vocabulary: str = ""

    @property
    def at_once(self) -> int:
        """Calls that a predictor, chat model or embedder gets at once."""
        engine = self.predictor or self.chat or self.embedder
        return max(1, self.parallel or int(getattr(engine, "max_parallel", 1)))

    @property
    def model(self) -> str:
        """What the engine calls itself."""
        return str(getattr(self.engine or self.chat or self.embedder, "name", self.name))

    def __post_init__(self) -> None:
        alone = {"chat": self.chat, "embed": self.embedder}.get(self.kind, self.predictor)
        own = alone or (self.engine if self.kind != "embed" else None)
        given = [e for e in (self.predictor, self.chat, self.embedder, self.engine) if e is not None]
        if self.kind not in _KINDS or own is None or len(given) != 1:
            raise ConfigError(f"route {self.name!r} of kind {self.kind!r} needs exactly its own engine",
                              "give engine=, predictor= (a task), chat= or embedder=")
        if not self.name or len(self.name) > 200 or not self.name.isprintable():
            raise ConfigError("a route's name is 1 to 200 printable characters", "rename the route")


@dataclass(frozen=True)
class Limits:
    """Bounds of a request: bytes, counts, characters, seconds. `in_flight` bounds how many are at work, `per_key` how
    many of them of one key (0: half), `per_route` of one route where there are several (0: three quarters), so that
    neither one client nor one slow model takes all places."""

    body_bytes: int = 1024 * 1024
    messages: int = 2000
    input_chars: int = 1_000_000
    embed_inputs: int = 2048
    max_tokens: int = 131_072
    timeout_s: float = 60.0
    in_flight: int = 256
    per_key: int = 0
    per_route: int = 0
    threads: int = 16
