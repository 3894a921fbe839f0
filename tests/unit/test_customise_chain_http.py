"""A chain's HTTP calls against a real server on loopback: what is sent, what is refused, what is never shown."""

from __future__ import annotations

import json
import socketserver
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from chain_peer import Asked, api

from bucle.core.errors import ConfigError
from bucle.core.records import Prediction
from bucle.customise.chain import Chain, ChainEnv, StepCache, chain, step

SECRET = "s3cret-of-the-team"


def asked(spec: Any, text: str = "42", **env: Any) -> Prediction:
    made = Chain(spec, ChainEnv(**env))
    try:
        return made.predict([text])[0]
    finally:
        made.close()


def call(url: str, **settings: Any) -> Any:
    return chain("c", step("http", "api", url=url, **{"allow_private": True, **settings}))


def test_a_call_with_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAM_KEY", SECRET)

    def answers(one: Asked) -> Any:
        return {"data": [{"estado": "enviado", "a/b": 1}], "echo": one.headers["authorization"]}

    with api(answers) as peer:
        spec = call(peer.url + "/pedidos/{{ input }}?x=1", method="POST", pointer="/data/0/estado",
                    headers={"Authorization": "Bearer env:TEAM_KEY"}, query={"y": "{{ input }}"},
                    body={"id": "{{ input }}", "texto": 'dice "{{ input }}"', "n": [1, "{{ steps | length }}"]})
        found = asked(spec, '4/2"} ñ')
        one = peer.asked[0]
        assert found.output == "enviado"
        assert (one.method, one.path) == ("POST", "/pedidos/4%2F2%22%7D%20%C3%B1?x=1&y=4%2F2%22%7D+%C3%B1") or \
            one.path.startswith("/pedidos/4%2F2%22%7D%20%C3%B1?")
        assert json.loads(one.body) == {"id": '4/2"} ñ', "texto": 'dice "4/2"} ñ"', "n": [1, 1]}
        assert one.headers["authorization"] == f"Bearer {SECRET}"
        shown = asked(call(peer.url + "/", pointer="/echo", headers={"Authorization": "env:TEAM_KEY"}))
        assert shown.output == "***", "an API may say its request again"
        assert SECRET not in shown.model_dump_json()
    assert asked(call("http://127.0.0.1:9/", headers={"X-Api-Key": "env:TEAM_KEY"})).error.count(SECRET) == 0
    monkeypatch.delenv("TEAM_KEY")
    lost = asked(call("http://127.0.0.1:9/", headers={"X-Api-Key": "env:TEAM_KEY"}))
    assert lost.error_kind == "ConfigError"
    assert "TEAM_KEY" in lost.error


def test_a_secret_that_comes_back_is_masked_wherever_it_stands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secret = 'k"ey/' + SECRET
    monkeypatch.setenv("TEAM_KEY", f" {secret} ")
    monkeypatch.setenv("TEAM_PART", SECRET)
    kept = StepCache(tmp_path / "c.db")

    def answers(one: Asked) -> Any:
        said = one.headers["authorization"]
        return {"/json": {said: [said, {"n": 1}], "x": f"a {said} b"}, "/text": (200, {}, said.encode()),
                "/no": (404, {}, ("x" * 190 + " " + said).encode()), "/ok": {"n": 7}}[one.path]

    with api(answers) as peer:
        for path, output in (("/json", '{"Bearer *** ***": ["Bearer *** ***", {"n": 1}], "x": "a Bearer *** *** b"}'),
                             ("/text", "Bearer *** ***"), ("/no", ""), ("/ok", '{"n": 7}')):
            headers = {"Authorization": "Bearer env:TEAM_KEY env:TEAM_PART"}
            found = asked(call(peer.url + path, headers=headers, cache="forever"), cache=kept)
            assert found.output.replace("  ", " ") == output
            told = found.model_dump_json()
            assert not any(part in told for part in (SECRET, SECRET[:8], "key/"))
    kept.close()
    assert SECRET.encode() not in b"".join(file.read_bytes() for file in tmp_path.iterdir())
    monkeypatch.setenv("TEAM_KEY", "contraseña")
    assert "no header value" in asked(call("http://127.0.0.1:9/", headers={"Authorization": "env:TEAM_KEY"})).error


def test_what_went_wrong_is_told_as_what_it_was() -> None:
    replies = {"/half": b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n{", "/none": b"",
               "/500": b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n",
               "/429": b"HTTP/1.1 429 No\r\ncontent-length: 0\r\n\r\n"}

    class Raw(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            path = self.rfile.readline().split()[1].decode()
            while self.rfile.readline().strip():
                pass
            self.wfile.write(replies[path.removesuffix("?drips")])
            if path.endswith("?drips"):
                time.sleep(0.3)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Raw) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        told = {path: asked(call(url + path, timeout_s=2)) for path in replies}
        slow = asked(call(url + "/half?drips", timeout_s=0.15))
        again = asked(call(url + "/500", method="POST", body={})).error
        server.shutdown()
    assert slow.error_kind == "UpstreamTimeout"
    assert "began its answer and did not end it" in slow.error
    assert told["/half"].error_kind == "UpstreamTimeout"
    assert "broke off its answer half-way, after 1 bytes" in told["/half"].error
    assert "closed the connection without an answer" in told["/none"].error
    assert "answered 500; see its own log" in told["/500"].error
    assert "limits how often" in told["/429"].error
    assert all("timeout_s" not in one.error and "cannot be reached" not in one.error for one in told.values())
    assert "see whether it was done" in again


def test_what_an_input_says_cannot_leave_its_place() -> None:
    with api(lambda one: {"path": one.path}) as peer:
        for text in ("../../admin", "@evil.example/", "//evil.example/", "x?a=1#y", "http://evil.example/", "a\r\nb"):
            assert asked(call(peer.url + "/v1/{{ input }}/ver"), text).error == ""
            path = peer.asked[-1].path
            assert path.startswith("/v1/")
            assert path.endswith("/ver")
            assert path.count("/") == 3
            assert "?" not in path
        n = len(peer.asked)
        for text in ("..", "."):
            assert "lead elsewhere" in asked(call(peer.url + "/v1/{{ input }}/ver"), text).error
        assert "leave the host or path" in asked(call(peer.url + "/v1/.{{ input }}./ver"), "").error
        assert len(peer.asked) == n


def test_private_addresses_and_other_hosts_are_refused() -> None:
    with api(lambda one: {"inside": True}) as peer:
        refused = asked(call(peer.url + "/", allow_private=False))
        assert "not a public address" in refused.error
        assert "allow_private" in refused.error
        assert peer.asked == []
    for host in ("169.254.169.254", "[fd00:ec2::254]", "100.100.100.200"):
        assert "refused always" in asked(call(f"http://{host}/latest/", timeout_s=5)).error
    with api(lambda one: {"other": True}) as other:
        with api(lambda one: (302, {"location": other.url + "/x"}, b"")) as peer:
            assert "another host" in asked(call(peer.url + "/")).error
        with api(lambda one: {"ok": 1} if one.path == "/b" else (307, {"location": "/b"}, b"")) as peer:
            assert asked(call(peer.url + "/a")).output == '{"ok": 1}'
            assert "elsewhere" in asked(call(peer.url + "/a", method="POST", body={})).error
        with api(lambda one: (302, {"location": "/again"}, b"")) as peer:
            assert "more than 3 times" in asked(call(peer.url + "/")).error
        assert other.asked == []


def test_answers_that_cannot_be_used() -> None:
    def answers(one: Asked) -> Any:
        kind = {"content-type": "application/json"}
        return {"/big": (200, {}, b"x" * 3_000_000), "/bad": (200, kind, b"{nope"), "/nan": (200, kind, b"[NaN]"),
                "/deep": (200, kind, b"[" * 100_000), "/404": (404, {}, "no está".encode()),
                "/zip": (200, {"content-encoding": "gzip"}, b"xx"), "/ok": {"a": {"b~/c": [1, 2]}},
                "/bytes": (200, {"content-type": "text/plain"}, b"\xff\xfehola")}[one.path]

    with api(answers) as peer:
        for path, says in (("/big", "more than 1,000,000 bytes"), ("/bad", "no JSON"), ("/nan", "no JSON"),
                           ("/deep", "no JSON"), ("/404", "answered 404: no está"), ("/zip", "compressed")):
            found = asked(call(peer.url + path))
            assert says in found.error, path
            assert found.error_kind == "BadInput"
        assert "nothing at /a/x" in asked(call(peer.url + "/ok", pointer="/a/x")).error
        assert asked(call(peer.url + "/ok", pointer="/a/b~0~1c/1")).output == "2"
        assert "hola" in asked(call(peer.url + "/bytes")).output


def test_a_busy_api_is_asked_again_and_a_slow_one_is_left() -> None:
    left = [503, 429]

    def busy(one: Asked) -> Any:
        return (left.pop(), {}, b"") if left else {"ok": True}

    with api(busy) as peer:
        found = asked(call(peer.url + "/", retry={"times": 2, "wait_s": 0.01}))
        assert found.output == '{"ok": true}'
        assert [s["error_kind"] for s in found.spans] == ["RateLimited", "ModelUnavailable", ""]
        left += [503]
        assert asked(call(peer.url + "/", method="POST", body={})).error_kind == "ModelUnavailable"
        left += [503]
        again = call(peer.url + "/", method="PUT", body={}, idempotent=True, retry={"times": 1, "wait_s": 0})
        assert asked(again).output

    def slow(one: Asked) -> Any:
        time.sleep(0.5)
        return {}

    with api(slow) as peer:
        began = time.perf_counter()
        found = asked(call(peer.url + "/", timeout_s=0.1))
        assert found.error_kind == "UpstreamTimeout"
        assert "step `api`" in found.error
        assert time.perf_counter() - began < 0.4
    assert asked(call("http://127.0.0.1:9/")).error_kind == "ModelUnavailable"
    assert "no address" in asked(call("http://no-such-host.invalid/")).error


def test_headers_that_would_break_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODD", "a\r\nX-Evil: 1")
    assert "no header value" in asked(call("http://127.0.0.1:9/", headers={"X-A": "env:ODD"})).error
    for headers in ({"Host": "evil.example"}, {"X-A": "a\nb"}, {"bad name": "x"}, {"Cookie": "a=b"}):
        with pytest.raises(ConfigError):
            call("http://api.example/", headers=headers)
