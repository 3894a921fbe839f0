"""What every API here is: a reader of bodies and a writer of replies. No HTTP, no engine, no key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from bucle.core.engine import ChatAnswer, ChatAsk, Delta
from bucle.core.records import Usage
from bucle.serve.dialects.fields import Shape
from bucle.serve.errors import ApiError
from bucle.serve.routes import Limits

__all__ = ["DONE", "Dialect", "Events", "Head", "clean", "encode", "event", "extra_of", "usage_of"]

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Head:
    """What stands at the top of a reply: the trace's id, when it was asked (seconds since the epoch), the model as the
    client called it."""

    id: str
    created: int
    model: str


class Events(Protocol):
    """Writes one streamed reply as server-sent events. `begin` once, `delta` for each piece, then `end` or `error`."""

    def begin(self) -> bytes: ...

    def delta(self, piece: Delta) -> bytes: ...

    def end(self, answer: ChatAnswer, extra: Mapping[str, Any]) -> bytes:
        """What is left to send: finish reasons, usage, the end mark. `answer` holds what the deltas said already, and
        what was never sent as a delta (a whole tool call) is sent now."""
        ...

    def error(self, error: ApiError) -> bytes: ...


class Dialect(Protocol):
    """One API. `name` is for metrics and traces, `path` where it is served. `words` is what this API calls some of
    core.engine.OFFERS; `needs` are those that its clients cannot leave out, so that they ask for nothing."""

    name: str
    path: str
    words: Mapping[str, str]
    needs: frozenset[str]

    def shape(self, limits: Limits) -> Shape:
        """What a body may hold."""
        ...

    def parse(self, body: Mapping[str, Any], limits: Limits) -> ChatAsk:
        """The checked question. Raises ApiError that names the field in this API's words."""
        ...

    def whole(self, head: Head, ask: ChatAsk, answer: ChatAnswer, extra: Mapping[str, Any]) -> dict[str, Any]:
        """The reply. `extra` is what stands under `bucle`, beside what `extra_of` adds."""
        ...

    def events(self, head: Head, ask: ChatAsk) -> Events: ...

    def error_body(self, error: ApiError) -> dict[str, Any]: ...


def encode(value: Any) -> bytes:
    """`value` as JSON; a lone surrogate, which cannot be sent, becomes `?`, a number that is not finite null."""
    try:
        return msgspec.json.encode(value)
    except (TypeError, ValueError):
        return msgspec.json.encode(_sendable(value))


def event(value: Mapping[str, Any], name: str = "") -> bytes:
    """One server-sent event."""
    first = b"event: " + name.encode() + b"\n" if name else b""
    return first + b"data: " + encode(value) + b"\n\n"


def clean(text: str) -> str:
    """`text` without lone surrogates, which cannot be sent or stored."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def usage_of(usage: Usage) -> dict[str, Any]:
    """OpenAI's `usage`."""
    return {"prompt_tokens": usage.tokens_in, "completion_tokens": usage.tokens_out,
            "total_tokens": usage.tokens_in + usage.tokens_out}


def extra_of(answer: ChatAnswer, extra: Mapping[str, Any]) -> dict[str, Any]:
    """The `bucle` object: what the gateway knows, dollars, and what a task says beside its answer."""
    told = {"usd": answer.usage.usd, **extra}
    if answer.cached:
        told["cached"] = answer.cached
    if (found := answer.prediction) is not None:
        told |= {"score": found.score, "abstained": found.abstained, "chunks": list(found.chunks),
                 "citations": list(found.citations), "quotes": list(found.quotes)}
    return told


def _sendable(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping):
        return {clean(str(k)): _sendable(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_sendable(v) for v in value]
    return value
