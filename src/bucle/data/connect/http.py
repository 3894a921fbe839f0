"""Fetching one URL to a file: robots.txt kept, hops checked, bytes and time limited, a broken download gone on with."""

from __future__ import annotations

import hashlib
import importlib.metadata
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit, urlunsplit

import httpx

from bucle.core.sources import WebSource
from bucle.data.connect.guard import Forbidden, GuardedTransport
from bucle.data.connect.safe import from_environment, public_url, scrub

if TYPE_CHECKING:
    from protego import Protego

__all__ = ["Http", "NotFetched", "Reply", "Unreachable", "site"]

AGENT = "bucle"
TIMEOUT_S = 20.0
"""For connecting, and between two pieces of an answer."""
DEADLINE_S = 180.0
"""For one answer, whole."""
ATTEMPTS = 3
BACKOFF_S = 0.5
MAX_WAIT_S = 60.0
"""The longest Crawl-delay or Retry-After that is waited for."""
MAX_HOPS = 8
ROBOTS_BYTES = 512 * 1024


class NotFetched(Exception):
    """One page that is not to be had: `reason` is a short code. `gone`: its old copy must go too."""

    def __init__(self, reason: str, message: str, *, gone: bool = True) -> None:
        super().__init__(message)
        self.reason, self.message, self.gone = reason, message, gone


class Unreachable(Exception):
    """The source does not answer now; it may later."""


@dataclass(frozen=True)
class Reply:
    """What came: `status` 200 with the file at the path that was asked for, or 304. `url` is where it came from."""

    status: int
    url: str
    headers: Mapping[str, str]
    sha256: str = ""
    size: int = 0


class Http:
    """A polite client for one web source. `with` closes it."""

    def __init__(self, source: WebSource) -> None:
        self._transport = GuardedTransport(source.allow_private)
        headers, self._secrets = from_environment(source.headers, "A header of a web source")
        self._own, self._home = headers, site(source.url)
        try:
            parts = urlsplit(source.url)
        except ValueError:
            raise NotFetched("bad-url", f"{public_url(source.url)} is no URL.") from None
        if parts.username:
            self._auth: tuple[str, str] | None = (parts.username, parts.password or "")
            self._secrets.append(parts.password or "")
        else:
            self._auth = None
        self._client = httpx.Client(
            transport=self._transport,
            headers={"User-Agent": f"{AGENT}/{importlib.metadata.version('bucle')}", "Accept": "*/*"},
            timeout=TIMEOUT_S,
            follow_redirects=False,
            trust_env=source.allow_private,  # what a proxy connects to cannot be checked
        )
        self._delay, self._last = source.delay_s, 0.0
        self._robots: dict[str, Protego | None] = {}

    def __enter__(self) -> Http:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def sitemaps(self, url: str) -> list[str]:
        """The sitemaps that the robots.txt of the URL's site names."""
        rules = self._rules(url)
        return list(rules.sitemaps) if rules else []

    def fetch(
        self, url: str, target: Path, *, limit: int, etag: str = "", modified: str = "", deadline_s: float = 0
    ) -> Reply:
        """`url` into the file `target`, at most `limit` bytes after decompression, unless it is what `etag` and
        `modified` tell (304). Raises NotFetched, or Unreachable after three attempts."""
        asked = {"If-None-Match": etag} if etag else {}
        asked |= {"If-Modified-Since": modified} if modified else {}
        target.unlink(missing_ok=True)
        why = ""
        for attempt in range(ATTEMPTS):
            self._transport.until(deadline_s or DEADLINE_S)
            wait = BACKOFF_S * 2**attempt
            try:
                return self._follow(url, target, limit, asked)
            except Forbidden as refused:
                if self._transport.allow_private:  # so it is one that nothing permits
                    raise NotFetched("metadata-address", f"{refused}; it is refused always.") from None
                raise NotFetched("private-address", f"{refused}.") from None
            except (httpx.InvalidURL, ValueError):
                raise NotFetched("bad-url", f"{public_url(url)} is no URL, or leads to what is none.") from None
            except _Busy as busy:
                why, wait = f"it answered {busy.status}", max(wait, busy.wait)
            except httpx.TimeoutException:
                why = "it took too long"
                if time.monotonic() > self._transport.deadline:
                    break
            except (httpx.HTTPError, OSError) as error:
                why = scrub(str(error) or type(error).__name__, self._secrets)
            if attempt + 1 < ATTEMPTS:
                time.sleep(min(wait, MAX_WAIT_S))
        raise Unreachable(why.rstrip("."))

    def _follow(self, url: str, target: Path, limit: int, asked: Mapping[str, str]) -> Reply:
        at = urlsplit(url)._replace(fragment="").geturl()
        for _ in range(MAX_HOPS):
            self._check(at)
            self._pace(at)
            have = target.stat().st_size if target.exists() and self._whole else 0
            going_on = {"Range": f"bytes={have}-", "If-Range": self._whole} if have else {}
            # A part can only be gone on with as the file itself, not as something compressed on the way.
            coding = {"Accept-Encoding": "identity" if have else "gzip, deflate"}
            headers = {**asked, **going_on, **coding, **(self._own if site(at) == self._home else {})}
            with self._client.stream("GET", _plain(at), headers=headers, auth=self._login(at)) as answer:
                status = answer.status_code
                if status in (301, 302, 303, 307, 308) and "location" in answer.headers:
                    at = urljoin(at, answer.headers["location"])
                    continue
                if status == 304:
                    return Reply(304, public_url(at), dict(answer.headers))
                if status in (429, 502, 503, 504):
                    raise _Busy(status, answer.headers.get("retry-after", ""))
                if status == 416:  # what is here is no beginning of what is there
                    target.unlink(missing_ok=True)
                    raise httpx.RemoteProtocolError("the download cannot be gone on with")
                if status not in (200, 206):
                    told = f"{public_url(at)} answered {status}."
                    raise NotFetched(f"http-{status}", told, gone=status in (404, 410, 451))
                return self._receive(answer, at, target, limit, have if status == 206 else 0)
        raise NotFetched("redirects", f"{public_url(url)} redirects more than {MAX_HOPS} times.")

    _whole = ""

    def _receive(self, answer: httpx.Response, at: str, target: Path, limit: int, have: int) -> Reply:
        """The body into `target`, behind the `have` bytes that are there."""
        coding = answer.headers.get("content-encoding", "identity").lower()
        strong = answer.headers.get("etag", "")
        resumable = coding == "identity" and not strong.startswith("W/")
        self._whole = strong if resumable else ""
        size = have
        with target.open("ab" if have else "wb") as file:
            for piece in _decoded(answer.iter_raw(), coding):
                size += len(piece)
                if size > limit:
                    raise NotFetched("too-large", f"{public_url(at)} has over {limit:,} bytes.")
                file.write(piece)
        self._whole = ""
        with target.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return Reply(200, public_url(at), dict(answer.headers), sha256, size)

    def _check(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise NotFetched("bad-url", f"{public_url(url)} is no URL.") from None
        if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
            raise NotFetched("bad-url", f"{public_url(url)} is no http:// or https:// URL.")
        rules = self._rules(url)
        if rules is not None and not rules.can_fetch(_plain(url), AGENT):
            raise NotFetched("robots", f"The robots.txt of {parts.hostname} keeps {public_url(url)} from robots.")

    def _rules(self, url: str) -> Protego | None:
        """The rules of a site, asked once. A site without a robots.txt allows everything; one whose server fails
        allows nothing now (RFC 9309, section 2.3.1)."""
        from protego import Protego

        origin = site(url)
        if origin in self._robots:
            return self._robots[origin]
        at, text = f"{origin}/robots.txt", ""
        for _ in range(MAX_HOPS):
            if urlsplit(at).scheme not in ("http", "https"):
                break
            headers = {"Accept-Encoding": "gzip", **(self._own if site(at) == self._home else {})}
            with self._client.stream("GET", at, headers=headers, auth=self._login(at)) as answer:
                if answer.is_redirect and "location" in answer.headers:
                    at = urljoin(at, answer.headers["location"])
                    continue
                if answer.status_code >= 500 or answer.status_code == 429:
                    raise _Busy(answer.status_code, answer.headers.get("retry-after", ""))
                if answer.status_code == 200:
                    text = _head(_decoded(answer.iter_raw(), answer.headers.get("content-encoding", "identity")))
                break
        self._robots[origin] = rules = Protego.parse(text) if text else None
        if rules is not None:
            self._delay = max(self._delay, min(float(rules.crawl_delay(AGENT) or 0), MAX_WAIT_S))
        return rules

    def _pace(self, url: str) -> None:
        wait = self._last + self._delay - time.monotonic()
        if self._last and wait > 0:
            time.sleep(wait)
            self._transport.extend(wait)
        self._last = time.monotonic()

    def _login(self, url: str) -> Any:
        """The source's own name and password, for its own site only."""
        return self._auth if self._auth and site(url) == self._home else None


class _Busy(Exception):
    def __init__(self, status: int, after: str) -> None:
        super().__init__(status)
        self.status, self.wait = status, float(after) if after.isdigit() and len(after) < 6 else 0.0


def site(url: str) -> str:
    """Scheme, host and port of a URL, without any name or password."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return ""
    host = (parts.hostname or "").lower()
    usual = {"http": 80, "https": 443}.get(parts.scheme)
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}" + (f":{port}" if port and port != usual else "")


def _plain(url: str) -> str:
    """`url` without name and password, which travel in a header instead of in whatever logs URLs."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _head(pieces: Iterator[bytes]) -> str:
    kept = b""
    for piece in pieces:
        kept += piece
        if len(kept) > ROBOTS_BYTES:
            break
    return kept[:ROBOTS_BYTES].decode("utf-8", "replace")


def _decoded(pieces: Iterator[bytes], coding: str) -> Iterator[bytes]:
    """The body, decompressed a mebibyte at a time so that a bomb is stopped at the limit and not in memory."""
    if coding in ("", "identity"):
        yield from pieces
        return
    if coding not in ("gzip", "x-gzip", "deflate"):
        raise NotFetched("encoding", f"The server sends an encoding that was not asked for: {coding[:20]}.")
    unzip = zlib.decompressobj(47)
    try:
        for piece in pieces:
            while piece:
                yield unzip.decompress(piece, 2**20)
                piece = unzip.unconsumed_tail
    except zlib.error:
        raise NotFetched("corrupt", "What the server sends is compressed, and damaged.", gone=False) from None
    if not unzip.eof:
        raise httpx.RemoteProtocolError("the answer was cut short")
