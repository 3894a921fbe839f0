"""Who may call: API keys and their scopes, loopback names, JSON bodies only. One ASGI layer in front of everything.

Without keys the gateway answers only to loopback names, so a web page cannot reach it by rebinding a name to
127.0.0.1; a JSON content type cannot be sent across origins without asking first, and nobody is told yes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
from base64 import b64decode
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, Protocol
from urllib.parse import parse_qsl

from bucle.serve.errors import ApiError
from bucle.serve.keys import Key, Keys, keys_from_environment, studio_keys_from_environment

__all__ = ["Access", "Fresh", "is_loopback", "keys_from_environment", "studio_keys_from_environment"]

log = logging.getLogger("bucle.serve")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

MAX_HEADERS = 100
MAX_HEADER_BYTES = 32 * 1024
FRESH_EVERY_S = 0.2

_OPEN = frozenset({"/healthz", "/readyz"})
_API = ("/v1/", "/metrics")
_SCOPES = {"embeddings": "embeddings", "feedback": "feedback", "moderations": "moderations", "models": ""}
"""What stands after /v1/, and the scope that it asks for; all else there answers conversations: `chat`."""
_ANY_KEY = frozenset({"/openapi.json"})
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{0,5})?")
_IN_QUERY = frozenset({"key", "api_key", "api-key", "apikey", "x-api-key", "access_token", "token", "authorization"})


class Fresh(Protocol):
    """What is read again from the ledger while a server runs (Keys, Accounts)."""

    def refresh(self) -> None: ...


def is_loopback(host: str) -> bool:
    """Whether `host` (a name or address, without port) only reaches this machine."""
    four = host.startswith("127.") and host.replace(".", "").isdigit()
    return four or host in ("localhost", "::1", "[::1]")


class Access:
    """Refuses before any route: 401 without a valid key, 403 for a foreign host name or a key without the scope that
    the path asks for, 400 for a key in the address, 415 for what is not JSON, 431 for too many headers. With any key
    set, what is not the API (the studio, labelling) opens to the scope `studio` only. The Key stands in
    `scope["state"]["key"]`, None where none is asked for.

    `keys` may be plain strings (and `team` those that open the studio too). While the app lives, `fresh` (and the keys)
    are read again from the ledger beside it, several times a second, so that no request waits for that.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], keys: Keys | Sequence[str] = (),
                 refused: Callable[[int, str], None] = lambda status, code: None, *, team: Sequence[str] = (),
                 fresh: Sequence[Fresh] = ()) -> None:
        self._app, self._refused = app, refused
        self._keys = keys if isinstance(keys, Keys) else Keys(keys, team)
        self._fresh = (self._keys, *fresh)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
            return
        if scope["type"] != "http":  # nothing here speaks over web sockets
            await send({"type": "websocket.close", "code": 1008})
            return
        try:
            key = None if scope["path"] in _OPEN else self._check(scope)
        except ApiError as error:
            self._refused(error.status, error.code)
            await _refuse(scope, send, error)
            return
        scope.setdefault("state", {})["key"] = key
        await self._app(scope, receive, send)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def freshen() -> None:
            told = False
            while True:
                await asyncio.sleep(FRESH_EVERY_S)
                for one in self._fresh:
                    try:
                        await asyncio.to_thread(one.refresh)
                    except Exception:
                        if not told:  # once, not several times a second
                            log.exception("what the ledger says could not be read again")
                        told = True

        task = asyncio.create_task(freshen())
        try:
            await self._app(scope, receive, send)
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def _check(self, scope: Scope) -> Key | None:
        """The Key of an HTTP request, None where none is asked for. Raises ApiError."""
        path: str = scope["path"]
        given, hosts, media = _read_headers(scope["headers"])
        if scope.get("query_string"):
            _no_key_in(scope["query_string"], path.startswith(_API))
        key = None
        if self._keys:
            key = self._let_in(path, given)
        elif not hosts or not all(is_loopback(_host(host.decode("latin-1"))) for host in hosts):
            raise ApiError(403, "without an API key only 127.0.0.1 and localhost are answered",
                           code="host_not_allowed")
        if scope["method"] == "POST" and path.startswith("/v1/") and media != b"application/json":
            raise ApiError(415, "send `Content-Type: application/json`", code="unsupported_media_type")
        return key

    def _let_in(self, path: str, given: set[bytes]) -> Key:
        api = path.startswith("/v1/")
        if len(given) > 1:
            raise ApiError(400, "the request carries several different keys: send one", code="several_keys")
        try:
            key = self._keys.check(next(iter(given), b""))
        except ApiError as error:
            if not api:
                error.headers["www-authenticate"] = 'Basic realm="bucle"'
            raise
        if api:
            needed = _SCOPES.get(path.split("/", 3)[2], "chat")
        else:
            needed = "metrics" if path == "/metrics" else "" if path in _ANY_KEY else "studio"
        if needed and needed not in key.scopes:
            if needed == "studio":
                raise ApiError(403, "this shows what everybody asked: it opens to a key with the scope `studio`, or "
                               "one in BUCLE_STUDIO_KEYS", code="studio_key_needed",
                               headers={"www-authenticate": 'Basic realm="bucle studio"'})
            raise ApiError(403, f"this key has no scope `{needed}` (it has {', '.join(sorted(key.scopes))})",
                           code="scope_missing")
        return key


def _read_headers(headers: Sequence[tuple[bytes, bytes]]) -> tuple[set[bytes], list[bytes], bytes]:
    """The keys given, the hosts, the media type; within the limits."""
    if len(headers) > MAX_HEADERS:
        raise ApiError(431, f"a request has {MAX_HEADERS} headers at most", code="headers_too_large")
    given, hosts, media, size = set[bytes](), list[bytes](), b"", 0
    for name, value in headers:
        size += len(name) + len(value)
        if name == b"authorization":
            given.add(_key(value))
        elif name == b"x-api-key":  # Anthropic's clients
            given.add(value.strip())
        elif name == b"host":
            hosts.append(value)
        elif name == b"content-type":
            media = value.split(b";")[0].strip().lower()
    if size > MAX_HEADER_BYTES:
        raise ApiError(431, f"a request's headers have {MAX_HEADER_BYTES} bytes at most", code="headers_too_large")
    return given, hosts, media


def _no_key_in(query: bytes, api: bool) -> None:
    """Addresses end up in logs and histories. Raises ApiError for one that holds a key, or (of the API) names one."""
    try:
        named = parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=200)
    except ValueError:
        raise ApiError(400, "the address has more than 200 parameters", code="query_too_large") from None
    if any((api and name.lower() in _IN_QUERY) or value.startswith("bk_") for name, value in named):
        raise ApiError(400, "a key in the address ends up in logs: send it as `Authorization: Bearer KEY`, and give "
                       "this one up (bucle keys rotate NAME)", code="key_in_url")


async def _refuse(scope: Scope, send: Send, error: ApiError) -> None:
    from bucle.serve.dialects import DIALECTS

    told = next((d.error_body for d in DIALECTS if scope["path"].startswith(d.path)), ApiError.body)
    body = json.dumps(told(error)).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **error.headers}
    await send({"type": "http.response.start", "status": error.status,
                "headers": [(k.encode(), v.encode()) for k, v in headers.items()]})
    await send({"type": "http.response.body", "body": body})


def _key(authorisation: bytes) -> bytes:
    """The key in a Bearer header, or the password in a Basic one, which is what a browser can send."""
    scheme, _, value = authorisation.partition(b" ")
    if scheme.lower() == b"bearer":
        return value.strip()
    if scheme.lower() == b"basic":
        try:
            return b64decode(value, validate=True).partition(b":")[2]
        except ValueError:
            return b""
    return b""


def _host(header: str) -> str:
    """The name in a Host header; empty for what is none."""
    found = _HOST.fullmatch(header.strip().lower())
    return found[1] if found else ""
