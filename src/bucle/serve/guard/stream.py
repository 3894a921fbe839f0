"""An answer's text on its way out: nothing leaves before what it may be part of is known.

What is held: the word that is being written, and those before it where they may spell an address; a number and what may
belong to it (AFTER characters after its last digit), at most CLUSTER characters; a private key up to its end (KEY).
Where a guard that judges the whole blocks (injection, abuse, language, a model), text leaves in steps of STEP
characters, each judged with what came before; where the schema's blocks, at the end. Where the prompt's leak blocks,
the last TAIL characters are held.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from bucle.core.ports import Verdict
from bucle.data.personal import Finding, find
from bucle.serve.guard.look import Around

if TYPE_CHECKING:
    from bucle.serve.guard.rules import Checked, GuardSet

__all__ = ["StreamGuard"]

AFTER, CLUSTER, KEY, WORD = 30, 1024, 16_600, 8_300
BEFORE = 600
"""Characters before a text that say what it is: `factura nº`, `la clave del wifi es`."""
STEP, TAIL = 400, 160
_GAP = re.compile(r"[\s\u3000-\u303f]")
_DIGITS = re.compile(r"\d+")
_SMALL = re.compile(r"(?:(?<=\s)|\A)[(+]?\w{0,3}\)?\s{1,3}\Z")
_BEGUN = re.compile(r"-----BEGIN[A-Z0-9 ]{0,40}(?:\Z|PRIVATE KEY)")
_CLOSED = re.compile(r"-----END [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----")
_CALM = re.compile(rf"(?<=\s)(?=\D{{{AFTER}}})")
_SPOKEN = re.compile(r"[\w+-]+(?:\.[\w+-]+)*")
_BETWEEN = re.compile(r"[\s\[({<\])}>]{0,5}")
_SIGNS = ("arroba", "at", "punto", "dot")
SPELT = 400
"""Characters in which an address is spelt, `ana arroba empresa punto es`."""
_LABEL = {"secret": "secrets"}


class StreamGuard:
    """The output guards of one choice of one answer. `feed` returns what may be sent now; `end` the rest, after which
    `checked` holds the verdicts and the text as it was sent. Once `blocked`, nothing more is sent: close with finish
    `content_filter`. What is masked does not depend on how the answer was cut into pieces."""

    def __init__(self, guards: GuardSet, around: Around) -> None:
        self._guards, self._around, self._text, self._sent, self._judged = guards, around, "", 0, 0
        self._out: list[str] = []
        checks = guards.checks("output")
        actions = {check.name: check.action("output") for check in checks}
        self._masks = {name for name in ("personal_data", "secrets") if actions.get(name) == "mask"}
        self._stops = {name for name in ("personal_data", "secrets") if actions.get(name) == "block"}
        self._whole = actions.get("answer_schema") == "block" and around.schema is not None
        self._leak = actions.get("prompt_leak") == "block" and around.secret is not None
        self._steps = any(check.action("output") == "block" for check in checks
                          if check.name in ("injection", "abuse", "language"))
        self.checked: Checked | None = None

    @property
    def blocked(self) -> bool:
        return self.checked is not None and self.checked.blocked is not None

    def feed(self, text: str) -> str:
        """What of the answer may go out now that `text` has come."""
        if self.blocked:
            return ""
        self._text += text
        if not (self._masks or self._stops or self._whole or self._leak or self._steps):
            self._sent = len(self._text)
            self._out.append(text)
            return text
        limit = 0 if self._whole else len(self._text)
        if self._leak:
            limit -= TAIL
        if self._masks or self._stops:
            limit = min(limit, _settled(self._text, self._sent))
        if self._steps:
            limit = min(limit, self._judge(limit))
        if self._leak and limit > self._sent and self._judge_all():
            return ""
        return self._release(limit, len(self._text)) if limit > self._sent else ""

    def end(self) -> str:
        """What is left to send."""
        if self.blocked:
            return ""
        whole = self._guards.check(self._text, "output", self._around)
        if whole.blocked is not None and not self._stops & {whole.blocked.guard}:
            self._close(whole, whole.blocked)
            return ""
        rest = self._release(len(self._text), len(self._text)) if self._sent < len(self._text) else ""
        if not self.blocked:
            self._close(whole, None)
        return "" if self.blocked else rest

    def _judge(self, limit: int) -> int:
        """How far what judges the whole lets text go: in steps, each with what came before it."""
        while self._judged + STEP <= limit and not self.blocked:
            self._judged += STEP
            found = self._guards.check(self._text[max(0, self._judged - BEFORE) : self._judged], "output", Around())
            if found.blocked is not None and found.blocked.guard not in self._stops:
                self._close(found, found.blocked)
        return self._sent if self.blocked else self._judged

    def _judge_all(self) -> bool:
        recent = self._text[max(0, self._sent - 4 * BEFORE) :]
        found = self._guards.check(recent, "output", Around(None, self._around.secret))
        if found.blocked is not None and found.blocked.guard == "prompt_leak":
            self._close(found, found.blocked)
        return self.blocked

    def _release(self, limit: int, end: int) -> str:
        """The text up to `limit`, masked; a finding that it would cut is kept for later."""
        if not (self._masks or self._stops):
            out, self._sent = self._text[self._sent : limit], limit
            self._out.append(out)
            return out
        start = _from(self._text, self._sent)
        began = time.perf_counter()
        pieces, at = [], self._sent
        for found in find(self._text[start:end]):
            first, last = found.start + start, found.end + start
            if last <= self._sent or first >= limit:
                continue
            if last > limit and limit < end:
                limit = max(at, first)
                break
            name = _LABEL.get(found.kind, "personal_data")
            if name in self._stops:
                self._refuse(found, name, began)
                return ""
            if name in self._masks:
                pieces += [self._text[at : max(at, first)], f"[{found.kind.upper()}]"]
                at = last
        limit = max(limit, at)
        pieces.append(self._text[at:limit])
        self._sent = limit
        self._out.append("".join(pieces))
        return self._out[-1]

    def _refuse(self, found: Finding, name: str, began: float) -> None:
        whole = self._guards.check(self._text, "output", self._around)
        verdict = Verdict(name, True, 1.0, (found.kind,), (time.perf_counter() - began) * 1000)
        self._close(whole, verdict)

    def _close(self, whole: Checked, blocked: Verdict | None) -> None:
        from bucle.serve.guard.rules import Checked

        text = "".join(self._out)
        self.checked = Checked(text, whole.verdicts, blocked, blocked is None and text != self._text)


def _settled(text: str, sent: int) -> int:
    """Up to where nothing that may still come changes what is found in `text[sent:]`."""
    held = text[sent:]
    gaps = [m.end() for m in _GAP.finditer(held)]
    cut = gaps[-1] if gaps else 0
    if not cut and len(held) > WORD:
        cut = len(held) - WORD // 2
    if (small := _SMALL.search(held, 0, cut)) is not None:
        cut = small.start()
    if (spelt := _spelt(held)) < cut:
        cut = max((at for at in gaps if at <= spelt), default=0)
    near = _near(held)
    if near <= cut and near < len(held):
        first = max(0, near - 8)
        before = [at for at in gaps if at <= first]
        cut = before[-1] if before else 0
        while cut and (small := _SMALL.search(held, 0, cut)) is not None and small.start() < cut:
            cut = small.start()
        if len(held) - cut > CLUSTER:
            cut = max([at for at in gaps if at <= len(held) - CLUSTER // 2] or [cut])
    for begun in _BEGUN.finditer(held, 0, cut + KEY):
        if begun.start() >= cut:
            break
        if len(held) - begun.start() < KEY and not _CLOSED.search(held, begun.start()):
            cut = begun.start()
    return sent + cut


def _spelt(held: str) -> int:
    """Where the address begins that the end of `held` may be in the middle of: `ana arroba empr`."""
    tail = held[-SPELT:]
    words = list(_SPOKEN.finditer(tail))
    begun = words.pop()[0].lower() if words and words[-1].end() == len(tail) else ""
    if not words or not (_BETWEEN.fullmatch(tail, words[-1].end(), len(tail) - len(begun))):
        return len(held)
    at = len(words) - 1
    if words[at][0].lower() in _SIGNS:
        at -= 1
    elif not any(sign.startswith(begun) for sign in _SIGNS):
        return len(held)
    while at > 1 and words[at - 1][0].lower() in _SIGNS:
        at -= 2
    return len(held) - len(tail) + words[max(at, 0)].start()


def _near(held: str) -> int:
    """Where the numbers begin that the end of `held` may still belong to: each at most AFTER from the next."""
    near = len(held)
    for first, last in reversed([m.span() for m in _DIGITS.finditer(held)]):
        if near - last > AFTER:
            break
        near = first
    return near


def _from(text: str, sent: int) -> int:
    """Where reading begins so that what stands before `sent` is understood: not within a number."""
    start = max(0, sent - BEFORE)
    if not start:
        return 0
    calm = _CALM.search(text, max(0, start - BEFORE), sent)
    return calm.start() if calm is not None else start
