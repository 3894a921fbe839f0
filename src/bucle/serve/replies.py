"""Replies in the shapes of the OpenAI API, with what Bucle knows of them beside it in `bucle`."""

from __future__ import annotations

import json
import math
import struct
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any

from bucle.core.records import Prediction, Usage

__all__ = ["DONE", "chunk", "clean", "completion", "content_of", "embeddings", "event", "finite", "usage_of"]

DONE = b"data: [DONE]\n\n"


def completion(head: Mapping[str, Any], content: str, finish: str, usage: Usage,
               extra: Mapping[str, Any]) -> dict[str, Any]:
    """A `chat.completion`. `head` holds id, created and model."""
    message = {"role": "assistant", "content": content, "refusal": None}
    return {**head, "object": "chat.completion", "usage": usage_of(usage), "bucle": dict(extra),
            "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}]}


def chunk(head: Mapping[str, Any], delta: Mapping[str, Any] | None, finish: str | None = None,
          **more: Any) -> dict[str, Any]:
    """A `chat.completion.chunk`; without a delta it carries no choice (the usage chunk)."""
    choices: list[dict[str, Any]] = []
    if delta is not None:
        choices = [{"index": 0, "delta": dict(delta), "finish_reason": finish, "logprobs": None}]
    return {**head, "object": "chat.completion.chunk", "choices": choices, **more}


def event(value: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(value, ensure_ascii=False, allow_nan=False).encode() + b"\n\n"


def content_of(prediction: Prediction) -> str:
    """What the client reads: the label or answer, then its citations, numbered, one a line."""
    if not prediction.citations:
        return clean(prediction.output)
    lines = [f"[{number}] {place}" for number, place in enumerate(prediction.citations, start=1)]
    return clean(prediction.output + "\n\n" + "\n".join(lines))


def usage_of(usage: Usage) -> dict[str, Any]:
    return {"prompt_tokens": usage.tokens_in, "completion_tokens": usage.tokens_out,
            "total_tokens": usage.tokens_in + usage.tokens_out}


def embeddings(model: str, vectors: Sequence[Sequence[float]], usage: Usage, *,
               base64: bool) -> dict[str, Any]:
    """An embeddings reply; base64 is of little-endian 32-bit floats, as the official client asks for."""
    def form(vector: Sequence[float]) -> Any:
        return b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode() if base64 else list(vector)

    data = [{"object": "embedding", "index": i, "embedding": form(v)} for i, v in enumerate(vectors)]
    return {"object": "list", "data": data, "model": model,
            "usage": {"prompt_tokens": usage.tokens_in, "total_tokens": usage.tokens_in}}


def clean(text: str) -> str:
    """`text` without lone surrogates, which cannot be sent or stored."""
    return text.encode("utf-8", "replace").decode()


def finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
