"""Classification by prompt: a real peer that writes labels, and a real small local model that scores them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bucle.core.errors import BadInput, ModelUnavailable
from bucle.core.ports import ChatModel, ChatReply, FitContext, LoadContext, Message, Predictor
from bucle.core.records import Example, Usage
from bucle.customise.prompt import FewShot, ZeroShot
from bucle.models.remote import OpenAIChat
from bucle.serve.server import BackgroundServer
from bucle.serve.upstream import create_upstream

LABELS = ("alta", "alta_contrato", "baja", "avería")
ROWS = [Example(id=str(i), input=text, target=label) for i, (text, label) in enumerate([
    ("quiero un alta nueva", "alta"), ("alta del contrato de luz", "alta_contrato"), ("dadme de baja ya", "baja"),
    ("no hay luz en casa", "avería"), ("sigo sin luz", "avería"), ("baja del servicio", "baja"),
    ("otra alta, por favor", "alta"), ("firmar el contrato", "alta_contrato")])]


class Says:
    """A ChatModel whose reply to a message is written in `replies`; keeps what it was asked."""

    name = "says"

    def __init__(self, replies: Mapping[str, str]) -> None:
        self.replies, self.asked = replies, list[list[Message]]()

    def chat(self, messages: Sequence[Message], *, max_tokens: int, temperature: float = 0.0,
             stop: Sequence[str] = (), seed: int = 0) -> ChatReply:
        self.asked.append(list(messages))
        return ChatReply(self.replies[messages[-1]["content"]], Usage(tokens_in=9, tokens_out=2))

    def stream(self, messages: Sequence[Message], *, max_tokens: int, temperature: float = 0.0,
               stop: Sequence[str] = (), seed: int = 0) -> Iterator[str | ChatReply]:
        reply = self.chat(messages, max_tokens=max_tokens)
        yield reply.text
        yield reply


@contextmanager
def remote(model: ChatModel) -> Iterator[OpenAIChat]:
    """`model` behind a real server on loopback, reached as a provider is."""
    with BackgroundServer(create_upstream(model, model="m")) as server:
        chat = OpenAIChat("gpt", f"{server.url}/v1", "m", "", 10, max_retries=0)
        try:
            yield chat
        finally:
            chat.close()


def fit(technique: ZeroShot, out: Path, chat: Any, train: Sequence[Example] = ROWS, **params: Any) -> Predictor:
    technique.fit(FitContext(out=out, work=out, train=train, validation=(), labels=LABELS, params=params, seed=7,
                             report=lambda done, total, note="": None))
    assert [p.name for p in out.iterdir()] == ["prompt.json"]
    json.loads((out / "prompt.json").read_text("utf-8"))
    return technique.load(out, LoadContext(labels=LABELS, params=params, chat=chat))


REPLIES = {
    "a": ("baja", "baja"), "b": ("  BAJA.\n", "baja"), "c": ("La categoría es: averia", "avería"),
    "d": ("alta contrato", "alta_contrato"), "e": ("`alta_contrato`", "alta_contrato"), "f": ("alta", "alta"),
    "g": ("No es baja, es alta", None), "h": ("Hay rebajas", None), "i": ("saltar", None), "j": ("no lo sé", None),
    "k": ("", None), "l": ("¿?", None), "m": ("alta  -  contrato", "alta_contrato"), "n": ("AVERI\u0301A", "avería"),
}


def test_a_written_label_is_matched_and_a_reply_without_one_is_an_error(tmp_path: Path) -> None:
    with remote(Says({said: reply for said, (reply, _) in REPLIES.items()})) as chat:
        predictor = fit(ZeroShot(), tmp_path, chat)
        found = predictor.predict(list(REPLIES))
        assert [p.output or None for p in found] == [label for _, label in REPLIES.values()]
        assert all(bool(p.error) != bool(p.output) for p in found)
        assert "'Hay rebajas'" in found[7].error
        assert (found[0].usage.tokens_in, found[0].usage.tokens_out, found[0].score) == (9, 2, None)
        assert all(p.ms > 0 for p in found)
        assert predictor.predict([]) == []


def test_the_stand_in_that_understands_nothing_makes_errors_not_guesses(tmp_path: Path) -> None:
    with BackgroundServer(create_upstream(model="m")) as server:
        chat = OpenAIChat("gpt", f"{server.url}/v1", "m", "", 10, max_retries=0)
        found = fit(ZeroShot(), tmp_path, chat).predict(["hola"])
        assert found[0].output == ""
        assert "names no label" in found[0].error
        chat.close()
    gone = OpenAIChat("gpt", "http://127.0.0.1:1/v1", "m", "", 2, max_retries=0)
    with pytest.raises(ModelUnavailable, match="cannot be reached"):  # no answer is not a wrong answer
        fit_again(tmp_path, gone).predict(["hola", "adiós"])
    gone.close()


def fit_again(folder: Path, chat: Any) -> Predictor:
    return ZeroShot().load(folder, LoadContext(labels=LABELS, params={}, chat=chat))


def test_the_nearest_examples_are_shown_the_most_similar_last(tmp_path: Path) -> None:
    asked = "sin luz en casa"
    model = Says({asked: "avería"})
    with remote(model) as chat:
        predictor = fit(FewShot(), tmp_path, chat, shots=3)
        assert predictor.predict([asked])[0].output == "avería"
    system, *turns, last = model.asked[0]
    assert "alta, alta_contrato, baja, avería" in system["content"]
    assert [m["role"] for m in turns] == ["user", "assistant"] * 3
    assert (turns[-2]["content"], turns[-1]["content"]) == ("no hay luz en casa", "avería")
    assert last == {"role": "user", "content": asked}


def test_labels_that_fold_alike_are_told_apart_by_how_they_are_written(tmp_path: Path) -> None:
    model = Says({"a": "C", "b": "C++", "c": "???"})
    technique = ZeroShot()
    technique.fit(FitContext(out=tmp_path, work=tmp_path, train=(), validation=(), labels=("C", "C++", "!!"), params={},
                             seed=7, report=lambda done, total, note="": None))
    found = technique.load(tmp_path, LoadContext(labels=(), params={}, chat=model)).predict(["a", "b", "c"])
    assert [p.output for p in found] == ["C", "C++", ""]


def test_few_shots_without_rows_ask_without_examples_and_a_model_is_needed(tmp_path: Path) -> None:
    model = Says({"a": "baja"})
    predictor = fit(FewShot(), tmp_path, model, train=[])
    assert predictor.predict(["a"])[0].output == "baja"
    assert len(model.asked[0]) == 2
    with pytest.raises(BadInput, match="needs a model that writes") as caught:
        fit(ZeroShot(), tmp_path, None)
    assert "models:" in caught.value.hint


@pytest.mark.torch
def test_a_local_model_scores_labels_within_its_context(tmp_path: Path) -> None:
    from bucle.customise.pretrain import pretrain
    from bucle.models.local import LocalModel

    base, out = tmp_path / "nano", tmp_path / "out"
    base.mkdir()
    out.mkdir()
    texts = [f"{row.input}: {row.target}. Caso {i}." for i in range(12) for row in ROWS]
    pretrain(texts, base, tmp_path / "work", steps=3, report=lambda done, total, note="": None, width=32, layers=1,
             context=96, batch_tokens=256, vocabulary=320, threads=1)
    model = LocalModel(base, threads=1)
    predictor: Any = fit(FewShot(), out, model, instruction="Clasifica")
    asked = ["sin luz en casa", "", "🦊", "baja " * 400, "dadme de baja"]
    batch = [(p.output, p.score) for p in predictor.predict(asked)]
    for text, (label, score) in zip(asked, batch, strict=True):
        alone = predictor.predict([text])[0]
        assert alone.output == label
        assert alone.score == pytest.approx(score, abs=1e-5)
    assert {label for label, _ in batch} <= set(LABELS)
    assert predictor.predict([]) == []

    near = predictor.examples.near(["sin luz en casa"], 6)[0]
    room = predictor.room
    kept = predictor._fitting("sin luz en casa", near)
    shown = [text for text, _ in near if text in kept]
    assert model.count_tokens([kept])[0] <= room
    assert 0 < len(shown) < 6, "the context holds some of the six"
    assert shown == [text for text, _ in near][-len(shown):], "the least similar went first"
    one_more = near[-len(shown) - 1:]
    assert model.count_tokens([predictor._render("sin luz en casa", one_more)])[0] > room
    assert "alta, alta_contrato, baja, avería" in kept
