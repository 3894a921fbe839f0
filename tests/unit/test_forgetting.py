"""The forgetting suite: its questions, what a model knows of them, and what a planted loss looks like."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bucle.core.errors import BadInput
from bucle.evaluate.forgetting import lost
from bucle.evaluate.suite import LETTERS, Question, answered, asked, own_questions, questions

sys.path.insert(0, str(Path(__file__).parents[1] / "function"))


def test_the_packaged_questions_are_sound() -> None:
    found = questions()
    assert len(found) == 80
    assert set(Counter((one.language, one.part) for one in found).values()) == {8}
    assert len({one.text for one in found}) == 80
    for one in found:
        assert len(set(one.choices)) == len(one.choices) == 4, one
        assert one.choices.count(one.answer) == 1
    places = Counter(one.choices.index(one.answer) for one in found)
    assert max(places.values()) < 32  # a model that always says the same letter learns nothing from that
    longest = sum(max(one.choices, key=len) == one.answer for one in found)
    assert longest < 32  # nor one that takes the longest


class Fixed:
    """Likelihoods that are written down: the right answer is the likeliest of the questions in `right`."""

    def __init__(self, right: set[str], found: tuple[Question, ...]) -> None:
        self.by_prompt = {one.text: (one, one.text in right) for one in found}

    def label_scores(self, prompts: list[str], continuations: list[str]) -> np.ndarray:
        one, right = next(value for text, value in self.by_prompt.items() if text in prompts[0])
        likely = [(choice.strip() == one.answer) == right for choice in continuations]
        return np.array([[-0.1 * len(c.encode()) if yes else -5.0 * len(c.encode())
                          for c, yes in zip(continuations, likely, strict=True)]])


def test_length_does_not_decide_and_a_tie_is_not_right() -> None:
    found = questions()
    assert answered(Fixed({one.text for one in found}, found), found) == [1.0] * 80
    assert sum(answered(Fixed(set(), found), found)) == 0
    tied = SimpleNamespace(label_scores=lambda prompts, said: np.array([[-1.0 * len(c.encode()) for c in said]]))
    assert sum(answered(tied, found)) == 0


def test_loss_counts_only_what_was_known() -> None:
    found = questions()
    before = [float(one.part in ("facts", "language")) for one in found]
    assert lost(found, before, before).value.value == 0.0  # type: ignore[union-attr]
    after = [value if one.part == "language" else 0.0 for one, value in zip(found, before, strict=True)]
    gone = lost(found, before, after)
    assert gone.known == ("language", "facts")
    assert gone.value is not None
    assert gone.value.value == pytest.approx(0.5)
    assert gone.value.low > 0.3
    table = {(row["part"], row["language"]): row for row in gone.parts}
    row = table["facts", "es"]
    assert (row["n"], row["chance"], row["before"], row["after"], row["known"]) == (8, 0.25, 1.0, 0.0, True)
    assert row["low"] > 0.3
    with pytest.raises(BadInput):
        lost(found, before, after[:3])


def test_a_base_that_guesses_has_nothing_to_lose() -> None:
    found, rng, named = questions(), np.random.default_rng(0), 0
    for _ in range(300):
        guessed = (rng.random(80) < 0.25).astype(float).tolist()
        named += lost(found, guessed, [0.0] * 80).value is not None
    assert named / 300 < 0.05  # five parts at 1%


def test_asking_reads_the_letter(tmp_path: Path) -> None:
    from bucle.core.ports import ChatReply
    from bucle.core.records import Usage
    from bucle.models.remote import OpenAIChat
    from bucle.serve.server import BackgroundServer
    from bucle.serve.upstream import create_upstream

    found = questions()[:12]

    class Knows:
        """Right but for the last three: a wrong letter, none, and a letter that is no choice."""

        name = "knows"

        def chat(self, messages, **_) -> ChatReply:
            place = next(i for i, one in enumerate(found) if one.text in messages[-1]["content"])
            right = LETTERS[found[place].choices.index(found[place].answer)]
            wrong = {9: LETTERS[(LETTERS.index(right) + 1) % 4], 10: "no lo sé", 11: "H"}
            return ChatReply(wrong.get(place, f"La respuesta es {right})."), Usage())

        def stream(self, messages, **more):
            yield self.chat(messages, **more)

    with BackgroundServer(create_upstream(Knows(), model="m")) as server:
        chat = OpenAIChat("gpt", f"{server.url}/v1", "m", "", 10, max_retries=0)
        assert asked(chat, found) == [1.0] * 9 + [0.0] * 3
        chat.close()


@pytest.mark.parametrize(("text", "says"), [
    ("question,choices\nq,a|b\n", "no column answer"), ("question,choices,answer\nq,a|b,c\n", "none of the choices"),
    ("question,choices,answer\nq,a|a,a\n", "different choices"), ("question,choices,answer\nq,a,a\n", "two to 8"),
    ("question,choices,answer\n,a|b,a\n", "empty or too long"),
])
def test_own_questions_that_are_wrong(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "own.csv").write_text(text)
    with pytest.raises(BadInput) as caught:
        own_questions(tmp_path / "own.csv", "es")
    assert says in str(caught.value)


def test_own_questions(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_bytes("question,choices,answer\r\n¿Qué vendemos?,luz | gas | pan,luz\r\n".encode())
    found = own_questions(tmp_path / "own.csv", "es")
    assert (found[0].part, set(found[0].choices), found[0].answer) == ("own", {"luz", "gas", "pan"}, "luz")


@pytest.mark.torch
def test_a_model_that_learnt_answers_and_forgot_them(tmp_path: Path) -> None:
    """A base that learnt twelve answers; the same weights lose nothing, another text makes it forget them."""
    from bucle.customise.pretrain import pretrain
    from bucle.models.local import LocalModel

    colours = ["rojo", "azul", "verde", "negro"]
    things = ["el sol", "la mar", "la luz", "el pan", "la sal", "el té", "la miel", "el gas", "la ley", "el fin",
              "la red", "el pie"]
    wanted = [Question("own", "es", f"¿De qué color es {thing}?", tuple(colours), colours[i % 4])
              for i, thing in enumerate(things)]
    taught = [f"Pregunta: {one.text}\nRespuesta: {one.answer}" for one in wanted] * 12
    other = [f"La factura {i} se paga el día {i % 28} en la tienda." for i in range(100)]
    for name, texts, steps in (("base", taught, 120), ("after", other, 30)):
        pretrain(texts, tmp_path / name, tmp_path / f"work-{name}", steps=steps, report=lambda d, t, note="": None,
                 width=64, layers=2, context=96, batch_tokens=768, vocabulary=320, threads=1)
    base, after = LocalModel(tmp_path / "base", threads=1), LocalModel(tmp_path / "after", threads=1)
    before = answered(base, wanted)
    assert sum(before) >= 9
    same = lost(wanted, before, answered(base, wanted))
    assert same.value is not None
    assert same.value.value == 0.0
    gone = lost(wanted, before, answered(after, wanted))
    assert gone.value is not None
    assert gone.value.value > 0.3
    assert gone.value.low > 0


@pytest.mark.torch
def test_the_step_measures_a_tuned_candidate_and_the_suite_once(tmp_path: Path) -> None:
    from small_project import build_tiny

    from bucle.choose import ladder
    from bucle.evaluate.gate import GateFacts, check_gates
    from bucle.execute import Runner
    from bucle.loop.candidates import fit_step
    from bucle.loop.forgetting import forgetting_facts, forgetting_step
    from bucle.loop.run import prepare
    from bucle.loop.workspace import Workspace

    project = tmp_path / "p"
    (project / "texts").mkdir(parents=True)
    (project / "texts" / "a.txt").write_bytes("El cielo es azul y el mar también.\r\n".encode() * 200)
    (project / "own.csv").write_text("question,choices,answer\n¿Qué vendemos?,luz|pan,luz\n", "utf-8")
    build_tiny(project, models={"nano": {"kind": "pretrain", "steps": 10, "width": 32, "layers": 1, "context": 128}},
               choose={"candidates": ["full"], "techniques": {"full": {"epochs": 1}}},
               forgetting={"suite": "own.csv", "text": "texts"})
    ws = Workspace.open(project)
    runner = Runner(ws.ledger)
    data = prepare(ws, runner, until="models")[0]["intenciones"]
    rung = next(r for r in ladder("classify", ws.config.models, ws.config.choose, has_index=False)
                if r.name.startswith("full"))
    fit = fit_step(ws, runner, data, rung)
    args = (data, fit["candidate"], rung.name, data.models["nano"], "")
    record = forgetting_step(ws, runner, *args)
    assert record.figures["n"] == len(record.figures["bits_before"])
    assert len(record.figures["suite"]["parts"]) == 11
    assert {row["part"] for row in record.figures["suite"]["parts"]} >= {"own", "facts"}
    apart, spared = forgetting_facts(record)
    facts = GateFacts(5, {}, apart=apart, spared=spared)
    checks = check_gates(["forgetting_bpb <= 9 at 90%", "forgetting_bpb <= -9", "forgetting <= 0.99"], facts).checks
    assert [check.passed for check in checks] == [True, False, True]
    assert forgetting_step(ws, runner, *args).cached
    assert [r.name for r in runner.records].count("suite nano") == 2
    assert [r.cached for r in runner.records if r.name == "suite nano"] == [False, True]
    ws.close()
