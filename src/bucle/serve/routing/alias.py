"""A name that stands for others: the engine of one route."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from bucle.core.engine import AskContext, ChatAnswer, ChatAsk, Delta
from bucle.core.records import Trace
from bucle.serve.routing.facts import RollBack

__all__ = ["Alias"]


class Alias:
    """One route of bucle.yaml as a ChatEngine. Built by `build_routes`.

    `offers` is what every target that may be asked offers. Answers carry `route` (the target that answered), `release`
    and `candidate`; each attempt leaves a span `attempt` with `route`, `target`, `ms` and, where it failed, `error`.
    """

    name: str
    offers: frozenset[str]
    history: list[RollBack]

    async def complete(self, ask: ChatAsk, ctx: AskContext) -> ChatAnswer:
        raise NotImplementedError

    def stream(self, ask: ChatAsk, ctx: AskContext) -> AsyncIterator[Delta | ChatAnswer]:
        raise NotImplementedError

    async def close(self) -> None:
        """End the shadows at work. The targets belong to whoever made them and are not closed here."""

    def heard(self, trace: Trace, rating: int) -> bool:
        """Count a rating (+1 or -1) of an answer for the canary gate; whether it was."""
        raise NotImplementedError

    def priced(self, tokens_in: int, tokens_out: int) -> float:
        """US dollars that these tokens cost at the dearest target that may be asked: what a budget reserves."""
        raise NotImplementedError

    def roll_back(self, target: str, why: str = "by hand") -> None:
        """Give `target` no more traffic."""

    def restore(self, target: str) -> None:
        """Give a rolled back `target` its share again; its figures, and the first target's, begin anew."""

    def standing(self) -> dict[str, Any]:
        """What the route does now, for `/metrics`, the studio and tests: targets with their shares, breakers, canary
        figures and roll-backs; retries, hedges, shadows and cache by count."""
        raise NotImplementedError
