"""Models behind an OpenAI-compatible API: a provider, or a local server such as vLLM, over plain httpx."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from bucle.core.errors import BadInput, ContextOverflow, ModelUnavailable
from bucle.core.ports import ChatReply, Message
from bucle.core.records import Usage
from bucle.models.endpoint import BrokenOff, Endpoint, RateLimited, TimedOut, forward_headers

__all__ = ["OpenAIChat", "OpenAIEmbedder", "RateLimited", "TimedOut", "forward_headers"]

_SCHEMA_REFUSED = re.compile(r"response_format|json_schema|schema|structured|grammar|guided", re.I)
_UNSUPPORTED = re.compile(r"unsupported|not support|unrecogni|unknown|not permitted|extra inputs|unexpected", re.I)


class OpenAIChat:
    """A ChatModel (core.ports) over `POST {base_url}/chat/completions`.

    `api_key_env` names the environment variable with the key; empty for a server that asks for none.
    `timeout_s` bounds a whole plain reply, and each silence of a streamed one. `max_retries` follow 429, 5xx
    and failed connections, after Retry-After or an exponential pause. Without `usd_per_million_*` the list
    price of a known provider is used.

    `max_parallel`: calls that `ask_all` and the gateway make at once; an engine without this attribute gets one at a
    time. The limits a minute (0: none) are kept for all who call the same address and model from this process.
    `context`, in tokens, is what prompts are fitted to where it is known (None: the catalogue's, if it has one).
    `identity`, address and model, is what replies are remembered under. `schema`, the JSON schema of a plain reply, is
    sent as `response_format`, until the endpoint refuses that: then never again, and the reply is unconstrained.
    """

    takes_schema = True

    def __init__(self, name: str, base_url: str, model: str, api_key_env: str = "OPENAI_API_KEY",
                 timeout_s: float = 60.0, max_retries: int = 2, *, usd_per_million_in: float | None = None,
                 usd_per_million_out: float | None = None, max_parallel: int = 16, requests_per_minute: int = 0,
                 tokens_per_minute: int = 0, context: int | None = None,
                 sleep: Callable[[float], None] = time.sleep) -> None:
        self.name, self.max_parallel, self.context = name, max_parallel, context
        self._client = Endpoint(name, base_url, model, api_key_env, timeout_s, max_retries,
                                usd_per_million_in, usd_per_million_out, sleep, max_parallel, requests_per_minute,
                                tokens_per_minute)
        self.identity = self._client.identity
        self._limit_field = "max_tokens"
        self._without: frozenset[str] = frozenset()

    def chat(self, messages: Sequence[Message], *, max_tokens: int, temperature: float = 0.0,
             stop: Sequence[str] = (), seed: int = 0, schema: Mapping[str, Any] | None = None) -> ChatReply:
        body = self._body(messages, max_tokens, temperature, stop, seed)
        if schema and "response_format" not in self._without:
            form = {"name": "answer", "schema": dict(schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        while True:
            try:
                reply, ms = self._client.post_timed("/chat/completions", body)
                break
            except BadInput as error:
                if not self._adapted(error, body, max_tokens):
                    raise
        choice = _first_choice(reply)
        message = choice.get("message") if choice else None
        if choice is None or not isinstance(message, dict):
            raise ModelUnavailable(f"{self.name} answered without a message")
        text = str(message.get("content") or "")
        return ChatReply(text, self._client.usage(reply, body, text), _finish(choice), ms, served_by=_served_by(reply))

    def stream(self, messages: Sequence[Message], *, max_tokens: int, temperature: float = 0.0,
               stop: Sequence[str] = (), seed: int = 0) -> Iterator[str | ChatReply]:
        body = self._body(messages, max_tokens, temperature, stop, seed)
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        while True:
            try:
                yield from self._pieces(body)
                return
            except BadInput as error:  # raised before the first piece: a refusal is the response's status
                if not self._adapted(error, body, max_tokens):
                    raise

    def priced(self, usage: Usage) -> Usage:
        """`usage` at the price of today: a remembered reply keeps its tokens, and not the dollars of its day."""
        return self._client.priced(usage.tokens_in, usage.tokens_out)

    def close(self) -> None:
        self._client.close()

    def _pieces(self, body: Mapping[str, Any]) -> Iterator[str | ChatReply]:
        parts: list[str] = []
        counted: Mapping[str, Any] = {}
        finish, served_by, began = "", "", time.monotonic()
        for event in self._client.events("/chat/completions", body):
            if event.get("usage"):
                counted = event
            served_by = _served_by(event) or served_by
            choice = _first_choice(event)
            if choice is None:
                continue
            delta = choice.get("delta")
            text = delta.get("content") if isinstance(delta, dict) else None
            if choice.get("finish_reason"):
                finish = _finish(choice)
            if isinstance(text, str) and text:
                parts.append(text)
                yield text
        if not finish:
            raise BrokenOff(f"{self.name} broke off its reply before the end", "try again")
        text = "".join(parts)
        yield ChatReply(text, self._client.usage(counted, body, text), finish, (time.monotonic() - began) * 1000,
                        served_by=served_by)

    def _body(self, messages: Sequence[Message], max_tokens: int, temperature: float, stop: Sequence[str],
              seed: int) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self._client.model, "messages": [dict(m) for m in messages],
                                self._limit_field: max_tokens, "temperature": temperature}
        if stop:
            body["stop"] = list(stop)
        if seed:  # several providers refuse the field, so it is sent only when one is asked for
            body["seed"] = seed
        return {field: value for field, value in body.items() if field not in self._without}

    def _adapted(self, error: BadInput, body: dict[str, Any], max_tokens: int) -> bool:
        """Whether `body` is now without what the provider refused by name, from now on too: reasoning models take
        `max_completion_tokens` for `max_tokens` and no `temperature`; several providers take no `seed` or no
        schema."""
        if isinstance(error, ContextOverflow):  # it names `max_tokens` too, and another field would change nothing
            return False
        if "max_tokens" in body and "max_completion_tokens" in error.message:
            self._limit_field = "max_completion_tokens"
            body.pop("max_tokens")
            body["max_completion_tokens"] = max_tokens
            return True
        for field in ("temperature", "seed"):
            if field in body and field in error.message and _UNSUPPORTED.search(error.message):
                self._without |= {field}
                body.pop(field)
                return True
        if "response_format" in body and _SCHEMA_REFUSED.search(error.message):
            self._without |= {"response_format"}
            body.pop("response_format")
            return True
        return False


BROKEN = ("the server's arithmetic or its model is broken: load it again there, in another precision (float32), "
          "and ask it for one text")
_WORD = re.compile(r"[^\W_]")


class OpenAIEmbedder:
    """An Embedder (core.ports) over `POST {base_url}/embeddings`. Vectors come back with length 1.

    `dimensions` is 0 until the first call unless it is given; a reply of another width is refused. Texts
    are sent `batch` at a time.
    """

    max_parallel = 16

    def __init__(self, name: str, base_url: str, model: str, api_key_env: str = "OPENAI_API_KEY",
                 timeout_s: float = 60.0, max_retries: int = 2, *, dimensions: int = 0, batch: int = 128,
                 usd_per_million_in: float | None = None,
                 sleep: Callable[[float], None] = time.sleep) -> None:
        self.name, self.dimensions, self._batch = name, dimensions, batch
        self._client = Endpoint(name, base_url, model, api_key_env, timeout_s, max_retries,
                                usd_per_million_in, None, sleep)

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return self.embed_metered(texts)[0]

    def embed_metered(self, texts: Sequence[str]) -> tuple[list[list[float]], Usage]:
        """Unit vectors `[len(texts), dimensions]` and what they used."""
        vectors: list[list[float]] = []
        tokens, usd = 0, 0.0
        for start in range(0, len(texts), self._batch):
            part = list(texts[start:start + self._batch])
            body = {"model": self._client.model, "input": part, "encoding_format": "float"}
            reply = self._client.post("/embeddings", body)
            vectors += self._vectors(reply, part)
            used = self._client.usage(reply, body)
            tokens, usd = tokens + used.tokens_in, usd + used.usd
        return vectors, Usage(tokens_in=tokens, usd=usd)

    def close(self) -> None:
        self._client.close()

    def _vectors(self, reply: Mapping[str, Any], texts: Sequence[str]) -> list[list[float]]:
        import numpy as np

        rows, expected = reply.get("data"), len(texts)
        try:
            ordered = sorted(rows, key=lambda row: row["index"]) if isinstance(rows, list) else []
            if [row["index"] for row in ordered] != list(range(expected)):
                raise ModelUnavailable(f"{self.name} answered {len(ordered)} embeddings for {expected} texts, or not "
                                       "one for each", "check that the endpoint is an OpenAI-compatible one")
            matrix = np.asarray([row["embedding"] for row in ordered], dtype=np.float64)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ModelUnavailable(f"{self.name} answered without embeddings",
                                   f"check that models.{self.name}.model is an embedding model there") from error
        if matrix.ndim != 2 or len(matrix) != expected or not matrix.shape[1]:
            raise ModelUnavailable(f"{self.name} answered embeddings that are no list of numbers each",
                                   f"check that models.{self.name}.model is an embedding model there")
        with np.errstate(over="ignore"):
            norms = np.linalg.norm(matrix, axis=1, keepdims=True)
        if not np.isfinite(norms).all():
            raise ModelUnavailable(f"{self.name} answered embeddings that are not finite numbers (NaN, infinite)",
                                   BROKEN)
        self.dimensions = self.dimensions or matrix.shape[1]
        if matrix.shape[1] != self.dimensions:
            raise ModelUnavailable(
                f"{self.name} answered {matrix.shape[1]} dimensions instead of {self.dimensions}",
                f"another model answers there now: correct models.{self.name}.model, then bucle run")
        if any(not norm and _WORD.search(text) for norm, text in zip(norms[:, 0], texts, strict=True)):
            raise ModelUnavailable(f"{self.name} answered an embedding of zeros only, which is near to nothing", BROKEN)
        unit: list[list[float]] = (matrix / np.where(norms > 0, norms, 1.0)).tolist()
        return unit


def _first_choice(reply: Mapping[str, Any]) -> dict[str, Any] | None:
    choices = reply.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else None


def _served_by(reply: Mapping[str, Any]) -> str:
    """`model fingerprint`, as far as the provider says either."""
    told = [part for name in ("model", "system_fingerprint") if isinstance(part := reply.get(name), str) and part]
    return " ".join("".join(c for c in part if c.isprintable())[:200] for part in told)


def _finish(choice: Mapping[str, Any]) -> str:
    return "length" if choice.get("finish_reason") == "length" else "stop"
