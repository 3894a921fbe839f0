"""The report: self-contained, escaped, in two languages, and it says plainly what does not beat the baseline."""

from __future__ import annotations

import json
import re
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from bucle.core.errors import BadInput
from bucle.loop.report import STAGES, read_story, render_report, view
from bucle.loop.report import formats as f
from bucle.loop.report.formats import catalogue, translator
from bucle.loop.report.render import HERE, STATIC
from story_fixture import full_story, some_outputs

LOCALES = HERE / "locales"
EVIL = "<script>alert(1)</script>\"' onload=x {{7*7}} {0} $x_1^{bad$ ~|~ 🚨"


class Page(HTMLParser):
    """Tags with their attributes, the visible text, and whether every element that opens also closes."""

    VOID = {"meta", "br", "link", "img", "input", "hr"}

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture(scope="module")
def html() -> str:
    return render_report(full_story(), language="es")


def _poison(value: Any) -> Any:
    """The same shape with every text hostile and every other number NaN."""
    if isinstance(value, dict):
        return {key: _poison(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_poison(item) for item in value]
    if isinstance(value, str):
        return value if re.match(r"\d{4}-", value) else EVIL
    return float("nan") if isinstance(value, float) else value


def test_full_story_is_well_formed_and_quick() -> None:
    render_report(full_story())
    start = time.perf_counter()
    page = Page(render_report(full_story()))
    assert time.perf_counter() - start < 3
    assert page.open == []
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert set(STAGES) <= set(ids)
    named = {name for _, attrs in page.tags for name in (attrs.get("aria-labelledby") or "").split()}
    assert named <= set(ids)
    links = {(attrs["href"] or "")[1:] for tag, attrs in page.tags if tag == "a"}
    assert links <= set(ids)


def test_same_story_same_bytes(html: str) -> None:
    assert html == render_report(full_story(), language="es")


def test_loads_nothing_and_forbids_it(html: str) -> None:
    page = Page(html)
    for tag, attrs in page.tags:
        assert tag not in {"link", "iframe", "object", "embed", "base", "form", "img"}
        for name, value in attrs.items():
            assert name not in {"style", "onclick", "onload"}, (tag, name)
            if name in {"src", "href", "srcset", "action"}:
                assert (value or "").startswith("#"), (tag, value)
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)
    policy = next(
        attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize(
    "story",
    [
        {},
        {"data": None, "steps": None},
        {"project": {"name": None}},
        {
            "comparisons": [{}],
            "models": [{}],
            "gates": [{}],
            "releases": [{}],
            "serve": {},
            "monitor": {},
            "feedback": {},
            "gain": {},
            "data": {},
            "why": {},
        },
    ],
)
def test_half_finished_stories_render(story: dict[str, Any]) -> None:
    page = Page(render_report(story, language="en"))
    assert page.open == []


def test_each_part_alone_renders() -> None:
    for key, value in full_story().items():
        assert Page(render_report({key: value})).open == []


def test_hostile_story_is_escaped() -> None:
    story = _poison(full_story())
    story["project"]["name"] = EVIL + "A" * 1_000_000
    story["comparisons"][0]["candidates"].extend({"name": f"c{i}", "value": i / 500} for i in range(500))
    html = render_report(story)
    page = Page(html)
    assert page.open == []
    assert [attrs for tag, attrs in page.tags if tag == "script"] == [{}, {"type": "application/json"}]
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert "alert(1)" in "".join(page.texts)
    assert len(html) < 4_000_000
    assert "nan" not in re.findall(r">(\w+)<", html)


def test_shapes_that_cannot_be_meant_are_named() -> None:
    with pytest.raises(BadInput, match=r"comparisons\.0\.n_test"):
        render_report({"comparisons": [{"n_test": "many"}]})
    with pytest.raises(BadInput, match="language"):
        render_report({}, language="fr")


def test_says_plainly_what_does_not_beat_the_baseline(html: str) -> None:
    story = read_story(full_story())
    losing = sum(
        c.verdict in {"ties", "loses"}
        for comparison in story.comparisons
        for c in comparison.candidates
        if not c.baseline
    )
    assert losing > 3
    assert html.count(">No supera a la referencia (") == losing
    assert html.count(">Does not beat the baseline (") == losing
    assert "Nada la supera: la referencia «quote-passage» basta" in html


@pytest.mark.parametrize(
    ("low", "high", "key"), [(0.01, 0.05, "gain.yes"), (-0.01, 0.05, "gain.no"), (-0.09, -0.01, "gain.worse")]
)
def test_gain_is_claimed_only_where_the_interval_shows_it(low: float, high: float, key: str) -> None:
    html = render_report({"gain": {"diff": {"value": (low + high) / 2, "low": low, "high": high}}})
    texts = json.loads((LOCALES / "en.json").read_text(encoding="utf-8"))
    for name in ("gain.yes", "gain.no", "gain.worse"):
        assert (texts[name].split("{")[0] in html) == (name == key)


def test_a_failed_gate_is_the_headline() -> None:
    story = full_story()
    story["gates"][-1] |= {"passed": False}
    story["gates"][-1]["checks"][0] |= {"passed": False}
    html = render_report(story, language="es")
    assert "Aún no es suficiente" in html
    assert "Listo para producción" not in html


def test_locales_have_the_same_keys_and_placeholders() -> None:
    es, en = (json.loads((LOCALES / f"{name}.json").read_text(encoding="utf-8")) for name in f.LANGUAGES)
    assert es.keys() == en.keys()
    for key in es:
        assert es[key].strip(), key
        assert en[key].strip(), key
        assert sorted(re.findall(r"{\w+}", es[key])) == sorted(re.findall(r"{\w+}", en[key])), key


def test_every_key_used_exists_and_every_key_is_used() -> None:
    keys = catalogue(LOCALES).keys() | catalogue(LOCALES / "explore").keys() | catalogue(LOCALES / "retrieval").keys()
    source = "".join(path.read_text(encoding="utf-8") for path in [*HERE.rglob("*.html"), *HERE.glob("*.py")])
    used = set(re.findall(r"""\bt\(\s*["']([\w.]+)["'][,)]""", source)) | set(
        re.findall(r"'(answer\.tone\.\w+)'", source)
    )
    built = set(re.findall(r"""\bt\(f?["']([\w]+\.)(?:['"] ~|\{)""", source))
    built |= {"answer.tone.", "plot.", "retrieval.of.", "retrieval.stage."}
    assert used - keys == set()
    assert {key for key in keys - used if not any(key.startswith(start) for start in built)} == set()
    for stage in STAGES:
        assert {f"stage.{stage}", f"section.{stage}", f"section.{stage}.about"} <= keys


@pytest.mark.parametrize(
    ("made", "es", "en"),
    [
        (f.number(1234.5, 1), "1234,5", "1,234.5"),
        (f.number(12_345), "12\u202f345", "12,345"),
        (f.number(None), "–", "–"),
        (f.figure(0.9321), "93,2\u00a0%", "93.2%"),
        (f.figure(2.31), "2,31", "2.31"),
        (f.points(-0.041), "−4,1", "−4.1"),
        (f.usd(0.00021), "0,00021\u00a0US$", "$0.00021"),
        (f.usd(0.0000001), "< 0,00010\u00a0US$", "< $0.00010"),
        (f.usd(0.0), "0\u00a0US$", "$0"),
        (f.ms(1540.0), "1,5\u00a0s", "1.5\u00a0s"),
        (f.duration(61), "1\u00a0min 01\u00a0s", "1\u00a0min 01\u00a0s"),
        (f.date("2026-11-21T10:00:00Z"), "21\u00a0nov 2026", "Nov\u00a021, 2026"),
        (f.date("soon"), "soon", "soon"),
    ],
)
def test_formats(made: f.Both, es: str, en: str) -> None:
    assert (made.es, made.en) == (es, en)


def _tokens() -> dict[str, tuple[str, str]]:
    css = (STATIC / "tokens.css").read_text(encoding="utf-8")
    return {
        name: (light, dark)
        for name, light, dark in re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", css)
    }


def _contrast(one: str, two: str) -> float:
    """WCAG 2.2 contrast ratio of two sRGB colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    high, low = sorted((luminance(one), luminance(two)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_contrast_is_aa(mode: int) -> None:
    tokens = {name: pair[mode] for name, pair in _tokens().items()}
    texts = [
        (ink, ground)
        for ink in ("ink", "muted", "accent", "good", "bad", "warn")
        for ground in ("page", "surface", "sunken")
    ]
    texts += [(kind, f"{kind}-soft") for kind in ("good", "bad", "warn", "accent")]
    texts += [("ink", "accent-soft"), ("muted", "accent-soft"), ("on-accent", "accent"), ("surface", "ink")]
    for ink, ground in texts:
        assert _contrast(tokens[ink], tokens[ground]) >= 4.5, (ink, ground)
    for ink in ("control", "focus", "series-1", "series-2", "series-3", "series-4"):
        for ground in ("page", "surface"):
            assert _contrast(tokens[ink], tokens[ground]) >= 3, (ink, ground)


def test_colours_live_in_the_token_file_only(html: str) -> None:
    css = (STATIC / "report.css").read_text(encoding="utf-8")
    used = set(re.findall(r"var\(--([\w-]+)\)", html))
    defined = set(re.findall(r"--([\w-]+):", (STATIC / "tokens.css").read_text(encoding="utf-8")))
    assert used <= defined
    assert set(re.findall(r"#[0-9a-f]{3,6}\b", css)) <= {"#fff"}
    assert not re.search(r'(?:fill|stroke)="#', html)


def test_the_second_turn_of_the_loop_is_the_answer_and_every_task_must_pass() -> None:
    story = full_story()
    again = {**story["comparisons"][0], "recommended": "nano full", "best_baseline": "nearest-example"}
    story["comparisons"].append(again)
    checks = [{"gate": "accuracy >= 0.5", "passed": True}]
    story["gates"] = [{"task": "intents", "passed": False}, {"task": "questions", "passed": True, "checks": checks}]
    read, t = read_story(story), translator()
    found = {answer.comparison.task: answer for answer in view.answers(read, t)}
    assert found["intents"].comparison.recommended == "nano full"
    assert found["intents"].comparison.reference == read.comparisons[2].candidates[2]
    assert "No supera" in found["intents"].sentence.es
    assert "no pasa" in view.headline(read, t).es
    story["gates"].append({"task": "intents", "passed": True, "checks": checks})
    assert "Listo para producción" in view.headline(read_story(story), t).es
    html = render_report(story)
    assert "vuelta 2" in html
    assert html.count("answer-") == 4
    assert Page(html).open == []


def test_forgetting_is_told_in_bits_per_byte(html: str) -> None:
    assert '<td class="n"><span lang="es">+0,094</span><span lang="en">+0.094</span></td>' in html
    assert "Cambio (bits por byte)" in html


def _embedded(html: str) -> dict[str, Any]:
    found = re.findall(r'<script type="application/json">(.*?)</script>', html, re.DOTALL)
    assert len(found) == 1
    made: dict[str, Any] = json.loads(found[0])
    return made


def _english(html: str) -> str:
    """The text that an English reader sees, spaces made even."""
    shown = re.sub(r'<span lang="es">.*?</span>', "", html)
    shown = re.sub(r"</?(?:span|strong|em|code)\b[^>]*>", "", shown)
    return " ".join(re.sub(r"<[^>]+>", " ", shown).replace("\u00a0", " ").split())


def test_the_answer_stands_first_in_the_choose_section_with_interval_and_cost(html: str) -> None:
    section = _english(html[html.index('<section id="choose"'):html.index('<section id="customise"')])
    told = section[: section.index("What would change the choice")]
    for part in ("frozen encoder", "91.2%", "[88.6%; 93.6%]", "+4.8 points", "per thousand", "$36.90", "nano full"):
        assert part in told, part
    assert "No candidate beats quoting the best passage beyond chance. Nothing else has shown to be better" in section
    story = full_story()
    story["comparisons"][1] |= {"why": ""}
    assert "No candidate beats the baseline “quote-passage”." in _english(render_report(story))


def test_every_rung_is_in_the_table_climbed_or_not(html: str) -> None:
    section = _english(html[html.index('<section id="choose"'):html.index('<section id="customise"')])
    for part in (
        "few-shot/nano 31.0% [19.0%; 46.0%] Worse than tfidf-logreg, proven. After 48 examples.",
        "lora/large 88.0% [80.0%; 93.0%] No better than frozen encoder, which costs less. After 96 examples.",
        "zero-shot/abroad – prompts are processed in us, allowed: eu, local",
        "full/large – A gain of 1.1% was expected",
        "With a p95 limit of 640 ms (now 300 ms), remote-large would be recommended (92.7%).",
        "from 14,800 requests a month",
    ):
        assert part in section, part


def test_messages_that_no_sentence_fits_are_told_by_their_key() -> None:
    odd = [{"key": "rows", "figures": {"rows": "<b>"}}, {"key": "<i>new</i>"}, {}, {"key": "p95_ms_raised"}]
    story = {"comparisons": [{"task": "a", "flips": odd, "not_climbed": [{"name": "x", "why": odd[1]}]}]}
    html = render_report(story)
    assert "&lt;i&gt;new" in html
    assert "<i>new" not in html


def test_slices_say_where_it_is_worse_and_that_chance_was_allowed_for(html: str) -> None:
    told = _english(html)
    assert "frozen encoder is worse than on the rest: 2 (of 63 looked at" in told
    assert "Words: 1–4 + With numbers" in told
    assert "On a Sunday" in told
    none = full_story()
    none["comparisons"][0]["slices"]["found"] = none["comparisons"][0]["slices"]["found"][2:]
    assert "is worse on none of the 63 slices looked at" in _english(render_report(none))


def test_dots_of_the_front_say_what_they_are(html: str) -> None:
    titles = re.findall(r'<title data-es="([^"]*)" data-en="([^"]*)">', html)
    said = {en for _, en in titles}
    assert "frozen encoder: 91.2% [88.6%; 93.6%] · p95 11\u00a0ms · $0.00028 per thousand · on the front" in said
    assert any(one.startswith("remote-large") and "Ruled out" in one for one in said)


def test_outputs_are_inert_and_complete(html: str) -> None:
    data = _embedded(html)
    assert len(data["rows"]) == 120
    assert data["candidates"] == ["tfidf-logreg", "frozen encoder", "nano full", "remote-large"]
    assert data["rows"][0][3] == [0]
    assert data["slices"][0] == ["Idioma: en", "Language: en"]
    assert {len(row[4]) for row in data["rows"]} == {4}
    story = full_story()
    evil = "</script><img src=x onerror=alert(1)><!-- \u2028"
    for row in story["comparisons"][0]["outputs"]["rows"]:
        row["input"] = evil
        for one in row["outputs"]:
            one |= {"text": evil, "reasoning": evil, "citations": [evil]}
    page = Page(render_report(story))
    assert page.open == []
    assert "img" not in {tag for tag, _ in page.tags}
    assert _embedded(render_report(story))["rows"][5][0].startswith("</script><img")


def test_two_thousand_rows_render_in_time() -> None:
    story = full_story()
    story["comparisons"][0]["outputs"] = some_outputs(2000, 5000)
    start = time.perf_counter()
    html = render_report(story, language="en")
    assert time.perf_counter() - start < 5
    assert len(_embedded(html)["rows"]) == 2000
    assert "2,000 of the 5,000 held-out examples, drawn at random." in _english(html)


def test_side_by_side_is_made_of_predictions() -> None:
    from bucle.core.records import Example, Prediction
    from bucle.evaluate.slices import find_slices
    from bucle.loop.report.side_by_side import side_by_side, slices_part

    rows = [Example(id=str(i), input=f"hola {i}", target="a" if i % 2 else None, language="es" if i % 3 else "en",
                    source=f"a.csv:{i}") for i in range(300)]
    scores = [float(i % 3 > 0) for i in range(300)]
    found = find_slices(rows, scores)
    failed = [Prediction(output="", error="429")] * 299
    said = [Prediction(output="x" * 9000, chunks=("c1",), reasoning="porque"), *failed]
    made = side_by_side(rows, {"one": (said, scores), "two": (said, scores)}, slices=found, passages={"c1": "g.pdf"})
    json.dumps(made)
    assert (made["total"], len(made["rows"])) == (300, 300)
    first = made["rows"][0]["outputs"][0]
    assert (len(first["text"]), first["citations"], first["reasoning"]) == (2000, ["g.pdf"], "porque")
    assert made["rows"][1]["outputs"][0] == {"error": "429", "score": 1.0}
    part = slices_part(found, "one")
    worst = part["found"][0]
    assert (worst["where"], worst["worse"]) == ({"language": "en"}, True)
    assert [0 in row["slices"] for row in made["rows"]] == [i % 3 == 0 for i in range(300)]
    some = side_by_side(rows, {"one": (said, scores)}, most=20, seed=1)
    assert (some["total"], len(some["rows"])) == (300, 20)
    assert side_by_side([], {"one": ([], [])}) == {"candidates": ["one"], "total": 0, "rows": []}
    with pytest.raises(BadInput, match="same 300 rows"):
        side_by_side(rows, {"one": (said[:5], scores)})
    assert Page(render_report({"comparisons": [{"task": "t", "outputs": made, "slices": part}]})).open == []


def test_every_technique_kind_metric_and_probe_has_a_name_for_people() -> None:
    from typing import get_args

    from bucle.core.records import TaskKind
    from bucle.customise.registry import techniques
    from bucle.evaluate.redteam.probes import Kind
    from bucle.evaluate.scoring import DEFAULTS

    known = catalogue(LOCALES)
    wanted = {f"technique.{name}" for name in techniques()} | {f"kind.{name}" for name in get_args(TaskKind)}
    wanted |= {f"metric.{name}" for names in DEFAULTS.values() for name in names}
    wanted |= {f"probe.{name}" for name in get_args(Kind)}
    assert wanted - known.keys() == set()


def _text(story: dict[str, Any], section: str = "") -> str:
    """The visible text of a page, or of one section, in both languages."""
    html = render_report(story)
    if section:
        html = re.findall(rf'<section id="{section}".*?</section>', html, re.DOTALL)[0]
    page = Page(html)
    assert page.open == []
    return " ".join(" ".join(page.texts).split())


def test_a_task_without_gates_passed_nothing() -> None:
    comparison = {"task": "a", "recommended": "x", "candidates": [{"name": "x", "value": 0.5}]}
    bare = {"comparisons": [comparison], "gates": [{"task": "a", "passed": True, "checks": []}]}
    page = _text(bare)
    assert "Sin controles" in page
    assert "Hay una recomendación; ninguna tarea tiene controles" in page
    assert "Pasa el control" not in page
    assert "Listo para producción" not in page
    assert "Controles que pasa" not in page
    gated = {"task": "b", "passed": True, "checks": [{"gate": "accuracy >= 0.5", "passed": True}]}
    both = {"comparisons": [comparison, {**comparison, "task": "b"}], "gates": [*bare["gates"], gated]}
    assert "Pasa los controles que hay; sin controles: a" in _text(both)


def test_models_of_which_only_the_name_is_known_are_one_table() -> None:
    remote = [{"name": f"m{i}", "kind": "openai", "model": f"big-{i}", "host": "api.example:8"} for i in range(9)]
    story = {"models": [{"name": "nano", "kind": "pretrain", "parameters": 1000}, *remote]}
    section = re.findall(r'<section id="models".*?</section>', render_report(story), re.DOTALL)[0]
    assert section.count('class="card') == 2
    assert "big-8" in section
    assert "api.example:8" in section


def _one(metric: str, **candidate: Any) -> dict[str, Any]:
    row = {"name": "x", "value": 0.3435, "low": 0.27, "high": 0.42, "metrics": {}} | candidate
    return {"comparisons": [{"task": "a", "metric": metric, "n_test": 30, "recommended": "x", "candidates": [row]}]}


def test_a_figure_is_told_by_its_name() -> None:
    figures = {"rows": 9, "shortened": 1, "usd": 0.5, "errors": 2, "ece": 0.1, "chrf": 0.8, "bleu": 31.77}
    page = _text(_one("accuracy", metrics=figures), "customise")
    for told in ("Entradas recortadas 1", "Coste de la prueba 0,50 US$", "Errores 2", "Error de calibración 10,0 %",
                 "chrF del corpus 0,8", "BLEU of the corpus 31.8"):
        assert re.search(re.escape(told).replace(r"\ ", r"\s.*?"), page), told
    assert not re.search("shortened [^1]", page)
    assert "ibración" not in _text(_one("accuracy", metrics={"rows": 9, "errors": 9, "ece": 0.0}), "customise")


def test_chrf_has_one_unit_and_says_of_what() -> None:
    story = _one("chrf", metrics={"chrf": 31.77})
    figures = {"at": 0.05, "margin": 0.01, "other": "y", "other_value": 0.25}
    story["comparisons"][0]["flips"] = [{"key": "margin_raised", "figures": figures}]
    page = _text(story)
    assert "34,4" in page
    assert "34,4\xa0%" not in page
    assert "perder 5,0 (ahora 1,0), bastaría y (25,0)" in page
    assert "chrF, mean of rows" in page
    assert "chrF of the corpus" in page
    assert "93,2\xa0%" in str(f.score(0.932, "accuracy"))
    assert [f.score(1.0000000002, m).es for m in ("accuracy", "chrf")] == ["100,0\xa0%", "100,0"]
    assert f.figure(1.0000000002).en == "100.0%"


def test_a_price_that_is_not_known_is_not_nothing() -> None:
    story = _one("accuracy", usd_per_1k=None, priced=False, ms_p95=3.0)
    story["comparisons"][0]["candidates"].append(
        {"name": "y", "value": 0.2, "usd_per_1k": 0.5, "ms_p95": 9.0, "baseline": True})
    story["comparisons"][0]["costs"] = {"rows": [{"name": "x", "priced": False, "usd_per_1k": None},
                                                 {"name": "y", "usd_per_1k": 0.5, "usd_per_month": 2.0}]}
    html = render_report(story)
    assert html.count('<abbr title="precio desconocido / price not known">?</abbr>') == 4
    assert "price not known</span>" in html
    assert ">0\xa0US$" not in html
    read, t = read_story(story), translator()
    assert view.in_short(read.comparisons[0].candidates[0], read.comparisons[0], t).en.endswith("price not known")


def test_what_choosing_cost_and_the_corrected_p_are_told() -> None:
    story = _one("accuracy", p=0.08, diff=0.1, diff_low=0.01, diff_high=0.2)
    assert "Lo que ha costado elegir" not in _text(story, "choose")
    story["comparisons"][0]["spent"] = {"usd": 0.5, "canary_usd": None, "judge_usd": 0.25}
    page = _text(story, "choose")
    assert re.search(r"What choosing cost: .*the candidates' answers .*\$0\.50.*the judges .*\$0\.25", page)
    assert "canary" not in page
    assert "0,080" in page
    assert "Holm" in page


def test_slices_that_were_not_looked_at_are_no_good_news() -> None:
    story = _one("accuracy")
    story["comparisons"][0]["slices"] = {"candidate": "x", "looked": 0, "found": []}
    page = render_report(story)
    assert "No slice was looked at: of" in page
    assert 'class="note good"' not in page


def test_candidates_left_out_of_the_side_by_side_are_told_and_errors_translated() -> None:
    story = _one("accuracy")
    story["comparisons"][0]["candidates"] += [{"name": f"c{i}", "value": 0.1} for i in range(4)]
    errors = ("the reply names no label: 'x'", "<b>other</b>")
    row = {"input": "a", "target": "b", "outputs": [{"error": one, "score": 0.0} for one in errors]}
    story["comparisons"][0]["outputs"] = {"candidates": ["x", "c0"], "total": 1, "rows": [row]}
    html = render_report(story)
    assert re.search("Shown are .*2.* of the .*5.* candidates: x, c0", html)
    said = [one[0] for one in _embedded(html)["rows"][0][4]]
    assert said == [["la respuesta no nombra ninguna etiqueta: 'x'", "the reply names no label: 'x'"],
                    ["<b>other</b>", "<b>other</b>"]]
