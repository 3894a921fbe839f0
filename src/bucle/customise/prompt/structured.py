"""Objects by JSON schema: asked for in the provider's own way where it has one, validated all the same, one repair
attempt that shows the model its fault, then SchemaBroken.

    found = structured(model, [Ask(messages, max_tokens=200)], {"type": "object", "required": ["iban"]})
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bucle.core.errors import BadInput, BucleError, SchemaBroken
from bucle.core.ports import ChatModel, ChatReply, Report
from bucle.core.records import Usage
from bucle.customise.prompt.fitting import cut_off
from bucle.customise.prompt.parsing import json_object
from bucle.data.schema import Schema
from bucle.models.ask import Ask, ask_all

__all__ = ["Form", "Structured", "as_line", "structured", "structured_replies"]

_REPAIR = {
    "es": "Ese objeto no vale: {}. Responde solo con el objeto JSON corregido.",
    "en": "That object will not do: {}. Answer with the corrected JSON object only.",
}
_HINT = "One repair was tried. Say the form in the instruction, loosen the schema, or take a stronger model."


@dataclass(frozen=True)
class Structured:
    """What came of one ask. `value` fits the schema, or `error` says why there is none; `draft` is an object that
    could be read and does not fit. `reply` is what the model wrote last; `usage` and `ms` are of both attempts."""

    value: dict[str, Any] | None = None
    error: BucleError | None = None
    draft: dict[str, Any] | None = None
    reply: str = ""
    usage: Usage = field(default_factory=Usage)
    ms: float = 0.0
    repaired: bool = False


class Form:
    """The form that replies are held to. `schema` empty: any JSON object. Raises BadInput for what is no schema."""

    def __init__(self, schema: Mapping[str, Any], language: str = "es") -> None:
        self.schema = Schema(schema) if schema else None
        self.repair_text = _REPAIR.get(language, _REPAIR["en"])

    def wanted(self, ask: Ask) -> Ask:
        """`ask` with the schema, for providers that can hold the model to it."""
        return replace(ask, schema=self.schema.body) if self.schema else ask

    def read(self, text: str) -> tuple[dict[str, Any] | None, str]:
        """The object in a reply and its fault: empty for one that fits; no object where none can be read."""
        try:
            value = json_object(text)
        except BadInput as error:
            return None, error.message
        fault = self.schema.fault(value) if self.schema else ""
        return value, f"it does not fit the schema: {fault}" if fault else ""

    def again(self, ask: Ask, reply: str, fault: str) -> Ask:
        """The one repair attempt: the model sees its own reply and what is wrong with it."""
        said = ({"role": "assistant", "content": reply}, {"role": "user", "content": self.repair_text.format(fault)})
        return replace(ask, messages=(*ask.messages, *said))

    def settle(self, model: ChatModel, asks: Sequence[Ask],
               replies: Sequence[ChatReply | BucleError]) -> list[Structured]:
        """The objects in `replies` to `asks`, after one repair of those that do not fit. A reply that was cut is not
        asked for again: it would be cut again. Raises ModelUnavailable where nothing answers the repairs."""
        found = [self._first(ask, reply) for ask, reply in zip(asks, replies, strict=True)]
        wrong = [i for i, one in enumerate(found) if isinstance(one.error, _Repairable)]
        more = [self.again(asks[i], found[i].reply, str(found[i].error)) for i in wrong]
        for i, reply in zip(wrong, ask_all(model, more), strict=True):
            found[i] = self._second(found[i], more[wrong.index(i)], reply)
        return found

    def _first(self, ask: Ask, reply: ChatReply | BucleError) -> Structured:
        if isinstance(reply, BucleError):
            return Structured(error=reply)
        text = reply.text.strip()
        value, fault = self.read(text)
        cut = cut_off(reply, ask.max_tokens)
        spent: dict[str, Any] = {"reply": text, "usage": reply.usage, "ms": reply.ms}
        if not fault:
            return Structured(value, **spent)
        if cut:
            return Structured(error=SchemaBroken(cut, "Raise max_tokens."), **spent)
        if not text:
            return Structured(error=SchemaBroken("the reply is empty", _HINT), **spent)
        return Structured(error=_Repairable(fault), draft=value, **spent)

    def _second(self, before: Structured, ask: Ask, reply: ChatReply | BucleError) -> Structured:
        after = self._first(ask, reply)
        fault = str(after.error) if isinstance(after.error, _Repairable) else ""
        if after.value is None and not fault:  # the repair itself failed: the first fault is what is wrong
            fault = str(before.error)
        broken = SchemaBroken(fault, _HINT) if fault else None
        one, two = before.usage, after.usage
        used = Usage(tokens_in=one.tokens_in + two.tokens_in, tokens_out=one.tokens_out + two.tokens_out,
                     usd=one.usd + two.usd)
        return Structured(after.value, broken, after.draft or before.draft, after.reply or before.reply, used,
                          before.ms + after.ms, repaired=True)


class _Repairable(BadInput):
    """A fault that the model may mend; never leaves this file."""


def structured_replies(model: ChatModel, asks: Sequence[Ask], schema: Mapping[str, Any], *, language: str = "es",
                       report: Report | None = None) -> list[Structured]:
    """As `structured`, with what each took and said."""
    form = Form(schema, language)
    wanted = [form.wanted(ask) for ask in asks]
    return form.settle(model, wanted, ask_all(model, wanted, report=report))


def structured(model: ChatModel, asks: Sequence[Ask], schema: Mapping[str, Any], *,
               language: str = "es") -> list[dict[str, Any] | BucleError]:
    """For each of `asks` the object that fits `schema`, or its error: SchemaBroken after one repair attempt, or what
    the model raised. Raises BadInput for what is no schema, ModelUnavailable where nothing answers."""
    found = structured_replies(model, asks, schema, language=language)
    return [one.value if one.value is not None else one.error or SchemaBroken("there is no object") for one in found]


def as_line(value: Mapping[str, Any]) -> str:
    """An object as one line of JSON."""
    return json.dumps(value, ensure_ascii=False)
