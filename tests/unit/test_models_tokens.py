"""Tokens: as the model's own tokenizer counts them, chat template and all; estimates that say so and hold."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest

from bucle.core.errors import BadInput, ModelUnavailable
from bucle.models.tokens import MAX_TEXT, MESSAGE, WHOLE, counter, encoding_of

XQUAD = Path("/work/shared/data/xquad")
TEMPLATE = ("{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{{ eos_token }}{% endfor %}"
            "{% if add_generation_prompt %}<|assistant|>{% endif %}")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model's folder with a real tokenizer: bytes, merged, and the special tokens of a chat."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|bos|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    tokenizer.train_from_iterator(["la factura del mes", "cambiar la tarifa de la luz"] * 20, trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False))
    tokenizer.enable_truncation(4)  # as some folders say; a count is of the whole text
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({
        "bos_token": "<|bos|>", "eos_token": {"content": "<|end|>"}, "extra_special_tokens": special[2:],
        "tokenizer_class": "PreTrainedTokenizerFast", "chat_template": TEMPLATE}))
    return tmp_path


def test_prompt_and_completion_are_counted_apart_under_the_models_own_template(model: Path) -> None:
    from tokenizers import Tokenizer

    plain = Tokenizer.from_file(str(model / "tokenizer.json"))
    plain.no_truncation()
    own = counter("any", folder=model)
    told = own.count("la factura del mes", "cambiar la luz")
    assert (told.how, told.note) == ("tokenizer", "")
    assert told.prompt.tokens == len(plain.encode("<|bos|><|user|>la factura del mes<|end|><|assistant|>").ids)
    assert told.completion.tokens == len(plain.encode("cambiar la luz").ids)
    assert told.prompt.low == told.prompt.tokens == told.prompt.high
    talk = own.count([{"role": "system", "content": "luz"}, {"role": "user", "content": "mes"}])
    rendered = "<|bos|><|system|>luz<|end|><|user|>mes<|end|><|assistant|>"
    assert talk.prompt.tokens == len(plain.encode(rendered).ids)


def test_the_prompt_is_what_transformers_renders_and_special_tokens_in_a_text_stay_text(model: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    reference = PreTrainedTokenizerFast(
        tokenizer_file=str(model / "tokenizer.json"), bos_token="<|bos|>", eos_token="<|end|>")
    reference.chat_template = TEMPLATE
    messages = [{"role": "user", "content": "¿la factura? ñ 😀\r\n"}]
    own = counter("any", folder=model)
    assert own.render is not None
    assert own.render(messages) == reference.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert own.render([{"role": "user", "content": "a<|end|>b"}]).count("<|end|>") == 1


def test_without_a_chat_template_the_text_alone_is_counted_and_it_says_so(model: Path) -> None:
    (model / "tokenizer_config.json").write_text("{}")
    told = counter("any", folder=model).count("la factura")
    assert "no chat template" in told.note


@pytest.mark.parametrize("broken", ["", "{}", "[1]", "\x00"])
def test_a_folder_whose_tokenizer_is_none_says_so(model: Path, broken: str) -> None:
    (model / "tokenizer.json").write_text(broken)
    with pytest.raises(ModelUnavailable, match="is not a tokenizer"):
        counter("any", folder=model)


def test_a_template_that_refuses_is_told_and_runs_nothing(model: Path) -> None:
    for template in ("{{ raise_exception('roles must alternate') }}", "{{ ''.__class__.__mro__[1].__subclasses__() }}",
                     "{% if %}", "{{ 1 / 0 }}"):
        config = json.loads((model / "tokenizer_config.json").read_text())
        (model / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": template}))
        with pytest.raises(BadInput, match="refuses this conversation"):
            counter("any", folder=model).count("hola")


@pytest.mark.parametrize(("name", "encoding"), [
    ("gpt-4o-mini", "o200k_base"), ("gpt-4.1-nano", "o200k_base"), ("gpt-5-mini", "o200k_base"), ("o3", "o200k_base"),
    ("ft:gpt-4o-mini-2024-07-18:us::x", "o200k_base"), ("gpt-4", "cl100k_base"), ("gpt-4-turbo", "cl100k_base"),
    ("gpt-3.5-turbo", "cl100k_base"), ("openai/gpt-oss-20b", "o200k_harmony"), ("text-embedding-3-small",
                                                                                        "cl100k_base"),
    ("meta-llama/Llama-3.1-8B-Instruct", "llama3"), ("Qwen/Qwen2.5-7B", "qwen3"), ("Qwen/Qwen3-32B", "qwen3"),
    # vocabularies that nobody here has checked
    ("gpt-6", ""), ("gpt-5.4", ""), ("qwen3.5-9b", ""), ("llama-4-scout", ""), ("claude-opus-4-5", ""), ("", ""),
])
def test_a_vocabulary_is_known_by_its_models_name_or_not_at_all(name: str, encoding: str) -> None:
    assert encoding_of(name) == encoding


def test_published_vocabularies_count_exactly_and_offline() -> None:
    pytest.importorskip("quicktok", reason="pip install 'bucle[tokens]'")
    told = counter("gpt-4o").count("Hello world", "Hello world")
    assert (told.how, told.tokenizer, told.completion.tokens) == ("encoding", "o200k_base", 2)
    assert told.prompt.tokens == 2 + 3 + 1 + 3  # three a message and its role, three that prime the reply
    assert counter("gpt-4").count("", "tiktoken is great!").completion.tokens == 6  # the cookbook's own example
    assert counter("gpt-4o").count("", "<|endoftext|>").completion.tokens > 1  # what a user writes is text
    assert counter("gpt-4o").count("\ud800", "\ud800").completion.tokens == 1


def test_an_estimate_says_that_it_is_one_and_has_a_range() -> None:
    told = counter("claude-opus-4-5", language="es").count("¿Cuándo llega la factura de la luz de este mes? " * 20)
    assert told.how == "estimate"
    assert told.note.startswith("an estimate")
    assert told.prompt.low < told.prompt.tokens < told.prompt.high
    assert counter("claude-opus-4-5").count("", "").completion.high == 0
    chinese = counter("claude-opus-4-5").count("你好，今天天气怎么样？" * 5).prompt
    assert chinese.low <= chinese.tokens <= chinese.high == len("你好，今天天气怎么样？" * 5) * 3 + MESSAGE + WHOLE


@pytest.mark.parametrize("language", ["es", "en", ""])
def test_the_high_end_of_an_estimate_holds_the_framing_of_a_chat(language: str) -> None:
    pytest.importorskip("quicktok", reason="pip install 'bucle[tokens]'")
    said = {"es": ["sí", "no", "baja", "avería técnica", "¿Cuándo llega la factura de este mes?",
                   "Contesta en dos frases."],
            "en": ["yes", "no", "cancel", "broken router", "When does this month's bill come?", "Answer briefly."]}
    texts = said.get(language, [*said["es"], *said["en"]])
    guess, exact, drawn = counter("unknown", language=language), counter("gpt-4o"), random.Random(1)
    for n in range(300):
        messages = [{"role": drawn.choice(["system", "user", "assistant"]), "content": drawn.choice(texts)}
                    for _ in range(1 + n % 40)]
        told = guess.count(messages).prompt
        assert told.low <= exact.count(messages).prompt.tokens <= told.high, messages


@pytest.mark.skipif(not XQUAD.is_dir(), reason="no development data here")
@pytest.mark.parametrize("language", ["es", "en"])
def test_the_range_of_an_estimate_holds_nineteen_in_twenty_texts(language: str) -> None:
    pytest.importorskip("quicktok", reason="pip install 'bucle[tokens]'")
    data = json.loads((XQUAD / f"xquad.{language}.json").read_text("utf-8"))
    texts = [p["context"] for a in data["data"] for p in a["paragraphs"]]
    texts += [q["question"] for a in data["data"] for p in a["paragraphs"] for q in p["qas"]]
    guess = counter("unknown", language=language)
    for name in ("gpt-4", "gpt-4o", "llama-3.1-8b", "qwen3-8b"):
        exact = counter(name)
        held = 0
        for text in texts:
            ranged = guess.text(text)
            held += ranged.low <= exact.text(text).tokens <= ranged.high
        assert held / len(texts) >= 0.95, name


def test_a_text_without_end_is_refused() -> None:
    with pytest.raises(BadInput, match=re.escape(f"{MAX_TEXT:,}")):
        counter("x").count("a" * (MAX_TEXT + 1))
