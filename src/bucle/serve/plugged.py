"""Guards that are given as objects (plug-ins, tests), behind the calls that the gateway makes of a GuardSet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bucle.core.engine import ChatAnswer, ChatAsk
from bucle.core.ports import Guard
from bucle.serve.guard import Checked, inspect

__all__ = ["Plugged"]


class Plugged:
    """Flags what `guards` flag; masks and blocks nothing. They may be slow, so they are called from threads."""

    inline = flags_only = False

    def __init__(self, guards: Sequence[Guard]) -> None:
        self._guards = tuple(guards)

    def check_ask(self, ask: ChatAsk) -> tuple[ChatAsk, Checked]:
        return ask, self._look(ask.text)

    def check_texts(self, texts: Sequence[str]) -> tuple[Sequence[str], Checked]:
        return texts, self._look("\n".join(texts))

    def check_answer(self, answer: ChatAnswer, ask: ChatAsk, secret: Any = None) -> tuple[ChatAnswer, Checked]:
        found = answer.prediction
        return answer, self._look(found.output if found is not None else answer.text)

    def stream(self, ask: ChatAsk | None = None, secret: Any = None) -> _Watch:
        return _Watch(self)

    def protect(self, messages: Sequence[Mapping[str, Any]]) -> tuple[Sequence[Mapping[str, Any]], None]:
        return messages, None

    def moderate(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """A score of each guard for each text."""
        return [{v.guard: v.score for v in inspect(self._guards, text)} for text in texts]

    def _look(self, text: str) -> Checked:
        return Checked(text, tuple(inspect(self._guards, text)) if self._guards and text else ())


class _Watch:
    """Lets a stream's text through, and looks at all of it at the end."""

    blocked = False

    def __init__(self, guards: Plugged) -> None:
        self._guards, self._parts = guards, list[str]()
        self.checked: Checked | None = None

    def feed(self, text: str) -> str:
        self._parts.append(text)
        return text

    def end(self) -> str:
        self.checked = self._guards._look("".join(self._parts))
        return ""
