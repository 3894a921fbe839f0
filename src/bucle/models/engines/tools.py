"""A conversation with tools as a model reads it, and the calls it writes: the `<tool_call>` form of Hermes and Qwen.

Only that form is offered. Others differ in ways that cannot be told from a text that merely talks about calls.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from bucle.core.engine import ChatAsk
from bucle.core.errors import BadInput
from bucle.models.endpoint import NotSetUp

__all__ = ["CALL", "MARKS", "call_schema", "calls_of", "clean", "prompt_of", "takes_tools"]

CALL = "<tool_call>"
MARKS = (CALL, "</tool_call>", "<tool_response>", "</tool_response>")
"""What stands around calls and their results in that form."""
_CALLS = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)
_PROBE = {"type": "function", "function": {"name": "bucle_probe", "description": "d", "parameters": {
    "type": "object", "properties": {"x": {"type": "string"}}}}}
_FIELDS = ("role", "content", "name", "tool_calls", "tool_call_id")


def takes_tools(tokenizer: Any) -> bool:
    """Whether the chat template tells the model of tools, and asks for the form that is read here."""
    template = tokenizer.chat_template
    if not isinstance(template, str) or CALL not in template or CALL in tokenizer.all_special_tokens:
        return False
    try:
        said = tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tools=[_PROBE], tokenize=False)
    except Exception:  # a template is a program of its own and may fail as it likes
        return False
    return "bucle_probe" in said


def clean(value: Any, special: Sequence[str]) -> Any:
    """`value` with each special token in its texts broken up, so that what a user wrote stays text."""
    if isinstance(value, str):
        for token in special:
            if len(token) > 1 and token in value:
                value = value.replace(token, f"{token[0]} {token[1:]}")
        return value
    if isinstance(value, Mapping):
        return {clean(key, special): clean(one, special) for key, one in value.items()}
    return [clean(one, special) for one in value] if isinstance(value, (list, tuple)) else value


def prompt_of(tokenizer: Any, ask: ChatAsk) -> str:
    """What the chat template makes of `ask`, ending where the assistant begins; where a call is demanded, after the
    words that open one. Raises BadInput where the template refuses the conversation, NotSetUp where there is none."""
    if not tokenizer.chat_template:
        raise NotSetUp("This model has no chat template.",
                       "ask /v1/completions, choose an instruction-tuned model, or add chat_template.jinja")
    special = sorted(tokenizer.all_special_tokens, key=len, reverse=True)
    if ask.tools:
        special += MARKS
    messages = []
    for message in ask.messages:
        kept = {name: clean(message[name], special) for name in _FIELDS if message.get(name) is not None}
        kept["content"] = kept.get("content") or ""
        if calls := kept.get("tool_calls"):
            kept["tool_calls"] = [_with_arguments(call) for call in calls]
        messages.append(kept)
    tools = [clean(tool, special) for tool in ask.tools] if ask.tools and ask.tool_choice != "none" else None
    try:
        text = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=True)
    except Exception as error:
        raise BadInput(f"The model's chat template refuses this conversation: {str(error)[:300]}",
                       "begin with a system or user message, and let user and assistant take turns") from error
    return str(text) + (f"{CALL}\n" if call_schema(ask) is not None else "")


def _with_arguments(call: Mapping[str, Any]) -> dict[str, Any]:
    """A call as templates expect it, its arguments an object."""
    function = dict(call.get("function") or {})
    if isinstance(arguments := function.get("arguments"), str):
        with contextlib.suppress(ValueError, RecursionError):
            function["arguments"] = json.loads(arguments or "{}")
    return {**call, "function": function}


def call_schema(ask: ChatAsk) -> dict[str, Any] | None:
    """The JSON schema of the one call that `tool_choice` demands; None where the model may choose."""
    if not ask.tools or ask.tool_choice in (None, "auto", "none"):
        return None
    functions = [tool.get("function") or {} for tool in ask.tools]
    if isinstance(ask.tool_choice, Mapping):
        name = (ask.tool_choice.get("function") or {}).get("name")
        functions = [function for function in functions if function.get("name") == name]
        if not functions:
            raise BadInput(f"tool_choice names {str(name)[:100]!r}, which is not among the tools")
    forms = [{"type": "object", "additionalProperties": False, "required": ["name", "arguments"], "properties": {
        "name": {"const": function.get("name")},
        "arguments": function.get("parameters") or {"type": "object"}}} for function in functions]
    return forms[0] if len(forms) == 1 else {"anyOf": forms}


def calls_of(text: str, ask: ChatAsk) -> tuple[str, tuple[Mapping[str, Any], ...]]:
    """The text without its calls, and the calls in OpenAI's shape. What is not a whole call of one of the tools stays
    text."""
    known = {(tool.get("function") or {}).get("name") for tool in ask.tools}
    found: list[Mapping[str, Any]] = []

    def take(match: re.Match[str]) -> str:
        try:
            call = json.loads(match[1])
        except (ValueError, RecursionError):
            return match[0]
        arguments = call.get("arguments", call.get("parameters", {}))
        if call.get("name") not in known or not isinstance(arguments, dict):
            return match[0]
        if not found or ask.parallel_tool_calls is not False:
            found.append({"id": f"call_{uuid4().hex[:24]}", "type": "function", "function": {
                "name": call["name"], "arguments": json.dumps(arguments, ensure_ascii=False)}})
        return ""

    rest = _CALLS.sub(take, text)
    return (rest.strip() if found else text), tuple(found)
