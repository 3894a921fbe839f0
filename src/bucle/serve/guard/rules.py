"""The guards that a project asks for, run on one text: what they found, what is masked, whether it is refused."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from bucle.core.engine import ChatAnswer, ChatAsk, Choice
from bucle.core.ports import Verdict
from bucle.core.serving import GuardRule, Guards
from bucle.serve.errors import ApiError
from bucle.serve.guard import leak, look, models, scorers
from bucle.serve.guard.classifier import scores
from bucle.serve.guard.inside import END, Leaves
from bucle.serve.guard.leak import Messages, Secret
from bucle.serve.guard.look import NOTHING, Around, Found, Look
from bucle.serve.guard.models import Endpoint
from bucle.serve.guard.stream import StreamGuard

__all__ = ["Check", "Checked", "GuardSet", "refusal", "stored"]

log = logging.getLogger("bucle.serve")
Side = Literal["input", "output"]
Row = tuple[str, Look, float, str]
"""A check as it runs: name, look, threshold, action."""
_ALONE = Around()
CLOSED = ("mask", "block")
"""Actions that must hold: where their guard fails, the text is refused."""
FAILED = "guard_failed"
HELD = ("personal_data", "secrets")
"""What goes no further wherever it stands; the other guards judge what people say, not what models and programs do."""


@dataclass(frozen=True, slots=True)
class Checked:
    """`text` as it may go on (`masked`: not as it came), what every guard said, and the one that refuses it."""

    text: str
    verdicts: tuple[Verdict, ...] = ()
    blocked: Verdict | None = None
    masked: bool = False


@dataclass(frozen=True, slots=True)
class Check:
    """A guard: its rule and what it looks for. `slow` ones ask a model."""

    name: str
    rule: GuardRule
    look: Look
    slow: bool = False

    def action(self, side: Side) -> str:
        return self.rule.input if side == "input" else self.rule.output


class GuardSet:
    """The checks of `rules`. Safe to use from several threads; a call takes microseconds unless a guard asks a model
    (`inline` is False then: call it from a thread). `flags_only`: no check of the input masks or blocks, so nothing
    need wait for it.

    `endpoints` are the models of the project that a rule's `model` may name, `folder` the project's, from which its
    folders are seen.
    """

    def __init__(self, rules: Guards, *, folder: Path | None = None, endpoints: Mapping[str, Endpoint] | None = None
                 ) -> None:
        def scored(name: str, rule: GuardRule, own: Look) -> Check:
            if not rule.model:
                return Check(name, rule, own)
            known = (endpoints or {}).get(rule.model)
            other = models.moderations(name, known) if known else models.classifier(name, rule.model, folder)
            return Check(name, rule, other, True)

        languages = rules.languages
        everything = (
            Check("personal_data", rules.personal_data, look.personal),
            Check("secrets", rules.secrets, look.secrets),
            scored("injection", rules.injection, _injection),
            scored("abuse", rules.abuse, _abuse),
            Check("prompt_leak", rules.prompt_leak.model_copy(update={"input": "off"}), _leak),
            Check("answer_schema", rules.answer_schema.model_copy(update={"input": "off"}), look.schema),
            *((Check("language", rules.language, look.language(languages)),) if languages else ()),
        )
        self._checks = {side: tuple(c for c in everything if c.action(side) != "off") for side in ("input", "output")}
        self._rows = {side: tuple((c.name, c.look, c.rule.threshold, c.action(side)) for c in checks)
                      for side, checks in self._checks.items()}
        self._held = tuple(row for row in self._rows["input"] if row[0] in HELD)
        self.flags_only = all(c.action("input") == "flag" for c in self._checks["input"])
        self._token = rules.prompt_leak.output in CLOSED
        self._leaks = rules.prompt_leak.output != "off"
        self.inline = not any(check.slow for checks in self._checks.values() for check in checks)

    def checks(self, side: Side) -> tuple[Check, ...]:
        """What looks at one side, in order."""
        return self._checks[side]

    def check_input(self, text: str) -> Checked:
        """What a user's text may become before a model sees it."""
        return self.check(text, "input", Around())

    def check_output(self, text: str, ask: ChatAsk | None = None, secret: Secret | None = None) -> Checked:
        """What an answer to `ask` may become before its user sees it. `secret` comes from `protect`."""
        return self.check(text, "output", Around(ask.schema if ask else None, secret))

    def check_ask(self, ask: ChatAsk) -> tuple[ChatAsk, Checked]:
        """`ask` with personal data and secrets masked where that is the rule, and the worst that was found: in the
        prompt, or in any message but the system's. In what the model said itself (calls of tools too), in tools,
        schemas and names only personal data and secrets are looked for."""
        if ask.prompt is not None:
            messages, found = ask.messages, [self.check_input(ask.prompt)]
        else:
            messages, found = self._check_messages(ask.messages)
        changes: dict[str, Any] = {}
        if any(one.masked for one in found):
            changes = {"messages": messages} if ask.prompt is None else {"prompt": found[0].text}
        if ask.tools or ask.schema or ask.stop or ask.regex:
            functions = [dict(tool.get("function") or {}) for tool in ask.tools]
            form = {"tools": functions, "schema": ask.schema, "stop": ask.stop, "regex": ask.regex}
            looked, checked = self._check_inside(form, [function.pop("name", "") for function in functions])
            found.append(checked)
            if checked.masked and checked.blocked is None:
                tools = tuple({**tool, "function": {**dict(tool.get("function") or {}), **function}}
                              for tool, function in zip(ask.tools, looked["tools"], strict=True))
                changes |= {"tools": tools, "schema": looked["schema"], "stop": tuple(looked["stop"]),
                            "regex": looked["regex"]}
        whole = replace(_worst(found), masked=bool(changes))
        return (replace(ask, **changes) if changes else ask), whole

    def check_texts(self, texts: Sequence[str]) -> tuple[tuple[str, ...], Checked]:
        """The same for texts that go to an encoder."""
        found = [self.check_input(text) for text in texts]
        return tuple(one.text for one in found), _worst(found or [self.check_input("")])

    def _check_messages(self, messages: Sequence[Mapping[str, Any]]) -> tuple[Messages, list[Checked]]:
        found: list[Checked] = []
        after: list[Mapping[str, Any]] = []
        for message in messages:
            text, role = message.get("content"), message.get("role")
            if isinstance(text, str) and text and role not in leak.SYSTEM:
                checked = self._checked(text, self._held) if role == "assistant" else self.check_input(text)
                found.append(checked)
                if checked.masked:
                    message = {**message, "content": checked.text}
            if calls := message.get("tool_calls"):
                said = [dict(call.get("function") or {}) for call in calls]
                looked, checked = self._check_inside(said, [function.pop("name", "") for function in said])
                found.append(checked)
                if checked.masked and checked.blocked is None:
                    message = {**message, "tool_calls": [
                        {**call, "function": {**dict(call.get("function") or {}), **function}}
                        for call, function in zip(calls, looked, strict=True)]}
            if name := message.get("name"):
                found.append(self._check_inside((), [name])[1])
            after.append(message)
        if all(len(one.verdicts) < len(self._rows["input"]) for one in found):
            found.append(self.check_input(""))  # nobody but the model said anything: every guard has its verdict
        return tuple(after), found

    def _check_inside(self, value: Any, names: Sequence[str]) -> tuple[Any, Checked]:
        """JSON with personal data and secrets masked where they stand. `names` cannot be masked: one that would have to
        be is refused."""
        named = self._checked(END.join(names), self._held)
        leaves = Leaves(value)
        verdicts, blocked, spans = self._seen(leaves.text, self._held, Around())
        checked = Checked("", verdicts, blocked, bool(spans))
        whole = True
        if spans:
            value, whole = leaves.masked(spans)
        worst = _worst([checked, named])
        if worst.blocked is None and (named.masked or not whole):
            worst = replace(worst, blocked=next(v for v in worst.verdicts if v.flagged))
        return value, replace(worst, masked=bool(spans))

    def check_answer(self, answer: ChatAnswer, ask: ChatAsk, secret: Secret | None = None
                     ) -> tuple[ChatAnswer, Checked]:
        """`answer` with its choices masked (the arguments of tool calls too), and the worst that was found in any. A
        blocked choice has no text and finishes as `content_filter`."""
        around = Around(ask.schema, secret)
        choices, found = [], []
        for choice in answer.choices:
            calls = [dict(call) for call in choice.tool_calls]
            checked = self.check(choice.text, "output", around)
            parts = [checked]
            for call in calls:
                function = dict(call.get("function") or {})
                told = self.check(str(function.get("arguments") or ""), "output", Around(None, secret))
                parts.append(told)
                if told.masked and _fits(told.text):
                    call["function"] = {**function, "arguments": told.text}
                elif told.masked:  # what is masked is no JSON any more
                    parts[-1] = replace(told, blocked=next(v for v in told.verdicts if v.flagged))
            whole = _worst(parts)
            found.append(whole)
            if whole.blocked is not None:
                choices.append(Choice("", "content_filter"))
            elif whole.masked:
                choices.append(replace(choice, text=checked.text, tool_calls=tuple(calls), logprobs=None))
            else:
                choices.append(choice)
        whole = _worst(found or [self.check("", "output", around)])
        changed = any(one.masked or one.blocked for one in found)
        return (replace(answer, choices=tuple(choices)) if changed else answer), whole

    def stream(self, ask: ChatAsk | None = None, secret: Secret | None = None) -> StreamGuard:
        """The same for an answer that comes in pieces; one for each choice."""
        return StreamGuard(self, Around(ask.schema if ask else None, secret))

    def protect(self, messages: Sequence[Mapping[str, Any]]) -> tuple[Messages, Secret | None]:
        """`messages`, with a token in the system message where a leak is blocked, and the secret to give to the
        output's check. None where there is no system message or the guard is off."""
        if not self._leaks:
            return tuple(messages), None
        return leak.protect(messages, token=self._token)

    def stored(self, text: str) -> str:
        """`text` as a trace may hold it: personal data masked, secrets gone."""
        return stored(text)

    def moderate(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """A score in [0, 1] of each category that is scored here, for each text: injection, harassment, hate, violence,
        sexual, self-harm, personal_data, secrets."""
        return [{**scores(text), "injection": scorers.injection(text)[0],
                 "personal_data": look.personal(text, Around()).score, "secrets": look.secrets(text, Around()).score}
                for text in texts]

    def check(self, text: str, side: Side, around: Around) -> Checked:
        """What the guards of one side say of `text`. One that fails is a verdict `guard_failed`: it flags nothing, and
        refuses the text where its action is to mask or to block."""
        return self._checked(text, self._rows[side], around)

    def _checked(self, text: str, rows: tuple[Row, ...], around: Around | None = None) -> Checked:
        verdicts, blocked, spans = self._seen(text, rows, around or _ALONE)
        masked = cut(text, spans) if spans else text
        return Checked(masked, verdicts, blocked, masked != text)

    def _seen(self, text: str, rows: tuple[Row, ...], around: Around
              ) -> tuple[tuple[Verdict, ...], Verdict | None, list[tuple[int, int, str]]]:
        """What each of `rows` says, the one that refuses the text, and what is to be masked."""
        verdicts: list[Verdict] = []
        blocked: Verdict | None = None
        spans: list[tuple[int, int, str]] = []
        began = time.perf_counter()
        for name, look_at, threshold, action in rows:
            held, kinds, failed = action, tuple[str, ...](), False
            try:
                found = look_at(text, around)
                score = found.score
                if score > 0 and score >= threshold and found.kinds:
                    kinds = found.kinds
                    if action == "mask":
                        spans.extend(found.spans)
            except Exception as error:
                log.error("guard %s failed: %s", name, type(error).__name__)
                score, kinds, failed = 0.0, (FAILED,), True
                held = "block" if action in CLOSED else action
            ended = time.perf_counter()
            verdict = Verdict(name, bool(kinds) and not failed, score, kinds, (ended - began) * 1000)
            began = ended
            verdicts.append(verdict)
            if kinds and held == "block":
                blocked = blocked or verdict
        return tuple(verdicts), blocked, spans


def refusal(blocked: Verdict) -> ApiError:
    """The answer to an input that a guard refuses: 400 `content_filter`; 503 `guard_failed` where the guard itself
    failed, because what it should have kept back must not pass unseen."""
    if FAILED in blocked.kinds:
        return ApiError(503, f"the check {blocked.guard} failed, and nothing passes without it; try again",
                        code=FAILED)
    return ApiError(400, f"this input is refused here: {', '.join(blocked.kinds)}", code="content_filter")


def stored(text: str) -> str:
    """`text` with personal data masked and secrets gone: as a trace may hold it. The guards' finds serve again."""
    found = look.findings(text)
    return cut(text, [(f.start, f.end, "" if f.kind == "secret" else f"[{f.kind.upper()}]") for f in found]) \
        if found else text


def cut(text: str, spans: Iterable[tuple[int, int, str]]) -> str:
    """`text` with what each span says in its place."""
    pieces, at = [], 0
    for start, end, write in sorted(spans):
        if start >= at:
            pieces += [text[at:start], write]
            at = end
    return "".join(pieces) + text[at:]


def _injection(text: str, around: Around) -> Found:
    return Found(*scorers.injection(text))


def _abuse(text: str, around: Around) -> Found:
    score, kinds = scorers.abuse(text)
    return Found(score, kinds or ("abuse",))


def _leak(text: str, around: Around) -> Found:
    kinds = leak.leaked(text, around.secret) if around.secret is not None else ()
    return Found(1.0, kinds) if kinds else NOTHING


def _worst(found: Sequence[Checked]) -> Checked:
    """The checks of several texts as one: of each guard the highest verdict, with the time of all."""
    if len(found) == 1:
        return found[0]
    verdicts, by = [], dict[str, list[Verdict]]()
    for verdict in (verdict for one in found for verdict in one.verdicts):
        by.setdefault(verdict.guard, []).append(verdict)
    for same in by.values():
        top = max(same, key=lambda v: (v.flagged, FAILED in v.kinds, v.score))
        kinds = tuple(dict.fromkeys(kind for v in same for kind in v.kinds))
        verdicts.append(replace(top, kinds=kinds, ms=sum(v.ms for v in same)))
    blocked = next((one.blocked for one in found if one.blocked is not None), None)
    return Checked(found[0].text, tuple(verdicts), blocked, any(one.masked for one in found))


def _fits(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
