"""The exploration's page as Chromium renders it: nothing from elsewhere, both languages, wide and narrow;
the map by mouse and by keyboard; and rows that try to be markup or script."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from chromium import Browser, Tab, find_chromium

from bucle.core.records import Example
from bucle.data.explore import explore_examples
from bucle.data.outliers import find_outliers
from bucle.data.topics import find_topics, tfidf_vectors
from bucle.loop.report.explore import render_explore

BINARY = find_chromium()
pytestmark = pytest.mark.skipif(BINARY is None, reason="no Chromium here: install chromium, or set BUCLE_CHROMIUM")

EVIL = (
    "</script><script>window.hurt = 1</script>",
    "<img src=x onerror='window.hurt = 1'><svg onload=window.hurt=1>",
    "\" onmouseover=\"window.hurt = 1\" x=\"",
    "<!--<script> \u2028 window.hurt = 1 \\u003c/script> -->",
    "{{ 7 * 7 }} ${window.hurt = 1} <a href='javascript:window.hurt=1'>aquí</a>",
)
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
READY = "[...document.querySelectorAll('.map')].every(map => map.dataset.ready) && document.querySelector('.map')"


def found() -> dict[str, Any]:
    """Real figures on rows of which each label and every tenth text is an attack."""
    themes = ("no tengo luz en casa", "el recibo del banco", "la fibra y el router", "quiero cancelar el contrato")
    rows = [
        Example(
            id=f"r{n}", target=(*EVIL, "luz")[n % 6], source=f"{EVIL[n % 5] if n % 50 == 0 else 'filas.csv'}:{n}",
            input=EVIL[n % 5] + f" {n // 40}" if n % 10 == 0 else f"{themes[n % 4]} {n % 37} {n % 11}",
        )
        for n in range(240)
    ]
    sides = {row.id: ("train", "validation", "test")[n % 3] for n, row in enumerate(rows)}
    texts = [row.input for row in rows]
    vectors = tfidf_vectors(texts)
    topics = find_topics(texts, vectors)

    def show(index: int) -> dict[str, Any]:
        row = rows[index]
        return {"id": row.id, "input": row.input, "label": row.target, "side": sides[row.id], "source": row.source}

    points = [
        {"x": x, "y": y, "topic": of, "text": row.input, "label": row.target, "side": sides[row.id],
         "source": row.source}
        for row, (x, y), of in zip(rows, topics["places"], topics["of"], strict=True)
    ]
    task = {
        "kind": "classify", "problems": 1, "problem_list": [{"source": EVIL[0], "reason": EVIL[1], "detail": EVIL[2]}],
        "train": 80, "validation": 80, "test": 80, "leaks_prevented": 0,
        **explore_examples(rows, sides),
        "personal": {"email": 3}, "personal_done": {"email": "mask"}, "personal_dropped": 1,
        "personal_left": {"phone": 2},
        "tokens": [
            {"name": EVIL[0], "kind": "local", "window": None, "estimate": False, "note": "unavailable",
             "detail": EVIL[1], "texts": 240},
        ],
        "topics": {
            "sampled": 240, "vectors": EVIL[0], "why_not_encoder": "", "map": topics["map"], "points": points,
            "silhouette": topics["silhouette"],
            "topics": [
                {**topic, "name": EVIL[n % 5], "central": [show(i) for i in topic["central"]], "labels": {EVIL[0]: 3}}
                for n, topic in enumerate(topics["topics"])
            ],
        },
        "outliers": [
            {**show(one.index), "distance": one.distance, "times": one.times, "nearest": EVIL[2],
             "similarity": one.similarity, "why": ["long"]}
            for one in find_outliers(vectors)
        ],
        "changes": {
            "at": "2026-01-02T03:04:05+00:00", "added": 1, "removed": 0, "relabelled": 1, "edited": 0, "unchanged": 9,
            "shown": {"added": [show(0)], "removed": [], "edited": [], "relabelled": [show(10) | {"was": EVIL[1]}]},
        },
    }
    return {"project": EVIL[0], "seed": 7, "tasks": {EVIL[2]: task}, "documents": None}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("explore") / "explore.html"
    path.write_text(render_explore(found(), language="es"), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert BINARY is not None
    made = Browser(BINARY)
    yield made
    made.close()


def key(tab: Tab, name: str) -> None:
    for kind in ("keyDown", "keyUp"):
        tab.call("Input.dispatchKeyEvent", {"type": kind, "key": name, "code": name})


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_page(browser: Browser, page: Path, width: int, dark: bool) -> None:
    tab = browser.open(page.as_uri(), width, dark=dark)
    tab.wait(READY)
    assert tab.run(OVERFLOW) <= 0
    assert "Etiquetas probablemente equivocadas" in tab.run("document.querySelector('main').innerText")
    tab.run("document.querySelector('[data-language=en]').click()")
    said = tab.run("document.querySelector('main').innerText")
    assert "Labels that are probably wrong" in said
    assert "probablemente" not in said
    assert tab.run(OVERFLOW) <= 0
    assert tab.errors == []
    assert [url for url in tab.requests if not url.startswith((page.as_uri(), "data:"))] == []


def test_rows_that_attack_do_nothing(browser: Browser, page: Path) -> None:
    tab = browser.open(page.as_uri())
    tab.wait(READY)
    tab.run("document.querySelectorAll('details').forEach(one => one.open = true)")
    tab.run("document.querySelectorAll('.legend button, [data-colour]').forEach(one => one.click())")
    tab.run("document.querySelector('svg.points').focus()")
    for _ in range(30):
        key(tab, "ArrowRight")
    key(tab, "Enter")
    assert tab.run("window.hurt === undefined")
    assert tab.run("document.querySelectorAll('script').length") == 2
    assert tab.run("document.querySelectorAll('img, iframe, [onload], [onerror], [onmouseover]').length") == 0
    assert tab.run("[...document.links].every(a => a.getAttribute('href').startsWith('#'))")
    assert EVIL[0] in tab.run("document.querySelector('main').innerText")
    assert tab.errors == []


def test_map_by_mouse_and_by_keyboard(browser: Browser, page: Path) -> None:
    tab = browser.open(page.as_uri())
    tab.wait(READY)
    assert tab.run("document.querySelectorAll('.points circle').length") == 240
    tab.run("document.documentElement.style.scrollBehavior = 'auto'; document.querySelector('.map').scrollIntoView()")
    x, y = tab.run("""(() => { const box = document.querySelectorAll('.points circle')[1].getBoundingClientRect();
        return [box.x + box.width / 2, box.y + box.height / 2]; })()""")
    tab.call("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": x, "y": y})
    tab.wait("!document.querySelector('.tip').hidden")
    told = tab.run("document.querySelector('.tip').innerText")
    assert "filas.csv:" in told
    assert "entrenamiento" in told or "validación" in told or "prueba" in told
    for kind in ("mousePressed", "mouseReleased"):
        tab.call("Input.dispatchMouseEvent", {"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1})
    tab.call("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": 2, "y": 300})
    tab.wait("document.querySelector('.chosen').innerText.includes('fijado')", 5)
    tab.run("document.querySelector('svg.points').focus()")
    key(tab, "Escape")
    tab.wait("document.querySelector('.chosen').innerText.includes('Ningún punto')")
    key(tab, "ArrowRight")
    first = tab.run("document.querySelector('.chosen').innerText")
    key(tab, "ArrowRight")
    assert tab.run("document.querySelector('.chosen').innerText") != first
    tab.run("document.querySelector('[data-colour=side]').click()")
    assert tab.run("document.querySelectorAll('.legend button').length") == 3
    tab.run("document.querySelector('.legend button').click()")
    assert tab.run("document.querySelectorAll('.points .dim').length") == 160
    assert tab.errors == []
