"""What build servers read: JUnit XML and GitHub's Markdown, whatever stands in names and notes."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from bucle.cli.ci import Outputs
from bucle.core.errors import BadInput, ConfigError, GateFailed
from bucle.evaluate.gate import GateFacts, check_gates
from bucle.evaluate.reporting import (
    Case,
    Suite,
    broken,
    cases,
    comparison_table,
    figures_table,
    junit,
    of_story,
    summary,
)

HOSTILE = 'a<b>&"c"\x00\x1b[31m\u2028|`x`\ufffe\n<script>alert(1)</script>'


def read(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)  # noqa: S314 -- our own text


def suite() -> Suite:
    facts = GateFacts(rows=10, metrics={"accuracy": 0.8}, per_row={"accuracy": [1.0] * 8 + [0.0] * 2})
    checks = check_gates(["accuracy >= 0.5", "accuracy >= 0.9 at 95%", "token_f1 >= 0.1"], facts).checks
    return Suite("intents: lora", cases(checks))


def test_a_case_for_each_gate_with_its_figures() -> None:
    root = read(junit([suite()]))
    assert (root.tag, root.get("tests"), root.get("failures"), root.get("errors")) == ("testsuites", "3", "2", "0")
    passed, low, unmeasured = root[0]
    assert passed.find("failure") is None
    assert passed.get("classname") == "bucle.intents: lora"
    told = low.find("failure")
    assert told is not None
    assert (low.get("name"), told.text) == ("accuracy >= 0.9 at 95%", told.get("message"))
    assert str(told.text).startswith("measured 0.4")
    assert "needed 0.9. 0.8 [" in str(told.text)
    assert "was not measured" in str(unmeasured[0].text)


def test_checks_from_a_story_are_the_same_cases() -> None:
    facts = GateFacts(rows=4, metrics={"accuracy": 0.5}, per_row={"accuracy": [1.0, 0.0, 1.0, 0.0]})
    result = check_gates(["accuracy >= 0.4 at 90%"], facts)
    assert cases(result.checks) == cases(result.to_dict()["checks"])


def test_hostile_names_stay_text() -> None:
    made = [Suite(HOSTILE, [Case(HOSTILE, False, HOSTILE, note=HOSTILE)])]
    root = read(junit(made))
    assert root[0][0].get("name") == HOSTILE.replace("\x00", "").replace("\x1b", "").replace("\ufffe", "")
    text = summary(HOSTILE, made)
    assert "<script>" not in text
    assert "\x1b" not in text
    row = next(line for line in text.splitlines() if line.startswith("| ❌"))
    assert row.count("|") == 7, "one cell each, whatever is in it"


def test_an_error_is_no_failure() -> None:
    root = read(junit([broken("bucle run", "There is no file.", "Give one.")]))
    assert (root.get("failures"), root.get("errors")) == ("0", "1")
    assert root[0][0][0].text == "There is no file.\nGive one."
    assert "not measured" in summary("x", [broken("x", "y")])


def test_a_summary_counts_and_stays_within_githubs_limit() -> None:
    assert summary("T", [suite()]).startswith("### T: 2 of 3 gates failed\n")
    assert summary("T", []).startswith("### T: no gates\n")
    assert len(summary("T", [suite()], "ñ" * 2_000_000).encode()) <= 1_000_000


def test_tables() -> None:
    one = {"value": 0.5, "low": 0.4, "high": 0.6}
    assert figures_table({"f1": one}, {"f1": one}).splitlines()[2] == (
        "| f1 | 0.5000 | 0.4000 to 0.6000 | 0.5000 (0.4000 to 0.6000) |")
    row = {"name": "a|b", "ms_p95": 3.0, "usd_per_1k": 0.25, **one}
    made = comparison_table({"task": "t", "n_test": 9, "metric": "accuracy", "candidates": [row], "recommended": "a|b",
                             "why": "cheapest"})
    assert "| **a&#124;b** | 0.5000 | 0.4000 to 0.6000 | 3.0 | 0.25 |" in made


def test_a_comparison_that_recommends_nothing_fails() -> None:
    found = of_story({"gates": [], "comparisons": [{"task": "t", "recommended": "", "why": "too dear"}]})
    assert [(s.name, s.cases[0].passed, s.cases[0].told) for s in found] == [("t", False, "too dear")]


def test_a_summary_never_goes_into_a_data_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    with pytest.raises(ConfigError, match=r"is Markdown"):
        Outputs(None, str(tmp_path / "data.csv"))
    with pytest.raises(ConfigError, match="not set"):
        Outputs(None, "GITHUB_STEP_SUMMARY")
    with pytest.raises(BadInput, match="no folder"):
        Outputs(str(tmp_path / "no" / "x.xml"), None)
    with pytest.raises(BadInput, match="is a folder"):
        Outputs(str(tmp_path), None)


def test_both_are_written_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
    outputs = Outputs(str(tmp_path / "x.xml"), "GITHUB_STEP_SUMMARY")
    (tmp_path / "summary").write_text("before\n")
    with pytest.raises(GateFailed), outputs.around("bucle run"):
        raise GateFailed("No candidate keeps within the constraints.", "Loosen them.")
    with pytest.raises(ZeroDivisionError), outputs.around("bucle run"):
        print(1 / 0)
    assert read((tmp_path / "x.xml").read_text()).get("errors") == "1"
    text = (tmp_path / "summary").read_text()
    assert text.startswith("before\n### bucle run: 1 of 1 gate failed\n")
    assert text.count("### ") == 2


def test_one_gate_is_one_gate() -> None:
    assert summary("T", [Suite("a", [Case("g", True)])]).startswith("### T: 1 gate passed\n")


def test_chrf_is_from_0_to_100_and_an_unknown_price_a_question_mark() -> None:
    row = {"value": 0.34351, "low": 0.274, "high": 0.42, "ms_p95": 1.0}
    table = comparison_table({
        "task": "a", "metric": "chrf", "n_test": 1, "recommended": "x", "why": "",
        "candidates": [{**row, "name": "x", "usd_per_1k": None, "priced": False},
                       {**row, "name": "y", "value": 0.2, "usd_per_1k": 0.5}],
    })
    assert "1 held-out row\n" in table
    assert "| chrf, mean of rows |" in table
    assert "| **x** | 34.35 | 27.40 to 42.00 | 1.0 | ? |" in table
    assert "| y | 20.00 | 27.40 to 42.00 | 1.0 | 0.50 |" in table
