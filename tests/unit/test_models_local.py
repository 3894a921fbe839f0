"""The local model and the encoder against slow, plain computations of the same numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bucle.core.errors import BadInput, ModelUnavailable
from bucle.core.ports import ChatModel, ChatReply, Embedder
from bucle.models.encoder import Encoder
from bucle.models.local import LocalModel, describe

pytestmark = pytest.mark.torch

TEXTS = [f"La factura número {i} llega el día {i % 28} y se paga en la tienda de fibra." for i in range(80)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from bucle.customise.pretrain import pretrain

    out = tmp_path_factory.mktemp("nano")
    pretrain(TEXTS, out, out / "work", steps=30, report=lambda done, total, note="": None, width=64, layers=2,
             context=96, batch_tokens=384, vocabulary=320, threads=1)
    return out


@pytest.fixture(scope="module")
def model(folder: Path) -> LocalModel:
    return LocalModel(folder, threads=1)


def slow_score(model: LocalModel, prompt: str, answer: str) -> float:
    import torch

    before = model.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    after = model.tokenizer(answer, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logs = torch.log_softmax(model.model(input_ids=torch.tensor([before + after])).logits[0].double(), -1)
    return sum(float(logs[len(before) + i - 1, token]) for i, token in enumerate(after))


def test_label_scores_equal_one_plain_pass_a_pair(model: LocalModel) -> None:
    prompts = [model.render([{"role": "user", "content": text}]) for text in ("hola", TEXTS[3], "la luz " * 5, "¿?")]
    labels = ["alta<|end|>", "baja de la fibra<|end|>", "x<|end|>"]
    scores = model.label_scores(prompts, labels)
    expected = [[slow_score(model, prompt, label) for label in labels] for prompt in prompts]
    np.testing.assert_allclose(scores, expected, atol=2e-4)
    lengths = [len(ids) for ids in model.tokenizer(labels, add_special_tokens=False)["input_ids"]]
    np.testing.assert_allclose(model.label_scores(prompts, labels, per_token=True), scores / lengths)


def test_single_token_labels(model: LocalModel) -> None:
    prompt = model.render([{"role": "user", "content": "hola"}])
    np.testing.assert_allclose(model.label_scores([prompt], ["a", "b"]),
                               [[slow_score(model, prompt, "a"), slow_score(model, prompt, "b")]], atol=2e-4)
    assert model.label_scores([], ["a"]).shape == (0, 1)
    with pytest.raises(BadInput):
        model.label_scores([prompt], [""])


def test_a_prompt_beyond_the_context_loses_its_beginning_and_is_counted(folder: Path) -> None:
    model = LocalModel(folder, threads=1)
    filler, end = "la tienda " * 100, "se paga en la tienda de"
    long = model.label_scores(["<|bos|>" + filler + end], ["a<|end|>"])
    assert model.truncated == 1
    answer = model.tokenizer("a<|end|>", add_special_tokens=False)["input_ids"]
    kept = model.tokenizer(filler + end, add_special_tokens=False)["input_ids"][-(96 - len(answer) - 1):]
    assert long == pytest.approx(model.label_scores(["<|bos|>" + model.tokenizer.decode(kept)], ["a<|end|>"]), abs=1e-3)
    assert model.truncated == 1


def test_bits_per_byte_by_hand(model: LocalModel) -> None:
    long = " ".join(TEXTS[:12])
    single, cut, empty = model.bits_per_byte([TEXTS[0], long, ""])
    assert single == pytest.approx(
        -slow_score(model, "<|bos|>", TEXTS[0]) / math.log(2) / len(TEXTS[0].encode()), rel=1e-4)
    assert 0 < cut < 8
    assert empty == 0
    assert model.bits_per_byte([TEXTS[0]])[0] == pytest.approx(single, rel=1e-4)


def test_chat_streams_what_it_returns(model: LocalModel) -> None:
    assert isinstance(model, ChatModel)
    messages = [{"role": "system", "content": "Responde."}, {"role": "user", "content": "La factura número 3"}]
    *pieces, reply = model.stream(messages, max_tokens=24)
    assert isinstance(reply, ChatReply)
    assert "".join(str(piece) for piece in pieces) == reply.text
    assert reply == model.chat(messages, max_tokens=24)
    greedy = greedy_by_generate(model, messages, 24)
    assert reply.text == greedy
    assert reply.usage.tokens_in == len(model.tokenizer(model.render(messages), add_special_tokens=False)["input_ids"])
    hot = [model.chat(messages, max_tokens=24, temperature=1.5, seed=seed).text for seed in (1, 1, 2)]
    assert hot[0] == hot[1] != hot[2]


def greedy_by_generate(model: LocalModel, messages: Any, tokens: int) -> str:
    import torch

    ids = model.tokenizer(model.render(messages), add_special_tokens=False, return_tensors="pt")
    out = model.model.generate(**ids, max_new_tokens=tokens, do_sample=False, max_length=None)
    return str(model.tokenizer.decode(out[0, ids["input_ids"].shape[1]:].to(torch.long), skip_special_tokens=True))


def test_stop_strings_and_length(model: LocalModel) -> None:
    messages = [{"role": "user", "content": "La factura"}]
    free = model.chat(messages, max_tokens=20)
    assert len(free.text) > 6
    mark = free.text[3:6]
    stopped = model.chat(messages, max_tokens=20, stop=[mark])
    assert stopped.text == free.text[:free.text.find(mark)]
    assert stopped.finish == "stop"
    assert model.chat(messages, max_tokens=1).finish == "length"
    with pytest.raises(BadInput, match="tokens"):
        model.chat([{"role": "user", "content": "la " * 300}], max_tokens=5)


def test_describe(folder: Path) -> None:
    facts = describe(folder)
    assert facts["architecture"] == "LlamaForCausalLM"
    assert facts["context"] == 96
    assert facts["parameters"] * 4 < facts["bytes"] < facts["parameters"] * 4 + 10_000
    assert len(facts["chat_template_sha256"]) == len(facts["tokenizer_sha256"]) == 64


@pytest.mark.parametrize("breakage", ["pickle", "code", "no weights", "broken json", "bad weights"])
def test_unsafe_or_broken_folders_are_refused(folder: Path, tmp_path: Path, breakage: str) -> None:
    for path in folder.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    config = tmp_path / "config.json"
    if breakage == "pickle":
        (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    elif breakage == "code":
        config.write_text(json.dumps(json.loads(config.read_text()) | {"auto_map": {"AutoModel": "evil.Model"}}))
    elif breakage == "no weights":
        (tmp_path / "model.safetensors").unlink()
    elif breakage == "broken json":
        config.write_text("{")
    else:
        (tmp_path / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0not a header....")
    with pytest.raises(ModelUnavailable) as caught:
        LocalModel(tmp_path, threads=1)
    assert caught.value.hint


def test_a_name_that_cannot_be_fetched_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelUnavailable, match="HF_HUB_OFFLINE"):
        LocalModel("nobody-here/no-such-model")
    with pytest.raises(ModelUnavailable, match="no model folder"):
        LocalModel("./no/such/folder")


def test_encoder_meaning_cache_and_shape(tmp_path: Path) -> None:
    cache = tmp_path / "vectors.db"
    encoder = Encoder(threads=1, cache=cache)
    assert isinstance(encoder, Embedder)
    texts = ["I want to cancel my contract", "Please end my subscription", "The weather is sunny today",
             "I want to cancel my contract"]
    vectors = encoder.embed_array(texts)
    assert vectors.shape == (4, 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2
    assert (vectors[0] == vectors[3]).all()
    again = Encoder(threads=1, cache=cache)
    assert (again.embed_array(texts[::-1]) == vectors[::-1]).all()
    assert again._model is None, "the cache did not answer"
    assert encoder.embed([]) == []


def test_encoder_agrees_with_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [*TEXTS[:20], "a", "palabra " * 400]
    fast = Encoder(threads=1).embed_array(texts)
    monkeypatch.setattr("bucle.models.encoder.bf16_is_fast", lambda: False)
    exact = Encoder(threads=1).embed_array(texts)
    assert (fast * exact).sum(1).min() >= 0.9998
