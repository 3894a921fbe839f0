"""A model behind Anthropic's Messages API, as a ChatEngine."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from bucle.core.engine import AskContext, ChatAnswer, ChatAsk, Delta, wanted
from bucle.core.errors import BadInput, BucleError, ContextOverflow, ModelUnavailable
from bucle.models.endpoint import BrokenOff
from bucle.models.engines.anthropic_shapes import Gathered, body_of, tokens_of, whole_answer
from bucle.models.engines.meter import Meter
from bucle.models.engines.wire import WireEngine, together
from bucle.models.engines.wire_errors import Unsupported

if TYPE_CHECKING:
    import aiohttp

__all__ = ["ANTHROPIC_OFFERS", "AnthropicEngine"]

ANTHROPIC_OFFERS = frozenset({"temperature", "top_p", "stop", "tools", "json_schema", "max_tokens", "conversation",
                              "thinking", "top_k"})
VERSION = "2023-06-01"
DEFAULT_TOKENS = 4096
"""The length of an answer where nobody says one: this API needs to be told."""

_FIELDS = {"json_schema": "output_config", "stop": "stop_sequences"}


class AnthropicEngine(WireEngine):
    """`POST {base_url}/v1/messages` over aiohttp; connections, limits, keys and errors are those of WireEngine.

    What this API has no word for (`seed`, `n`, `logprobs`, penalties, `logit_bias`, `json_object`) is not offered.
    Tokens in are those of the prompt, cached or not; dollars by the configured price, or the list price.
    """

    def __init__(self, name: str, model: str, *, base_url: str = "https://api.anthropic.com",
                 api_key_env: str = "ANTHROPIC_API_KEY", timeout_s: float = 60.0, max_parallel: int = 16,
                 usd_per_million_in: float | None = None, usd_per_million_out: float | None = None,
                 default_tokens: int = DEFAULT_TOKENS) -> None:
        super().__init__(name, base_url.rstrip("/").removesuffix("/v1"), model, api_key_env=api_key_env,
                         timeout_s=timeout_s, offers=ANTHROPIC_OFFERS, usd_per_million_in=usd_per_million_in,
                         usd_per_million_out=usd_per_million_out, max_parallel=max_parallel,
                         headers={"anthropic-version": VERSION})
        self._default_tokens = default_tokens

    async def complete(self, ask: ChatAsk, ctx: AskContext) -> ChatAnswer:
        """The whole answer."""
        started = time.perf_counter()
        with Meter(self, ask, ctx) as meter:
            async with self._reply(replace(ask, stream=False), ctx, meter) as response:
                try:
                    async with asyncio.timeout(min(self._timeout, ctx.left_s)):
                        data = await self._read(response, meter)
                except TimeoutError as error:
                    raise self._late() from error
            try:
                value = msgspec.json.decode(data)
            except (ValueError, RecursionError):
                value = None
            if not isinstance(value, dict):
                raise ModelUnavailable(f"{self.name} answered something that is not a JSON object",
                                       f"check that {self.base_url} is Anthropic's API")
            answer = meter.answered(whole_answer(self.name, value, self.priced(*tokens_of(value.get("usage")))))
        ctx.span("engine", started, model=self.name)
        return answer

    async def stream(self, ask: ChatAsk, ctx: AskContext) -> AsyncIterator[Delta | ChatAnswer]:
        """Pieces as they come, then the answer. Closing it lets go of the connection."""
        started, gathered = time.perf_counter(), Gathered(self.name)
        with Meter(self, ask, ctx) as meter:
            async with self._reply(replace(ask, stream=True), ctx, meter) as response:
                async for events in self._events(response, ctx):
                    for piece in together(gathered.take, events):
                        yield meter.took(piece)
                answer = meter.answered(gathered.answer(self.priced(*gathered.tokens)))
        ctx.span("engine", started, model=self.name)
        yield answer

    @contextlib.asynccontextmanager
    async def _reply(self, ask: ChatAsk, ctx: AskContext, meter: Meter) -> AsyncIterator[aiohttp.ClientResponse]:
        """A successful response, not yet read."""
        import aiohttp

        body = msgspec.json.encode(body_of(ask, self.model, self._default_tokens))
        headers = {**self._headers, **ctx.forward, **self._authorisation()}
        response = await self._post("/v1/messages", body, headers, meter)
        try:
            if response.status != 200:
                meter.sent = False  # what is answered with an error is not billed
                refused = await self._refused(response, ask)
                raise self._named(refused, ask) if isinstance(refused, BucleError) else refused
            try:
                yield response
            except aiohttp.ServerTimeoutError as error:
                raise self._late() from error
            except (aiohttp.ClientError, OSError) as error:
                raise BrokenOff(f"{self.name} broke off its reply half-way ({type(error).__name__})",
                                      "try again") from error
        finally:
            response.close() if not response.content.at_eof() else response.release()

    def _authorisation(self) -> dict[str, str]:
        found = super()._authorisation().get("authorization", "")
        return {"x-api-key": found.removeprefix("Bearer ")} if found else {}

    def _named(self, error: BucleError, ask: ChatAsk) -> BucleError:
        """`error`, or Unsupported where it names a setting that this model does not take: several take no
        temperature, older ones no schema."""
        if not isinstance(error, BadInput) or isinstance(error, ContextOverflow | Unsupported):
            return error
        for what in wanted(ask):
            word = _FIELDS.get(what, what)
            if re.search(rf"\b{word}\b.*(deprecated|unsupported|not support|not permitted|cannot|may not)",
                         error.message, re.I):
                return Unsupported(error.message, what)
        return error
