"""Who may call: API keys, loopback names, JSON bodies only. One ASGI layer in front of everything.

Without keys the gateway answers only to loopback names, so a web page cannot reach it by rebinding a name to
127.0.0.1; a JSON content type cannot be sent across origins without asking first, and nobody is told yes.
"""

from __future__ import annotations

import hmac
import json
import os
from base64 import b64decode
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any

from bucle.serve.errors import ApiError

__all__ = ["Access", "is_loopback", "keys_from_environment", "studio_keys_from_environment"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_OPEN = frozenset({"/healthz", "/readyz"})
_API = ("/v1/", "/metrics")


def keys_from_environment(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The keys in BUCLE_API_KEYS, comma-separated; none means none are asked for."""
    return _keys(environment.get("BUCLE_API_KEYS", ""))


def studio_keys_from_environment(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The team's own keys, in BUCLE_STUDIO_KEYS: they open the studio, which shows what everybody asked and was
    answered, and the API too."""
    return _keys(environment.get("BUCLE_STUDIO_KEYS", ""))


def _keys(listed: str) -> tuple[str, ...]:
    return tuple(k.strip() for k in listed.split(",") if k.strip())


def is_loopback(host: str) -> bool:
    """Whether `host` (a name or address, without port) only reaches this machine."""
    four = host.startswith("127.") and host.replace(".", "").isdigit()
    return four or host in ("localhost", "::1", "[::1]")


class Access:
    """Refuses before any route: 401 without a key, 403 for a foreign host name or an asker's key where only the team's
    opens, 415 for what is not JSON. With any key set, what is not the API (the studio, labelling) opens to `team` keys
    only, and to nobody where there are none."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], keys: Sequence[str] = (),
                 refused: Callable[[int, str], None] = lambda status, code: None, *, team: Sequence[str] = ()) -> None:
        self._app, self._refused = app, refused
        self._team = [k.encode() for k in team]
        self._keys = [*(k.encode() for k in keys), *self._team]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _OPEN:
            await self._app(scope, receive, send)
            return
        try:
            self._check(scope)
        except ApiError as error:
            self._refused(error.status, error.code)
            body = json.dumps(error.body()).encode()
            headers = {"content-type": "application/json", "content-length": str(len(body)), **error.headers}
            await send({"type": "http.response.start", "status": error.status,
                        "headers": [(k.encode(), v.encode()) for k, v in headers.items()]})
            await send({"type": "http.response.body", "body": body})
            return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        headers = {k.lower(): v for k, v in scope["headers"]}
        if self._keys:
            given = _key(headers.get(b"authorization", b""))
            if not self._known(given, self._keys):
                api = scope["path"].startswith("/v1/")
                ask = {} if api else {"www-authenticate": 'Basic realm="bucle"'}
                raise ApiError(401, "a valid API key is needed: send `Authorization: Bearer KEY`",
                               code="invalid_api_key", headers=ask)
            if not scope["path"].startswith(_API) and not self._known(given, self._team):
                raise ApiError(403, "this shows what everybody asked: it opens to a key in BUCLE_STUDIO_KEYS",
                               code="studio_key_needed", headers={"www-authenticate": 'Basic realm="bucle studio"'})
        elif not is_loopback(_host(headers.get(b"host", b"").decode("latin-1"))):
            raise ApiError(403, "without BUCLE_API_KEYS only 127.0.0.1 and localhost are answered",
                           code="host_not_allowed")
        if scope["method"] == "POST" and scope["path"].startswith("/v1/"):
            media = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
            if media != b"application/json":
                raise ApiError(415, "send `Content-Type: application/json`", code="unsupported_media_type")

    def _known(self, given: bytes, keys: Sequence[bytes]) -> bool:
        found = False
        for key in keys:  # every key is compared, whichever matches: the time tells nothing
            found |= hmac.compare_digest(key, given)
        return found


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
    if header.startswith("["):
        return header.partition("]")[0] + "]"
    return header.rsplit(":", 1)[0].lower() if header.count(":") == 1 else header.lower()
