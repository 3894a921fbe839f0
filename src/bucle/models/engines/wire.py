"""Any server that speaks the OpenAI wire, as a ChatEngine: a provider, vLLM, an engine's own process over its socket.

What it sends is read as a stranger's: bounded in size and time, tolerated where a field is new, refused where the shape
is wrong. The key is read from the environment at each call and never stands in a message.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bucle.core.engine import OFFERS, AskContext, ChatAnswer, ChatAsk, Delta
from bucle.core.errors import BadInput, BucleError, ContextOverflow, ModelUnavailable
from bucle.core.records import Usage
from bucle.models.catalogue import price, provider_of
from bucle.models.endpoint import BrokenOff, Refused, TimedOut, is_here
from bucle.models.engines.meter import Meter
from bucle.models.engines.wire_errors import Unsupported, key_of, refusal
from bucle.models.engines.wire_shapes import Gathered, body_of, is_completion, whole_answer

if TYPE_CHECKING:
    import aiohttp

__all__ = ["WIRE_OFFERS", "Unsupported", "WireEngine", "together"]

WIRE_OFFERS = OFFERS - {"regex", "prompt"} | {"reasoning_effort", "verbosity", "metadata", "prompt_cache_key"}
"""What a provider's chat completions take; a server that takes more is given `offers`."""

RESPONSE_LIMIT = 8 * 1024 * 1024
"""Bytes of one reply; more is refused."""
LINE_LIMIT = 1024 * 1024
"""Bytes of one line of an event stream."""
STALE_S = 0.1
"""A kept connection that the server has closed meanwhile says so within this: then a new one is tried, once."""
_WRITTEN = re.compile(rb'"(?:content|arguments|text)"\s*:\s*"((?:[^"\\]|\\.)*)')
"""What of a reply's JSON that broke off is the model's."""
LINGER_S = 1.0
"""How long the last bytes after `[DONE]` are waited for, so that the connection can be kept."""


class WireEngine:
    """`POST {base_url}/chat/completions` (raw prompts: `/completions`) over aiohttp, connections kept.

    `uds` is a Unix socket to go through instead of the URL's host. `api_key_env` names the environment variable with
    the key (empty, or unset for a server of this machine: none is sent); `headers` go with each call. `timeout_s`
    bounds a whole plain reply and each silence of a streamed one; at most `max_parallel` calls are under way, the rest
    wait. `offers` is what that server takes (OFFERS); prices are US dollars per million tokens, by default the list
    price of a known provider.

    Raises RateLimited, Refused, TimedOut, ModelUnavailable, BadInput, ContextOverflow, and Unsupported for a field that
    the server refuses by name.
    """

    def __init__(self, name: str, base_url: str, model: str, *, api_key_env: str = "", timeout_s: float = 60.0,
                 offers: Collection[str] = WIRE_OFFERS, usd_per_million_in: float | None = None,
                 usd_per_million_out: float | None = None, uds: Path | str | None = None, max_parallel: int = 256,
                 headers: Mapping[str, str] | None = None) -> None:
        self.name, self.model, self.base_url = name, model, base_url.rstrip("/")
        self.offers = frozenset(offers)
        self.max_parallel = max_parallel
        self._key_env, self._timeout, self._uds = api_key_env, timeout_s, str(uds) if uds is not None else ""
        self._usd = (usd_per_million_in, usd_per_million_out)
        self._provider = provider_of(self.base_url) if self._usd == (None, None) else ""
        self._limit_field = "max_tokens"
        self._headers = {"content-type": "application/json", "accept-encoding": "identity", "user-agent": "bucle",
                         **(headers or {})}
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._urls: dict[str, Any] = {}

    async def complete(self, ask: ChatAsk, ctx: AskContext) -> ChatAnswer:
        """The whole answer."""
        started = time.perf_counter()
        with Meter(self, ask, ctx) as meter:
            try:
                async with asyncio.timeout(min(self._timeout, ctx.left_s)):
                    async with self._reply(replace(ask, stream=False) if ask.stream else ask, ctx, meter) as response:
                        data = await self._read(response, meter)
            except TimeoutError as error:
                raise self._late() from error
            value = _object(data)
            if value is None:
                raise ModelUnavailable(f"{self.name} answered something that is not a JSON object",
                                       f"check that {self.base_url} is an OpenAI-compatible API")
            answer = meter.answered(whole_answer(self.name, value, self.usage(value), raw=is_completion(ask)))
        ctx.span("engine", started, model=self.name)
        return answer

    async def stream(self, ask: ChatAsk, ctx: AskContext) -> AsyncIterator[Delta | ChatAnswer]:
        """Pieces as they come, then the answer. Closing it lets go of the connection, which ends the server's work."""
        started = time.perf_counter()
        gathered = Gathered(self.name, ask.n, raw=is_completion(ask))
        usage: Mapping[str, Any] = {}
        with Meter(self, ask, ctx) as meter:
            async with self._reply(ask if ask.stream else replace(ask, stream=True), ctx, meter) as response:
                async for events in self._events(response, ctx):
                    usage = next((event for event in reversed(events) if event.get("usage")), usage)
                    for piece in together(gathered.take, events):
                        yield meter.took(piece)
                answer = meter.answered(gathered.answer(self.usage(usage)))
                ctx.span("engine", started, model=self.name)
                yield answer
                await self._to_the_end(response)

    def usage(self, reply: Mapping[str, Any]) -> Usage:
        """Tokens as the server counted them; dollars by the configured price, the list price, or 0."""
        raw = reply.get("usage")
        counts = raw if isinstance(raw, dict) else {}
        return self.priced(_count(counts.get("prompt_tokens")), _count(counts.get("completion_tokens")))

    def priced(self, tokens_in: int, tokens_out: int) -> Usage:
        """What these tokens cost today."""
        usd_in, usd_out = self._usd
        if usd_in is not None or usd_out is not None:
            usd = ((usd_in or 0.0) * tokens_in + (usd_out or 0.0) * tokens_out) / 1e6
        else:
            usd = (price(self.model, self._provider, tokens_in, tokens_out) or 0.0) if self._provider else 0.0
        return Usage(tokens_in=tokens_in, tokens_out=tokens_out, usd=usd)

    async def close(self) -> None:
        """Close the connections; the engine can be asked again and opens new ones."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    @contextlib.asynccontextmanager
    async def _reply(self, ask: ChatAsk, ctx: AskContext, meter: Meter) -> AsyncIterator[aiohttp.ClientResponse]:
        """A successful response, not yet read."""
        import aiohttp

        path = "/completions" if is_completion(ask) else "/chat/completions"
        headers = {**self._headers, **ctx.forward, **self._authorisation()}
        renamed = False
        while True:
            body = msgspec.json.encode(body_of(ask, self.model, self._limit_field))
            response = await self._post(path, body, headers, meter)
            try:
                if response.status == 200:
                    try:
                        yield response
                    except aiohttp.ServerTimeoutError as error:
                        raise self._late() from error
                    except (aiohttp.ClientError, OSError) as error:
                        raise BrokenOff(f"{self.name} broke off its reply half-way ({type(error).__name__})",
                                              "try again") from error
                    return
                meter.sent = False  # what is answered with an error is not billed
                refused = await self._refused(response, ask)
            finally:
                response.close() if not response.content.at_eof() else response.release()
            told = isinstance(refused, BadInput) and not isinstance(refused, ContextOverflow)
            if told and not renamed and "max_tokens" in body_of(ask, self.model, self._limit_field) \
                    and "max_completion_tokens" in refused.message:
                self._limit_field, renamed = "max_completion_tokens", True  # reasoning models take no max_tokens
                continue
            raise refused

    async def _post(self, path: str, body: bytes, headers: Mapping[str, str], meter: Meter) -> aiohttp.ClientResponse:
        import aiohttp

        session = self._opened()
        for again in (True, False):
            sent, meter.sent = time.monotonic(), False
            _at_work.set(meter)
            try:
                return await session.post(self._url(path), data=body, headers=headers, allow_redirects=False)
            except aiohttp.ConnectionTimeoutError as error:
                raise self._unreachable(error) from error
            except TimeoutError as error:  # of the socket
                raise self._late() from error
            except aiohttp.ClientConnectorError as error:
                raise self._unreachable(error) from error
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                if again and time.monotonic() - sent < STALE_S:
                    continue
                raise ModelUnavailable(
                    f"{self.name} closed the connection without a reply ({type(error).__name__})",
                    f"see the log of {self.base_url}: it was reached, and gave up on the request") from error
            except (aiohttp.ClientError, OSError, ValueError) as error:
                raise self._unreachable(error) from error
        raise AssertionError  # the second try returns or raises

    async def _read(self, response: aiohttp.ClientResponse, meter: Meter) -> bytes:
        data = bytearray()
        try:
            async for piece in response.content.iter_any():
                data += piece
                self._within(len(data))
        except BaseException:
            meter.written += [m.decode("utf-8", "replace") for m in _WRITTEN.findall(bytes(data))]
            raise
        return bytes(data)

    async def _events(self, response: aiohttp.ClientResponse, ctx: AskContext) -> AsyncIterator[list[dict[str, Any]]]:
        """Server-sent events as objects, those that came together in one list, up to `[DONE]`."""
        rest, total = b"", 0
        async for piece in response.content.iter_any():
            total += len(piece)
            self._within(total)
            if ctx.left_s < 0:
                raise self._late()
            *lines, rest = (rest + piece).split(b"\n")
            if len(rest) > LINE_LIMIT:
                raise ModelUnavailable(f"{self.name} streamed a line of more than {LINE_LIMIT // 2**20} MiB",
                                       f"check that {self.base_url} is an OpenAI-compatible API")
            events: list[dict[str, Any]] = []
            for line in lines:
                if not line.startswith(b"data:"):
                    continue
                data = line[5:].strip()
                if data == b"[DONE]":
                    yield events
                    return
                event = _object(data)
                if event is None or event.get("error"):
                    yield events  # what was said before it broke off counts
                    if event is None:
                        raise ModelUnavailable(f"{self.name} streamed something that is not a JSON object")
                    raise refusal(self.name, self.base_url, self.model, self._key_env, event)
                events.append(event)
            if events:
                yield events

    async def _to_the_end(self, response: aiohttp.ClientResponse) -> None:
        if not response.content.at_eof():
            with contextlib.suppress(TimeoutError, OSError, ValueError, Exception):
                async with asyncio.timeout(LINGER_S):
                    await response.content.read(64)

    async def _refused(self, response: aiohttp.ClientResponse, ask: ChatAsk) -> BucleError:
        data = b""
        with contextlib.suppress(Exception):
            async with asyncio.timeout(5):
                async for piece in response.content.iter_any():
                    data += piece
                    if len(data) > 65536:
                        break
        return refusal(self.name, self.base_url, self.model, self._key_env, _object(data) or {},
                       status=response.status, retry_after=response.headers.get("retry-after"), ask=ask)

    def _opened(self) -> aiohttp.ClientSession:
        import aiohttp

        loop = asyncio.get_running_loop()
        if self._session is None or self._loop is not loop:
            local = self._uds or is_here(self.base_url)
            shared: dict[str, Any] = {"limit": self.max_parallel, "keepalive_timeout": 30}
            connector = _telling(aiohttp.UnixConnector)(self._uds, **shared) if self._uds else _telling(
                aiohttp.TCPConnector)(ttl_dns_cache=300, **shared)
            self._loop, self._session = loop, aiohttp.ClientSession(
                connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=min(10.0, self._timeout),
                                              sock_read=self._timeout),
                trust_env=not local)
        return self._session

    def _url(self, path: str) -> Any:
        """An address, taken apart once."""
        known = self._urls.get(path)
        if known is None:
            from yarl import URL

            known = self._urls[path] = URL(self.base_url + path)
        return known

    def _authorisation(self) -> dict[str, str]:
        if not self._key_env:
            return {}
        key = key_of(self._key_env)
        if not key and (self._uds or is_here(self.base_url)):
            return {}
        if not key:
            raise Refused(f"{self.name} needs a key and {self._key_env} is not set",
                          f"export {self._key_env}=… or write it in .env")
        if not key.isascii() or not key.isprintable():
            raise Refused(f"the value of {self._key_env} is not a key", "copy it again, without line breaks")
        return {"authorization": f"Bearer {key}"}

    def _within(self, size: int) -> None:
        if size > RESPONSE_LIMIT:
            raise ModelUnavailable(f"{self.name} sent more than {RESPONSE_LIMIT // 2**20} MiB in one reply",
                                   "lower max_tokens, or check that the endpoint is what it should be")

    def _late(self) -> TimedOut:
        return TimedOut(f"{self.name} did not answer within {self._timeout:g} s",
                        f"raise models.{self.name}.timeout_s, or use a smaller model")

    def _unreachable(self, error: BaseException) -> ModelUnavailable:
        return ModelUnavailable(f"{self.name} cannot be reached ({type(error).__name__})",
                                f"start {self.base_url} or correct models.{self.name}.base_url")


def together(take: Callable[[dict[str, Any]], Iterable[Delta]], events: list[dict[str, Any]]) -> Iterator[Delta]:
    """What `take` makes of events that came at once: neighbours of one choice that are nothing but text are one piece.
    What `take` raises is raised after what came before it."""
    texts: list[str] = []
    at, failed = 0, None
    try:
        for event in events:
            for piece in take(event):
                plain = not piece.tool_calls and piece.logprobs is None
                if texts and not (plain and at == piece.index):
                    yield Delta("".join(texts), at)
                    texts = []
                if plain:
                    texts.append(piece.text)
                    at = piece.index
                else:
                    yield piece
    except BucleError as error:
        failed = error
    if texts:
        yield Delta("".join(texts), at)
    if failed is not None:
        raise failed


_at_work: ContextVar[Meter] = ContextVar("bucle_meter")


@cache
def _telling(kind: Any) -> Any:
    """The connector `kind`, which tells the meter of a request that has got its connection: until then it waited here,
    and now it leaves. (aiohttp's own tracing would tell too, and take 15 us of each request.)"""

    class Telling(kind):
        async def connect(self, *args: Any, **more: Any) -> Any:
            connection = await super().connect(*args, **more)
            if (meter := _at_work.get(None)) is not None:
                meter.sent = True
            return connection

    return Telling


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        value = msgspec.json.decode(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
