"""What one call of a remote model cost, also where no reply tells: a provider bills what it read and what it wrote."""

from __future__ import annotations

from dataclasses import replace
from types import TracebackType
from typing import Protocol

from bucle.core.engine import AskContext, ChatAnswer, ChatAsk, Delta
from bucle.core.records import Usage
from bucle.models.tokens import about, about_text

__all__ = ["Meter"]


class _Priced(Protocol):
    def priced(self, tokens_in: int, tokens_out: int) -> Usage: ...


class Meter:
    """`with Meter(engine, ask, ctx) as meter:` around one call.

    `sent` is set once the request is on its way, and taken back where it is refused by a status; `begun` once a reply
    has. A call that was sent and ends without `answered` (it timed out, broke off, was given up) adds to `ctx.spent` an
    estimate of its prompt and of what had come (`took`, `written` texts); one that was never sent adds an empty Usage.
    Without an engine, which knows the price, nothing is told.
    """

    __slots__ = ("_ask", "_ctx", "_done", "_engine", "begun", "sent", "written")

    def __init__(self, engine: _Priced | None, ask: ChatAsk, ctx: AskContext) -> None:
        self._engine, self._ask, self._ctx = engine, ask, ctx
        self.sent = self.begun = self._done = False
        self.written: list[str] = []

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if self._done or self._engine is None:
            return
        if not self.sent:
            self._ctx.unsent()
            return
        self._ctx.spend(self._engine.priced(about(self._ask), self._out("".join(self.written))))

    def took(self, piece: Delta) -> Delta:
        """A piece has come, of whichever choice; the same piece."""
        if piece.text:
            self.written.append(piece.text)
        for call in piece.tool_calls:
            self.written.append(_said(call))
        return piece

    def answered(self, answer: ChatAnswer) -> ChatAnswer:
        """The answer, with tokens that its reply did not count estimated (and `ctx.estimated` set)."""
        self._done, usage = True, answer.usage
        if self._engine is None:
            return answer
        tokens_in = usage.tokens_in or about(self._ask)
        tokens_out = usage.tokens_out or self._out("".join(
            c.text + (c.refusal or "") + "".join(map(_said, c.tool_calls)) for c in answer.choices))
        if (tokens_in, tokens_out) == (usage.tokens_in, usage.tokens_out):
            return answer
        self._ctx.estimated = True
        return replace(answer, usage=self._engine.priced(tokens_in, tokens_out))

    def _out(self, text: str) -> int:
        found, most = about_text(text), self._ask.max_tokens
        return found if most is None else min(found, most * self._ask.n)


def _said(call: object) -> str:
    """What of a tool call, or of a piece of one, the model wrote."""
    function = call.get("function") if isinstance(call, dict) else None
    said = [function.get(n) for n in ("name", "arguments")] if isinstance(function, dict) else []
    return "".join(s for s in said if isinstance(s, str))
