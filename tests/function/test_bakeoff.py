"""The bake-off through the command line, against a peer that speaks the OpenAI wire: who is ruled out before a token is
spent, who is not climbed, who is screened out on few rows, and what is compared on rows that no search ever saw."""

from __future__ import annotations

import csv
import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from command import answer, bucle, told
from small_project import build_tiny

SKILL = {"strong": 0.97, "poor": 0.3, "dear": 0.97, "forbidden": 0.99, "slow": 0.99}
"""The share of messages that each of the peer's models gets right."""


class Peer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, truth: dict[str, str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.truth, self.asked, self.lock = truth, Counter[str](), threading.Lock()
        self.calls, self.same = Counter[str](), True
        self.tokens, self.late = 100, {"slow": 2.5}
        self.labels = sorted(set(truth.values()))

    def answer(self, model: str, text: str) -> str:
        chance = int(hashlib.sha256(f"{model.split('-')[0]} {text}".encode()).hexdigest(), 16) % 1000 / 1000
        right = self.truth.get(text, "")
        if not right:
            return f"{model}: {len(text)}"
        wrong = [label for label in self.labels if label != right]
        return right if chance < SKILL[model] else wrong[len(text) % len(wrong)]


class _Handler(BaseHTTPRequestHandler):
    server: Peer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        asked = body["messages"][-1]["content"]
        with self.server.lock:
            self.server.calls[body["model"]] += 1
            self.server.asked[body["model"]] += asked in self.server.truth  # the rest are canaries
        time.sleep(self.server.late.get(body["model"], 0.0) if asked in self.server.truth else 0.0)
        text = self.server.answer(body["model"] if self.server.same else "poor", asked)
        reply = {
            "model": body["model"],
            "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": self.server.tokens, "completion_tokens": 4},
        }
        data = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    folder = build_tiny(tmp_path / "p", rows=700)
    with (folder / "data" / "mensajes.tsv").open(encoding="utf-8") as file:
        truth = {row["texto"]: row["intencion"] for row in csv.DictReader(file, delimiter="\t")}
    server = Peer(truth)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def project(folder: Path, peer: Peer, **choose: Any) -> Path:
    body = yaml.safe_load((folder / "bucle.yaml").read_text("utf-8"))
    body["split"] = {"test": 0.3, "validation": 0.3}
    body["models"] = {
        name: {"kind": "openai", "base_url": f"http://127.0.0.1:{peer.server_port}/v1", "model": name,
               "api_key_env": "", "usd_per_million_in": price, "usd_per_million_out": price}
        for name, price in (("poor", 0.1), ("strong", 0.1), ("dear", 1000.0), ("forbidden", 0.1), ("slow", 0.1))
    }
    body["catalogue"] = {
        name: {"licence": "research" if name == "forbidden" else "commercial", "residency": ["eu"]}
        for name in body["models"]
    }
    body["choose"] = {"candidates": ["zero-shot"], **choose}
    (folder / "bucle.yaml").write_text(yaml.safe_dump(body, sort_keys=False), "utf-8")
    return folder


def test_the_cheapest_that_is_proven_good_enough(tmp_path: Path, peer: Peer) -> None:
    folder = project(
        tmp_path / "p", peer,
        constraints={"licence": "commercial", "p95_ms": 2000},
        costs={"usd_per_point": 10, "requests_per_month": 100_000},
        budget={"samples": 1500},
    )
    found = answer("choose", "-p", folder)["comparisons"][0]
    by = {c["name"]: c for c in found["candidates"]}
    assert found["recommended"] == "zero-shot/strong", found["why"]
    assert {"majority", "nearest", "tfidf", "zero-shot/strong"} <= set(by)  # baselines are always in the table

    out = {c["name"]: c for c in found["ruled_out"]}
    assert set(out) == {"zero-shot/forbidden", "zero-shot/slow"}
    assert "measured" in out["zero-shot/slow"]["reasons"][0]  # who breaks a limit beats nobody, and is asked no more
    assert peer.asked["slow"] == 40
    assert "research" in out["zero-shot/forbidden"]["reasons"][0]
    assert peer.calls["forbidden"] == 0  # before a token was spent

    not_climbed = {c["name"]: c for c in found["not_climbed"]}
    assert set(not_climbed) == {"zero-shot/dear"}  # $10,000 a month for what ten dollars a point can never pay
    assert not_climbed["zero-shot/dear"]["why"]["key"] == "does_not_pay"
    assert peer.asked["dear"] == 0

    screened = {c["name"]: c for c in found["screened"]}
    assert set(screened) == {"zero-shot/poor"}
    assert screened["zero-shot/poor"]["why"] == "worse"
    assert screened["zero-shot/poor"]["low"] < 0.35 < screened["zero-shot/poor"]["high"] + 0.1
    assert peer.asked["poor"] == screened["zero-shot/poor"]["rows"] < found["search"]["rows"]
    assert "zero-shot/poor" not in by
    assert found["n_test"] < peer.asked["strong"] <= found["n_test"] + found["search"]["rows"]
    assert by["zero-shot/strong"]["usd_per_month"] == pytest.approx(100_000 * 104 * 0.1 / 1e6)
    shown = told("choose", "-p", folder)
    for part in ("zero-shot/forbidden", "research", "zero-shot/dear", "zero-shot/poor"):
        assert part in shown, shown

    before = dict(peer.asked)
    assert answer("choose", "-p", folder)["comparisons"][0]["recommended"] == "zero-shot/strong"
    assert dict(peer.asked) == before  # nothing is asked twice


@pytest.mark.slow
def test_a_budget_in_dollars_holds(tmp_path: Path, peer: Peer) -> None:
    folder = project(tmp_path / "p", peer, budget={"usd": 0.05}, models=["strong", "dear"])
    found = answer("choose", "-p", folder)["comparisons"][0]
    assert {c["name"]: c["why"]["key"] for c in found["not_climbed"]} == {"zero-shot/dear": "over_usd"}
    assert peer.asked["dear"] == 0
    assert found["recommended"] == "zero-shot/strong"


@pytest.mark.slow
def test_another_metric_reuses_what_was_said(tmp_path: Path, peer: Peer) -> None:
    folder = project(tmp_path / "p", peer, models=["strong"])
    answer("choose", "-p", folder)
    asked = peer.asked["strong"]
    text = (folder / "bucle.yaml").read_text("utf-8")
    (folder / "bucle.yaml").write_text(text.replace("kind: classify", "kind: classify\n    metrics: [exact_match]"))
    done = bucle("choose", "-p", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "exact_match" in done.stdout
    assert peer.asked["strong"] == asked


@pytest.mark.slow
def test_a_provider_that_changes_its_model_is_told(tmp_path: Path, peer: Peer) -> None:
    folder = project(tmp_path / "p", peer, models=["strong"])
    first = answer("choose", "-p", folder)
    assert [c["state"] for c in first["canaries"]] == ["first"]
    value = next(c["value"] for c in first["comparisons"][0]["candidates"] if c["name"] == "zero-shot/strong")
    peer.same = False
    found = answer("evaluate", "canary", "strong", "-p", folder, code=1)["models"][0]
    assert found["verdict"] == "changed", found
    accepted = answer("evaluate", "canary", "strong", "--accept", "-p", folder)["models"][0]
    assert accepted["verdict"] == "first"
    again = answer("choose", "-p", folder)["comparisons"][0]  # figures of a model that is gone are not kept
    assert next(c["value"] for c in again["candidates"] if c["name"] == "zero-shot/strong") < value - 0.3
    assert again["recommended"] == "tfidf"


def test_without_money_nobody_is_asked(tmp_path: Path, peer: Peer) -> None:
    folder = project(tmp_path / "p", peer, budget={"usd": 0}, models=["strong", "poor"])
    found = answer("choose", "-p", folder)["comparisons"][0]
    assert {c["why"]["key"] for c in found["not_climbed"]} == {"over_usd"}
    assert not peer.calls
    assert found["spent"] == {"usd": 0.0, "canary_usd": 0.0, "judge_usd": 0.0}


@pytest.mark.slow
def test_a_bill_that_is_higher_than_forecast_ends_the_spending(tmp_path: Path, peer: Peer) -> None:
    peer.tokens = 20_000
    folder = project(tmp_path / "p", peer, budget={"usd": 0.4}, models=["strong", "poor"])
    found = answer("choose", "-p", folder)["comparisons"][0]
    billed = sum(peer.calls.values()) * 20_004 * 0.1 / 1e6
    assert found["spent"]["usd"] + found["spent"]["canary_usd"] == pytest.approx(billed, rel=0.01)
    assert billed <= 0.4 + 40 * 20_004 * 0.1 / 1e6  # one look may be more than was thought
    assert {c["why"]["key"] for c in found["not_climbed"]} == {"over_usd"}
    assert found["recommended"] == "tfidf"


@pytest.mark.slow
def test_the_order_in_bucle_yaml_decides_nothing(tmp_path: Path, peer: Peer) -> None:
    chosen = []
    for n, dear_first in enumerate((True, False)):
        folder = project(build_tiny(tmp_path / str(n), rows=700), peer, costs={"usd_per_point": 3})
        body = yaml.safe_load((folder / "bucle.yaml").read_text("utf-8"))
        twin = body["models"]["strong"] | {"usd_per_million_in": 50.0, "usd_per_million_out": 50.0}
        pair = {"costly": twin, "strong": body["models"]["strong"]}
        body["models"] = pair if dear_first else dict(reversed(pair.items()))
        body["catalogue"] = {}
        (folder / "bucle.yaml").write_text(yaml.safe_dump(body, sort_keys=False), "utf-8")
        chosen.append(answer("choose", "-p", folder)["comparisons"][0]["recommended"])
    assert chosen == ["zero-shot/strong", "zero-shot/strong"]


@pytest.mark.slow
def test_a_dead_provider_holds_nobody_up(tmp_path: Path, peer: Peer) -> None:
    folder = project(tmp_path / "p", peer, models=["poor", "strong"])
    text = (folder / "bucle.yaml").read_text("utf-8")
    dead = text.replace(f"127.0.0.1:{peer.server_port}/v1", "127.0.0.1:9/v1", 1)  # `poor` comes first
    (folder / "bucle.yaml").write_text(dead)
    assert answer("choose", "-p", folder, code=3)["error"]["kind"] == "ModelUnavailable"
    asked = peer.asked["strong"]
    assert asked > 0
    (folder / "bucle.yaml").write_text(dead.replace("- poor\n", ""))
    assert answer("choose", "-p", folder)["comparisons"][0]["recommended"] == "zero-shot/strong"
    assert peer.asked["strong"] == asked
