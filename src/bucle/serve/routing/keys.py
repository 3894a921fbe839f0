"""What decides an answer, as a key: what differs in any of it is another question."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from hashlib import blake2b
from typing import Any

from bucle.core.engine import ChatAsk
from bucle.serve.routing.telling import telling

__all__ = ["MAX_SEMANTIC_CHARS", "decided", "exact_key", "semantic_group"]

_SAYS_NOTHING = frozenset({"stream", "include_usage", "user"})
"""Fields of an ask that no answer depends on."""
MAX_SEMANTIC_CHARS = 600
"""Of a question that may be answered by a similar one: an encoder reads 256 tokens, and texts that differ after them
are one to it."""


def decided(ask: ChatAsk) -> bool:
    """Whether the same question has the same answer: not where it is drawn at random without a seed."""
    return not (ask.temperature or 0.0) > 0 or ask.seed is not None


def exact_key(ask: ChatAsk, access: Iterable[str], pool: str) -> bytes | None:
    """The key of an ask by all it says, its asker's labels and `pool` (the targets and releases that may answer it);
    None where it says something that cannot be written down."""
    return _digest({f.name: getattr(ask, f.name) for f in fields(ask) if f.name not in _SAYS_NOTHING}, access, pool)


def semantic_group(ask: ChatAsk, access: Iterable[str], pool: str) -> bytes | None:
    """The key of all that must be the same for a similar question's answer to be given: everything but the words of the
    one user message. None where none may be given: of conversations of more than system and user, tools, raw prompts,
    and texts above 600 characters."""
    roles = [m.get("role") for m in ask.messages]
    if ask.prompt is not None or ask.tools or not roles or roles[-1] != "user" or roles.count("user") != 1:
        return None
    if not set(roles[:-1]) <= {"system", "developer"} or not 0 < len(ask.text.strip()) <= MAX_SEMANTIC_CHARS:
        return None
    said = {f.name: getattr(ask, f.name) for f in fields(ask) if f.name not in _SAYS_NOTHING | {"messages"}}
    same = {k: v for k, v in ask.messages[-1].items() if k != "content"}
    return _digest({**said, "messages": ask.messages[:-1], "last": same, "telling": telling(ask.text)}, access, pool)


def _digest(said: dict[str, Any], access: Iterable[str], pool: str) -> bytes | None:
    import msgspec

    try:
        text = msgspec.json.encode([said, sorted(access), pool], enc_hook=_plain, order="sorted")
    except (TypeError, ValueError):
        return None
    return blake2b(text, digest_size=20).digest()


def _plain(value: Any) -> Any:
    if hasattr(value, "items"):
        return dict(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError
