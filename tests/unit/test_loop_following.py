"""A running server keeps up with the ledger: production moves, a canary is stopped, kept and restored."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from bucle.core.errors import BadInput
from bucle.core.records import Candidate, Node, Prediction
from bucle.core.serving import Serve
from bucle.loop.aliases import restore, rollbacks
from bucle.loop.serving import app_for
from bucle.loop.workspace import Workspace
from bucle.serve.server import BackgroundServer

YAML = """
project: p
language: es
tasks:
  t: {kind: generate, data: t.tsv}
serve:
  routes:
    puerta:
      to: [{to: t}, {to: t, release: v2}]
      canary: {min_requests: 10}
"""


class Says:
    """Answers its own name; `holds` keeps it until it is set; it fails where it is told to."""

    max_parallel = 8

    def __init__(self, name: str, *, fails: bool = False) -> None:
        self.name, self.fails, self.holds = name, fails, threading.Event()
        self.holds.set()

    def predict(self, inputs: Sequence[str]) -> list[Prediction]:
        self.holds.wait(10)
        return [Prediction(output=self.name, error="roto" if self.fails else "") for _ in inputs]


@pytest.fixture
def made() -> dict[str, Says]:
    return {}


@pytest.fixture
def ws(tmp_path: Path, made: dict[str, Says], monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    (tmp_path / "bucle.yaml").write_text(YAML, "utf-8")
    found = Workspace.open(tmp_path)
    monkeypatch.setattr("bucle.loop.task_route.open_candidate",
                        lambda ws, node, **_: made[ws.ledger.get(node).attrs["name"]])
    monkeypatch.setattr("bucle.loop.following.LOOK_S", 0.02)
    yield found
    found.close()


def release(ws: Workspace, version: int) -> Node:
    candidate = Candidate(name=f"v{version}", task="t", kind="generate", technique="majority")
    node = ws.ledger.put("candidate", candidate.model_dump(mode="json"))
    return ws.ledger.put("release", {"project": "p", "version": version, "tasks": {"t": node.id}},
                         parents=[("candidate t", node.id)])


def say(http: httpx.Client, model: str, user: str = "") -> httpx.Response:
    return http.post("/v1/chat/completions", json={"model": model, "user": user, "messages": [
        {"role": "user", "content": "hola"}]})


def within(seconds: float, holds: Callable[[], Any]) -> bool:
    end = time.monotonic() + seconds
    while not (found := bool(holds())) and time.monotonic() < end:
        time.sleep(0.01)
    return found


def text(reply: httpx.Response) -> str:
    return str(reply.json()["choices"][0]["message"]["content"])


def test_production_moves_under_a_running_server_and_nothing_is_dropped(ws: Workspace, made: dict[str, Says]) -> None:
    made |= {"v1": Says("uno"), "v2": Says("dos")}
    first, second = release(ws, 1), release(ws, 2)
    ws.ledger.move_alias("production", first.id, by="test", reason="")
    app = app_for(ws, first, production=True)
    with BackgroundServer(app) as server, httpx.Client(base_url=server.url, timeout=10) as http:
        assert text(say(http, "t")) == "uno"
        made["v1"].holds.clear()
        late: list[httpx.Response] = []
        waiting = threading.Thread(target=lambda: late.append(say(http, "t")))
        waiting.start()
        assert within(5, lambda: app.state.gateway.active == 1)
        ws.ledger.move_alias("production", second.id, by="test", reason="better")
        assert within(5, lambda: app.state.gateway.routes["t"].candidate == second.attrs["tasks"]["t"])
        assert text(say(http, "t")) == "dos"
        assert say(http, "t").headers["x-bucle-release"] == second.id
        made["v1"].holds.set()
        waiting.join(10)
        assert text(late[0]) == "uno", "what was at work ended where it began"
        ws.ledger.move_alias("production", first.id, by="test", reason="back")
        assert within(5, lambda: text(say(http, "t")) == "uno")


def test_a_release_is_not_followed_where_another_is_asked_for(ws: Workspace, made: dict[str, Says]) -> None:
    made |= {"v1": Says("uno"), "v2": Says("dos")}
    first, second = release(ws, 1), release(ws, 2)
    ws.ledger.move_alias("production", first.id, by="test", reason="")
    with BackgroundServer(app_for(ws, first)) as server, httpx.Client(base_url=server.url, timeout=10) as http:
        ws.ledger.move_alias("production", second.id, by="test", reason="")
        time.sleep(0.2)
        assert text(say(http, "t")) == "uno"


def test_a_canary_that_fails_is_stopped_stays_so_and_is_restored_by_hand(ws: Workspace, made: dict[str, Says]) -> None:
    made |= {"v1": Says("uno"), "v2": Says("dos", fails=True)}
    first, _ = release(ws, 1), release(ws, 2)
    ws.ledger.move_alias("production", first.id, by="test", reason="")

    def shares(http: httpx.Client) -> set[int]:
        return {say(http, "puerta", f"user {n}").status_code for n in range(20)}

    with BackgroundServer(app_for(ws, first, production=True)) as server, \
            httpx.Client(base_url=server.url, timeout=10) as http:
        for n in range(400):
            say(http, "puerta", f"user {n}")
            if n % 20 == 19 and rollbacks(ws):
                break
        assert within(5, lambda: rollbacks(ws))
        assert shares(http) == {200}
        answer = say(http, "puerta", "user 1").json()
        assert answer["bucle"]["candidate"] == first.attrs["tasks"]["t"]
    last = rollbacks(ws)["puerta", "t@v2"]
    assert not last["restored"]
    assert "errors" in last["why"]

    with BackgroundServer(app_for(ws, first, production=True)) as server, \
            httpx.Client(base_url=server.url, timeout=10) as http:
        assert shares(http) == {200}, "a server that is started again knows"
        restore(ws, "puerta", "t@v2", by="ana", reason="mended")
        assert within(5, lambda: 502 in shares(http))


def test_a_canary_that_one_server_stops_is_stopped_in_the_others(ws: Workspace, made: dict[str, Says]) -> None:
    made |= {"v1": Says("uno"), "v2": Says("dos", fails=True)}
    first, _ = release(ws, 1), release(ws, 2)
    ws.ledger.move_alias("production", first.id, by="test", reason="")
    with BackgroundServer(app_for(ws, first)) as one, BackgroundServer(app_for(ws, first)) as other, \
            httpx.Client(base_url=one.url, timeout=10) as busy, httpx.Client(base_url=other.url, timeout=10) as quiet:
        for n in range(400):
            say(busy, "puerta", f"user {n}")
            if n % 20 == 19 and rollbacks(ws):
                break
        assert within(5, lambda: {say(quiet, "puerta", f"user {n}").status_code for n in range(20)} == {200})
    assert len(ws.ledger.nodes("rollback")) == 1


def test_a_task_that_cannot_be_opened_leaves_the_others_served(
    ws: Workspace, made: dict[str, Says], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made |= {"v1": Says("uno")}
    node = release(ws, 1)
    broken = Candidate(name="old", task="u", kind="generate", technique="majority")
    lost = ws.ledger.put("candidate", broken.model_dump(mode="json"))
    both = ws.ledger.put("release", {"project": "p", "version": 9, "tasks": {**node.attrs["tasks"], "u": lost.id}})

    def opened(ws: Workspace, candidate: str, **_: Any) -> Says:
        if candidate == lost.id:
            raise BadInput("it was fitted by another version", "bucle run")
        return made["v1"]

    monkeypatch.setattr("bucle.loop.task_route.open_candidate", opened)
    alone = replace(ws, config=ws.config.model_copy(update={"serve": Serve()}))
    with BackgroundServer(app_for(alone, both)) as server, httpx.Client(base_url=server.url, timeout=10) as http:
        assert text(say(http, "t")) == "uno"
        assert say(http, "u").status_code == 404
    assert "the task u is not served: it was fitted by another version" in caplog.text
    only = ws.ledger.put("release", {"project": "p", "version": 10, "tasks": {"u": lost.id}})
    with pytest.raises(BadInput, match="another version"):
        app_for(alone, only)
