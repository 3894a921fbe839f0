"""Models of other providers (Bedrock, Vertex AI, Azure, …) as ChatEngines, through the any-llm library.

    pip install 'bucle[providers]'

The library and its version are pinned in that extra; a provider's own SDK comes with `any-llm-sdk[bedrock]` and the
like. It is imported only where such a model is opened.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import replace
from typing import Any

from bucle.core.engine import AskContext, ChatAnswer, ChatAsk, Delta
from bucle.core.errors import BadInput, BucleError, ConfigError, ContextOverflow, ModelUnavailable, UpstreamTimeout
from bucle.core.records import Usage
from bucle.models.catalogue import price
from bucle.models.endpoint import (
    TOO_LONG,
    BrokenOff,
    RateLimited,
    Refused,
    TimedOut,
    come_back,
    retry_after_s,
    span_of,
)
from bucle.models.engines.meter import Meter
from bucle.models.engines.wire_errors import Unsupported, key_of
from bucle.models.engines.wire_shapes import Gathered, body_of, whole_answer

__all__ = ["PROVIDER_OFFERS", "ProviderEngine"]

PROVIDER_OFFERS = frozenset({"temperature", "top_p", "stop", "tools", "json_schema", "max_tokens", "conversation"})
"""What every provider of the library is told; of the rest some say nothing and drop it."""
OPENAI_OFFERS = PROVIDER_OFFERS | {"seed", "n", "logprobs", "presence_penalty", "frequency_penalty", "logit_bias",
                                   "json_object"}
"""What those are told that speak OpenAI's wire."""

_WORDS = {"response_format": "json_schema", "top_logprobs": "logprobs", "tool_choice": "tools",
          "parallel_tool_calls": "tools", "max_completion_tokens": "max_tokens"}
_PRICED_AS = {"azureopenai": "azure", "bedrock": "aws", "gemini": "google", "moonshot": "moonshotai",
              "vertexai": "google", "xai": "x-ai"}
"""Providers whose list prices stand under another name than any-llm's."""


class ProviderEngine:
    """`model` of `provider`, a name that any-llm knows (`bedrock`, `vertexai`, `azureopenai`, `ollama`, …).

    `api_key_env` names the environment variable with the key, read at each call; where it is empty, credentials are the
    provider's own environment variables. `base_url` is only for providers that need one (Azure, a server of one's own).
    `timeout_s` bounds a whole plain reply and each silence of a streamed one. Prices are US dollars per million tokens,
    by default the list price of that provider. The provider's SDK does not ask again by itself. Raises what WireEngine
    raises; ConfigError where the extra or the provider's SDK is not installed, or nobody knows the provider.
    """

    def __init__(self, name: str, provider: str, model: str, *, base_url: str = "", api_key_env: str = "",
                 timeout_s: float = 60.0, max_parallel: int = 16, usd_per_million_in: float | None = None,
                 usd_per_million_out: float | None = None, offers: Collection[str] | None = None) -> None:
        self.name, self.provider, self.model, self.base_url = name, provider, model, base_url or provider
        self.max_parallel = max_parallel
        self._address, self._key_env, self._timeout = base_url, api_key_env, timeout_s
        self._usd = (usd_per_million_in, usd_per_million_out)
        known = _provider(name, provider)
        if offers is None:
            offers = OPENAI_OFFERS if _speaks_openai(known) else PROVIDER_OFFERS
        self.offers = frozenset(offers)
        self._turns: asyncio.Semaphore | None = None
        self._opened: tuple[str, Any, Any] | None = None  # key, loop, client

    async def complete(self, ask: ChatAsk, ctx: AskContext) -> ChatAnswer:
        """The whole answer."""
        started = time.perf_counter()
        with Meter(self, ask, ctx) as meter:
            async with self._turn(), self._explained(meter):
                async with asyncio.timeout(min(self._timeout, ctx.left_s)):
                    client, meter.sent = self._client(), True
                    found = await client.acompletion(**self._body(replace(ask, stream=False)))
            reply = _plain(found)
            answer = meter.answered(whole_answer(self.name, reply, self.usage(reply), raw=False))
        ctx.span("engine", started, model=self.name)
        return answer

    async def stream(self, ask: ChatAsk, ctx: AskContext) -> AsyncIterator[Delta | ChatAnswer]:
        """Pieces as they come, then the answer. Closing it lets go of the connection."""
        started, gathered = time.perf_counter(), Gathered(self.name, ask.n, raw=False)
        usage: Mapping[str, Any] = {}
        with Meter(self, ask, ctx) as meter:
            async with self._turn(), self._explained(meter):
                async with asyncio.timeout(min(self._timeout, ctx.left_s)):
                    client, meter.sent = self._client(), True
                    pieces = await client.acompletion(**self._body(replace(ask, stream=True)))
                meter.begun = True
                try:
                    while True:
                        async with asyncio.timeout(min(self._timeout, ctx.left_s)):
                            piece = await anext(pieces, None)
                        if piece is None:
                            break
                        event = _plain(piece)
                        if event.get("usage"):
                            usage = event
                        for delta in gathered.take(event):
                            yield meter.took(delta)
                finally:
                    with contextlib.suppress(Exception):
                        await pieces.aclose()
            answer = meter.answered(gathered.answer(self.usage(usage)))
        ctx.span("engine", started, model=self.name)
        yield answer

    def usage(self, reply: Mapping[str, Any]) -> Usage:
        """Tokens as the provider counted them, and their dollars."""
        raw = reply.get("usage")
        counts = raw if isinstance(raw, dict) else {}
        return self.priced(int(counts.get("prompt_tokens") or 0), int(counts.get("completion_tokens") or 0))

    def priced(self, tokens_in: int, tokens_out: int) -> Usage:
        """What these tokens cost today: by the configured price, the list price, or 0."""
        usd_in, usd_out = self._usd
        if usd_in is not None or usd_out is not None:
            usd = ((usd_in or 0.0) * tokens_in + (usd_out or 0.0) * tokens_out) / 1e6
        else:
            usd = price(self.model, _PRICED_AS.get(self.provider, self.provider), tokens_in, tokens_out) or 0.0
        return Usage(tokens_in=tokens_in, tokens_out=tokens_out, usd=usd)

    async def close(self) -> None:
        """Close the connections; the engine can be asked again and opens new ones."""
        opened, self._opened = self._opened, None
        client = getattr(opened[2], "client", None) if opened else None
        for name in ("aclose", "close"):
            if (close := getattr(client, name, None)) is not None:
                with contextlib.suppress(Exception):
                    ended = close()
                    if asyncio.iscoroutine(ended):
                        await ended
                return

    def _body(self, ask: ChatAsk) -> dict[str, Any]:
        body = {**body_of(ask, self.model), "messages": [dict(m) for m in ask.messages], "reasoning_effort": None}
        if ask.stop:
            body["stop"] = list(ask.stop)
        if ask.tools:
            body["tools"] = [dict(t) for t in ask.tools]
        if not _speaks_openai(_provider(self.name, self.provider)):
            body.pop("stream_options", None)
            body.pop("user", None)
        return body

    def _client(self) -> Any:
        """The library's client, made anew for another key or event loop."""
        from any_llm import AnyLLM, UnsupportedParameterError

        key, loop = key_of(self._key_env) if self._key_env else "", asyncio.get_running_loop()
        if self._key_env and not key:
            raise Refused(f"{self.name} needs a key and {self._key_env} is not set",
                          f"export {self._key_env}=… or write it in .env")
        if self._opened is None or self._opened[:2] != (key, loop):
            shared: dict[str, Any] = {"api_key": key or None, "api_base": self._address or None,
                                      "unified_exceptions": True}
            try:
                made = AnyLLM.create(self.provider, max_retries=0, **shared)
            except UnsupportedParameterError:  # its SDK has no retries to turn off
                made = AnyLLM.create(self.provider, **shared)
            except ImportError as error:
                raise ConfigError(f"The SDK of {self.provider} is not installed.",
                                  f"pip install 'any-llm-sdk[{self.provider}]'") from error
            self._opened = (key, loop, made)
        return self._opened[2]

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        if self._turns is None:
            self._turns = asyncio.Semaphore(self.max_parallel)
        async with self._turns:
            yield

    @contextlib.asynccontextmanager
    async def _explained(self, meter: Meter) -> AsyncIterator[None]:
        """The library's errors as ours. What was refused before a reply began is not billed."""
        try:
            yield
        except BucleError:
            raise
        except TimeoutError as error:
            raise TimedOut(f"{self.name} did not answer within {self._timeout:g} s",
                           f"raise models.{self.name}.timeout_s, or use a smaller model") from error
        except Exception as error:
            ours = self._as_ours(error)
            if not meter.begun and not isinstance(ours, UpstreamTimeout):
                meter.sent = False
            raise ours from error

    def _as_ours(self, error: Exception) -> Exception:
        import any_llm
        from any_llm import exceptions as theirs

        name, said = self.name, self._said(error)
        if isinstance(error, any_llm.UnsupportedParameterError):
            word = str(error.parameter_name).split()[0]
            return Unsupported(f"{name}: {self.provider} takes no `{word}`{said}", _WORDS.get(word, word))
        if isinstance(error, any_llm.RateLimitError):
            wait = retry_after_s(error.retry_after)
            asks = f" and asks for a pause of {span_of(wait)}" if wait else ""
            return RateLimited(f"{name} is limiting requests{asks}{said}", come_back(wait), wait)
        if isinstance(error, any_llm.MissingApiKeyError | any_llm.AuthenticationError):
            variable = self._key_env or getattr(error, "env_var_name", "") or f"{self.provider}'s credentials"
            return Refused(f"{name} refused the key, or was given none", f"check {variable}")
        if isinstance(error, any_llm.ModelNotFoundError | theirs.InsufficientFundsError):
            return Refused(f"{name} does not serve {self.model!r}{said}", f"see {self.provider}'s list of models")
        text = f"{getattr(error, 'code', '')} {getattr(error, 'message', '')}"
        refused = isinstance(error, any_llm.InvalidRequestError)
        if isinstance(error, any_llm.ContextLengthExceededError) or (refused and TOO_LONG.search(text)):
            return ContextOverflow(f"{name} refused the prompt as longer than its context{said}",
                                   "leave something out of the prompt, or choose a model with a longer context")
        if refused or isinstance(error, any_llm.ContentFilterError):
            return BadInput(f"{name} refused the request{said}")
        if isinstance(error, theirs.GatewayTimeoutError):
            return TimedOut(f"{name} did not answer in time{said}")
        if isinstance(error, any_llm.AnyLLMError):
            if "timed out" in str(error).lower() or "timeout" in type(error.original_exception).__name__.lower():
                return TimedOut(f"{name} did not answer in time{said}")
            failed = ModelUnavailable(f"{name} failed{said}", "try again later or use another one")
            if error.status_code:
                vars(failed)["status"] = error.status_code
            return failed
        if type(error).__module__.split(".")[0] in ("httpx", "httpx2", "httpcore", "aiohttp"):
            return BrokenOff(f"{name} broke off its reply half-way ({type(error).__name__})", "try again")
        return ModelUnavailable(f"{name} failed ({type(error).__name__})", "try again later or use another one")

    def _said(self, error: Exception) -> str:
        """`: MESSAGE`, short, on one line and without the key."""
        text, key = str(getattr(error, "message", "")), key_of(self._key_env) if self._key_env else ""
        text = text.replace(key, "[key]") if key else text
        return ": " + "".join(c if c.isprintable() else " " for c in text)[:300] if text else ""


def _provider(name: str, provider: str) -> type:
    """The library's class of `provider`."""
    try:
        from any_llm import AnyLLM, UnsupportedProviderError
    except ImportError as error:
        raise ConfigError(f"The model {name} is asked through any-llm, which is not installed.",
                          "pip install 'bucle[providers]'") from error
    try:
        return AnyLLM.get_provider_class(provider)
    except UnsupportedProviderError as error:
        raise ConfigError(f"models.{name}: any-llm knows no provider {provider!r}",
                          "see https://docs.mozilla.ai/any-llm/providers") from error
    except ImportError as error:
        raise ConfigError(f"The SDK of {provider} is not installed.",
                          f"pip install 'any-llm-sdk[{provider}]'") from error


def _speaks_openai(known: type) -> bool:
    return any(base.__name__ == "BaseOpenAIProvider" for base in known.__mro__)


def _plain(found: Any) -> dict[str, Any]:
    """A reply of the library as plain JSON."""
    dump = getattr(found, "model_dump", None)
    value = dump(mode="json", exclude_none=True) if dump is not None else found
    return value if isinstance(value, dict) else {}
