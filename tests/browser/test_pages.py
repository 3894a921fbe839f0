"""The report and the studio as Chromium renders them: no console error, nothing from elsewhere, both languages,
both themes, wide and narrow; and a person's path through the studio by keyboard and mouse."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
from chromium import Browser, Tab, find_chromium

from bucle.core.ports import ChatReply
from bucle.core.records import Feedback, Trace, Usage
from bucle.loop.report import render_report
from story_fixture import FixtureSource, full_story, some_outputs

BINARY = find_chromium()
pytestmark = pytest.mark.skipif(BINARY is None, reason="no Chromium here: install chromium, or set BUCLE_CHROMIUM")

# What is visible: its elements' own text, with the hidden language left out.
VISIBLE = "document.querySelector('main').innerText"
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
SETTLED = "!document.querySelector('.htmx-request, .htmx-swapping, .htmx-settling, .htmx-added')"
# Text that sticks out of a box that hides it, and labels of plots that fall outside their SVG.
CUT = """[...document.querySelectorAll('svg.plot text')].filter(n => { const b = n.getBoundingClientRect(),
  s = n.closest('svg').getBoundingClientRect(); return b.width && (b.left < s.left - 1 || b.right > s.right + 1
  || b.top < s.top - 1 || b.bottom > s.bottom + 1); }).map(n => n.textContent)"""


class Echo:
    """A ChatModel that says back what it hears, word by word."""

    name = "eco"

    def chat(self, messages: Sequence[Any], **_: Any) -> ChatReply:
        return ChatReply("Eco: " + messages[-1]["content"], Usage())

    def stream(self, messages: Sequence[Any], **_: Any) -> Iterator[str | ChatReply]:
        words = ("Eco: " + messages[-1]["content"]).split(" ")
        for word in words:
            yield word + " "
        yield ChatReply(" ".join(words) + " ", Usage(tokens_in=3, tokens_out=len(words)))


class Kept:
    """A TraceWriter that keeps what it is given."""

    def __init__(self) -> None:
        self.traces: list[Trace] = []
        self.feedback: list[Feedback] = []

    def add_traces(self, traces: Sequence[Trace]) -> int:
        self.traces += traces
        return len(traces)

    def add_feedback(self, items: Sequence[Feedback]) -> int:
        self.feedback += items
        return len(items)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert BINARY is not None
    made = Browser(BINARY)
    yield made
    made.close()


@pytest.fixture(scope="module")
def kept() -> Kept:
    return Kept()


@pytest.fixture(scope="module")
def address(kept: Kept) -> Iterator[str]:
    """The real gateway with the studio behind it, on a free port of this machine."""
    import socket

    import uvicorn

    from bucle.serve.app import create_app
    from bucle.serve.routes import Route
    from bucle.web import studio_app

    app = create_app({"eco": Route("eco", "chat", chat=Echo())}, writer=kept, studio=studio_app(FixtureSource()),
                     api_keys=())
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.02)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join(10)


def _no_trouble(tab: Tab, own: str) -> None:
    assert tab.errors == []
    assert [url for url in tab.requests if not url.startswith((own, "data:"))] == []


@pytest.mark.parametrize("language", ["es", "en"])
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_report(browser: Browser, tmp_path: Path, language: str, width: int, dark: bool) -> None:
    path = tmp_path / "report.html"
    path.write_text(render_report(full_story(), language=language), encoding="utf-8")
    tab = browser.open(path.as_uri(), width, dark=dark)
    said = tab.run(VISIBLE)
    mine, other = ("El bucle", "The loop") if language == "es" else ("The loop", "El bucle")
    assert mine in said
    assert other not in said
    assert "No supera a la referencia" in said if language == "es" else "Does not beat the baseline" in said
    assert tab.run(OVERFLOW) <= 0
    assert tab.run(CUT) == []
    assert tab.run("document.querySelectorAll('svg.plot').length") >= 8
    back = tab.run("getComputedStyle(document.body).backgroundColor")
    assert back == ("rgb(14, 19, 26)" if dark else "rgb(245, 246, 248)")
    tab.run(f"document.querySelector('[data-language={'en' if language == 'es' else 'es'}]').click()")
    assert other in tab.run(VISIBLE)
    tab.run(f"document.querySelector('[data-set-theme={'light' if dark else 'dark'}]').click()")
    assert tab.run("getComputedStyle(document.body).backgroundColor") != back
    _no_trouble(tab, path.as_uri())


def test_hostile_report_runs_nothing(browser: Browser, tmp_path: Path) -> None:
    story = full_story()
    evil = "</script></style><img src=x onerror='window.owned=1'><script>window.owned=1</script>"
    story["project"]["name"] = evil
    for candidate in story["comparisons"][0]["candidates"]:
        candidate["name"] = evil + candidate["name"]
    outputs = story["comparisons"][0]["outputs"]
    outputs["candidates"] = [evil + name for name in outputs["candidates"]]
    for row in outputs["rows"]:
        row |= {"input": evil, "source": evil, "target": evil}
        for one in row["outputs"]:
            one |= {"text": evil, "reasoning": evil, "citations": [evil]}
    path = tmp_path / "report.html"
    path.write_text(render_report(story), encoding="utf-8")
    tab = browser.open(path.as_uri())
    assert tab.run("window.owned") is None
    assert tab.run("document.querySelector('.rows .asked').textContent") == evil
    assert tab.run("document.querySelectorAll('main img').length") == 0
    _no_trouble(tab, path.as_uri())


COUNT = "Number(document.querySelector('[data-count] strong').textContent.replace(/\\D/g, ''))"
SHOWN = "document.querySelectorAll('#outputs-0 .rows > li').length"


def test_outputs_side_by_side_are_filtered(browser: Browser, tmp_path: Path) -> None:
    story = full_story()
    outputs = story["comparisons"][0]["outputs"] = some_outputs(2000)
    marks = [[one["score"] >= 0.5 for one in row["outputs"]] for row in outputs["rows"]]
    path = tmp_path / "report.html"
    path.write_text(render_report(story, language="en"), encoding="utf-8")
    tab = browser.open(path.as_uri())
    assert (tab.run(COUNT), tab.run(SHOWN)) == (2000, 25)
    tab.run("document.querySelector('[data-more]').focus()")
    tab.press("Enter")
    tab.wait(f"{SHOWN} === 50")

    def choose(by: str, value: str) -> None:
        tab.run(f"(() => {{ const node = document.querySelector(`{by}`); node.value = '{value}'; "
                "node.dispatchEvent(new Event('input', {bubbles: true})); })()")

    choose("[data-by=candidate][data-at='0']", "wrong")
    tab.wait(f"{COUNT} === {sum(not mark[0] for mark in marks)}")
    choose("[data-by=candidate][data-at='3']", "right")
    tab.wait(f"{COUNT} === {sum(not mark[0] and mark[3] for mark in marks)}")
    tab.run("document.querySelector('[data-clear]').click()")
    assert tab.run(COUNT) == 2000
    tab.run("document.querySelector('[data-by=disagree]').click()")
    tab.wait(f"{COUNT} === {sum(len(set(mark)) > 1 for mark in marks)}")
    tab.run("document.querySelector('[data-clear]').click()")
    choose("[data-by=label]", "averia_internet")
    tab.wait(f"{COUNT} === {sum(row['target'] == 'averia_internet' for row in outputs['rows'])}")
    tab.run("document.querySelector('[data-clear]').click()")
    tab.run("document.querySelector('[data-rows]').click()")  # "See its examples" of the worst slice
    assert tab.run(COUNT) == sum(0 in row["slices"] for row in outputs["rows"])
    assert tab.run("document.activeElement.dataset.by") == "slice"
    tab.run("document.querySelector('[data-clear]').click()")
    assert tab.run("document.activeElement.dataset.by") == "text"
    tab.type("COBRAIS dos")  # without its accent
    tab.wait(f"{COUNT} === {sum('cobráis' in row['input'] for row in outputs['rows'])}")
    tab.type(" zzz")
    tab.wait(f"{COUNT} === 0")
    assert "No example matches" in tab.run("document.querySelector('#outputs-0 .rows').innerText")
    took = tab.run("(() => { const start = performance.now(); document.querySelector('[data-clear]').click(); "
                   "document.querySelector('.rows').getBoundingClientRect(); return performance.now() - start; })()")
    assert took < 300
    assert tab.run(OVERFLOW) <= 0
    _no_trouble(tab, path.as_uri())


@pytest.mark.parametrize(("path", "width"), [("/studio", 1280), ("/studio", 390), ("/studio/patterns", 1280),
                                             ("/studio/patterns", 390), ("/studio/report", 1280)])
def test_studio_pages(browser: Browser, address: str, path: str, width: int) -> None:
    tab = browser.open(f"{address}{path}?lang=en", width)
    tab.wait("document.documentElement.lang === 'en'")
    assert tab.run(OVERFLOW) <= 0
    assert "Data" in tab.run("document.querySelector('.loop').innerText")
    if path == "/studio":
        tab.wait("document.querySelectorAll('.charts canvas').length === 4")
        tab.run("document.querySelector('[data-language=es]').click()")
        assert "Datos" in tab.run("document.querySelector('.loop').innerText")
        assert tab.run("document.querySelector('#f-route option').textContent") == "Todas"
    _no_trouble(tab, address)


def test_language_and_theme_are_remembered(browser: Browser, address: str) -> None:
    first = browser.open(f"{address}/studio")
    first.run("document.querySelector('[data-language=en]').click()")
    first.run("document.querySelector('[data-set-theme=dark]').click()")
    again = browser.open(f"{address}/studio", beside=first)
    assert again.run("document.documentElement.lang + document.documentElement.dataset.theme") == "endark"


def test_find_a_trace_read_why_and_correct_it(browser: Browser, address: str, kept: Kept) -> None:
    tab = browser.open(f"{address}/studio")
    tab.run("document.querySelector('#f-query').focus()")
    tab.type("placas")
    tab.wait(f"document.querySelectorAll('.trace-row').length === 14 && {SETTLED}")
    tab.run("document.querySelector('.trace-row').focus()")
    tab.press("Enter")
    tab.wait(f"document.querySelector('#trace [data-feedback]') && {SETTLED}")
    assert "otra_consulta → autoconsumo" in tab.run("document.querySelector('#trace').innerText")
    assert tab.run("document.activeElement.id") == "trace"
    assert tab.run("location.pathname") == "/studio"
    tab.run("document.querySelector('#trace [data-rating=\"-1\"]').click()")
    tab.wait("document.querySelector('#trace [aria-pressed=true]')")
    tab.run("document.querySelector('#correction').focus()")
    tab.type("autoconsumo <b>")
    tab.run("document.querySelector('#trace form').requestSubmit()")
    tab.wait("document.querySelector('#correction').value === ''")
    assert [(item.rating, item.correction) for item in kept.feedback] == [(-1, None), (None, "autoconsumo <b>")]
    shown = tab.run("document.querySelector('[data-feedback]').dataset.feedback")
    assert {item.trace for item in kept.feedback} == {shown}
    _no_trouble(tab, address)


def test_playground_streams_a_reply_and_links_its_trace(browser: Browser, address: str, kept: Kept) -> None:
    tab = browser.open(f"{address}/studio?lang=en")
    tab.run("document.querySelector('#message').focus()")
    tab.type("hola <i>mundo</i>")
    tab.press("Enter")
    tab.wait("document.querySelector('.turn .about a')")
    assert tab.run("[...document.querySelectorAll('.turn p')].map(n => n.textContent.trim())") == [
        "hola <i>mundo</i>", "Eco: hola <i>mundo</i>"]
    link = tab.run("decodeURIComponent(document.querySelector('.turn .about a').href)")
    end = time.monotonic() + 5
    while not kept.traces and time.monotonic() < end:
        time.sleep(0.05)
    assert link.endswith(kept.traces[-1].id)
    assert "Guard: clear" in tab.run("document.querySelector('.turn .about').innerText")
    _no_trouble(tab, address)


def test_every_control_is_reached_by_keyboard_with_a_visible_focus(browser: Browser, address: str) -> None:
    tab = browser.open(f"{address}/studio/patterns")
    seen = set()
    for _ in range(25):
        tab.press("Tab")
        seen.add(tab.run("document.activeElement.tagName + (document.activeElement.id || '')"))
        assert tab.run("getComputedStyle(document.activeElement).outlineStyle") != "none"
    assert {"BUTTON", "INPUTp1", "SELECTp2"} <= seen
