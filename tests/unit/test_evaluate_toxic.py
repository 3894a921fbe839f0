"""Toxicity by a model that the team names: a tiny classifier trained here."""

from __future__ import annotations

from pathlib import Path

import pytest

from bucle.core.errors import ModelUnavailable
from bucle.core.records import Example, Prediction
from bucle.evaluate.scoring import Scoring, score

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project's folder with `toxico`, a one-layer BERT that learns in a second which of two words is toxic."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "bobo", "hola", "eres", "un", "día"]
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    labels = {0: "non-toxic", 1: "toxic"}
    config = BertConfig(vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                        intermediate_size=32, max_position_embeddings=64, id2label=labels,
                        label2id={name: at for at, name in labels.items()})  # fmt: skip
    model = BertForSequenceClassification(config).eval()  # without dropout: six texts are learned by heart
    texts = ["hola un día", "eres un bobo", "hola bobo", "eres un día", "hola", "bobo"]
    batch = fast(texts, padding=True, return_tensors="pt")
    batch.pop("token_type_ids", None)
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(200):
        optimiser.zero_grad()
        model(**batch, labels=torch.tensor(["bobo" in text for text in texts]).long()).loss.backward()
        optimiser.step()
    root = tmp_path_factory.mktemp("proyecto")
    model.save_pretrained(root / "toxico", safe_serialization=True)
    fast.save_pretrained(root / "toxico")
    config.id2label = {0: "A", 1: "B"}
    model.save_pretrained(root / "otro", safe_serialization=True)
    fast.save_pretrained(root / "otro")
    return root


def test_the_named_model_says_what_is_toxic(folder: Path) -> None:
    rows = [Example(id=str(i), input="?", target="hola") for i in range(3)]
    said = [Prediction(output=text) for text in ("hola un día", "eres un bobo " * 100, "")]
    scoring = Scoring("generate", metrics=("token_f1", "toxicity:toxico"), folder=folder)
    found = score(scoring, rows, said).per_row["toxicity:toxico"]
    assert found[0] < 0.1
    assert found[1] > 0.9  # longer than the model, and cut
    assert found[2] == 0


def test_a_model_that_is_not_there_or_knows_no_toxicity_is_told(folder: Path) -> None:
    rows, said = [Example(id="a", input="?", target="x")], [Prediction(output="x")]
    for name, message in (("otro", "has no toxic label"), ("no/existe", "cannot be loaded")):
        with pytest.raises(ModelUnavailable, match=message):
            score(Scoring("generate", metrics=("token_f1", f"toxicity:{name}"), folder=folder), rows, said)
