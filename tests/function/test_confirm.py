"""`bucle evaluate confirm` and `bucle evaluate bias` on a small project: rows held back from everything, and rows asked
again with a name changed."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import answer, bucle, told
from small_project import SAMPLE, build_tiny


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = build_tiny(tmp_path_factory.mktemp("confirm") / "p", rows=400)
    text = (folder / "bucle.yaml").read_text("utf-8")
    (folder / "bucle.yaml").write_text(text.replace("- accuracy >= 0.1", "- accuracy >= 0.1\n    - bias_flips <= 0.9"))
    done = bucle("run", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = (SAMPLE / "data" / "mensajes.tsv").read_text("utf-8").splitlines(keepends=True)
    (folder / "fresh.tsv").write_text(lines[0] + "".join(lines[401:]), "utf-8")
    return folder


def test_the_choice_is_tried_on_rows_held_back_from_all_of_it(project: Path) -> None:
    found = answer("evaluate", "confirm", project / "fresh.tsv", "-p", project)
    rows = len((project / "fresh.tsv").read_text("utf-8").splitlines()) - 1
    assert rows - 20 < found["rows"] <= rows
    by = {c["name"]: c for c in found["candidates"]}
    assert set(by) == {"majority", "nearest", "tfidf"}
    assert found["recommended"] == "tfidf"
    assert found["holds"]
    assert found["again"] == "tfidf"
    assert by["majority"]["difference"]["high"] < 0 < by["tfidf"]["low"]
    assert "stands" in (text := told("evaluate", "confirm", project / "fresh.tsv", "-p", project)) or "again" in text


def test_a_choice_that_does_not_stand_is_told(project: Path) -> None:
    """Rows on which the label of the majority is right: there `tfidf` was the wrong choice."""
    comparison = answer("report", project)["comparisons"][0]
    assert comparison["recommended"] == "tfidf"
    lines = (project / "fresh.tsv").read_text("utf-8").splitlines()
    said = lines[0].split("\t").index("intencion")
    rows = [line.split("\t") for line in lines[1:]]
    counts: dict[str, int] = {}
    for line in (project / "data" / "mensajes.tsv").read_text("utf-8").splitlines()[1:]:
        label = line.split("\t")[said]
        counts[label] = counts.get(label, 0) + 1
    common = max(counts, key=lambda label: counts[label])
    turned = ["\t".join([*row[:said], common, *row[said + 1 :]]) for row in rows]
    (project / "turned.tsv").write_text("\n".join([lines[0], *turned]), "utf-8")
    found = answer("evaluate", "confirm", project / "turned.tsv", "-p", project, code=1)
    assert not found["holds"]
    assert found["better"][0] == "majority"


def test_names_and_genders_are_changed_and_gated(project: Path) -> None:
    found = answer("evaluate", "bias", "-p", project)
    assert found["candidate"] == "tfidf"
    assert found["rows"] == len(found["per_row"]) > 0
    assert 0 <= found["bias_flips"]["low"] <= found["bias_flips"]["value"] <= found["bias_flips"]["high"] <= 1
    assert all(flip["input"] != flip["changed"] for flip in found["flips"])
    checks = answer("report", project)["gates"][0]["checks"]
    gate = next(check for check in checks if check["gate"] == "bias_flips <= 0.9")
    assert gate["passed"]
    assert gate["measured"] == pytest.approx(found["bias_flips"]["value"])
