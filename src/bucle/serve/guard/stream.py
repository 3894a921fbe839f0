"""An answer's text on its way out: nothing leaves before what it may be part of is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bucle.serve.guard.look import Around

if TYPE_CHECKING:
    from bucle.serve.guard.rules import Checked, GuardSet

__all__ = ["StreamGuard"]


class StreamGuard:
    """The output guards of one choice of one answer. `feed` returns what may be sent now; `end` the rest, after which
    `checked` holds the verdicts. Once `blocked`, nothing more is sent: close with finish `content_filter`."""

    def __init__(self, guards: GuardSet, around: Around) -> None:
        self._guards, self._around, self._text = guards, around, ""
        self.checked: Checked | None = None

    @property
    def blocked(self) -> bool:
        return self.checked is not None and self.checked.blocked is not None

    def feed(self, text: str) -> str:
        """What of the answer may go out now that `text` has come."""
        self._text += text
        return ""

    def end(self) -> str:
        """What is left to send."""
        self.checked = self._guards.check(self._text, "output", self._around)
        return "" if self.blocked else self.checked.text
