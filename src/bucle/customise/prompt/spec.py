"""The task's own prompt (a PromptSpec) as techniques use it: what of it is kept, and the conversation of one input.

What a kind always needs still gets in: the labels, the schema or the fields stand where the template has an input of
that name, else at the end of its system message.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bucle.core.errors import TemplateError
from bucle.core.ports import ChatModel, Message
from bucle.core.prompting import PromptInput, PromptSpec
from bucle.customise.conversation import conversation

if TYPE_CHECKING:
    from bucle.customise.prompt.assembly import Assembled, Window
    from bucle.customise.prompt.parts import Parts

__all__ = ["OwnPrompt", "keep", "own_spec"]

def own_spec(params: Mapping[str, Any]) -> PromptSpec | None:
    """The task's own prompt where it has one. Raises TemplateError for what is none."""
    given = params.get("prompt")
    if not given:
        return None
    try:
        return PromptSpec.model_validate(given)
    except ValueError as error:
        raise TemplateError(f"The task's prompt cannot be used: {str(error).splitlines()[0]}", "bucle prompt show") \
            from None


def keep(spec: PromptSpec, given: Mapping[str, Any], more: Mapping[str, str]) -> dict[str, Any]:
    """What a candidate keeps of `spec`: itself, the values of those inputs that Bucle knows (`given`), and what stands
    at the end of its system message: each of `more` whose name is no input. Raises TemplateError where an input that
    must be given is neither known nor has a default."""
    values = {name: _as(spec.inputs[name], value) for name, value in given.items() if name in spec.inputs}
    known = {*values, "input"}
    lacking = [n for n, one in spec.inputs.items() if one.required and one.default is None and n not in known]
    if lacking:
        raise TemplateError(
            f"The prompt `{spec.name}` needs a value for `{lacking[0]}`, and the task has none.",
            f"Give it a default: inputs: {{{lacking[0]}: {{default: …}}}}; known are input, {', '.join(given)}.",
        )
    return {
        "spec": spec.model_dump(mode="json"),
        "values": values,
        "system": "\n".join(text for name, text in more.items() if text and name not in spec.inputs),
    }


class OwnPrompt:
    """Makes the conversations of a kept prompt."""

    def __init__(self, prompt: Mapping[str, Any]) -> None:
        spec = PromptSpec.model_validate(prompt["spec"])
        self.kind, self.more = str(prompt["kind"]), str(prompt.get("system") or "")
        self.language = spec.language or str(prompt.get("language") or "es")
        self.spec = spec.model_copy(update={"thinking": bool(prompt.get("thinking"))})
        self.values = dict(prompt.get("values") or {})
        self.schema = None if "schema" in spec.inputs else dict(prompt.get("schema") or {}) or None
        self._window: Window | None = None

    def assembled(self, model: ChatModel, text: str, shown: Sequence[tuple[str, str]], max_tokens: int) -> Assembled:
        """The conversation for one input within the model's context, and what was left out. Raises ContextOverflow,
        TemplateError, and BadInput for an input that is no conversation."""
        from bucle.customise.prompt.assembly import assemble, window_of

        self._window = self._window or window_of(model, language=self.language)
        parts = self.parts(text, shown)
        return assemble(parts, model, max_tokens=max_tokens, drop=self.spec.drop, window=self._window)

    def parts(self, text: str, shown: Sequence[tuple[str, str]]) -> Parts:
        """The prompt for one input before it is fitted to a context: what `bucle prompt try` shows. Raises as
        `assembled`."""
        from bucle.customise.prompt.template import messages_of

        turns: Sequence[Message] = ()
        if self.kind == "converse":
            said = conversation(text)
            *turns, last = (m for m in said if m["role"] != "system")
            turns, text = [*(m for m in said if m["role"] == "system"), *turns], last["content"]
            shown = [(_told(asked), answer) for asked, answer in shown]
        parts = messages_of(
            self.spec, text, values=self.values, shown=shown, turns=turns, language=self.language
        )
        # the labels, then how to answer: as `bucle prompt try` shows it
        return replace(parts, always=(*([self.more] if self.more else ()), *parts.always), schema=self.schema)


def _told(text: str) -> str:
    """A conversation that is shown as an example, as one text: its last message, after those before it."""
    said = [m["content"] for m in conversation(text) if m["role"] != "system"]
    return "\n".join(said)


def _as(one: PromptInput, value: Any) -> Any:
    """A value that Bucle knows in the type that the template wants: a list joined, a schema as JSON."""
    if one.type == "list":
        return list(value) if isinstance(value, list | tuple) else [str(value)]
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return json.dumps(value, ensure_ascii=False) if isinstance(value, Mapping) else value
