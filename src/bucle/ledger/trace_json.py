"""A trace as JSON, quickly and whatever is in it; and back."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec

from bucle.core.records import Trace, Usage
from bucle.ledger.spend import tokens

__all__ = ["trace_from", "trace_json"]


def trace_json(trace: Trace, *, texts: bool = True) -> bytes:
    """`trace` as JSON, without `input` and `output` where `texts` is false. What is no Unicode (half of a surrogate
    pair) becomes a question mark; NaN and infinity null."""
    fields = trace.__dict__ if texts else {k: v for k, v in trace.__dict__.items() if k not in ("input", "output")}
    try:
        return msgspec.json.encode(fields, enc_hook=_plain)
    except (TypeError, ValueError):  # msgspec is exact, and refuses what the standard library lets through
        return json.dumps(_safe(fields), ensure_ascii=False).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, Usage):
        return {"tokens_in": tokens(value.tokens_in), "tokens_out": tokens(value.tokens_out),
                "usd": value.usd if math.isfinite(value.usd) else 0.0}
    if hasattr(value, "items"):
        return dict(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError


def _safe(value: Any) -> Any:
    """`value` in what JSON has."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [_safe(item) for item in value]
    try:
        plain = value if isinstance(value, dict) else _plain(value)
    except TypeError:
        return _safe(str(value))
    return {_safe(str(k)): _safe(v) for k, v in plain.items()} if isinstance(plain, dict) else _safe(plain)


def trace_from(said: str, answered: str, body: str) -> Trace:
    """The trace whose JSON without texts is `body`."""
    fields = msgspec.json.decode(body)
    fields["input"], fields["output"] = said, answered
    return Trace.model_validate(fields)
