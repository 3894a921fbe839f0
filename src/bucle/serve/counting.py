"""`POST /v1/messages/count_tokens`, as Anthropic's: how many tokens a conversation takes, without asking the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bucle.core.engine import ChatAsk
from bucle.core.records import Usage
from bucle.models.tokens import FRAMED, about
from bucle.serve.dialects.messages import Messages
from bucle.serve.http import Exchange
from bucle.serve.routes import Route

if TYPE_CHECKING:
    from bucle.serve.gateway import Gateway

__all__ = ["COUNT", "Counting", "counted"]

COUNT = "/v1/messages/count_tokens"


def counted(route: Route, ask: ChatAsk) -> tuple[int, bool]:
    """Tokens of the prompt, and whether that is an estimate: it is one where the route's tokenizer or chat template is
    not at hand, and of tools, their calls and schemas, which every model is told in words of its own. Raises BadInput
    for a conversation that the model's template refuses."""
    plain = not ask.tools and ask.schema is None and all(m["role"] != "tool" and not m.get("tool_calls")
                                                         for m in ask.messages)
    counter = route.counter() if route.counter is not None and plain else None
    if counter is None or counter.how == "estimate":
        return about(ask), True
    messages = [{"role": str(m["role"]), "content": str(m["content"] or "")} for m in ask.messages]
    framed = counter.render is not None if counter.how == "tokenizer" else counter.name in FRAMED
    return counter.count(messages).prompt.tokens, not framed


class Counting:
    """The endpoint of one gateway. Nothing is stored of what is counted, and it costs nothing but a request of the
    key's minute."""

    def __init__(self, gateway: Gateway, dialect: Messages) -> None:
        self._gateway, self._dialect = gateway, dialect

    async def tokens(self, exchange: Exchange) -> None:
        gateway = self._gateway
        body, _ = await gateway.read(exchange)
        live = gateway.find(body, exchange.key)
        ask = self._dialect.parse_counted(body, gateway.limits)
        held = None
        if gateway.accounts is not None:
            held = gateway.accounts.reserve(exchange.key, usd=0.0, tokens=0, trace="")
            gateway.accounts.settle(held, Usage())
        tokens, estimated = await gateway.aside(counted, live.route, ask)
        await exchange.json({"input_tokens": tokens, "bucle": {"estimated": estimated}},
                            headers=held.headers() if held is not None else None)
