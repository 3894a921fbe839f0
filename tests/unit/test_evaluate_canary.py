"""Canaries: the false alarm rate and the power by simulation; a provider over the OpenAI wire that changes its model
under the same name."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from bucle.core.errors import BadInput, ConfigError, ModelUnavailable
from bucle.core.records import Usage
from bucle.evaluate.canary import AGAIN, FIRST, Answers, finds, packaged_prompts, same_model
from bucle.execute import Runner
from bucle.loop import canary as steps
from bucle.loop.canary import canary_step, check_before, measure_canary, own_prompts
from bucle.loop.judging import replies_file
from bucle.loop.model_steps import chat_model, model_step
from bucle.loop.workspace import Workspace
from bucle.models.ask import Ask, ask_all, remembered

PROMPTS = tuple(f"p{n}" for n in range(24))


def drawn(rng: random.Random, times: int, noise: float, other: int = 0) -> Answers:
    """A model that answers half of the prompts always alike, and the others in one of three wordings; `other` of the
    first ones otherwise."""
    def one(place: int) -> str:
        if place < other:
            return "quite another thing"
        noisy = place % 2 and rng.random() < noise
        return f"answer {place}" + (rng.choice(["", " indeed", ", I think"]) if noisy else "")

    return Answers(PROMPTS, tuple(tuple(one(p) for _ in range(times)) for p in range(24)), (), Usage())


@pytest.mark.parametrize("noise", [0.3, 1.0])
def test_the_false_alarm_rate_is_the_one_asked_for(noise: float) -> None:
    """400 pairs of days of one model, at 5%: between 2% and 8% are called changed (standard error 1.1%)."""
    rng = random.Random(3)
    alarms = sum(same_model(drawn(rng, FIRST, noise), drawn(rng, AGAIN, noise), alarm=0.05, seed=n, draws=499).changed
                 for n in range(400))
    assert 8 <= alarms <= 32, alarms


def test_a_model_that_never_varies_is_no_alarm_and_a_small_change_is_found() -> None:
    rng = random.Random(1)
    steady = drawn(rng, FIRST, 0.0)
    assert same_model(steady, drawn(rng, AGAIN, 0.0)).p == 1.0
    change = same_model(steady, drawn(rng, AGAIN, 0.0, other=2))
    assert (change.changed, set(change.prompts), change.compared) == (True, {0, 1}, 24)
    assert not same_model(steady, drawn(rng, AGAIN, 0.0, other=1)).changed, "one of 56 exchanges is no evidence at 1%"
    assert same_model(steady, drawn(rng, AGAIN, 0.0, other=1), alarm=0.03).changed
    with pytest.raises(BadInput, match="different prompts"):
        same_model(steady, Answers(("x",), (("y",),), (), Usage()))


def test_what_it_finds_is_what_it_says() -> None:
    rng = random.Random(5)
    reference = drawn(rng, FIRST, 1.0)
    least = finds(reference, alarm=0.01)
    assert least is not None
    assert 2 <= least <= 8
    assert finds(drawn(rng, FIRST, 0.0)) == 2
    found = sum(same_model(reference, drawn(rng, AGAIN, 1.0, other=least + 1), seed=n, draws=499).changed
                for n in range(60))
    assert found >= 40


def test_missing_answers_and_odd_sizes() -> None:
    empty = Answers(PROMPTS[:3], ((), ("a",), ("a", "b")), (), Usage())
    change = same_model(empty, Answers(PROMPTS[:3], (("x",), ("x",), ()), (), Usage()))
    assert (change.p, change.compared) == (1.0, 0)
    assert finds(empty) is None
    assert Answers.from_json(empty.to_json()) == empty
    many = Answers(("p",), (("a",) * 40,), (), Usage())
    assert same_model(many, Answers(("p",), (("b",) * 30,), (), Usage())).changed
    assert len(packaged_prompts()) == len(set(packaged_prompts())) == 24


class Provider:
    """Speaks the OpenAI wire as the model `say`, under whatever name it likes."""

    def __init__(self) -> None:
        self.say: Callable[[str], str] = lambda text: f"old {len(text)}"
        self.name, self.asked, self.status = "m-2026-01", list[dict[str, Any]](), 200
        provider = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                provider.asked.append(body)
                text = provider.say(body["messages"][-1]["content"])
                data = json.dumps({"model": provider.name, "usage": {"prompt_tokens": 5, "completion_tokens": 5},
                                   "choices": [{"message": {"content": text}, "finish_reason": "stop"}]}).encode()
                self.send_response(provider.status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads, request_queue_size = True, 128

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    one = Provider()
    opened = []

    def kept(ws: Workspace, node: str) -> Any:
        opened.append(chat_model(ws, node))
        return opened[-1]

    monkeypatch.setattr(steps, "chat_model", kept)  # to close the connections
    yield one
    for chat in opened:
        chat.close()  # type: ignore[attr-defined]
    one.server.shutdown()
    one.server.server_close()


@pytest.fixture
def ws(tmp_path: Path, provider: Provider) -> Iterator[Workspace]:
    (tmp_path / "rows.csv").write_text("text,label\na,b\n")
    (tmp_path / "bucle.yaml").write_text(
        "project: x\ntasks: {t: {kind: classify, data: rows.csv}}\nmodels:\n"
        f"  gpt: {{kind: openai, base_url: '{provider.url}', model: m, api_key_env: '', "
        "usd_per_million_in: 2, usd_per_million_out: 4}\n"
        "  mini: {kind: encoder}\n")
    one = Workspace.open(tmp_path)
    yield one
    one.close()


def test_a_provider_that_changes_its_model_is_told_with_day_and_answers(ws: Workspace, provider: Provider) -> None:
    runner = Runner(ws.ledger)
    first = measure_canary(ws, "gpt", runner)
    assert (first["verdict"], first["prompts"], first["finds"], first["usage"]["tokens_in"]) == ("first", 24, 2, 600)
    assert len(provider.asked) == 24 * FIRST
    assert {(body["temperature"], "seed" in body) for body in provider.asked} == {(0.0, False)}
    equal = measure_canary(ws, "gpt", runner)
    assert (equal["verdict"], equal["p"], equal["since"]) == ("equal", 1.0, first["at"])
    assert len(provider.asked) == 24 * (FIRST + AGAIN), "remembered replies are never used"

    provider.name = "m-2026-09"
    renamed = measure_canary(ws, "gpt", runner)
    assert (renamed["verdict"], renamed["served_now"]) == ("renamed", ["m-2026-09"])
    assert "m-2026-09, before m-2026-01" in renamed["said"]

    node = model_step(ws, runner, "gpt", "", {})["model"]
    with remembered(replies_file(ws)):
        ask_all(steps.chat_model(ws, node), [Ask([{"role": "user", "content": "q"}], 5)])
    provider.say = lambda text: f"new {len(text)}\x1b[2J" if len(text) % 2 else f"old {len(text)}"
    changed = measure_canary(ws, "gpt", runner)
    assert changed["verdict"] == "changed"
    assert changed["p"] <= 0.01
    assert changed["since"] == renamed["at"]
    assert changed["said"].startswith(f"gpt is no longer the model it was on {renamed['at'][:10]}")
    odd = [prompt for prompt in packaged_prompts() if len(prompt) % 2]
    assert {one["prompt"] for one in changed["changes"]} == set(odd)
    assert changed["changes"][0]["before"].startswith("old")
    assert "\x1b" not in changed["changes"][0]["now"]
    assert changed["forgotten"] == 1
    again = measure_canary(ws, "gpt", runner)
    assert (again["verdict"], again["since"], again["forgotten"]) == ("changed", renamed["at"], 0)
    accepted = measure_canary(ws, "gpt", runner, accept=True)
    assert accepted["verdict"] == "first"
    assert measure_canary(ws, "gpt", runner)["verdict"] == "equal"
    assert sum(node.attrs["role"] == "reference" for node in ws.ledger.nodes("canary")) == 2


def test_the_step_asks_once_a_day_and_refuses_what_is_not_remote(ws: Workspace, provider: Provider) -> None:
    runner = Runner(ws.ledger)
    node = model_step(ws, runner, "gpt", "", {})["model"]
    assert canary_step(ws, runner, "gpt", node).figures["verdict"] == "first"
    asked = len(provider.asked)
    assert canary_step(ws, runner, "gpt", node).cached
    assert len(provider.asked) == asked
    spent = check_before(ws, runner, {"gpt": node}, ["gpt", "mini"])
    assert (spent.usd, len(provider.asked)) == (pytest.approx(asked * 5 * (2 + 4) / 1e6), asked)
    assert spent.seconds > 0
    provider.say = lambda text: f"new {len(text)}"
    check_before(ws, runner, {"gpt": node}, ["gpt"], about=["b", "a"])
    now = len(provider.asked)
    assert now > asked, "something new is about to be asked"
    assert measure_canary_verdicts(ws) == ["first", "changed"], "on the same day"
    assert check_before(ws, runner, {"gpt": node}, ["gpt"], about=["a", "b", "a"]).usd < spent.usd
    assert len(provider.asked) == now
    for name in ("mini", "nobody"):
        with pytest.raises(ConfigError, match="no remote model"):
            measure_canary(ws, name, runner)
    provider.status = 404
    with pytest.raises(ModelUnavailable):
        measure_canary(ws, "gpt", runner, accept=True)
    assert measure_canary_verdicts(ws) == ["first", "changed"], "a provider that refuses is no change"


def test_a_model_that_thinks_first_gets_more_tokens(ws: Workspace, provider: Provider) -> None:
    provider.say = lambda text: "" if len(provider.asked) <= 24 * FIRST else f"old {len(text)}"
    assert measure_canary(ws, "gpt", Runner(ws.ledger))["verdict"] == "first"
    assert [body["max_tokens"] for body in provider.asked] == [80] * 24 * FIRST + [2000] * 24 * FIRST
    provider.say = lambda text: " "
    with pytest.raises(ModelUnavailable, match="with nothing"):
        measure_canary(ws, "gpt", Runner(ws.ledger))


def measure_canary_verdicts(ws: Workspace) -> list[str]:
    return [str(node.attrs["verdict"]) for node in ws.ledger.nodes("canary")]


def test_a_team_s_own_prompts(ws: Workspace, provider: Provider, tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_bytes("\ufeffuno\r\n\r\ndos ñ\r\ntres\r\ndos ñ\r\ncuatro\r\ncinco".encode())
    assert own_prompts(file) == ("uno", "dos ñ", "tres", "cuatro", "cinco")
    first = measure_canary(ws, "gpt", Runner(ws.ledger), prompts=own_prompts(file))
    assert (first["verdict"], first["prompts"]) == ("first", 5)
    assert measure_canary(ws, "gpt", Runner(ws.ledger))["prompts"] == 5
    for content in (b"", b"one\n", b"\xff\xfe\x00", "\n".join(map(str, range(500))).encode()):
        file.write_bytes(content)
        with pytest.raises(BadInput):
            own_prompts(file)
    with pytest.raises(BadInput):
        own_prompts(tmp_path / "none.txt")
