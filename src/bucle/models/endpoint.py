"""One OpenAI-compatible endpoint over httpx: JSON in, JSON or server-sent events out, retried and bounded.

The key is read from the environment at each call, sent to the configured host only (redirects are not
followed) and never stands in a message, a log or the ledger.
"""

from __future__ import annotations

import contextlib
import contextvars
import json
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from bucle.core.errors import BadInput, BucleError, ConfigError, ContextOverflow, ModelUnavailable, UpstreamTimeout
from bucle.core.records import Usage
from bucle.models.catalogue import price, provider_of
from bucle.models.limits import Reserved, limits_of
from bucle.models.tokens import about_text

if TYPE_CHECKING:
    import httpx

__all__ = ["BrokenOff", "Endpoint", "NotSetUp", "Outlay", "RateLimited", "Refused", "Reply", "TimedOut",
           "forward_headers", "hurried", "is_here", "outlay", "troubles"]

RESPONSE_LIMIT = 8 * 1024 * 1024
"""Bytes of one reply, after decompression; more is refused."""

RETRY_STATUS = frozenset({408, 429, 500, 502, 503, 504})
MAX_WAIT_S = 30.0
"""A provider that asks for a longer pause than this is reported instead of waited for."""
LONGEST_PAUSE_S = 120.0
"""The longest that one refusal holds back the other callers of the same endpoint; then one may look again."""

HURRIED_WAIT_S = 1.0
"""The longest pause that is waited for where somebody waits for the answer (`hurried`)."""

hurried: contextvars.ContextVar[bool] = contextvars.ContextVar("bucle_hurried", default=False)
"""Whether somebody waits for the answer, who would rather know now that a provider says `wait`. Set by
models.ask.without_waiting, and nowhere else."""

forward_headers: contextvars.ContextVar[Mapping[str, str] | None] = contextvars.ContextVar(
    "bucle_forward_headers", default=None)
"""Headers added to each call made in this context. Set by the gateway in a replay, and nowhere else."""

troubles: contextvars.ContextVar[list[str] | None] = contextvars.ContextVar("bucle_troubles", default=None)
"""Filled with why calls made in this context were tried again: for whoever stops waiting before they end."""


@dataclass
class Outlay:
    """What calls cost beyond what their replies say: `spent` on those that were sent and gave none; `estimated`, that
    some of it, or of a reply's own usage, was counted by nobody."""

    spent: list[Usage] = field(default_factory=list)
    estimated: bool = False


outlay: contextvars.ContextVar[Outlay | None] = contextvars.ContextVar("bucle_outlay", default=None)
"""Told by each call made in this context. Set by models.ask.without_waiting, for whoever pays."""

TOO_LONG = re.compile(
    r"context_length_exceeded|exceed_context_size|maximum context length|maximum model length|maximum input length"
    r"|(?:exceeds?|longer than|too \w+ for|larger than|over) (?:the |its |your )?(?:\S+ ){0,3}context"
    r"|context (?:window|length|size|limit) (?:is |was )?exceeded|too many (?:input |prompt )?tokens"
    r"|(?:prompt|input|request|conversation) is too long|token count \S* ?exceeds|maximum number of tokens allowed",
    re.IGNORECASE)
"""How OpenAI, Azure, vLLM, llama.cpp, Anthropic, Cohere, Mistral and Gemini say that a prompt is too long."""


class RateLimited(ModelUnavailable):
    """The provider keeps answering 429. `retry_after` is the pause it asked for, in seconds, or None."""

    def __init__(self, message: str, hint: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, hint)
        self.retry_after = retry_after


class TimedOut(UpstreamTimeout):
    """The provider did not finish within `timeout_s`."""


class BrokenOff(UpstreamTimeout):
    """The connection ended before the answer did; what there was of it may have to be paid."""


class Refused(ModelUnavailable):
    """The provider refuses the key, or does not know the model: asking again changes nothing."""


class NotSetUp(Refused):
    """What serves the model lacks something for this kind of question, such as a chat template: no asker mends it."""


@dataclass
class Reply:
    """A successful response, not yet read: when its request was sent (monotonic seconds), its place in the minute."""

    response: httpx.Response
    sent: float
    place: Reserved


def is_here(base_url: str) -> bool:
    """Whether `base_url` is of this machine: a server there asks for a key only where one is set."""
    try:
        host = urlsplit(base_url).hostname or ""
    except ValueError:
        return False
    return host in ("localhost", "::1") or (host.startswith("127.") and host.replace(".", "").isdigit())


class Endpoint:
    """One endpoint: posts JSON with retries, bounds what comes back, explains what went wrong. Its limits a minute, and
    a pause that the provider asks for, are shared by all who call the same address and model from this process."""

    def __init__(self, name: str, base_url: str, model: str, api_key_env: str, timeout_s: float,
                 max_retries: int, usd_per_million_in: float | None, usd_per_million_out: float | None,
                 sleep: Callable[[float], None], parallel: int = 16, requests_per_minute: int = 0,
                 tokens_per_minute: int = 0) -> None:
        import httpx

        try:
            url = httpx.URL(base_url)
        except (httpx.InvalidURL, TypeError) as error:
            raise ConfigError(f"models.{name}: base_url is not a URL", "write http://HOST:PORT/v1") from error
        if url.scheme not in ("http", "https") or not url.host or url.userinfo or url.query or url.fragment:
            raise ConfigError(f"models.{name}: base_url must be http(s)://HOST/…, without password or query",
                              f"put the key in the environment variable {api_key_env or 'OPENAI_API_KEY'}")
        self.name, self.model, self.base_url = name, model, str(url).rstrip("/")
        self._key_env, self._timeout, self._retries, self._sleep = api_key_env, timeout_s, max_retries, sleep
        self._usd = (usd_per_million_in, usd_per_million_out)
        self.identity = f"{self.base_url} {model}"
        self._limits = limits_of(self.identity, requests_per_minute, tokens_per_minute)
        self._http = httpx.Client(timeout=httpx.Timeout(timeout_s, connect=min(10.0, timeout_s)),
                                  limits=httpx.Limits(max_connections=None, max_keepalive_connections=parallel),
                                  headers={"accept-encoding": "identity", "user-agent": "bucle"},
                                  trust_env=url.host not in ("localhost", "127.0.0.1", "::1"))  # no proxy

    def close(self) -> None:
        self._http.close()

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The reply to `body` as an object. Raises ModelUnavailable, RateLimited, TimedOut or BadInput."""
        return self.post_timed(path, body)[0]

    def post_timed(self, path: str, body: Mapping[str, Any]) -> tuple[dict[str, Any], float]:
        """`post`, and the milliseconds from sending the request that was answered to its reply's end."""
        with self.open(path, body) as reply:
            deadline = time.monotonic() + self._timeout
            data = bytearray()
            _note(f"{self.name} began its reply and did not end it")
            with self._explained(body):
                for piece in reply.response.iter_bytes():
                    data += piece
                    self._within(len(data), deadline)
            ms = (time.monotonic() - reply.sent) * 1000
        try:
            value = json.loads(bytes(data))
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise ModelUnavailable(f"{self.name} answered something that is not a JSON object",
                                   f"check that {self.base_url} is an OpenAI-compatible API")
        self._settle(reply.place, value)
        return value, ms

    def events(self, path: str, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Server-sent events of a streamed reply, as objects, up to `[DONE]`."""
        with self.open(path, body) as reply, self._explained(body):
            rest, total = b"", 0
            for piece in reply.response.iter_bytes():
                total += len(piece)
                self._within(total, None)
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    if not line.startswith(b"data:"):
                        continue
                    data = line[5:].strip()
                    if data == b"[DONE]":
                        return
                    try:
                        event = json.loads(data)
                    except (ValueError, RecursionError):
                        event = None
                    if not isinstance(event, dict):
                        raise ModelUnavailable(f"{self.name} streamed something that is not a JSON object")
                    if event.get("error"):
                        raise ModelUnavailable(f"{self.name} failed while streaming: {self._said(event)}")
                    self._settle(reply.place, event)
                    yield event

    @contextlib.contextmanager
    def open(self, path: str, body: Mapping[str, Any]) -> Iterator[Reply]:
        """A successful response, not yet read; tried again after 429, 5xx and failed connections."""
        import httpx

        headers = {**(forward_headers.get() or {}), **self._authorisation()}
        waited, longest = False, HURRIED_WAIT_S if hurried.get() else MAX_WAIT_S
        for attempt in range(self._retries + 1):
            last = attempt == self._retries
            if not waited and self._limits.paused() > longest:
                left = self._limits.asked_for()
                raise RateLimited(f"{self.name} asked for a pause: {span_of(left)} of it are left", come_back(left),
                                  left)
            place = self._limits.wait(_about(body), self._sleep, pause=not waited)
            waited, sent = False, time.monotonic()
            try:
                request = self._http.build_request("POST", self.base_url + path, json=body, headers=headers)
                response = self._http.send(request, stream=True)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                lost = ModelUnavailable(f"{self.name} cannot be reached ({type(error).__name__})",
                                        f"start {self.base_url} or correct models.{self.name}.base_url")
                if last:
                    raise lost from error
                _note(lost.message)
                self._sleep(backoff(attempt))
                continue
            except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError) as error:
                self._lost(body)
                lost = ModelUnavailable(f"{self.name} closed the connection without a reply ({type(error).__name__})",
                                        f"see the log of {self.base_url}: it was reached, and gave up on the request")
                if last:
                    raise lost from error
                _note(lost.message)
                self._sleep(backoff(attempt))
                continue
            except httpx.TimeoutException as error:
                self._lost(body)
                raise self._late() from error
            except httpx.HTTPError as error:
                raise ModelUnavailable(f"{self.name} cannot be reached ({type(error).__name__})",
                                       f"correct models.{self.name}.base_url") from error
            try:
                if response.is_success:
                    yield Reply(response, sent, place)
                    return
                wait = retry_after_s(response.headers.get("retry-after"))
                if waited := response.status_code == 429 and bool(wait):
                    self._limits.pause(wait or 0.0, longest=LONGEST_PAUSE_S)
                if response.status_code in RETRY_STATUS:
                    _note(f"{self.name} answered HTTP {response.status_code}"
                          + (" (it limits requests)" if response.status_code == 429 else ""))
                if last or response.status_code not in RETRY_STATUS or (wait or 0) > longest:
                    raise self._refused(response, wait)
            finally:
                response.close()
            self._sleep(wait if wait is not None else backoff(attempt))

    def usage(self, reply: Mapping[str, Any], body: Mapping[str, Any], text: str = "") -> Usage:
        """Tokens as the provider counted them, else estimated from the request's `body` and the reply's `text`; dollars
        by the configured price, the list price, or 0."""
        raw = reply.get("usage")
        counts = raw if isinstance(raw, dict) else {}
        tokens_in, tokens_out = _count(counts.get("prompt_tokens")), _count(counts.get("completion_tokens"))
        if (not tokens_in or (text and not tokens_out)) and (told := outlay.get()) is not None:
            told.estimated = True
        return self.priced(tokens_in or _tokens(body), tokens_out or about_text(text))

    def _lost(self, body: Mapping[str, Any]) -> None:
        """A call was sent and gave no reply: its prompt was read all the same."""
        if (told := outlay.get()) is not None:
            told.spent.append(self.priced(_tokens(body), 0))
            told.estimated = True

    def priced(self, tokens_in: int, tokens_out: int) -> Usage:
        """What these tokens cost today: by the configured price, else the list price, else nothing (`price_known` of
        models.catalogue says which)."""
        usd_in, usd_out = self._usd
        usd: float | None
        if usd_in is not None or usd_out is not None:
            usd = ((usd_in or 0.0) * tokens_in + (usd_out or 0.0) * tokens_out) / 1e6
        else:
            provider = provider_of(self.base_url)
            usd = price(self.model, provider, tokens_in, tokens_out) if provider else None
        return Usage(tokens_in=tokens_in, tokens_out=tokens_out, usd=usd or 0.0)

    def _settle(self, place: Reserved, reply: Mapping[str, Any]) -> None:
        if isinstance(used := reply.get("usage"), dict):
            self._limits.settle(place, _count(used.get("prompt_tokens")) + _count(used.get("completion_tokens")))

    def _authorisation(self) -> dict[str, str]:
        if not self._key_env:
            return {}
        key = os.environ.get(self._key_env, "").strip()
        if not key and is_here(self.base_url):
            return {}
        if not key:
            raise Refused(f"{self.name} needs a key and {self._key_env} is not set",
                                   f"export {self._key_env}=… or write it in .env")
        if not key.isascii() or not key.isprintable():
            raise Refused(f"the value of {self._key_env} is not a key",
                                   "copy it again, without line breaks")
        return {"authorization": f"Bearer {key}"}

    def _refused(self, response: httpx.Response, wait: float | None) -> BucleError:
        status, name = response.status_code, self.name
        if status in (401, 403):
            hint = f"check {self._key_env}" if self._key_env else f"set models.{name}.api_key_env"
            return Refused(f"{name} refused the key (HTTP {status})", hint)
        body = self._error_body(response)
        said = self._said(body)
        if status == 429:
            asks = f" and asks for a pause of {span_of(wait)}" if wait else ""
            return RateLimited(f"{name} is limiting requests (HTTP 429){asks}{said}", come_back(wait), wait)
        if status == 404:
            return Refused(
                f"{name} does not know the model {self.model!r} or the path (HTTP 404){said}",
                f"list its models: curl {self.base_url}/models")
        if status in (400, 413, 422) and TOO_LONG.search(words_of(body)):
            return ContextOverflow(
                f"{name} refused the prompt as longer than its context (HTTP {status}){said}",
                f"leave something out of the prompt (fewer passages, a shorter input), lower max_tokens, or choose a "
                f"model with a longer context than {self.model}")
        if status in (400, 413, 422):
            return BadInput(f"{name} refused the request (HTTP {status}){said}")
        failed = ModelUnavailable(f"{name} failed (HTTP {status}){said}", "try again later or use another one")
        vars(failed)["status"] = status  # it was answered so, and not broken off
        return failed

    def _error_body(self, response: httpx.Response) -> dict[str, Any]:
        """The first 64 KiB of an error's body as an object; empty if it is none."""
        data = b""
        with contextlib.suppress(Exception):
            for piece in response.iter_bytes():
                data += piece
                if len(data) > 65536:
                    return {}
            value = json.loads(data)
            return value if isinstance(value, dict) else {}
        return {}

    def _said(self, body: Mapping[str, Any]) -> str:
        """`: MESSAGE` from an error's body, short, on one line and without the key."""
        error = body.get("error")
        text = error.get("message") if isinstance(error, dict) else error or body.get("message") or body.get("detail")
        if not isinstance(text, str) or not text.strip():
            return ""
        key = os.environ.get(self._key_env, "").strip() if self._key_env else ""
        text = text.replace(key, "[key]") if key else text
        return ": " + "".join(c if c.isprintable() else " " for c in text)[:300]

    def _within(self, size: int, deadline: float | None) -> None:
        if size > RESPONSE_LIMIT:
            raise ModelUnavailable(f"{self.name} sent more than {RESPONSE_LIMIT // 2**20} MiB in one reply",
                                   "lower max_tokens, or check that the endpoint is what it should be")
        if deadline is not None and time.monotonic() > deadline:
            raise self._late()

    @contextlib.contextmanager
    def _explained(self, body: Mapping[str, Any]) -> Iterator[None]:
        import httpx

        try:
            yield
        except httpx.TimeoutException as error:
            self._lost(body)
            raise self._late() from error
        except httpx.HTTPError as error:
            self._lost(body)
            raise BrokenOff(f"{self.name} broke off its reply half-way ({type(error).__name__})",
                                  "try again") from error

    def _late(self) -> TimedOut:
        return TimedOut(f"{self.name} did not answer within {self._timeout:g} s",
                        f"raise models.{self.name}.timeout_s, or use a smaller model")


def _note(why: str) -> None:
    """Tell whoever waits why a call is tried again."""
    if (told := troubles.get()) is not None:
        told.append(why)


def words_of(body: Mapping[str, Any]) -> str:
    """What an error's body says, with its code: `error` as a text or object, or `message` and `detail` beside it."""
    error = body.get("error")
    told = [*error.values()] if isinstance(error, dict) else [error, body.get("message"), body.get("detail")]
    return " ".join(one for one in told if isinstance(one, str))


def _about(body: Mapping[str, Any]) -> int:
    """Tokens that a request may take, as providers reckon before it is answered: four bytes a token, and all of the
    reply's."""
    asked = json.dumps(body.get("messages") or body.get("input") or "", ensure_ascii=False).encode(errors="replace")
    return len(asked) // 4 + 1 + _count(body.get("max_tokens") or body.get("max_completion_tokens"))


def _tokens(body: Mapping[str, Any]) -> int:
    """Tokens of what a request asks, estimated."""
    asked = body.get("messages") or body.get("input") or ()
    texts = [asked] if isinstance(asked, str) else asked
    return sum(about_text(str(one.get("content") or "") if isinstance(one, Mapping) else str(one)) for one in texts)


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def span_of(seconds: float) -> str:
    """`45 s`, `10 min`, `2.5 h`: for people."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def come_back(wait: float | None) -> str:
    return f"try again in {span_of(wait)}" if wait and wait > MAX_WAIT_S else "wait, or lower the concurrency"


def backoff(attempt: int) -> float:
    """Seconds before the next try: 0.5, 1, 2, … up to 8, with up to half of it taken off at random."""
    return min(8.0, 0.5 * 2**attempt) * random.uniform(0.5, 1.0)


def retry_after_s(value: str | None) -> float | None:
    """The header's seconds or HTTP date as seconds from now, or None."""
    if not value:
        return None
    try:
        return max(0.0, float(value)) if value.strip().replace(".", "", 1).isdigit() else max(
            0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
