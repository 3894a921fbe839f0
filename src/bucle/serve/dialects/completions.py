"""OpenAI's first API, raw text in and out: `POST /v1/completions`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from itertools import accumulate
from typing import Any

from bucle.core.engine import ChatAnswer, ChatAsk, Delta
from bucle.serve.dialects import fields as f
from bucle.serve.dialects.base import DONE, Events, Head, clean, event, extra_of, usage_of
from bucle.serve.dialects.common import MODEL, SAMPLING, form_of, guided, sampling_of
from bucle.serve.errors import ApiError
from bucle.serve.routes import Limits

__all__ = ["Completions"]


class Completions:
    """One prompt a request, as text. Where `max_tokens` is left out the engine's own default holds, not OpenAI's 16."""

    name, path = "completions", "/v1/completions"
    words: Mapping[str, str] = {"json_object": "structured_outputs", "json_schema": "structured_outputs",
                                "regex": "structured_outputs"}
    needs = frozenset[str]()

    def shape(self, limits: Limits) -> f.Shape:
        """What a body may hold."""
        return _shape(limits)

    def parse(self, body: Mapping[str, Any], limits: Limits) -> ChatAsk:
        got = f.read(_shape(limits), body)
        prompt = got["prompt"] if isinstance(got["prompt"], str) else got["prompt"][0]
        if not prompt.strip():
            raise ApiError(400, "`prompt` is empty", code="empty_input", param="prompt")
        return ChatAsk(got["model"], prompt=prompt, max_tokens=got.get("max_tokens"), top_logprobs=got.get("logprobs"),
                       **sampling_of(got), **form_of("", None, None, guided(got)))

    def whole(self, head: Head, ask: ChatAsk, answer: ChatAnswer, extra: Mapping[str, Any]) -> dict[str, Any]:
        choices = [{"index": place, "text": clean(one.text), "logprobs": _old_logprobs(one.logprobs),
                    "finish_reason": _finish(one.finish)} for place, one in enumerate(answer.choices)]
        return {"id": head.id, "object": "text_completion", "created": head.created, "model": head.model,
                "choices": choices, "usage": usage_of(answer.usage), "bucle": extra_of(answer, extra)}

    def events(self, head: Head, ask: ChatAsk) -> Events:
        return _Chunks(head, ask)

    def error_body(self, error: ApiError) -> dict[str, Any]:
        return error.body()


class _Prompt:
    """A text, or a list of one."""

    def __init__(self, longest: int) -> None:
        self._text = f.Text(longest, 1, too_long=413)
        self._one = f.ListOf(self._text, 1, 1)

    def read(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._text.read(value)
        if isinstance(value, list) and value and not isinstance(value[0], str):
            raise f.Wrong("must be text: token ids are not served", "unsupported_value")
        return self._one.read(value)

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [self._text.schema(), self._one.schema()]}


@lru_cache(16)
def _shape(limits: Limits) -> f.Shape:
    return f.Shape({
        "model": MODEL, "prompt": _Prompt(limits.input_chars), **SAMPLING,
        "max_tokens": f.Whole(1, limits.max_tokens), "logprobs": f.Whole(0, 20),
        "echo": f.Exactly((False,)), "best_of": f.Exactly((1,)), "suffix": f.Refused(),
        **{name: f.Refused() for name in ("top_k", "min_p", "repetition_penalty", "guided_choice", "guided_grammar")},
        "response_format": f.Refused("send `structured_outputs`"),
        "messages": f.Refused("they belong to /v1/chat/completions"),
    }, ("model", "prompt"))


class _Chunks:
    """`text_completion` pieces."""

    def __init__(self, head: Head, ask: ChatAsk) -> None:
        self._ask, self._sent = ask, [0] * ask.n
        self._base = {"id": head.id, "object": "text_completion", "created": head.created, "model": head.model}

    def begin(self) -> bytes:
        return b""

    def delta(self, piece: Delta) -> bytes:
        if not piece.text and piece.logprobs is None:
            return b""
        offset = self._sent[piece.index]
        self._sent[piece.index] += len(piece.text)
        return self._chunk(piece.index, piece.text, None, _old_logprobs(piece.logprobs, offset))

    def end(self, answer: ChatAnswer, extra: Mapping[str, Any]) -> bytes:
        sent, last = b"", len(answer.choices) - 1
        for place, one in enumerate(answer.choices):
            more = {"bucle": extra_of(answer, extra)} if place == last else {}
            sent += self._chunk(place, "", _finish(one.finish), None, **more)
        if self._ask.include_usage:
            sent += event({**self._base, "choices": [], "usage": usage_of(answer.usage)})
        return sent + DONE

    def error(self, error: ApiError) -> bytes:
        return event(error.body())

    def _chunk(self, index: int, text: str, finish: str | None, logprobs: Any, **more: Any) -> bytes:
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}
        return event({**self._base, "choices": [choice], **more})


def _finish(finish: str) -> str:
    return "stop" if finish == "tool_calls" else finish  # this API knows no tools


def _old_logprobs(found: Mapping[str, Any] | None, offset: int = 0) -> dict[str, Any] | None:
    """Chat's logprobs in this API's shape; `offset` are the characters before the first token."""
    if found is None:
        return None
    tokens = [one for one in found.get("content") or () if isinstance(one, Mapping)]
    words = [str(one.get("token", "")) for one in tokens]
    starts = list(accumulate((len(w) for w in words), initial=offset))[:-1]
    return {"tokens": words, "token_logprobs": [one.get("logprob") for one in tokens], "text_offset": starts,
            "top_logprobs": [{str(t.get("token", "")): t.get("logprob") for t in one.get("top_logprobs") or ()}
                             for one in tokens]}
