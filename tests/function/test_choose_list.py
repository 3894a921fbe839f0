"""`bucle choose` before a token is spent: who is ruled out and why, what the models are, tokens, costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from command import answer, bucle, told
from small_project import build_tiny

OPENAI, MISTRAL = "https://api.openai.com/v1", "https://api.mistral.ai/v1"
MODELS = {
    "mini": {"kind": "openai", "base_url": OPENAI, "model": "gpt-4o-mini"},
    "old": {"kind": "openai", "base_url": OPENAI, "model": "gpt-4"},
    "small": {"kind": "openai", "base_url": MISTRAL, "model": "mistral-small-2603"},
    "ghost": {"kind": "openai", "base_url": "https://models.example.com/v1", "model": "ghost-1"},
    "minilm": {"kind": "encoder"},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows read, nothing fitted nor asked: no key is set, and no provider could be reached."""
    made = build_tiny(tmp_path_factory.mktemp("choose") / "p", models=MODELS)
    assert bucle("run", made, "--until", "data").returncode == 0
    return made


def configured(project: Path, tmp_path: Path, **changes: Any) -> Path:
    """The same project with other settings, over the rows that it has read."""
    import shutil

    folder = tmp_path / "p"
    shutil.copytree(project, folder)
    body = yaml.safe_load((folder / "bucle.yaml").read_text("utf-8")) | changes
    (folder / "bucle.yaml").write_text(yaml.safe_dump(body, allow_unicode=True), "utf-8")
    return folder


def listed(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["candidate"]: row for row in answer("choose", "--list", "-p", folder)["candidates"]}


def test_without_limits_nobody_is_ruled_out_and_prices_are_a_forecast_of_the_own_rows(project: Path) -> None:
    rows = listed(project)
    assert {name for name, row in rows.items() if row["ruled_out"]} == set()
    low, high = rows["zero-shot/mini"]["usd_per_1k"]
    assert 0.005 < low < high < 0.2  # some 100 to 300 tokens in, few out, at 0.15 and 0.60 dollars a million
    assert rows["zero-shot/ghost"]["usd_per_1k"] is None
    assert rows["tfidf"]["baseline"]
    assert rows["zero-shot/small"]["models"]["small"]["licence_name"] == "Apache-2.0"


def test_each_one_ruled_out_says_why_and_baselines_stay(project: Path, tmp_path: Path) -> None:
    folder = configured(project, tmp_path, choose={"constraints": {
        "licence": "open", "residency": ["eu"], "usd_per_1k": 1, "languages": ["es"]}})
    rows = listed(folder)
    assert rows["majority"]["ruled_out"] == rows["tfidf"]["ruled_out"] == rows["zero-shot/small"]["ruled_out"] == []
    old = " ".join(rows["zero-shot/old"]["ruled_out"])
    assert "its licence is `commercial`" in old
    assert "prompts are processed in us" in old
    assert "dollars for a thousand requests; 1 is the limit" in old
    assert sum("not known" in reason for reason in rows["zero-shot/ghost"]["ruled_out"]) == 3
    assert "not said to know es" in rows["frozen-encoder/minilm"]["ruled_out"][0]
    text = told("choose", "--list", "-p", folder)
    assert "ruled out before a token is spent" in text
    assert "genai-prices" in text
    assert "checked up to 20" in text


def test_the_teams_own_entries_decide(project: Path, tmp_path: Path) -> None:
    folder = configured(
        project, tmp_path, choose={"constraints": {"licence": "open", "residency": ["eu"], "usd_per_1k": 1}},
        catalogue={"ghost": {"licence": "open", "residency": ["eu"], "usd_per_million_in": 0.1,
                             "usd_per_million_out": 0.1}, "mistral-small-2603": {"licence": "research"}})
    rows = listed(folder)
    assert rows["zero-shot/ghost"]["ruled_out"] == []
    assert rows["zero-shot/ghost"]["usd_per_1k"][0] > 0
    assert "`research`" in rows["zero-shot/small"]["ruled_out"][0]


@pytest.mark.slow
def test_a_row_that_a_model_cannot_read_rules_it_out(tmp_path: Path) -> None:
    folder = build_tiny(tmp_path / "p", models={"old": MODELS["old"]})
    data = folder / "data" / "mensajes.tsv"
    head, *rows = data.read_text("utf-8").splitlines()
    at = head.split("\t").index("texto")
    cells = rows[0].split("\t")
    cells[at] = "la factura de la luz no llega " * 1500  # some 9,000 words for a window of 8,192 tokens
    data.write_text("\n".join([head, "\t".join(cells), *rows[1:]]) + "\n", "utf-8")
    assert bucle("run", folder, "--until", "data").returncode == 0
    [reason] = listed(folder)["zero-shot/old"]["ruled_out"]
    assert reason.startswith("old: reads 8,19")
    assert "longest" in reason


def test_a_machine_of_the_teams_own_is_held_to_the_month_too(project: Path, tmp_path: Path) -> None:
    hosting = {"usd_per_hour": 0.4, "requests_per_second": 10}
    folder = configured(project, tmp_path, choose={"constraints": {"usd_per_month": 10}, "costs": hosting})
    rows = listed(folder)
    assert "292.00 of them for machines" in rows["frozen-encoder/minilm"]["ruled_out"][0]
    assert rows["zero-shot/mini"]["ruled_out"] == []
    assert rows["tfidf"]["ruled_out"] == []


def test_costs_before_any_run_are_a_forecast_of_the_files_rows(tmp_path: Path) -> None:
    priced = {**MODELS["ghost"], "usd_per_million_in": 1.0, "usd_per_million_out": 2.0}
    folder = build_tiny(tmp_path / "p", models={"stated": priced, "ghost": MODELS["ghost"]})
    [task] = answer("choose", "cost", "-p", folder)["tasks"]
    rows = {row["candidate"]: row for row in task["candidates"]}
    assert 0 < rows["zero-shot/stated"]["usd_per_1k"][0] < rows["zero-shot/stated"]["usd_per_1k"][1]
    assert task["api"]["name"] == "zero-shot/stated"
    assert rows["zero-shot/ghost"]["usd_per_1k"] is None
    text = told("choose", "cost", "-p", folder)
    assert "?: the price of ghost is not known" in text
    assert "no candidate pays" not in text
    (folder / "data" / "mensajes.tsv").unlink()
    without = told("choose", "cost", "-p", folder)
    assert "?: the rows have not been read yet" in without
    assert "no price of a provider is known" in without


def test_before_any_rows_are_read_it_says_that_they_are_not_checked(tmp_path: Path) -> None:
    folder = build_tiny(tmp_path / "p", models={"old": MODELS["old"]}, choose={"constraints": {"usd_per_1k": 0.001}})
    assert answer("choose", "--list", "-p", folder)["rows_read"] is False
    text = told("choose", "--list", "-p", folder)
    assert "have not been read yet" in text
    assert "bucle run --until data" in text


def test_the_catalogue_is_searched_outside_any_project(tmp_path: Path) -> None:
    found = answer("choose", "models", "--licence", "open", "--residency", "eu", "--language", "es", cwd=tmp_path)
    assert found["fit"] == len(found["models"]) > 0
    assert {model["licence"] for model in found["models"]} == {"open"}
    assert found["ruled_out"] > 1000
    every = answer("choose", "models", "--search", "gpt-4o-mini", "--provider", "openai", "--residency", "eu", "--all",
                   cwd=tmp_path)
    assert any("processed in us" in model["ruled_out"] for model in every["models"])
    text = told("choose", "models", "--provider", "ovhcloud", "--limit", "3", cwd=tmp_path)
    assert "genai-prices" in text
    assert "more (--limit" in text
    for wrong in (("--task", "dance"), ("--max-usd-per-1k", "-1"), ("--context", "0"),
                  ("--provider", "nobody"), ("--residency", "moon"), ("--language", "xx")):
        assert bucle("choose", "models", *wrong, cwd=tmp_path).returncode == 2


def test_tokens_are_counted_of_a_text_and_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "texto.txt").write_bytes("\ufeffHola, ¿qué tal?\r\n".encode())
    (tmp_path / "latin.txt").write_bytes("ñ".encode("latin-1"))
    found = answer("choose", "tokens", "--file", "texto.txt", "-m", "claude-opus-4-5", "--completion", "Bien",
                   cwd=tmp_path)
    assert found["how"] == "estimate"
    assert found["prompt"]["low"] <= found["prompt"]["tokens"] <= found["prompt"]["high"]
    assert found["completion"]["tokens"] >= 1
    for args, says in ((("--file", "latin.txt", "-m", "x"), "not UTF-8"), (("-m", "x"), "a text or a file"),
                       (("--file", "no.txt", "-m", "x"), "does not exist"), (("hola", "-m", " "), "Which model")):
        done = bucle("choose", "tokens", *args, cwd=tmp_path)
        assert (done.returncode, "Traceback" in done.stderr) == (2, False)
        assert says in done.stderr


def test_costs_are_a_forecast_before_anything_ran_and_a_picture_shows_them(project: Path, tmp_path: Path) -> None:
    found = answer("choose", "cost", "-p", project, "--requests-per-month", "100000", "--usd-per-hour", "0.5",
                   "--requests-per-second", "2", "--plot", tmp_path / "costs.png")
    [task] = found["tasks"]
    rows = {row["candidate"]: row for row in task["candidates"]}
    mini, own = rows["zero-shot/mini"], rows["frozen-encoder/minilm"]
    assert not mini["measured"]
    assert mini["month"][0]["usd"] == pytest.approx(mini["usd_per_1k"][0] * 100)
    assert rows["zero-shot/ghost"]["month"] is None  # its price is not known
    assert own["month"][0]["hosting"] == pytest.approx(0.5 * 730)
    price = task["api"]["usd_per_1k"]
    assert own["break_even"]["requests"] is None or own["break_even"]["requests"] == pytest.approx(
        365_000 / price, rel=0.01)
    assert (tmp_path / "costs.png").read_bytes()[:4] == b"\x89PNG"
    stated = answer("choose", "cost", "-p", project, "--usd-per-hour", "0.5", "--requests-per-second", "2",
                    "--api-usd-per-1k", "1")["tasks"][0]
    even = {row["candidate"]: row for row in stated["candidates"]}["frozen-encoder/minilm"]["break_even"]
    assert (even["requests"], even["replicas"]) == (365_000, 1)
    text = told("choose", "cost", "-p", project)
    assert "assumed: the machine is free" in text
    assert "forecast" in text
    wrong = bucle("choose", "cost", "-p", project, "--plot", tmp_path / "no" / "costs.png", "--json")
    assert wrong.returncode == 2
    assert "There is no folder" in json.loads(wrong.stdout)["error"]["message"]


def test_the_group_still_compares_without_a_verb_and_lists_its_verbs() -> None:
    text = told("choose", "--help")
    for word in ("--list", "--json", "--project", "models", "tokens", "cost"):
        assert word in text
    done = bucle("choose", "modls")
    assert done.returncode == 2
    assert "modls" in done.stderr
