"""People's names, found by a real token-classification model that the test trains."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from bucle.core.config import Names, Rows
from bucle.core.errors import ModelUnavailable
from bucle.core.records import Block, Document, Example
from bucle.data.clean import CleanPolicy, clean_documents
from bucle.data.clean_rows import RowCleaner
from bucle.data.names import NameFinder

pytestmark = pytest.mark.torch

FIRST = ["María", "Juan", "Carmen", "Íñigo", "Lucía", "Pedro", "Ana"]
LAST = ["García", "Núñez", "Pérez", "Torre", "Ruiz", "Ibarra", "Vega"]
PARTICLES = ["", "", "de", "de la", "del", "y"]
FRAMES = [
    "me llamo {} y quiero la baja de la luz",
    "hable con {} por la factura del gas",
    "el contrato está a nombre de {}",
    "{} pide una cita de la tarde",
]


def name(draw: Random) -> str:
    return " ".join(f"{draw.choice(FIRST)} {draw.choice(LAST)} {draw.choice(PARTICLES)} {draw.choice(LAST)}".split())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of one layer that learns in a second which words of the frames are names."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import BertConfig, BertForTokenClassification, PreTrainedTokenizerFast

    draw, folder = Random(1), tmp_path_factory.mktemp("names") / "model"
    texts = [", ".join(draw.choice(FRAMES).format(name(draw)) for _ in range(draw.randint(1, 4))) for _ in range(240)]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=400, special_tokens=special))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[("[CLS]", tokenizer.token_to_id("[CLS]")), ("[SEP]", tokenizer.token_to_id("[SEP]"))],
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )
    torch.manual_seed(1)
    labels = {0: "O", 1: "B-PER", 2: "I-PER"}
    config = BertConfig(
        vocab_size=len(fast), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64, id2label=labels, label2id={label: at for at, label in labels.items()},
    )  # fmt: skip
    bert = BertForTokenClassification(config)
    coded = fast(texts, padding=True, truncation=True, max_length=62, return_offsets_mapping=True, return_tensors="pt")
    offsets = coded.pop("offset_mapping")
    target = torch.full(coded["input_ids"].shape, -100)
    words = set(FIRST + LAST)
    for row, text in enumerate(texts):
        for at, (start, end) in enumerate(offsets[row].tolist()):
            if end > start:
                first = text.rfind(" ", 0, start) + 1
                word = text[first:].split()[0].rstrip(",")
                target[row, at] = (1 if word in FIRST else 2) if word in words else 0
    optimizer = torch.optim.AdamW(bert.parameters(), lr=5e-3)
    bert.train()
    for _ in range(60):
        optimizer.zero_grad()
        loss = bert(**coded, labels=target).loss
        loss.backward()
        optimizer.step()
    bert.save_pretrained(folder, safe_serialization=True)
    fast.save_pretrained(folder)
    return folder


def test_names_are_found_whole_with_their_particles(model: Path) -> None:
    draw, finder = Random(2), NameFinder(Names(path=str(model)))
    made = [(person := name(draw), draw.choice(FRAMES).format(person)) for _ in range(200)]
    found = finder.find([text for _, text in made])
    hits = [[one.text for one in findings] == [person] for (person, _), findings in zip(made, found, strict=True)]
    assert sum(hits) / len(hits) >= 0.95
    assert all(text[one.start : one.end] == one.text for (_, text), row in zip(made, found, strict=True) for one in row)
    assert [one.text for one in finder.find(["hable con María de la Torre y Vega."])[0]] == ["María de la Torre y Vega"]
    assert finder.find(["", "123", "pide una cita por la factura del gas"]) == [[], [], []]
    assert finder.find([]) == []


def test_a_text_longer_than_the_model_is_read_to_its_end(model: Path) -> None:
    draw = Random(3)
    people = [name(draw) for _ in range(60)]
    text = ", ".join(draw.choice(FRAMES).format(person) for person in people)
    found = {one.text for one in NameFinder(Names(path=str(model))).find([text])[0]}
    assert len(found & set(people)) / len(set(people)) >= 0.9
    assert people[-1] in found


def test_names_are_masked_in_documents_and_rows_by_the_policy(model: Path) -> None:
    finder = NameFinder(Names(path=str(model)))
    text = "me llamo Lucía Vega y quiero la baja de la luz"
    document = Document(
        id="document:a", path="a", sha256="", media_type="x", title="", language="es", blocks=(Block(text=text),)
    )
    cleaned = clean_documents([document], CleanPolicy(names=finder))
    assert cleaned.documents[0].text == "me llamo [NAME] y quiero la baja de la luz"
    assert [(one.kind, one.action, one.count) for one in cleaned.personal] == [("name", "mask", 1)]
    example = Example(id="e", input=text, target="baja")
    assert RowCleaner(Rows(), names=finder).check(example) == example.model_copy(
        update={"input": "me llamo [NAME] y quiero la baja de la luz"}
    )
    assert RowCleaner(Rows(), names=finder, personal={"name": "keep"}).check(example) == example


def test_a_model_that_is_not_there_has_pickled_weights_or_knows_no_persons_is_refused(
    model: Path, tmp_path: Path
) -> None:
    import json
    import shutil

    import torch

    with pytest.raises(ModelUnavailable):
        NameFinder(Names(path=str(tmp_path / "nada"))).find(["hola Ana"])
    pickled = tmp_path / "pickled"
    shutil.copytree(model, pickled)
    (pickled / "model.safetensors").unlink()
    torch.save({"a": torch.zeros(1)}, pickled / "pytorch_model.bin")
    with pytest.raises(ModelUnavailable):
        NameFinder(Names(path=str(pickled))).find(["hola Ana"])
    other = tmp_path / "other"
    shutil.copytree(model, other)
    config = json.loads((other / "config.json").read_text())
    config["id2label"], config["label2id"] = {"0": "O", "1": "B-LOC", "2": "I-LOC"}, {"O": 0, "B-LOC": 1, "I-LOC": 2}
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelUnavailable, match="no label for persons"):
        NameFinder(Names(path=str(other))).find(["hola Ana"])
