"""`bucle evaluate pairwise` as a user runs it, on a small comparison, before a judge on loopback."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import answer, bucle, told
from small_project import build_tiny
from test_judge import Provider

ANSWERS = re.compile(r"<<<(?:first|second) answer \w+>>>\n(.*?)\n<<<end", re.S)


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    one = Provider()
    yield one
    one.server.shutdown()
    one.server.server_close()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, provider: Provider) -> Path:
    models = {name: {"kind": "openai", "base_url": provider.url, "model": name, "api_key_env": "",
                     "usd_per_million_in": 1, "usd_per_million_out": 1} for name in ("fair", "lazy", "mute")}
    judges = {name: {"model": name, "rubric": "La primera por orden alfabético."} for name in models}
    folder = build_tiny(tmp_path_factory.mktemp("pairs") / "p", rows=120, models=models, judges=judges,
                        choose={"candidates": ["tfidf"]})
    done = bucle("choose", "-p", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def by_alphabet(text: str) -> str:
    found = ANSWERS.findall(text)
    if len(found) != 2:
        return "OK"
    return json.dumps({"reason": "va antes", "better": 1 if found[0] < found[1] else 2})


def test_a_fair_judge_against_what_was_predicted(project: Path, provider: Provider) -> None:
    from bucle.evaluate.statistics import interval
    from bucle.loop.candidates import predictions
    from bucle.loop.pairwise import _rows
    from bucle.loop.workspace import Workspace

    provider.say, before = by_alphabet, provider.asked
    found = answer("evaluate", "pairwise", "tfidf", "majority", "--judge", "fair", "-p", project)
    asked = provider.asked - before
    with_same = {"same": found["same"], "asked": found["asked"]}
    ws = Workspace.open(project)
    node = ws.ledger.get(found["node"])
    parents = {e.role: e.parent for e in ws.ledger.parents(node.id)}
    one, other = ([p.output for p in predictions(ws, parents[side])] for side in ("a", "b"))
    clusters = [row.cluster for row in _rows(ws, parents["a"], parents["b"])]
    kinds = {role: ws.ledger.get(parent).kind for role, parent in parents.items()}
    stored = [json.loads(line) for line in ws.ledger.read(node, "pairs.jsonl").splitlines()]
    ws.close()
    wanted = [0.5 if x == y else float(x < y) for x, y in zip(one, other, strict=True)]
    assert node.kind == "pairwise"
    assert kinds == {"a": "evaluation", "b": "evaluation", "model": "base_model"}
    assert [row["outcome"] for row in stored] == wanted
    assert [found["wins"], found["ties"], found["losses"]] == [wanted.count(v) for v in (1.0, 0.5, 0.0)]
    assert found["win_rate"] == interval(wanted, clusters=clusters).model_dump()
    differ = sum(x != y for x, y in zip(one, other, strict=True))
    assert 0 < differ < len(one), "the test needs answers that differ and answers that do not"
    assert with_same == {"same": len(one) - differ, "asked": differ}
    assert asked == 2 * differ + 1, "both orders of each pair that differs, and a probe"
    assert (found["bias"]["swapped"], found["bias"]["first"]) == (0.0, 0.5)
    decided = [(x < y) == (len(x) > len(y)) for x, y in zip(one, other, strict=True) if len(x) != len(y)]
    assert found["bias"]["longer"] == pytest.approx(sum(decided) / len(decided))
    assert found["usage"] == {"tokens_in": 20 * differ, "tokens_out": 4 * differ, "usd": pytest.approx(24e-6 * differ)}

    before = provider.asked
    said = told("evaluate", "pairwise", "tfidf", "majority", "--judge", "fair", "-q", "-p", project)
    assert provider.asked == before, "the step is reused"
    assert f"{found['wins']} wins, {found['ties']} ties, {found['losses']} losses of tfidf" in said
    assert "nobody has measured whether this judge agrees with people" in said
    assert "va antes" in said
    turned = answer("evaluate", "pairwise", "majority", "tfidf", "--judge", "fair", "-p", project)
    assert provider.asked == before + 1, "what was asked is remembered: a probe alone"
    assert (turned["wins"], turned["losses"]) == (found["losses"], found["wins"])


def test_a_judge_that_takes_the_first_decides_nothing(project: Path, provider: Provider) -> None:
    provider.say = lambda text: '{"reason": "", "better": 1}'
    found = answer("evaluate", "pairwise", "tfidf", "majority", "--judge", "lazy", "-p", project)
    assert (found["wins"], found["losses"], found["ties"]) == (0, 0, found["rows"])
    assert found["bias"] == {"swapped": 1.0, "first": 1.0, "longer": None}
    assert {one["kind"] for one in found["examples"]} == {"order"}


def test_what_is_wrong_is_told(project: Path, provider: Provider) -> None:
    from bucle.core.errors import BucleError
    from bucle.execute import Runner
    from bucle.loop.pairwise import pairwise
    from bucle.loop.workspace import Workspace

    provider.say, before = lambda text: "no sé", provider.asked
    ws = Workspace.open(project)
    for task, a, b, judge, message in (
            ("", "tfdif", "majority", "fair", "`tfidf`"), ("", "tfidf", "zzz", "fair", "majority, nearest, tfidf"),
            ("", "tfidf", "tfidf", "fair", "majority"), ("", "tfidf", "majority", "fare", "`fair`"),
            ("intencione", "tfidf", "majority", "fair", "`intenciones`")):
        with pytest.raises(BucleError) as caught:
            pairwise(ws, task, a, b, judge, Runner(ws.ledger))
        assert (caught.value.exit_code, message in caught.value.hint) == (2, True), caught.value
    ws.close()
    assert provider.asked == before
    done = bucle("evaluate", "pairwise", "tfidf", "majority", "--judge", "mute", "-p", project)
    assert (done.returncode, "gave no verdict on" in done.stderr) == (3, True), done.stdout + done.stderr


def test_rows_that_need_no_judge() -> None:
    from bucle.core.records import Example, Prediction
    from bucle.loop.pairwise import _decided

    known, unknown = Example(id="1", input="q", target="x"), Example(id="2", input="q", target=None)
    x, y, none, failed = (Prediction(output="x"), Prediction(output="y"), Prediction(output="", abstained=True),
                          Prediction(output="", error="e"))
    assert _decided("answer", known, x, y) is None
    cases = ((known, x, x, 0.5), (known, x, none, 1.0), (known, failed, x, 0.0), (known, none, failed, 0.5),
             (unknown, x, none, 0.0), (unknown, none, failed, 1.0), (unknown, x, y, 0.5))
    assert [_decided("answer", *case[:3]) for case in cases] == [case[3] for case in cases]
