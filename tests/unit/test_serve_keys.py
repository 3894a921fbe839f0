"""Keys: what is kept of them, who is let in, and how soon a running server knows."""

from __future__ import annotations

import asyncio
import base64
import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bucle.core.errors import BadInput, Infrastructure, NotFound
from bucle.ledger import Ledger
from bucle.ledger.keys import KeyStore
from bucle.serve import keys as keys_module
from bucle.serve.access import Access
from bucle.serve.errors import ApiError
from bucle.serve.keys import Keys
from bucle.serve.server import BackgroundServer


class Clock:
    def __init__(self) -> None:
        self.at = time.time()

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path)
    yield made
    made.close()


@pytest.fixture
def store(ledger: Ledger) -> Iterator[KeyStore]:
    made = KeyStore(ledger)
    yield made
    made.close()


def why(keys: Keys, secret: str) -> str:
    with pytest.raises(ApiError) as caught:
        keys.check(secret)
    assert caught.value.status == 401
    assert secret[:20] not in caught.value.message or len(secret) < 3
    return caught.value.code


def test_a_secret_is_shown_once_and_stands_nowhere(store: KeyStore, ledger: Ledger) -> None:
    key, secret = store.create("app", by="ana", team="support", labels=["rrhh"], usd_per_month=10.5)
    assert (len(secret), secret[:3]) == (46, "bk_")
    [stored] = store.stored()
    assert (stored.key, stored.secrets[0].prefix, stored.by) == (key, secret[:8], "ana")
    assert secret not in repr(stored) + repr(key) + str(store.history())
    files = b"".join(p.read_bytes() for p in ledger.folder.glob("ledger.db*"))
    assert b"support" in files
    assert secret[8:].encode() not in files
    assert Keys(store=store).find(secret) == key


def test_what_cannot_be_meant_is_refused(store: KeyStore) -> None:
    store.create("app", by="ana")
    wrong: list[dict[str, Any]] = [
        {"name": "app"}, {"name": ""}, {"name": "a\nb"}, {"name": "a" * 81}, {"name": "key:1"}, {"name": "bk_x"},
        {"name": "a\ud800"}, {"name": "a\u202eb"}, {"team": "t\0"}, {"scopes": ["admin"]}, {"scopes": []},
        {"labels": ["a,b"]}, {"labels": [""]}, {"expires_at": time.time() - 1}, {"expires_at": float("nan")},
        {"usd_per_month": -1.0}, {"usd_per_month": float("nan")}, {"usd_per_month": float("inf")},
        {"requests_per_minute": -1}, {"tokens_per_minute": 10**13}]
    for given_ in wrong:
        with pytest.raises(BadInput):
            store.create(**{"name": "other", "by": "ana", **given_})
    assert [s.key.name for s in store.stored()] == ["app"]
    with pytest.raises(BadInput):  # the same name, written otherwise
        store.create("cafe\u0301", by="ana") and store.create("café", by="ana")


def test_a_key_is_found_by_name_id_or_its_beginning(store: KeyStore) -> None:
    old, _ = store.create("app", by="ana")
    store.revoke("app", by="ana")
    new, _ = store.create("app", by="ana")
    assert store.get("app").key == new  # the one that is not revoked
    assert store.get(old.id).key == store.get(old.id[4:12]).key == old
    for nobody in ("nobody", "", "%", "ke"):
        with pytest.raises(NotFound):
            store.get(nobody)
    with pytest.raises(BadInput, match="more than one"):
        store.get("key:")


def test_who_did_what_and_when_is_kept(store: KeyStore) -> None:
    store.create("app", by="ana", requests_per_minute=5)
    store.change("app", by="luis", requests_per_minute=9, labels=["rrhh"])
    store.change("app", by="luis", requests_per_minute=9)  # changes nothing
    store.rotate("app", by="eva", grace_s=60)
    store.revoke("app", by="eva", reason="left the company")
    store.revoke("app", by="luis")  # is revoked already
    told = [(h["by"], h["what"]) for h in store.history("app")]
    assert told == [("ana", "created"), ("luis", "changed"), ("eva", "rotated"), ("eva", "revoked")]
    assert store.history()[1]["detail"] == {"requests_per_minute": [5, 9], "labels": [[], ["rrhh"]]}
    assert store.history()[3]["detail"] == {"reason": "left the company"}
    for gone in (lambda: store.rotate("app", by="eva"), lambda: store.change("app", by="eva", team="x")):
        with pytest.raises(BadInput, match="was revoked"):
            gone()


def test_rotating_lets_the_old_secret_in_for_a_while(ledger: Ledger) -> None:
    clock = Clock()
    store = KeyStore(ledger, clock=clock)
    key, first = store.create("app", by="ana", expires_at=clock.at + 1000)
    keys = Keys(store=store, clock=clock)
    _, second = store.rotate("app", by="ana", grace_s=100)
    _, third = store.rotate("app", by="ana", grace_s=500)  # the first ends no later for that
    keys.refresh()
    assert [keys.find(s) for s in (first, second, third)] == [key] * 3
    clock.at += 101
    assert why(keys, first) == "key_expired"
    assert keys.find(second) == key
    clock.at += 400
    assert [why(keys, s) for s in (first, second)] == ["key_expired"] * 2
    assert keys.find(third) == key
    clock.at += 500
    assert why(keys, third) == "key_expired"
    with pytest.raises(BadInput, match="has expired"):
        store.rotate("app", by="ana")
    store.change("app", by="ana", expires_at=clock.at + 50)
    keys.refresh()
    assert keys.find(third) is not None
    store.close()


def test_unknown_secrets_are_nobodys(store: KeyStore) -> None:
    _, secret = store.create("app", by="ana")
    keys = Keys(("clé", "k1"), ("team",), store)
    for wrong in ("", " ", secret[:-1], secret + "x", secret.upper(), "\udcff", "k", "a" * 100_000, secret + "\0"):
        assert keys.find(wrong) is None
        assert why(keys, wrong) == "invalid_api_key"
    assert keys.find("clé".encode()) == keys.find("clé") == keys.find("k1")
    found = keys.find("k1"), keys.find("team")
    assert [k and ("studio" in k.scopes, "metrics" in k.scopes, k.labels) for k in found] == [
        (False, True, frozenset()), (True, True, frozenset())]


def test_another_process_s_change_is_seen_within_a_second_without_a_query_a_request(
        ledger: Ledger, store: KeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    keys, reads = Keys(store=store), list[str]()
    real = store._read
    monkeypatch.setattr(store, "_read", lambda sql: reads.append(sql) or real(sql))
    assert not keys  # nobody needs one yet
    other = Ledger(ledger.folder)
    key, secret = KeyStore(other).create("app", by="ana")
    end = time.monotonic() + 1
    while keys.find(secret) is None:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert (keys.find(secret), bool(keys)) == (key, True)
    reads.clear()
    for _ in range(1000):
        keys.find(secret)
    assert len(reads) <= 1
    KeyStore(other).revoke("app", by="ana")
    end = time.monotonic() + 1
    while keys.find(secret) is not None:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert why(keys, secret) == "key_revoked"
    assert keys  # revoking the last one opens nothing
    assert Keys(store=store)
    other.close()


def test_a_ledger_that_cannot_be_read_lets_those_in_who_were(store: KeyStore, monkeypatch: pytest.MonkeyPatch,
                                                             caplog: pytest.LogCaptureFixture) -> None:
    _, secret = store.create("app", by="ana")
    keys = Keys(store=store)
    store.close()
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: (_ for _ in ()).throw(sqlite3.OperationalError("gone")))
    keys.refresh()
    keys.refresh()
    assert keys.find(secret) is not None
    assert sum("stay in force" in r.message for r in caplog.records) == 1


# over a socket ---------------------------------------------------------------------------------------------------


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Says whose key came in."""
    if scope["type"] == "lifespan":
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": message["type"] + ".complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    key = scope["state"]["key"]
    body = f"{key.name} {sorted(key.labels)}".encode() if key else b"nobody"
    await send({"type": "http.response.start", "status": 200,
                "headers": [(b"content-length", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": body})


class Asked:
    now: Callable[[], None]
    """What is said in the ledger is in force now, not within half a second."""

    def __init__(self, server: BackgroundServer) -> None:
        self.http = httpx.Client(base_url=server.url)

    def __call__(self, path: str, secret: str = "", headers: Mapping[str, str] | None = None,
                 **more: Any) -> tuple[int, str]:
        given = {"authorization": f"Bearer {secret}"} if secret else {}
        answer = self.http.request("POST" if "json" in more else "GET", path, headers={**given, **(headers or {})},
                                   **more)
        if answer.status_code == 200:
            return 200, answer.text
        error = answer.json()["error"]
        return answer.status_code, error.get("code") or error["message"]


@pytest.fixture
def asked(store: KeyStore) -> Iterator[Asked]:
    keys = Keys(("env",), ("team",), store)
    with BackgroundServer(Access(echo, keys)) as server:
        made = Asked(server)
        made.now = keys.refresh
        yield made
        made.http.close()


def test_each_scope_opens_its_paths_and_no_other(store: KeyStore, asked: Asked) -> None:
    paths = {"chat": ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/v1/what/else"),
             "embeddings": ("/v1/embeddings", "/v1/embeddings/"), "feedback": ("/v1/feedback",),
             "moderations": ("/v1/moderations",), "metrics": ("/metrics",),
             "studio": ("/studio", "/", "//v1/models", "/V1/models", "/metrics/", "/v1")}
    secrets = {scope: store.create(scope, by="ana", scopes=[scope], labels=["rrhh"])[1] for scope in paths}
    asked.now()
    for holder, secret in secrets.items():
        assert asked("/v1/models", secret) == asked("/openapi.json", secret) == (200, f"{holder} ['rrhh']")
        for scope, wanted in paths.items():
            for path in wanted:
                status, told = asked(path, secret)
                assert status == (200 if scope == holder else 403), (holder, path, told)
                if status == 403 and path != "/v1/messages":
                    assert told == ("studio_key_needed" if scope == "studio" else "scope_missing")
    told = asked.http.get("/v1/embeddings", headers={"authorization": "Bearer " + secrets["chat"]}).json()
    assert told["error"]["message"] == "this key has no scope `embeddings` (it has chat)"
    assert asked("/v1/embeddings", "env") == (200, "BUCLE_API_KEYS []")
    assert asked("/studio", "env")[0] == 403
    assert asked("/studio", "team") == (200, "BUCLE_STUDIO_KEYS []")


def test_a_key_may_come_in_anthropics_header_but_not_in_the_address(store: KeyStore, asked: Asked) -> None:
    _, secret = store.create("app", by="ana")
    asked.now()
    assert asked("/v1/messages", headers={"x-api-key": secret}) == (200, "app []")
    assert asked("/v1/messages", secret, headers={"x-api-key": secret}) == (200, "app []")
    assert asked("/v1/models", secret, headers={"x-api-key": "env"}) == (400, "several_keys")
    basic = base64.b64encode(f"me:{secret}".encode()).decode()
    assert asked("/v1/models", headers={"authorization": f"Basic {basic}"}) == (200, "app []")
    for query in (f"?api_key={secret}", "?KEY=x", f"?x={secret}", f"?%61pi_key={secret}", "?a=1&access_token="):
        assert asked("/v1/models" + query, secret) == (400, "key_in_url")
    assert asked(f"/studio?x={secret}", "team") == (400, "key_in_url")
    assert asked("/studio?key=key:12", "team") == (200, "BUCLE_STUDIO_KEYS []")  # a filter, not a secret
    assert asked("/v1/models?" + "a=1&" * 300, secret) == (400, "query_too_large")
    assert asked("/v1/models?limit=2", secret) == (200, "app []")
    body = asked.http.get("/v1/messages", headers={"x-api-key": "wrong"}).json()
    assert body["type"] == "error"
    assert body["error"]["type"] == "authentication_error"  # as Anthropic's clients read it


NAMES = st.sampled_from([b"authorization", b"x-api-key", b"host", b"content-type", b"cookie"]) | st.binary(max_size=9)
VALUES = st.sampled_from([b"Bearer env", b"Basic Og==", b"Bearer", b"env", b"localhost", b"[::1]:80", b"[",
                          b"application/json"]) | st.binary(max_size=40)
PATHS = st.sampled_from(["/v1/", "/v1", "/metrics", "/healthz", "/studio", "/v1/messages/x", "", "/v1//"]) | st.text(
    max_size=12)


@settings(max_examples=150, deadline=None)
@given(headers=st.lists(st.tuples(NAMES, VALUES), max_size=6), path=PATHS, query=st.binary(max_size=30),
       method=st.sampled_from(["GET", "POST", "OPTIONS"]), known=st.booleans())
def test_whatever_comes_is_let_in_or_refused(headers: list[tuple[bytes, bytes]], path: str, query: bytes, method: str,
                                             known: bool) -> None:
    sent: list[Any] = []
    reached: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope["state"]["key"])

    layer = Access(app, ("env",) if known else ())
    scope = {"type": "http", "method": method, "path": path, "query_string": query, "headers": headers}
    asyncio.run(layer(scope, None, send))  # type: ignore[arg-type]
    given_keys = [v for n, v in headers if n in (b"authorization", b"x-api-key")]
    if reached:
        assert not sent
        assert path in ("/healthz", "/readyz") or not known or any(b"env" in v for v in given_keys)
        assert not (known and reached[0] is None) or path in ("/healthz", "/readyz")
    else:
        assert 400 <= sent[0]["status"] < 500
        assert "error" in json.loads(sent[1]["body"])


def test_a_web_socket_is_closed() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(Access(echo, ("env",))({"type": "websocket", "path": "/", "headers": []}, None, send))  # type: ignore[arg-type]
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_a_key_that_cannot_be_understood_changes_nothing_for_the_others(store: KeyStore, ledger: Ledger) -> None:
    key, secret = store.create("app", by="ana")
    keys = Keys(store=store)
    store.create("other", by="ana")
    with ledger.transaction() as db:
        db.execute("UPDATE api_keys SET body = '{}' WHERE id != ?", (key.id,))
    keys.refresh()
    assert keys.find(secret) == key
    with pytest.raises(Infrastructure, match="cannot be understood"):
        Keys(store=store)


def test_headers_have_limits(asked: Asked) -> None:
    assert asked("/v1/models", "env", headers={f"x-{n}": "1" for n in range(80)})[0] == 200
    assert asked("/v1/models", "env", headers={f"x-{n}": "1" for n in range(101)}) == (431, "headers_too_large")
    assert asked("/v1/models", "env", headers={"x-long": "a" * 40_000}) == (431, "headers_too_large")
    assert asked("/v1/models", "a" * 30_000) == (401, "invalid_api_key")
    assert asked("/v1/feedback", "env", json={}) == (200, "BUCLE_API_KEYS []")
    assert asked("/v1/feedback", "env", headers={"content-type": "text/plain"}, json={}) == (
        415, "unsupported_media_type")


def test_a_running_server_asks_for_keys_from_the_first_one_on(store: KeyStore) -> None:
    with BackgroundServer(Access(echo, Keys(store=store))) as server:
        asked = Asked(server)
        assert asked("/v1/models") == (200, "nobody")
        for host in ("evil.example", "localhost:80@evil.example", "localhost:evil.example", "[::1]evil.example",
                     "localhost, evil.example", "127.0.0.1:1:2", "::1", ""):
            assert asked("/v1/models", headers={"host": host}) == (403, "host_not_allowed"), host
        for host in ("LOCALHOST", "127.0.0.1:8700", "[::1]", "[::1]:80"):
            assert asked("/v1/models", headers={"host": host}) == (200, "nobody"), host
        _, secret = store.create("app", by="ana")
        time.sleep(0.6)
        assert asked("/v1/models") == (401, "invalid_api_key")
        assert asked("/v1/models", secret, headers={"host": "evil.example"}) == (200, "app []")
        store.revoke("app", by="ana")
        time.sleep(0.6)
        assert asked("/v1/models", secret) == (401, "key_revoked")
        assert asked("/v1/models") == (401, "invalid_api_key")  # not open again
        asked.http.close()


def test_what_the_ledger_says_is_read_beside_the_requests() -> None:
    class Counted:
        times = 0

        def refresh(self) -> None:
            self.times += 1
            if self.times == 1:
                raise RuntimeError("once")

    counted = Counted()
    with BackgroundServer(Access(echo, fresh=[counted])):
        time.sleep(1.0)
    assert counted.times >= 2
    assert keys_module.FRESH_S <= 0.5
