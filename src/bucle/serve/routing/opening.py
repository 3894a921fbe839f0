"""What every part of a route is: an engine that opens a reply. Once it has begun, nobody else is asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from bucle.core.engine import AskContext, ChatAnswer, ChatAsk, Delta

__all__ = ["Layer", "Outcome", "Reply", "marked", "whole_of"]

Outcome = Callable[[str, bool, float], None]
"""Told once of a request by the target that was chosen for it: its key, whether it answered, its milliseconds."""


@dataclass(slots=True)
class Reply:
    """An answer that has begun: its first piece (all of it, where the whole was asked for) and what comes after."""

    first: Delta | ChatAnswer
    rest: AsyncGenerator[Delta | ChatAnswer, None] | None = None

    async def close(self) -> None:
        if self.rest is not None:
            await self.rest.aclose()


class Layer(ABC):
    """A ChatEngine by one method: `open`."""

    name: str

    @property
    @abstractmethod
    def offers(self) -> frozenset[str]:
        """What every target behind it offers now."""

    @abstractmethod
    async def open(self, ask: ChatAsk, ctx: AskContext, whole: bool, watch: Outcome | None = None) -> Reply:
        """The reply from its first piece on, or `whole` at once. `watch` is told what came of it."""

    async def complete(self, ask: ChatAsk, ctx: AskContext) -> ChatAnswer:
        return whole_of(await self.open(ask, ctx, True))

    async def stream(self, ask: ChatAsk, ctx: AskContext) -> AsyncGenerator[Delta | ChatAnswer, None]:
        reply = await self.open(ask, ctx, False)
        try:
            yield reply.first
            if reply.rest is not None:
                async for piece in reply.rest:
                    yield piece
        finally:
            await reply.close()  # at once where the reader stops, and not whenever the garbage is collected

    async def close(self) -> None:
        """Nothing of its own to end: targets belong to whoever made them."""
        return


def whole_of(reply: Reply) -> ChatAnswer:
    """The answer of a reply that was asked for whole."""
    if not isinstance(reply.first, ChatAnswer):
        raise TypeError("an engine gave a piece where the whole answer was asked for")
    return reply.first


def marked(reply: Reply, mark: Callable[[ChatAnswer], ChatAnswer]) -> Reply:
    """The reply with `mark` applied to its answer, whenever that comes."""
    if isinstance(reply.first, ChatAnswer):
        return Reply(mark(reply.first), reply.rest)
    if (rest := reply.rest) is None:
        return reply

    async def later() -> AsyncGenerator[Delta | ChatAnswer, None]:
        try:
            async for piece in rest:
                yield mark(piece) if isinstance(piece, ChatAnswer) else piece
        finally:
            await rest.aclose()

    return Reply(reply.first, later())
