"""`bucle studio` before the first release: labelling is served, and a page says what is missing."""

from __future__ import annotations

import json
import time
import urllib.request
from pathlib import Path

import pytest
from command import Running
from starlette.testclient import TestClient

from bucle.loop.workspace import Workspace
from bucle.web.unreleased import Unreleased, unreleased_app


@pytest.fixture
def project(tmp_path: Path) -> Path:
    rows = "".join(f"mensaje número {n};{'' if n % 2 else 'a' if n % 4 else 'b'}\n" for n in range(20))
    (tmp_path / "d.csv").write_text("texto;etiqueta\n" + rows, "utf-8")
    (tmp_path / "bucle.yaml").write_text(
        "project: p\ntasks:\n  t: {kind: classify, data: d.csv, text: texto, label: etiqueta}\n"
    )
    return tmp_path


def test_the_command_serves_rows_to_label(project: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Running("studio", project, "--port", "0", "--no-browser", "--json", log=log):
        until = time.monotonic() + 60
        while not (text := log.read_text()).startswith("{") and time.monotonic() < until:
            time.sleep(0.1)
        url = json.loads(text.splitlines()[0])["label"]
        with urllib.request.urlopen(f"{url}/t/next?by=ana&n=2", timeout=30) as reply:  # noqa: S310
            found = json.load(reply)
    assert (found["left"], len(found["rows"]), found["labels"]) == (10, 2, ["a", "b"])


def test_the_page_and_the_door(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ws = Workspace.open(project)
    client = TestClient(unreleased_app(Unreleased(ws)), base_url="http://localhost", follow_redirects=True)
    page = client.get("/")
    assert page.status_code == 200
    assert "bucle run" in page.text
    assert "bucle label start t" in page.text
    assert client.get("/studio/static/report.css").status_code == 200
    assert client.get("/studio/static/../routes.py").status_code == 404
    assert client.get("/studio", headers={"host": "evil.example"}).status_code == 403
    assert client.get("/api/label/t/status", headers={"host": "evil.example"}).status_code == 403
    row = client.get("/api/label/t/next?by=ana").json()["rows"][0]["id"]
    assert client.post("/api/label/t/annotations", json={"row": row, "label": "a", "by": "ana"}).status_code == 200
    monkeypatch.setenv("BUCLE_API_KEYS", "k1")
    closed = TestClient(unreleased_app(Unreleased(ws)), base_url="http://localhost")
    assert closed.get("/api/label/t/status").status_code == 401
    assert closed.get("/api/label/t/status", headers={"authorization": "Bearer k1"}).status_code == 200
    ws.close()
