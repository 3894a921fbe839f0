"""A search for a better prompt against a peer whose answers depend on the prompt: what helps is found, what does not
help is said; within the budget, resumed, and never with a held-out row shown."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml
from chat_peer import Peer, remote

from bucle.core.errors import BadInput, BucleError, NotFound
from bucle.core.ports import ChatReply
from bucle.core.records import Usage
from bucle.customise.prompt.store import keep, listed, resolve
from bucle.execute import QuietDisplay
from bucle.loop.budget import Budget, BudgetSpent, Metered
from bucle.loop.improve import improve
from bucle.loop.improve_looks import confirmed_before, looked_at_before
from bucle.loop.run import run
from bucle.loop.workspace import Workspace
from bucle.models.ask import Ask, ask_all
from bucle.models.remote import OpenAIChat

LABELS = ("alta", "baja", "avería")
WORDS = {"alta": "contratar", "baja": "cancelar", "avería": "roto"}
MAGIC = "urgencia"


def _text(n: int) -> str:
    label = LABELS[n % 3]
    return f"mensaje {n * 7919 % 1000} quiero {WORDS[label]} cosa{n} zona{n % 17}"


TRUTH = {_text(n): LABELS[n % 3] for n in range(180)}


def _luck(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest()[:6], 16) % 100


def says(messages: list[dict[str, str]], body: Mapping[str, Any], *, gain: int) -> str:
    """Right for 55 of 100 rows; for `gain` more where the instruction holds the word."""
    system = messages[0]["content"]
    if messages[0]["role"] == "user":  # somebody asks for instructions
        if "instructions" not in system:  # a question of `bucle run` that is about no row
            return "no"
        new = [f"Clasifica el mensaje. Mira la {MAGIC} de la persona.", "Clasifica bien {% for %}", "Clasifica pronto."]
        return json.dumps({"instructions": new})
    text = messages[-1]["content"]
    right = _luck(text) < 55 + (gain if MAGIC in system else 0)
    return TRUTH[text] if right else LABELS[(LABELS.index(TRUTH[text]) + 1) % 3]


@contextmanager
def project(folder: Path, gain: int, choose: Mapping[str, Any] | None = None,
            **more: Any) -> Iterator[tuple[Workspace, Peer]]:
    with remote(lambda messages, body: says(messages, body, gain=gain)) as (_, peer):
        (folder / "data").mkdir(parents=True, exist_ok=True)
        lines = ["texto\tintencion", *(f"{text}\t{label}" for text, label in TRUTH.items())]
        (folder / "data" / "m.tsv").write_text("\n".join(lines) + "\n", "utf-8")
        body = {
            "project": "p", "language": "es",
            "models": {"gpt": {"kind": "openai", "base_url": peer.url, "model": "m", "api_key_env": "",
                               "usd_per_million_in": 1.0, "usd_per_million_out": 2.0}},
            "data": {"near_duplicates": 0.99}, "choose": dict(choose or {}),
            "tasks": {"intenciones": {"kind": "classify", "data": "data/m.tsv", "text": "texto", "label": "intencion",
                                      "split": {"test": 0.3, "validation": 0.25}, **more}},
        }
        (folder / "bucle.yaml").write_text(yaml.safe_dump(body, allow_unicode=True), "utf-8")
        ws = Workspace.open(folder)
        try:
            yield ws, peer
        finally:
            ws.close()


def test_what_helps_is_found_confirmed_and_saved(tmp_path: Path) -> None:
    with project(tmp_path, gain=40) as (ws, peer):
        found = improve(ws, "intenciones", QuietDisplay(), rounds=2, alias="next")
        assert found["helped"], found["why"]
        assert MAGIC in found["chosen"]["spec"]["system"]
        gap = found["confirmed"]["difference"]
        assert gap["low"] > 0.15
        assert gap["n"] == found["rows"]["confirm"]
        assert found["saved"]["title"] == "intenciones@1"
        stored = resolve(ws.ledger, "intenciones@next")
        assert MAGIC in stored.spec.system
        assert "{%" not in stored.spec.system, "a proposal that is a template program is left out"
        assert found["refused_proposals"] >= 1
        used = sum(len(" ".join(m["content"] for m in b["messages"]).split()) for b in peer.asked)
        assert found["spent"]["tokens"] >= used, "what the provider counted is counted here"
        assert found["spent"]["usd"] > 0
        _no_held_out_row_is_shown(ws, found, peer)
        asked = len(peer.asked)
        again = improve(ws, "intenciones", QuietDisplay(), rounds=2, alias="next")
        assert again["reused"]
        assert len(peer.asked) == asked
        assert listed(ws.ledger)[0]["versions"] == 1
        third = improve(ws, "intenciones", QuietDisplay(), rounds=1, technique="zero-shot")
        assert third["earlier"] == 1
        assert third["confirmed"]["level"] == pytest.approx(0.975)
        rows = _test_rows(ws)
        assert confirmed_before(ws, rows) == confirmed_before(ws, [rows[0], "example:new"]) == 2, "one row is enough"
        assert confirmed_before(ws, ["example:new"]) == 0
        chosen = resolve(ws.ledger, "intenciones@1")
        looked = looked_at_before(ws, chosen.node, [*rows[:5], "example:new"])
        assert looked is not None
        assert looked["rows"] == 5
        assert looked["search"] in {found["node"], third["node"]}, "the latest that chose it"
        other = keep(ws.ledger, chosen.spec.model_copy(update={"system": "Otra cosa."}), "x")
        assert looked_at_before(ws, other.id, rows) is None


def _no_held_out_row_is_shown(ws: Workspace, found: Mapping[str, Any], peer: Peer) -> None:
    dataset = ws.ledger.nodes("dataset")[-1].id
    split = ws.ledger.nodes("split")[-1].id
    sides = ws.sides(split)
    side = {row.input: sides[row.id] for row in ws.examples(dataset)}
    shown = {m["content"] for body in peer.asked for m in body["messages"][:-1] if m["role"] == "user"}
    assert shown
    assert {side[text] for text in shown if text in side} == {"train"}
    for body in peer.asked:
        if len(body["messages"]) == 1:  # the proposer's prompt
            assert not any(text in body["messages"][0]["content"] for text, where in side.items() if where != "train")
    tested = [b for b in peer.asked if side.get(b["messages"][-1]["content"]) == "test"]
    assert len(tested) == 2 * found["rows"]["confirm"], "the test rows are asked once for each of the two"


def _test_rows(ws: Workspace) -> list[str]:
    return sorted(row for row, side in ws.sides(ws.ledger.nodes("split")[-1].id).items() if side == "test")


def test_a_prompt_file_is_kept_before_it_is_replaced_and_a_comparison_says_what_its_rows_confirmed(
        tmp_path: Path) -> None:
    file = tmp_path / "prompts" / "mio.yaml"
    file.parent.mkdir()
    file.write_text("# de siempre\nname: mio\nlanguage: es\nsystem: Clasifica.\n", "utf-8")
    with project(tmp_path, gain=45, prompt="prompts/mio.yaml") as (ws, _):
        found = improve(ws, "intenciones", QuietDisplay(), rounds=1, technique="zero-shot")
        assert found["saved"]["title"] == "mio@2"
        assert resolve(ws.ledger, "mio@1").text == file.read_text("utf-8")
    choose = {"candidates": ["majority", "zero-shot"]}
    with project(tmp_path, gain=45, choose=choose, prompt="mio@2") as (ws, _):
        comparison = run(ws, QuietDisplay()).story["comparisons"][0]
        looked = {one["technique"]: one["looked_at_before"] for one in comparison["candidates"]}
        assert looked.pop("zero-shot") == {"search": found["node"], "rows": found["rows"]["confirm"]}
        assert set(looked.values()) == {None}


def test_where_nothing_helps_it_says_so_and_saves_nothing(tmp_path: Path) -> None:
    with project(tmp_path, gain=0) as (ws, _):
        found = improve(ws, "intenciones", QuietDisplay(), rounds=1)
        assert not found["helped"]
        assert found["saved"] is None
        assert found["confirmed"] is None
        assert "the test rows were not looked at" in found["why"]
        # the search takes what the confirmation leaves of the budget: nothing is halved
        assert not any(t["out"].startswith(("halved", "search share")) for t in found["trials"])
        assert found["finished"] == len(found["trials"]) - 1
        assert listed(ws.ledger) == []
        assert ws.ledger.nodes("prompt_search")[0].attrs["chosen"]["trial"] == "t0"


def test_the_budget_is_never_passed_and_a_search_ends_before_it(tmp_path: Path) -> None:
    with project(tmp_path, gain=40) as (ws, peer):
        plan = improve(ws, "intenciones", QuietDisplay(), dry_run=True)
        least, full = plan["forecast"]["least"], plan["forecast"]["full"]
        assert least["tokens"][0] < full["tokens"][0]
        assert least["usd"][0] > 0
        assert peer.asked == [], "a forecast asks nothing"
        tokens = least["tokens"][0] + 500
        found = improve(ws, "intenciones", QuietDisplay(), tokens=tokens, rounds=9)
        counted = sum(len(m["content"].split()) for body in peer.asked for m in body["messages"])
        assert counted < found["spent"]["tokens"] <= tokens
        assert "spent" in found["stopped"]
        assert found["confirmed"], "what the confirmation takes is held back from the search"


def test_a_budget_ends_in_the_middle_of_calls_at_once() -> None:
    class Model:
        name = "m"
        max_parallel = 4

        def chat(self, messages: Any, *, max_tokens: int, **more: Any) -> ChatReply:
            return ChatReply("sí", Usage(tokens_in=20, tokens_out=max_tokens))

    with TemporaryDirectory() as folder:
        budget = Budget(Path(folder) / "spent.json", tokens=300, usd=None)
        model: Any = Metered(Model(), budget)
        asks = [Ask(({"role": "user", "content": f"hola {n}"},), 10) for n in range(40)]
        replies = ask_all(model, asks)
        answered = [r for r in replies if isinstance(r, ChatReply)]
        assert 7 <= len(answered) <= 10
        assert budget.tokens == 30 * len(answered) <= 300
        assert budget.ended
        assert {type(r).__name__ for r in replies if not isinstance(r, ChatReply)} == {"BudgetSpent"}
        assert Budget(Path(folder) / "spent.json", tokens=300, usd=None).tokens == budget.tokens


def test_tokens_out_of_sight_do_not_break_the_budget(tmp_path: Path) -> None:
    class Thinks:
        name = "m"
        max_parallel = 16
        at_once = most_at_once = 0

        def chat(self, messages: Any, *, max_tokens: int, **more: Any) -> ChatReply:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            time.sleep(0.003)
            self.at_once -= 1
            return ChatReply("sí", Usage(tokens_in=20, tokens_out=max_tokens + 3000))

    asks = [Ask(({"role": "user", "content": f"hola {n}"},), 10) for n in range(200)]
    budget = Budget(tmp_path / "spent.json", tokens=300_000, usd=None)
    thinks = Thinks()
    model: Any = Metered(thinks, budget)
    assert model.max_parallel == 1, "until it is known what a call takes"
    replies = ask_all(model, asks[:1]) + ask_all(model, asks[1:4])
    assert thinks.most_at_once == 1
    replies += ask_all(model, asks[4:30]) + ask_all(model, asks[30:])
    assert thinks.most_at_once > 1
    assert budget.tokens == 3030 * sum(isinstance(r, ChatReply) for r in replies)
    assert 290_000 < budget.tokens <= 300_000
    assert budget.passed_by == {"tokens": 0, "usd": 0.0}
    goes_on = Budget(tmp_path / "spent.json", tokens=304_000, usd=None)
    assert Metered(thinks, goes_on).chat(asks[0].messages, max_tokens=10).text == "sí"
    with pytest.raises(BudgetSpent):  # what a call takes is known after a kill too
        Metered(thinks, goes_on).chat(asks[0].messages, max_tokens=10)


def test_a_call_that_passes_the_budget_is_the_last_and_it_is_said_by_how_much(tmp_path: Path) -> None:
    class Grows:
        name = "m"
        max_parallel = 16
        calls = 0

        def chat(self, messages: Any, *, max_tokens: int, **more: Any) -> ChatReply:
            self.calls += 1
            return ChatReply("sí", Usage(tokens_in=20, tokens_out=1000 * 2**self.calls, usd=self.calls))

    budget, grows = Budget(tmp_path / "spent.json", tokens=12_000, usd=100), Grows()
    replies = ask_all(Metered(grows, budget), [Ask(({"role": "user", "content": str(n)},), 10) for n in range(40)])
    assert grows.calls == 3, "2, 4 and 8 thousand, where 4 were reserved"
    assert sum(isinstance(r, BudgetSpent) for r in replies) == 37
    assert budget.passed_by == {"tokens": 14_060 - 12_000, "usd": 0.0}


@pytest.mark.parametrize(("sends", "charged"), [
    (b"", 3), (b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n{", 1),
    (b"HTTP/1.1 500 no\r\ncontent-length: 0\r\n\r\n", 0), (b"HTTP/1.1 400 no\r\ncontent-length: 0\r\n\r\n", 0),
    (None, 0),
])
def test_what_broke_off_after_it_was_sent_counts_as_reserved(tmp_path: Path, sends: bytes | None, charged: int) -> None:
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]

    def serve() -> None:
        while True:
            try:
                one, _ = server.accept()
            except OSError:
                return
            one.recv(65536)
            one.sendall(sends or b"")
            one.close()

    if sends is None:
        server.close()
    else:
        threading.Thread(target=serve, daemon=True).start()
    chat = OpenAIChat("gpt", f"http://127.0.0.1:{port}/v1", "m", "", 10, max_retries=2, sleep=lambda _: None)
    budget = Budget(tmp_path / "spent.json", tokens=10_000, usd=None)
    with pytest.raises(BucleError):
        Metered(chat, budget).chat([{"role": "user", "content": "hola"}], max_tokens=100)
    chat.close()
    server.close()
    assert budget.tokens == charged * (4 + 12 + 100)


def test_a_budget_that_ends_early_says_what_was_spent(tmp_path: Path) -> None:
    with project(tmp_path, gain=40) as (ws, peer):
        peer.hidden = 4000
        with pytest.raises(BadInput, match="before the prompt in force is measured") as caught:
            improve(ws, "intenciones", QuietDisplay(), tokens=60_000, rounds=1)
        spent = sum(len(m["content"].split()) + 4000 for body in peer.asked for m in body["messages"][-1:])
        assert 40_000 < spent <= 60_000
        assert f"{len(peer.asked)} calls" in caught.value.message


def test_without_a_proposer_a_small_budget_says_which_trials_it_did_not_finish(tmp_path: Path) -> None:
    with project(tmp_path, gain=0) as (ws, peer):
        plan = improve(ws, "intenciones", QuietDisplay(), dry_run=True)
        tokens = plan["forecast"]["least"]["tokens"][1] + 3000
        found = improve(ws, "intenciones", QuietDisplay(), tokens=tokens, rounds=2, proposer="none")
        left = [t for t in found["trials"][1:] if not t["finished"] and "than" not in t["out"]]
        assert left
        assert all(t["out"].startswith(("halved: dropped after", "search share spent after")) for t in left)
        assert found["finished"] == len(found["trials"]) - 1 - len(left)
        if found["confirmed"] is None:
            assert "no finished trial was better" in found["why"]
        assert f"{found['finished']} of {len(found['trials']) - 1} trials were finished" in found["why"]
        if lead := found["leading"]:
            assert f"{lead['trial']} led by {100 * lead['by']:.1f} points on the {lead['rows']} rows" in found["why"]
        assert found["spent"]["tokens"] <= tokens
        assert not any(len(body["messages"]) == 1 for body in peer.asked)
        kinds = {t["instruction"] for t in found["trials"]} | {t["demos"] for t in found["trials"]}
        assert "typical words of each label" in kinds
        assert any("diverse" in one for one in kinds)


def test_a_search_that_was_broken_off_goes_on_and_pays_once(tmp_path: Path) -> None:
    class Broken(Exception):
        pass

    class Stops(QuietDisplay):
        def update(self, done: int, total: int, note: str = "") -> None:
            if "round 2" in note:
                raise Broken

    with project(tmp_path, gain=40) as (ws, peer):
        with pytest.raises(Broken):
            improve(ws, "intenciones", Stops(), rounds=2)
        before = [json.dumps(body, sort_keys=True) for body in peer.asked]
        found = improve(ws, "intenciones", QuietDisplay(), rounds=2)
        after = [json.dumps(body, sort_keys=True) for body in peer.asked[len(before):]]
        assert found["helped"]
        assert not set(before) & set(after), "nothing is asked twice"
        counted = sum(len(m["content"].split()) for body in peer.asked for m in body["messages"])
        assert found["spent"]["tokens"] >= counted, "the spending before the break counts"


def test_what_cannot_be_searched_is_told(tmp_path: Path) -> None:
    with project(tmp_path, gain=0) as (ws, _):
        for wrong, kind, said in (
            ({"task": "nada"}, NotFound, "no task"),
            ({"technique": "lora"}, BadInput, "no prompting candidate"),
            ({"model": "otro"}, BadInput, "no prompting candidate"),
            ({"tokens": 10}, BadInput, "least that a search takes"),
            ({"usd": 0.0000001}, BadInput, "least that a search takes"),
            ({"rounds": 0}, BadInput, "rounds"),
            ({"proposer": "nadie"}, BadInput, "can propose"),
        ):
            given: dict[str, Any] = {"task": "intenciones", **wrong}
            with pytest.raises(BucleError, match=said) as caught:
                improve(ws, given.pop("task"), QuietDisplay(), **given)
            assert isinstance(caught.value, kind)
            assert caught.value.hint
