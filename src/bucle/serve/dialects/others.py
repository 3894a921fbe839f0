"""The small APIs: embeddings, moderations, feedback."""

from __future__ import annotations

import math
import struct
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from bucle.core.ports import Verdict
from bucle.core.records import Usage
from bucle.models.tokens import decoded
from bucle.serve.dialects import fields as f
from bucle.serve.dialects.base import Head
from bucle.serve.dialects.common import MODEL, NOT_TEXT, USER, asked_by, tag
from bucle.serve.errors import ApiError
from bucle.serve.routes import Limits, Route

__all__ = ["EmbedAsk", "FeedbackAsk", "ModerationAsk", "embeddings_reply", "embeddings_shape", "feedback_shape",
           "moderations_reply", "moderations_shape", "parse_embeddings", "parse_feedback", "parse_moderations"]

CATEGORIES = ("harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent",
              "self-harm", "self-harm/intent", "self-harm/instructions", "sexual", "sexual/minors", "violence",
              "violence/graphic")
"""OpenAI's. Those that no guard here measures are null."""
CORRECTION = 32_000
"""Characters of a correction: it becomes a row to learn from."""
_NAMED = {"abuse": "harassment"}


@dataclass(frozen=True)
class EmbedAsk:
    model: str
    texts: tuple[str, ...]
    base64: bool
    user: str


@dataclass(frozen=True)
class ModerationAsk:
    """`model` is empty where none was named: the server's own guards."""

    model: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class FeedbackAsk:
    trace: str
    rating: Literal[-1, 1] | None
    correction: str | None
    reason: str
    by: str


def parse_embeddings(body: Mapping[str, Any], route: Route, limits: Limits) -> EmbedAsk:
    got = f.read(embeddings_shape(limits), _decoded(body, route, limits))
    texts = tuple([got["input"]] if isinstance(got["input"], str) else got["input"])
    if not all(t.strip() for t in texts):
        raise ApiError(400, "`input` holds an empty text", code="empty_input", param="input")
    size = route.embedder.dimensions if route.embedder else 0
    if got.get("dimensions", size) != size:
        raise ApiError(400, f"`dimensions` cannot be changed: {route.name!r} gives {size}",
                       code="unsupported_parameter", param="dimensions")
    return EmbedAsk(got["model"], texts, got.get("encoding_format") == "base64", asked_by(got))


def parse_moderations(body: Mapping[str, Any], limits: Limits) -> ModerationAsk:
    got = f.read(moderations_shape(limits), body)
    given = got["input"]
    texts = [given] if isinstance(given, str) else [one if isinstance(one, str) else one["text"] for one in given]
    return ModerationAsk(got.get("model", ""), tuple(texts))


def parse_feedback(body: Mapping[str, Any], limits: Limits) -> FeedbackAsk:
    got = f.read(feedback_shape(limits), body)
    rating, correction = got.get("rating"), got.get("correction") or None
    if rating is None and not correction:
        raise ApiError(400, "give a `rating`, a `correction` or both", code="missing", param="rating")
    return FeedbackAsk(got["trace_id"], rating, correction, got.get("reason", ""), got.get("by") or "anonymous")


def embeddings_reply(model: str, vectors: Sequence[Sequence[float]], usage: Usage, *, base64: bool,
                     extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Base64 is of little-endian 32-bit floats, as the official client asks for."""
    def form(vector: Sequence[float]) -> Any:
        return b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode() if base64 else list(vector)

    data = [{"object": "embedding", "index": i, "embedding": form(v)} for i, v in enumerate(vectors)]
    return {"object": "list", "data": data, "model": model,
            "usage": {"prompt_tokens": usage.tokens_in, "total_tokens": usage.tokens_in},
            **({"bucle": {**extra, "usd": usage.usd}} if extra is not None else {})}


def moderations_reply(head: Head, verdicts: Sequence[Sequence[Verdict]], extra: Mapping[str, Any]) -> dict[str, Any]:
    """`verdicts` are the guards' on each text, in order. A category is a guard: `abuse` stands under `harassment`,
    others beside OpenAI's under their own names. What was not measured is null, not 0."""
    return {"id": head.id, "model": head.model, "results": [_result(one) for one in verdicts], "bucle": dict(extra)}


@lru_cache(16)
def embeddings_shape(limits: Limits) -> f.Shape:
    """What a body may hold."""
    text = _Words(limits.input_chars)
    return f.Shape({
        "model": MODEL, "input": f.Either(text, f.ListOf(text, limits.embed_inputs, 1, 413)),
        "encoding_format": f.Choice(("float", "base64")), "dimensions": f.Whole(1, 1_000_000), "user": USER,
        "safety_identifier": USER}, ("model", "input"))


@lru_cache(16)
def moderations_shape(limits: Limits) -> f.Shape:
    """What a body may hold."""
    text = f.Text(limits.input_chars, too_long=413)
    part = f.Tagged("type", {"text": tag("text", {"text": text}, "text")}, NOT_TEXT)
    return f.Shape({"model": MODEL, "input": f.Either(text, f.ListOf(f.Either(text, part), limits.embed_inputs, 1,
                                                                     413))}, ("input",))


@lru_cache(16)
def feedback_shape(limits: Limits) -> f.Shape:
    """What a body may hold."""
    return f.Shape({"trace_id": f.Text(200, 1), "rating": _Thumb(),
                    "correction": f.Text(CORRECTION), "reason": f.Text(2000), "by": f.Text(512)},
                   ("trace_id",))


def _decoded(body: Mapping[str, Any], route: Route, limits: Limits) -> Mapping[str, Any]:
    """`body` with token ids as text where the route's model has a published vocabulary, by which its clients make
    them; else as it came."""
    given = body.get("input")
    if not isinstance(given, list) or route.vocabulary == "":
        return body
    rows = [given] if given and all(map(_is_token, given)) else given
    if not rows or len(rows) > limits.embed_inputs:
        return body
    if not all(isinstance(row, list) and row and all(map(_is_token, row)) for row in rows):
        return body
    if (texts := decoded(rows, route.vocabulary)) is None:
        return body
    return {**body, "input": texts}


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


class _Words(f.Text):
    """A text; token ids, which the official API takes too, are refused where nobody knows whose they are."""

    def __init__(self, longest: int) -> None:
        super().__init__(longest, 1, 413)

    def read(self, value: Any) -> str:
        if isinstance(value, int | list) and not isinstance(value, bool):
            raise f.Wrong("must be text: nobody knows whose token ids these are. Of LangChain's OpenAIEmbeddings, set "
                          "check_embedding_ctx_length=False", "unsupported_value")
        return super().read(value)


class _Thumb:
    """1 or -1."""

    def read(self, value: Any) -> int:
        if isinstance(value, bool) or value not in (-1, 1):
            raise f.Wrong("must be 1 or -1")
        return int(value)

    def schema(self) -> dict[str, Any]:
        return {"type": "integer", "enum": [-1, 1]}


def _result(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    measured = {_NAMED.get(v.guard, v.guard): v for v in verdicts}
    names = [*CATEGORIES, *(n for n in measured if n not in CATEGORIES)]
    return {"flagged": any(v.flagged for v in verdicts),
            "categories": {n: measured[n].flagged if n in measured else None for n in names},
            "category_scores": {n: _finite(measured[n].score) if n in measured else None for n in names},
            "category_applied_input_types": {n: ["text"] if n in measured else [] for n in names},
            "bucle": {"kinds": {n: list(v.kinds) for n, v in measured.items() if v.kinds},
                      "ms": round(sum(v.ms for v in verdicts), 3)}}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
