"""Encoders on OpenVINO: their vectors are the model's own, converted once, whatever else happens meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from bucle.core.errors import ConfigError
from bucle.models.cpu import bf16_is_fast
from bucle.models.embedding.convert import NotConverted, converted
from bucle.models.embedding.identity import identity_of
from bucle.models.encoder import Encoder, encoder_folder, shared_encoder

pytestmark = pytest.mark.torch
TEXTS = ["How do I pay an invoice?", "¿Cómo pago una factura?", "", "word " * 600, "a\r\nb\tc 🙂 日本語", "\ud800 half"]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    patch = pytest.MonkeyPatch()
    patch.setenv("BUCLE_CACHE", str(folder))
    yield folder
    patch.undo()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence-transformers folder with the packaged tokenizer: BERT of random weights, CLS pooling, a dense layer,
    at most 24 tokens, and a prompt."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
    from transformers import AutoTokenizer, BertConfig, BertModel

    torch.manual_seed(0)
    base, out = tmp_path_factory.mktemp("bert"), tmp_path_factory.mktemp("tiny")
    tokenizer = AutoTokenizer.from_pretrained(encoder_folder(), local_files_only=True)
    tokenizer.save_pretrained(base)
    BertModel(BertConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                         intermediate_size=64, max_position_embeddings=64)).save_pretrained(base)
    module = Transformer(str(base), max_seq_length=24)
    model = SentenceTransformer(
        modules=[module, Pooling(32, pooling_mode="cls"), Dense(32, 8), Normalize()],
        prompts={"passage": "passage: "}, default_prompt_name="passage", device="cpu")
    model.save(str(out))
    return out


def test_any_chain_of_modules_gives_its_own_vectors(tiny: Path) -> None:
    from sentence_transformers import SentenceTransformer

    encoder = Encoder(tiny, precision="fp32", threads=2)
    assert encoder.dimensions == 8
    own = SentenceTransformer(str(tiny), device="cpu", local_files_only=True).encode(TEXTS[:5])
    assert np.abs(encoder.embed_array(TEXTS[:5]) - own).max() < 1e-4
    assert type(encoder._model).__name__ == "Engine"


@pytest.mark.parametrize(("precision", "least"), [("bf16", 0.999), ("int8", 0.99)])
def test_precisions_keep_their_cosine_on_the_packaged_model(precision: str, least: float) -> None:
    if precision == "bf16" and not bf16_is_fast():
        pytest.skip("bfloat16 is slow on this processor")
    exact = Encoder(precision="fp32", threads=2).embed_array(TEXTS)
    fast = Encoder(precision=precision, threads=2)
    assert (fast.embed_array(TEXTS) * exact).sum(1).min() >= least
    assert fast.identity == Encoder(precision="fp32").identity


def test_embed_alone_does_not_depend_on_company() -> None:
    encoder = Encoder(threads=2)
    together, backwards = encoder.embed_alone(TEXTS), encoder.embed_alone(TEXTS[::-1])[::-1]
    assert (together == backwards).all()
    assert all((encoder.embed_alone([text])[0] == vector).all() for text, vector in zip(TEXTS, together, strict=True))
    with ThreadPoolExecutor(4) as pool:
        assert all((made == together).all() for made in pool.map(encoder.embed_alone, [TEXTS] * 8))


def test_cache_of_vectors_tells_precisions_and_models_apart(tmp_path: Path, tiny: Path) -> None:
    path = tmp_path / "vectors.db"
    first = Encoder(precision="fp32", threads=1, cache=path).embed_array(TEXTS)
    small = Encoder(precision="int8", threads=1, cache=path).embed_array(TEXTS)
    assert (first != small).any()
    assert Encoder(tiny, precision="fp32", cache=path).embed_array(TEXTS).shape == (6, 8)
    assert (Encoder(precision="fp32", cache=path).embed_array(TEXTS) == first).all()


def test_a_converted_model_needs_neither_torch_nor_telemetry(cache: Path) -> None:
    converted(encoder_folder(), "fp32")
    code = ("import sys; from bucle.models.encoder import shared_encoder, encoder_folder; "
            "v = shared_encoder(encoder_folder(), 'fp32').embed_array(['hello', 'world']); "
            "print(v.shape, [m for m in ('torch', 'transformers') if m in sys.modules], "
            "sys.modules['openvino_telemetry'])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(2, 384) [] None"


@pytest.mark.slow
def test_two_processes_at_once_and_a_kill_leave_one_good_model(tmp_path: Path, tiny: Path) -> None:
    code = ("import sys; from pathlib import Path; from bucle.models.encoder import Encoder; "
            "print(Encoder(sys.argv[1], precision='fp32', threads=1).embed(['hello'])[0][:3])")
    environment = {**os.environ, "BUCLE_CACHE": str(tmp_path)}

    def begin() -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-c", code, str(tiny)], env=environment, text=True,
                                stdout=subprocess.PIPE)

    victim = begin()
    while not list(tmp_path.glob("openvino/.making-*")) and victim.poll() is None:
        time.sleep(0.005)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    assert not list(tmp_path.glob("openvino/*/meta.json")), "it was not killed half-way"
    both = [begin(), begin()]
    said = [process.communicate()[0] for process in both]
    assert said[0] == said[1] != ""
    assert [process.returncode for process in both] == [0, 0]
    made = [path for path in (tmp_path / "openvino").iterdir() if not path.name.startswith(".")]
    assert len(made) == 1
    assert sorted(path.name for path in made[0].iterdir()) == ["meta.json", "model.bin", "model.xml", "tokenizer.json"]


def test_torch_serves_where_the_cache_cannot_be_written(tmp_path: Path, tiny: Path, caplog: pytest.LogCaptureFixture,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    exact = Encoder(tiny, precision="fp32").embed_array(["hello"])
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BUCLE_CACHE", str(tmp_path / "file"))
    with pytest.raises(NotConverted, match="BUCLE_CACHE"):
        converted(tiny, "fp32")
    encoder = Encoder(tiny, precision="fp32", threads=1)
    assert np.abs(encoder.embed_array(["hello"]) - exact).max() < 1e-4
    assert "runs in torch" in caplog.text


def test_a_spoilt_conversion_is_made_again(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUCLE_CACHE", str(tmp_path))
    first = Encoder(tiny, precision="fp32").embed_array(["hello"])
    for name in ("model.bin", "meta.json"):
        path = converted(tiny, "fp32") / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert (Encoder(tiny, precision="fp32").embed_array(["hello"]) == first).all(), name


def test_identity_is_of_weights_pooling_length_and_tokenizer(tiny: Path, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(tiny, tmp_path / "copy")
    first = identity_of(copy)
    assert identity_of(tiny) == first
    for name in ("1_Pooling/config.json", "sentence_bert_config.json", "tokenizer.json"):
        path = copy / name
        if not path.is_file():
            continue
        before = path.read_bytes()
        path.write_text(json.dumps({**json.loads(before), "changed": 1}))
        assert identity_of(copy) != first, name
        path.write_bytes(before)
    (copy / "README.md").write_text("words")
    assert identity_of(copy) == first


def test_precision_is_remembered_and_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="int4"):
        Encoder(precision="int4")
    assert shared_encoder(encoder_folder("minilm", "int8")).precision == "int8"
    assert shared_encoder(encoder_folder(), "fp32").precision == "fp32"
    monkeypatch.setattr("bucle.models.encoder._wanted", {})
    assert shared_encoder(encoder_folder()) is shared_encoder(encoder_folder(), "auto")
