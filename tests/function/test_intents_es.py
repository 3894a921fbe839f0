"""On real data (a Spanish intents collection): init, run, evaluate. What is recommended does at least as well on unseen
rows as a TF-IDF logistic regression written here, and every candidate that does not beat the baseline is told so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from command import answer, bucle, told

DATA = Path(__file__).parents[3] / "shared" / "data" / "intents-es"
RUNGS = ("zero-shot", "few-shot", "chain-of-thought", "frozen-encoder", "hybrid-head", "lora", "full", "distilled")
pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(not (DATA / "train.tsv").is_file(), reason=f"the collection is not in {DATA}"),
]


@pytest.mark.slow
def test_quick_with_an_encoder_and_the_baselines(tmp_path: Path) -> None:
    folder = initialised(tmp_path / "intents")
    settings = folder / "bucle.yaml"
    body = yaml.safe_load(settings.read_text("utf-8"))
    del body["models"]["nano"]
    body["choose"] = {"candidates": ["frozen-encoder"]}
    settings.write_text(yaml.safe_dump(body, allow_unicode=True, sort_keys=False), "utf-8")
    as_good_and_honest(folder)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_rung(tmp_path: Path) -> None:
    """Every rung of the ladder has its interval in the table, and the choice stands on the rows held back from all."""
    folder = initialised(tmp_path / "intents")
    settings = folder / "bucle.yaml"
    body = yaml.safe_load(settings.read_text("utf-8"))
    body["choose"] = {"candidates": list(RUNGS)}
    settings.write_text(yaml.safe_dump(body, allow_unicode=True, sort_keys=False), "utf-8")
    as_good_and_honest(folder)
    found = answer("evaluate", "confirm", DATA / "eval.tsv", "-p", folder, timeout=1800)
    for c in found["candidates"]:
        print(f"{c['name']:<22} {c['value']:.4f} [{c['low']:.4f}, {c['high']:.4f}] chosen by {c['before']:.4f}")
    assert {c["name"].split("/")[0] for c in found["candidates"]} == {"majority", "nearest", "tfidf", *RUNGS}
    assert all(c["low"] < c["value"] < c["high"] for c in found["candidates"])
    assert found["holds"], found["better"]


def initialised(folder: Path) -> Path:
    """A project of train.tsv, which has no header: the columns are guessed."""
    made = answer("init", folder, "--from", DATA / "train.tsv")
    assert (made["rows"], len(made["labels"])) == (3617, 12)
    assert made["next"] == f"bucle run {folder}"
    return folder


def as_good_and_honest(folder: Path) -> None:
    done = bucle("run", folder, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    found = answer("evaluate", DATA / "eval.tsv", "-p", folder)
    reference = tfidf_logistic_regression()
    accuracy = found["metrics"]["accuracy"]
    print(f"{found['candidate']}: {accuracy['value']:.4f} [{accuracy['low']:.4f}, {accuracy['high']:.4f}] on "
          f"{accuracy['n']} rows; TF-IDF logistic regression {reference:.4f}")
    assert found["rows"] == len(rows("eval.tsv"))
    assert accuracy["value"] >= reference
    assert accuracy["low"] < accuracy["value"] < accuracy["high"]
    assert accuracy["high"] - accuracy["low"] < 0.03

    comparison = answer("report", folder)["comparisons"][0]
    assert comparison["recommended"] == found["candidate"]
    text = told("choose", "-p", folder)
    page = Path(told("report", folder, "--language", "en", "-o", folder / "en.html").strip()).read_text("utf-8")
    for c in comparison["candidates"]:
        if c["name"] != comparison["best_baseline"] and c["diff_low"] <= 0:
            assert c["verdict"] in ("ties", "loses", "ruled_out"), c["name"]
        says = {"beats": "beats the baseline", "ties": "does not beat the baseline", "loses": "worse than the baseline",
                "ruled_out": "ruled out", "": "the baseline"}[c["verdict"]]
        assert re.search(rf"^{re.escape(c['name'])}( \*)? .*{says}", text, re.MULTILINE), (c["name"], text)
        assert in_report(page, c), c["name"]


def in_report(page: str, candidate: dict[str, Any]) -> bool:
    """Whether the row of the candidate in the report's comparison says what the comparison found."""
    words = {"beats": "beats the baseline", "ties": "does not beat the baseline", "loses": "does not beat the baseline",
             "ruled_out": "ruled out"}
    says = "baseline" if candidate["baseline"] else words[candidate["verdict"]]
    row = re.search(rf"<tr[^>]*>(?:(?!</tr>).)*?{re.escape(candidate['name'])}(?:(?!</tr>).)*</tr>", page, re.DOTALL)
    return bool(row) and says in row[0].lower()


def rows(name: str) -> list[tuple[str, str]]:
    """(text, label) of each line: label, slots, text, separated by tabs."""
    cells = [line.split("\t") for line in (DATA / name).read_text("utf-8").splitlines() if line.strip()]
    return [(line[2].strip(), line[0].strip()) for line in cells]


def tfidf_logistic_regression() -> float:
    """Accuracy on eval.tsv of words and characters by TF-IDF with logistic regression, fitted on all of train.tsv."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    features = make_union(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
                          TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True))
    model = make_pipeline(features, LogisticRegression(C=10, max_iter=2000))
    train, held_out = rows("train.tsv"), rows("eval.tsv")
    model.fit(*zip(*train, strict=True))
    return float(model.score(*zip(*held_out, strict=True)))
