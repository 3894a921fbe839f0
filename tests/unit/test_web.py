"""The studio's routes: what they show, what they refuse, and that nothing in a project can run in the page."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

sys.path.insert(0, str(Path(__file__).parents[1]))
from bucle.core.errors import Infrastructure
from bucle.core.records import Trace
from bucle.web import studio_app
from bucle.web.guard import host_allowed
from bucle.web.routes import HERE, STATIC
from story_fixture import FixtureSource, full_story, some_traces

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{7*7}}"


class Tags(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.all: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.all.append((tag, dict(attrs)))


def client_of(source: Any, **kwargs: Any) -> TestClient:
    return TestClient(studio_app(source, **kwargs), base_url="http://localhost:8000", follow_redirects=False)


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with client_of(FixtureSource()) as made:
        yield made


def test_home_shows_the_loop_the_comparison_the_traces_and_the_playground(client: TestClient) -> None:
    page = client.get("/studio")
    assert page.status_code == 200
    ids = {attrs.get("id") for _, attrs in Tags(page.text).all}
    assert {"loop", "comparison", "production", "traces", "playground", "trace-list", "chat", "ask"} <= ids
    assert "frozen encoder" in page.text
    assert page.text.count('class="trace-row"') == 50
    assert client.get("/").headers["location"] == "/studio"


def test_each_control_has_a_label_and_each_reference_exists(client: TestClient) -> None:
    for path in ("/studio", "/studio/patterns"):
        tags = Tags(client.get(path).text).all
        ids = [attrs["id"] for _, attrs in tags if "id" in attrs]
        assert len(ids) == len(set(ids))
        labelled = {attrs.get("for") for tag, attrs in tags if tag == "label"}
        for tag, attrs in tags:
            if tag in {"input", "select", "textarea"}:
                assert attrs.get("id") in labelled, attrs
            for name in (attrs.get("aria-labelledby") or "").split():
                assert name in ids
        assert [tag for tag, _ in tags].count("h1") == 1


@pytest.mark.parametrize("path", ["/studio", "/studio/patterns", "/studio/nowhere", "/studio/live"])
def test_policy_holds_no_inline_script_or_style(client: TestClient, path: str) -> None:
    page = client.get(path)
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    for tag, attrs in Tags(page.text).all:
        assert tag != "style"
        assert not [name for name in attrs if name == "style" or name.startswith(("on", "hx-on"))]
        if tag == "script":
            assert (attrs.get("src") or "").startswith("/studio/static/")
        for name in ("src", "href", "hx-get", "action"):
            value = attrs.get(name)
            assert value is None or value.startswith(("/studio", "#", "data:,")), (tag, name, value)


def test_every_asset_a_page_names_is_served_and_cached(client: TestClient) -> None:
    tags = Tags(client.get("/studio").text).all
    names = [attrs.get("src") or attrs.get("href") or "" for tag, attrs in tags if tag in {"script", "link"}]
    paths = [name for name in names if name.startswith("/studio/static/")]
    assert len(paths) >= 9
    for path in paths:
        answer = client.get(path)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
        assert client.get(path, headers={"if-none-match": answer.headers["etag"]}).status_code == 304
    assert client.get("/studio/static/..%2Froutes.py").status_code == 404
    assert all(path.is_file() for path in STATIC.values())


def test_vendored_files_are_the_pinned_ones() -> None:
    import hashlib

    readme = (HERE / "static/vendor/README.md").read_text(encoding="utf-8")
    pinned = dict(re.findall(r"^\| ([\w.]+) \|.*\| ([0-9a-f]{64}) \|$", readme, flags=re.MULTILINE))
    folder = HERE / "static/vendor"
    code = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.min.*")}
    assert code == pinned
    assert {path.name for path in folder.glob("*LICENSE*")} == {"htmx.LICENSE.txt", "uplot.LICENSE.txt"}


def test_traces_filter_search_and_page(client: TestClient) -> None:
    assert client.get("/studio/traces", params={"query": "WIFI"}).text.count("trace-row") == 14
    one = client.get("/studio/traces", params={"route": "preguntas", "user": "user-0003"}).text
    assert one.count("trace-row") == len([t for t in some_traces() if t.route == "preguntas" and t.user == "user-0003"])
    first = client.get("/studio/traces").text
    more = re.search(r'hx-get="(/studio/traces\?[^"]+)"', first)
    assert more is not None
    second = client.get(more[1].replace("&amp;", "&")).text
    assert second.count("trace-row") == 20
    seen = re.findall(r'href="(/studio/traces/trace[^"]+)"', first + second)
    assert len(set(seen)) == 70
    assert "cumple el filtro" in client.get("/studio/traces", params={"query": "zzz"}).text
    assert client.get("/studio/traces", params={"query": "x" * 501}).status_code == 400


def test_a_trace_shows_its_chain_as_a_page_and_as_a_part(client: TestClient) -> None:
    url = "/studio/traces/" + some_traces(1)[0].id
    page, part = client.get(url).text, client.get(url, headers={"hx-request": "true"}).text
    assert "<html" in page
    assert "<html" not in part
    for text in (page, part):
        assert "otra_consulta → autoconsumo" in text
        assert 'data-feedback="trace:' in text


def test_a_trace_of_a_chain_shows_each_step_in_its_place() -> None:
    steps = (
        {"name": "buscar", "kind": "retrieve", "start_ms": 2.0, "ms": 20.0},
        {"name": "crm <b>", "kind": "http", "start_ms": 22.0, "ms": 60.0, "error": "no respondió a tiempo"},
        {"name": "escribir", "kind": "prompt", "start_ms": 82.0, "ms": 900.0, "cached": True},
        {"ms": 3.0},
    )
    chain = some_traces(1)[0].model_copy(update={"ms": 1000.0, "spans": steps})
    shown = client_of(FixtureSource(traces=[chain])).get("/studio/traces/" + chain.id).text
    assert re.findall(r'class="step-took" x="([\d.]+)" width="([\d.]+)"', shown) == [
        ("2.0", "20.0"), ("22.0", "60.0"), ("82.0", "900.0")]
    assert "crm &lt;b&gt;" in shown
    assert "no respondió a tiempo" in shown
    assert shown.count("guardado") == 1
    plain = client_of(FixtureSource(traces=some_traces(1))).get("/studio/traces/" + some_traces(1)[0].id).text
    assert 'class="steps"' not in plain


def test_what_does_not_exist_is_a_page_that_says_so(client: TestClient) -> None:
    for path in ("/studio/traces/nope", "/studio/nowhere", "/studio/static/x.js", "/studio/traces/" + "a" * 300):
        answer = client.get(path)
        assert answer.status_code == 404
        assert 'role="alert"' in answer.text


def test_infrastructure_errors_are_shown_with_the_next_command() -> None:
    class Broken(FixtureSource):
        def story(self) -> dict[str, Any]:
            raise Infrastructure("the ledger is on a full disk <b>", "bucle doctor")

    with client_of(Broken()) as client:
        answer = client.get("/studio")
    assert answer.status_code == 503
    assert "the ledger is on a full disk &lt;b&gt;" in answer.text
    assert "bucle doctor" in answer.text


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "", "[::1].evil.example", "localhost:80:80"])
def test_other_host_names_are_refused(client: TestClient, host: str) -> None:
    for path in ("/studio", "/studio/static/page.js", "/", "/studio/windows.json", "/studio/report"):
        answer = client.get(path, headers={"host": host})
        assert answer.status_code == 403, path
        assert "soporte" not in answer.text


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1:8000", "[::1]:8000", "bucle.example:443"])
def test_own_host_names_are_answered(host: str) -> None:
    assert host_allowed(host, ["bucle.example"])


def test_it_only_reads(client: TestClient) -> None:
    for path in ("/studio", "/studio/traces", "/studio/traces/x", "/studio/report"):
        assert client.post(path, json={}).status_code == 405


def test_an_empty_project_has_designed_empty_states() -> None:
    class Empty(FixtureSource):
        def models(self) -> list[str]:
            return []

    with client_of(Empty({}, [])) as client:
        page = client.get("/studio")
    assert page.status_code == 200
    assert page.text.count('class="empty"') == 5


def test_nothing_in_a_project_becomes_markup() -> None:
    def poison(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: poison(item) for key, item in value.items()}
        if isinstance(value, list):
            return [poison(item) for item in value]
        return EVIL if isinstance(value, str) else value

    trace = Trace(id="trace:" + EVIL[:20], at=EVIL, received_at=EVIL, route=EVIL, model=EVIL, user=EVIL, input=EVIL,
                  output=EVIL, guard={"flagged": True, "kinds": [EVIL]})

    class Hostile(FixtureSource):
        def models(self) -> list[str]:
            return [EVIL]

        def trace(self, id: str) -> Trace:
            return trace

    with client_of(Hostile(poison(full_story()), [trace] * 60)) as client:
        for path in ("/studio", "/studio/traces", "/studio/live", "/studio/traces/x", "/studio/report"):
            page = client.get(path)
            assert page.status_code == 200, path
            for tag, attrs in Tags(page.text).all:
                assert tag != "img"
                assert not [name for name in attrs if name.startswith("on")]
            assert "<script>alert" not in page.text


def test_windows_and_report(client: TestClient) -> None:
    found = client.get("/studio/windows.json").json()
    assert len(found["windows"]) == 42
    assert {alert["kind"] for alert in found["alerts"]} == {"drift", "abuse", "latency"}
    report = client.get("/studio/report", params={"lang": "en"})
    assert '<html lang="en">' in report.text
    assert "Content-Security-Policy" in report.text


def test_locales_are_complete() -> None:
    es, en = (json.loads((HERE / "locales" / f"{name}.json").read_text(encoding="utf-8")) for name in ("es", "en"))
    assert es.keys() == en.keys()
    assert all(es.values())
    assert all(en.values())
    shared = json.loads((HERE.parent / "loop/report/locales/es.json").read_text(encoding="utf-8"))
    source = "".join(path.read_text(encoding="utf-8") for path in HERE.rglob("*.html"))
    used = set(re.findall(r"\bt\('([\w.]+)'[,)]", source))
    assert used - es.keys() - shared.keys() == set()
    assert not es.keys() & shared.keys()
    scripts = "".join(path.read_text(encoding="utf-8") for path in (HERE / "static").glob("*.js"))
    said = {f"js.{name}" for name in re.findall(r"""\b(?:say|toast|fact)\("(\w+)\"""", scripts)}
    assert said <= es.keys()
    assert es.keys() - used - said == set()
    listed = re.search(r"for key in \(([^)]*)\)", (HERE / "templates/base.html").read_text(encoding="utf-8"))
    assert listed is not None
    assert said <= {f"js.{name}" for name in re.findall(r"'(\w+)'", listed[1])}


def test_colours_come_from_the_token_file() -> None:
    css = (HERE / "static/studio.css").read_text(encoding="utf-8")
    assert not re.search(r"#[0-9a-fA-F]{3,8}\b", re.sub(r"#[a-z][\w-]+ ", "", css))
    tokens = (HERE.parent / "loop/report/static/tokens.css").read_text(encoding="utf-8")
    assert set(re.findall(r"var\(--([\w-]+)\)", css)) <= set(re.findall(r"--([\w-]+):", tokens))
