"""One call of an HTTP API: to the one host that the chain names, bounded in time and size, its secrets never shown."""

from __future__ import annotations

import json
import os
import queue
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from bucle.core.errors import BadInput, BucleError, ConfigError, ModelUnavailable, UpstreamTimeout
from bucle.customise.chain.expressions import render, render_all, url_of
from bucle.customise.chain.spec import HttpStep

if TYPE_CHECKING:
    import httpx

__all__ = ["Busy", "Caller", "check_http", "pointed"]

_ENV = re.compile(r"env:([A-Za-z_][A-Za-z0-9_]*)")
_SECRET_HEADER = re.compile(r"auth|cookie|token|secret|key|password|signature", re.IGNORECASE)
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
HOPS = 3
BUSY = frozenset({408, 429, 500, 502, 503, 504})


class Busy(ModelUnavailable):
    """The API says that it cannot answer now; asking again may help. `limited`: it is asked too much (429)."""

    limited = False


def check_http(step: HttpStep) -> tuple[str, str, str] | None:
    """(field, fact, hint) of what a call cannot mean, or None."""
    site, _, rest = step.url.partition("{{")
    try:
        parts = urlsplit(site)
        whole = bool(parts.scheme in ("http", "https") and parts.hostname and (not rest or parts.path or parts.query))
        _ = parts.port
    except ValueError:
        whole = False
    if not whole:
        return "url", f"`{step.name}` does not say which host it calls", "write https://HOST/ before the first {{ … }}"
    if parts.username or parts.password:
        return "url", f"`{step.name}` has a password in its URL", "put it into a header: {Authorization: env:NAME}"
    if "{%" in step.url or "#" in site:
        return "url", f"`{step.name}`: a URL holds only {{{{ … }}}}, and no fragment", "put a condition into `when`"
    for name, value in step.headers.items():
        if not _HEADER.fullmatch(name) or any(ord(c) < 32 for c in value) or "{{" in value or "{%" in value:
            return "headers", f"`{step.name}`: the header {name[:40]!r} cannot be sent", "headers hold no template"
        if name.lower() in ("host", "content-length", "transfer-encoding", "connection"):
            return "headers", f"`{step.name}` cannot set the header `{name}`", "take it out"
        if _SECRET_HEADER.search(name) and not _ENV.search(value):
            return ("headers", f"`{step.name}`: the header `{name}` holds a secret in the file",
                    f"write {name}: env:NAME, and the value into the environment or .env")
    if step.body is not None and step.method == "GET":
        return "body", f"`{step.name}` is a GET, which has no body", "write method: POST"
    if step.retry and step.retry.times and step.method != "GET" and not step.idempotent:
        return ("retry", f"`{step.name}` is a {step.method}: what it did once it might do twice",
                "if asking twice does no harm, say idempotent: true")
    if step.pointer and not step.pointer.startswith("/"):
        return "pointer", f"`{step.name}`: a JSON pointer begins with `/`", f"write /{step.pointer.replace('.', '/')}"
    return None


def pointed(value: Any, pointer: str) -> Any:
    """The part of a JSON value that `pointer` names (RFC 6901). Raises BadInput where there is none."""
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(value, Mapping) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isascii() and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        else:
            raise BadInput(f"the answer has nothing at {pointer}", "correct `pointer`; --trace shows the answer")
    return value


@dataclass
class Caller:
    """Makes the calls of one http step. Connections are kept between calls, and shared by no two at once."""

    step: HttpStep
    secrets: list[str] = field(default_factory=list)
    _idle: queue.LifoQueue[Any] = field(default_factory=queue.LifoQueue)

    def inputs(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The call with its values in place, without its headers. Raises TemplateError or BadInput."""
        step = self.step
        url = url_of(step.url, values)
        home, at = urlsplit(step.url.partition("{{")[0]), urlsplit(url)
        if (home.scheme, home.netloc) != (at.scheme, at.netloc) or {".", ".."} & set(at.path.split("/")):
            raise BadInput("the URL would leave the host or path that the chain names", "check what stands in it")
        query = {name: _text(render(text, values)) for name, text in step.query.items()}
        return {"method": step.method, "url": url, "query": query, "body": render_all(step.body, values)}

    def headers(self) -> dict[str, str]:
        """The headers with what the environment holds. Raises ConfigError where a variable is not set."""

        def value(match: re.Match[str]) -> str:
            secret = os.environ.get(match[1], "")
            if not secret or not secret.isascii() or not secret.isprintable():
                raise ConfigError(f"The step `{self.step.name}` needs the environment variable {match[1]}, which is "
                                  f"{'not set' if not secret else 'no header value'}.",
                                  f"export {match[1]}=…   (or put it into .env beside bucle.yaml)")
            if secret.strip() not in self.secrets:
                self.secrets = sorted([*self.secrets, secret.strip()], key=len, reverse=True)
            return secret

        return {name: _ENV.sub(value, text) for name, text in self.step.headers.items()}

    def call(self, asked: Mapping[str, Any], timeout_s: float) -> tuple[Any, str]:
        """The answer as (value, text): what `pointer` names of a JSON answer, else its text. Raises UpstreamTimeout,
        Busy or ModelUnavailable where nothing (useful) answers, BadInput for an answer that cannot be used."""
        import httpx

        from bucle.data.connect.guard import Forbidden

        headers, step = self.headers(), self.step
        client, transport = self._open()
        transport.until(timeout_s)
        where = urlsplit(step.url).netloc
        try:
            body = self._follow(client, asked, headers)
        except Forbidden as refused:
            always = transport.allow_private
            raise BadInput(f"{refused}" + ("; it is refused always" if always else ""),
                           "" if always else "if it is yours: allow_private: true in the step") from None
        except httpx.TimeoutException:
            raise UpstreamTimeout(f"{where} did not answer within {timeout_s:g} s",
                                  f"raise `timeout_s` of `{step.name}` (now {step.timeout_s:g})") from None
        except httpx.InvalidURL:
            raise BadInput("the URL is none", "check what stands in it") from None
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError) as error:
            raise Busy(f"{where} closed the connection without an answer ({type(error).__name__})",
                       f"see its log: it was reached. {_again(step)}") from None
        except (httpx.HTTPError, OSError) as error:
            raise Busy(f"{where} cannot be reached: {self.hide(str(error)) or type(error).__name__}",
                       f"see that it runs and that `url` is right. {_again(step)}") from None
        except BucleError:
            raise
        else:
            self._idle.put((client, transport))
            client = None
        finally:
            if client is not None:
                client.close()
        return self._read(*body)

    def close(self) -> None:
        while True:
            try:
                self._idle.get_nowait()[0].close()
            except queue.Empty:
                return

    def hide(self, text: str) -> str:
        """`text` without anything that the environment gave this step's headers."""
        from bucle.customise.own import hide_values

        return hide_values(text, [secret for secret in self.secrets if len(secret) > 3])

    def _open(self) -> tuple[Any, Any]:
        import httpx

        from bucle.data.connect.guard import GuardedTransport

        try:
            client, transport = self._idle.get_nowait()
        except queue.Empty:
            transport = GuardedTransport(self.step.allow_private)
            client = httpx.Client(transport=transport, follow_redirects=False, trust_env=False, timeout=60,
                                  headers={"user-agent": "bucle", "accept-encoding": "identity"})
        return client, transport

    def _follow(self, client: httpx.Client, asked: Mapping[str, Any], headers: Mapping[str, str]) -> tuple[bytes, str]:
        import httpx

        url = httpx.URL(asked["url"]).copy_merge_params(asked["query"]) if asked["query"] else httpx.URL(asked["url"])
        for _ in range(HOPS + 1):
            body = {} if asked["body"] is None else {"json": asked["body"]}
            with client.stream(asked["method"], url, headers=dict(headers), **body) as answer:
                status = answer.status_code
                if status in (301, 302, 303, 307, 308) and "location" in answer.headers:
                    target = url.join(answer.headers["location"])
                    if (target.scheme, target.host, target.port) != (url.scheme, url.host, url.port):
                        raise BadInput(f"{url.host} sends the call on to another host, which is not followed",
                                       "name that host in `url` if you trust it")
                    if asked["method"] != "GET":
                        raise BadInput(f"{url.host} sends a {asked['method']} on elsewhere", "correct `url`")
                    url = target
                    continue
                data = self._whole(answer)
                if status in BUSY:
                    busy = Busy(f"{url.host} answered {status}", _busy_hint(self.step, status))
                    busy.limited = status == 429
                    raise busy
                if not 200 <= status < 300:
                    said = " ".join(self.hide(data.decode("utf-8", "replace")).split())[:200]
                    raise BadInput(f"{url.host} answered {status}: {said}", "check the call")
                if answer.headers.get("content-encoding", "identity").lower() not in ("identity", ""):
                    raise BadInput(f"{url.host} answered compressed, though asked not to", "")
                return data, answer.headers.get("content-type", "")
        raise BadInput(f"{urlsplit(asked['url']).netloc} redirects more than {HOPS} times", "correct `url`")

    def _whole(self, answer: httpx.Response) -> bytes:
        """The body of an answer that has begun. Raises UpstreamTimeout where it is cut."""
        import httpx

        from bucle.models.endpoint import troubles

        data, host = bytearray(), answer.url.host
        if (told := troubles.get()) is not None:
            told.append(f"{host} began its answer and did not end it")
        try:
            for piece in answer.iter_raw(65536):
                data += piece
                if len(data) > self.step.max_bytes:
                    raise BadInput(f"{host} answered more than {self.step.max_bytes:,} bytes",
                                   "ask for less, or raise `max_bytes`")
        except httpx.TimeoutException:
            raise UpstreamTimeout(f"{host} began its answer and did not end it in time "
                                  f"({answer.num_bytes_downloaded:,} bytes came)",
                                  f"raise `timeout_s` of `{self.step.name}` (now {self.step.timeout_s:g})") from None
        except httpx.TransportError as error:
            raise UpstreamTimeout(f"{host} broke off its answer half-way, after {answer.num_bytes_downloaded:,} bytes "
                                  f"({type(error).__name__})", _again(self.step)) from None
        return bytes(data)

    def _read(self, data: bytes, media_type: str) -> tuple[Any, str]:
        text = data.decode("utf-8", "replace")
        value: Any = text
        try:
            if self.step.pointer or "json" in media_type.lower():
                value = pointed(json.loads(text, parse_constant=_refuse), self.step.pointer)
            value = self._masked(value) if self.secrets else value
            return value, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        except (ValueError, RecursionError):
            raise BadInput(f"{urlsplit(self.step.url).netloc} answered what is no JSON",
                           "correct `url`, or take out `pointer`" if self.step.pointer else "correct `url`") from None

    def _masked(self, value: Any) -> Any:
        """A JSON value without what the call's headers hold of the environment: an API may say its request again."""
        if isinstance(value, str):
            return self.hide(value)
        if isinstance(value, list):
            return [self._masked(one) for one in value]
        if isinstance(value, dict):
            return {self.hide(name): self._masked(one) for name, one in value.items()}
        shown = str(value)
        return self.hide(shown) if isinstance(value, int | float) and self.hide(shown) != shown else value


def _refuse(name: str) -> Any:
    raise ValueError(name)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _again(step: HttpStep) -> str:
    """What helps where asking again may."""
    if step.method != "GET" and not step.idempotent:
        return f"see whether it was done; where twice does no harm, give `{step.name}` idempotent: true and `retry`"
    return "ask again later" if step.retry and step.retry.times else f"ask again, or give `{step.name}` a `retry`"


def _busy_hint(step: HttpStep, status: int) -> str:
    if status == 429:
        return f"it limits how often it is asked: give `{step.name}` a `retry` with a longer `wait_s`, or a `cache`"
    return f"see its own log; {_again(step)}"
