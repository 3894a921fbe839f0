"""The guards that a project asks for, run on one text: what they found, what is masked, whether it is refused."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bucle.core.engine import ChatAnswer, ChatAsk
from bucle.core.ports import Verdict
from bucle.core.serving import GuardRule, Guards
from bucle.serve.errors import ApiError
from bucle.serve.guard import leak, look
from bucle.serve.guard.leak import Messages, Secret
from bucle.serve.guard.look import Around, Found, Look
from bucle.serve.guard.stream import StreamGuard

__all__ = ["Checked", "GuardSet", "refusal"]

log = logging.getLogger("bucle.serve")
Side = Literal["input", "output"]
CLOSED = ("mask", "block")
"""Actions that must hold: where their guard fails, the text is refused."""


@dataclass(frozen=True, slots=True)
class Checked:
    """`text` as it may go on (`masked`: not as it came), what every guard said, and the one that refuses it."""

    text: str
    verdicts: tuple[Verdict, ...] = ()
    blocked: Verdict | None = None
    masked: bool = False


@dataclass(frozen=True, slots=True)
class _Check:
    name: str
    rule: GuardRule
    look: Look


class GuardSet:
    """The checks of `rules`. Safe to use from several threads; a call takes microseconds unless a guard asks a model
    (`inline` is False then: call it from a thread)."""

    def __init__(self, rules: Guards) -> None:
        self.inline = True
        self._checks: tuple[_Check, ...] = (
            _Check("personal_data", rules.personal_data, look.personal),
            _Check("secrets", rules.secrets, look.secrets),
            _Check("injection", rules.injection, _injection),
        )

    def check_input(self, text: str) -> Checked:
        """What a user's text may become before a model sees it."""
        return self.check(text, "input", Around())

    def check_output(self, text: str, ask: ChatAsk | None = None, secret: Secret | None = None) -> Checked:
        """What an answer to `ask` may become before its user sees it. `secret` comes from `protect`."""
        return self.check(text, "output", Around(ask.schema if ask else None, secret))

    def check_ask(self, ask: ChatAsk) -> tuple[ChatAsk, Checked]:
        """`ask` with its texts masked, and the worst that was found in any: the prompt, every message that is neither
        the system's nor the model's own."""
        checked = self.check_input(ask.text)
        return ask, checked

    def check_answer(self, answer: ChatAnswer, ask: ChatAsk, secret: Secret | None = None
                     ) -> tuple[ChatAnswer, Checked]:
        """`answer` with its choices masked, and the worst that was found in any. A blocked choice has no text and
        finishes as `content_filter`."""
        checked = self.check_output(answer.text, ask, secret)
        return answer, checked

    def stream(self, ask: ChatAsk | None = None, secret: Secret | None = None) -> StreamGuard:
        """The same for an answer that comes in pieces; one for each choice."""
        return StreamGuard(self, Around(ask.schema if ask else None, secret))

    def protect(self, messages: Sequence[Mapping[str, Any]]) -> tuple[Messages, Secret | None]:
        """`messages` with a random token in the system message, and the secret to give to the output's check. As they
        are, and None, where there is no system message or the guard is off."""
        return leak.protect(messages)

    def stored(self, text: str) -> str:
        """`text` as a trace may hold it: personal data masked, secrets gone."""
        return _cut(text, tuple((f.start, f.end, "" if f.kind == "secret" else f"[{f.kind.upper()}]")
                                for f in look.findings(text)))

    def moderate(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """A score in [0, 1] of each category that is scored here, for each text."""
        return [{"injection": _injection(text, Around()).score} for text in texts]

    def check(self, text: str, side: Side, around: Around) -> Checked:
        """What the guards of one side say of `text`."""
        verdicts: list[Verdict] = []
        blocked: Verdict | None = None
        spans: list[tuple[int, int, str]] = []
        for check in self._checks:
            action = getattr(check.rule, side)
            if action == "off":
                continue
            began = time.perf_counter()
            try:
                found = check.look(text, around)
                flagged = bool(found.kinds) and found.score >= check.rule.threshold
            except Exception:
                log.exception("guard %s failed", check.name)
                found, flagged = Found(0.0, ("guard_failed",)), False
            ms = (time.perf_counter() - began) * 1000
            failed = found.kinds == ("guard_failed",)
            acts = action if flagged or (failed and action in CLOSED) else ""
            if failed and action in CLOSED:
                acts = "block"
            verdict = Verdict(check.name, flagged, found.score, found.kinds if flagged or failed else (), ms)
            verdicts.append(verdict)
            if acts == "block":
                blocked = blocked or verdict
            elif acts == "mask":
                spans.extend(found.spans)
        masked = _cut(text, tuple(spans)) if spans else text
        return Checked(masked, tuple(verdicts), blocked, masked != text)


def refusal(blocked: Verdict) -> ApiError:
    """The answer to an input that a guard refuses: 400 `content_filter`; 503 `guard_failed` where the guard itself
    failed, because what it should have kept back must not pass unseen."""
    if "guard_failed" in blocked.kinds:
        return ApiError(503, f"the check {blocked.guard} failed, and nothing passes without it; try again",
                        code="guard_failed")
    return ApiError(400, f"this input is refused here: {', '.join(blocked.kinds)}", code="content_filter")


def _injection(text: str, around: Around) -> Found:
    from bucle.monitor.injection import suspicion

    score, kinds = suspicion(text)
    return Found(score, ("injection", *kinds))


def _cut(text: str, spans: tuple[tuple[int, int, str], ...]) -> str:
    pieces, at = [], 0
    for start, end, write in sorted(spans):
        if start >= at:
            pieces += [text[at:start], write]
            at = end
    return "".join(pieces) + text[at:]


