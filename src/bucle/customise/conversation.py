"""A conversation as a task's rows hold it: a JSON list of messages."""

from __future__ import annotations

import json

from bucle.core.errors import BadInput
from bucle.core.ports import Message

__all__ = ["conversation", "gist"]


def conversation(text: str) -> list[Message]:
    """The messages of a conversation written as a JSON list; plain text is one user's message. Raises BadInput for a
    list whose messages are not of a role and a content, or that does not end with the user's."""
    if not text.lstrip().startswith("["):
        return [{"role": "user", "content": text}]
    try:
        read = json.loads(text)
    except (ValueError, RecursionError):
        return [{"role": "user", "content": text}]  # someone wrote a bracket
    roles = {"system", "user", "assistant"}
    whole = isinstance(read, list) and all(
        isinstance(m, dict) and m.get("role") in roles and isinstance(m.get("content"), str) for m in read
    )
    if not whole or not read or read[-1]["role"] != "user":
        raise BadInput(
            "The conversation is not a list of messages (role, content) that ends with the user's.",
            'Write [{"role": "user", "content": "…"}].',
        )
    return [{"role": m["role"], "content": m["content"]} for m in read]


def gist(kind: str, text: str) -> str:
    """The words of an input that similarity is measured on: of a conversation its contents, the last message twice."""
    if kind != "converse":
        return text
    try:
        contents = [m["content"] for m in conversation(text)]
    except BadInput:
        return text
    return "\n".join([*contents, contents[-1]])
