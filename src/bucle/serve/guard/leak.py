"""Whether an answer gives the system prompt away: a random token put into it, and its own words at length.

The token is the same for one prompt as long as the process lives (so that caches of prompts and answers still hit) and
cannot be known from outside: HMAC-SHA256 of the prompt under a key that is drawn at start.
"""

from __future__ import annotations

import base64
import codecs
import functools
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bucle.monitor.injection import fold
from bucle.serve.guard.memo import Remembered

__all__ = ["Secret", "leaked", "protect"]

Messages = tuple[Mapping[str, Any], ...]
SYSTEM = ("system", "developer")
RUN = 12
"""Words in a row that an answer shares with the prompt by no accident; a shorter prompt of at least FEWEST: all."""
FEWEST = 6
_KEY = secrets.token_bytes(32)
_NOT_PLAIN = re.compile(r"[\W_]+")
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """The token of a system prompt (empty: none was put in) and the prompt itself, as it was."""

    token: str
    prompt: str


def protect(messages: Sequence[Mapping[str, Any]], *, token: bool = True) -> tuple[Messages, Secret | None]:
    """`messages` with a random token at the end of the first system message, and what to look for in the answer.
    Without a system message: as they are, None. `token` False: as they are, and only words are looked for."""
    found = tuple(messages)
    for at, message in enumerate(found):
        prompt = message.get("content")
        if message.get("role") in SYSTEM and isinstance(prompt, str) and prompt.strip():
            if not token:
                return found, Secret("", prompt)
            drawn = _token(prompt)
            marked = {**message, "content": f"{prompt}\n\n[{drawn}]"}
            return (*found[:at], marked, *found[at + 1 :]), Secret(drawn, prompt)
    return found, None


@Remembered
def _token(prompt: str) -> str:
    digest = hmac.new(_KEY, prompt.encode("utf-8", "replace"), hashlib.sha256).digest()
    return base64.b32encode(digest)[:16].decode().lower()


def leaked(text: str, secret: Secret) -> tuple[str, ...]:
    """How `text` gives `secret` away: `prompt_token` (as it is, in capitals, spaced or cut by marks, backwards, in
    ROT13, hexadecimal or base64), `prompt_words` (RUN words in a row); empty: it does not."""
    found = []
    folded = fold(text)
    if secret.token:
        plain = _NOT_PLAIN.sub("", folded)
        tight = re.sub(r"\s+", "", text)
        whole, encoded = _forms(secret.token)
        if any(form in plain for form in whole) or any(form in tight for form in encoded):
            found.append("prompt_token")
    runs, length = _runs(secret.prompt)
    if runs:
        words = _WORD.findall(folded)
        if any(hash(tuple(words[at : at + length])) in runs for at in range(len(words) - length + 1)):
            found.append("prompt_words")
    return tuple(found)


@functools.lru_cache(maxsize=256)
def _forms(token: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What the token looks like among letters and digits alone, and in base64 wherever it starts in its text."""
    whole = (token, token[::-1], codecs.encode(token, "rot13"), token.encode().hex(), token.upper().encode().hex())
    encoded = []
    for form in (token, token.upper()):
        for before in range(3):
            coded = base64.b64encode(b"\0" * before + form.encode()).decode()
            encoded.append(coded[(0, 2, 3)[before] : len(coded) - 4])
    return whole, tuple(encoded)


@Remembered
def _runs(prompt: str) -> tuple[frozenset[int], int]:
    words = _WORD.findall(fold(prompt[:64_000]))
    length = min(RUN, len(words))
    if length < FEWEST:
        return frozenset(), 0
    return frozenset(hash(tuple(words[at : at + length])) for at in range(len(words) - length + 1)), length
