"""A sentence-transformers model to OpenVINO, once: kept under `cache_root()` by what it is made from.

The whole chain of modules is traced as it stands (transformer, pooling, dense, normalisation), so that no module is
re-implemented here; what comes out is compared with the model itself before it is kept.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from bucle.core.errors import ModelUnavailable
from bucle.models.cpu import prepare_torch, quiet_libraries
from bucle.models.embedding.engine import Engine, Spoilt
from bucle.models.embedding.identity import cache_root, identity_of
from bucle.models.embedding.library import openvino_quiet
from bucle.models.making import PREFIX, settle, sweep

__all__ = ["NotConverted", "converted", "load_torch", "open_engine"]

FORMAT = 2
AGREES = {"fp32": 0.9999, "int8": 0.95}
"""Least cosine of the converted model's vectors to the model's, by its weights: with fp32 only rounding may differ,
with int8 the probes may not be what the model was made for, but nonsense is found."""
LONGEST = 1_000_000
"""A tokenizer that says more than this has no limit (transformers writes 10^30)."""
_PROBES = (
    "a", "¿Dónde está la biblioteca más cercana?", "The quick brown fox jumps over the lazy dog; 1,234.5 times.",
    "  MiXeD Case\twith tabs\r\nand lines — “quotes”, 日本語 and 🙂  ", "word " * 700,
)


class NotConverted(Exception):
    """This model cannot run on OpenVINO, and why."""


def converted(folder: Path, precision: str, *, pairs: bool = False) -> Path:
    """The folder of the model in `folder` for OpenVINO: `model.xml`, `model.bin`, `tokenizer.json`, `meta.json`.

    A sentence-transformers encoder, or with `pairs` a cross-encoder. `precision` `int8`: the matrices of its linear
    layers have 8 bits, a scale for each row. Made at the first call; several processes may make the same at once, and
    a kill leaves only a temporary folder. Raises NotConverted, and ModelUnavailable where the model itself cannot be
    loaded.
    """
    root = cache_root() / "openvino"
    weights = "int8" if precision == "int8" else "fp32"
    libraries = "-".join(version(name) for name in ("openvino", "transformers", "sentence-transformers"))
    kind = "pairs" if pairs else "texts"
    final = root / f"{identity_of(folder)[:32]}-{kind}-{weights}-{libraries}-{FORMAT}"
    if (final / "meta.json").is_file():
        return final
    try:
        root.mkdir(parents=True, exist_ok=True)
        sweep(root)
        making = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
    except OSError as error:
        raise NotConverted(f"{root} cannot be written ({error.strerror}); set BUCLE_CACHE to a folder") from error
    try:
        _convert(folder, weights, making, pairs)
        settle(making, final)
    except OSError as error:
        raise NotConverted(f"the converted model cannot be kept in {root} ({error.strerror})") from error
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return final


def open_engine(folder: Path, precision: str, threads: int | None, *, pairs: bool = False) -> Engine:
    """The model in `folder`, converted and compiled; a conversion that the disk has spoilt is made again. Raises
    NotConverted and ModelUnavailable."""
    if importlib.util.find_spec("openvino") is None:
        raise NotConverted("openvino is not installed (pip install openvino)")
    try:
        return Engine(converted(folder, precision, pairs=pairs), precision, threads)
    except Spoilt as error:
        shutil.rmtree(error.folder, ignore_errors=True)
        return Engine(converted(folder, precision, pairs=pairs), precision, threads)


def load_torch(folder: Path, *, half: bool, pairs: bool = False) -> Any:
    """The SentenceTransformer (with `pairs` the CrossEncoder) in `folder` in torch, bfloat16 where `half`. Raises
    ModelUnavailable."""
    import sentence_transformers
    import torch

    kind = sentence_transformers.CrossEncoder if pairs else sentence_transformers.SentenceTransformer
    try:
        with quiet_libraries():
            return kind(str(folder), device="cpu", local_files_only=True, trust_remote_code=False,
                        model_kwargs={"dtype": torch.bfloat16 if half else torch.float32}).eval()
    except Exception as error:  # a folder that somebody else wrote: whatever the libraries stumble over
        said = (str(error).splitlines() or [type(error).__name__])[0]
        what, wanted = (("a reranker", "cross-encoder") if pairs else ("an encoder", "sentence-transformers model"))
        raise ModelUnavailable(f"{folder} cannot be loaded as {what}: {said}",
                               f"give a {wanted} with safetensors weights") from error


def _convert(folder: Path, weights: str, out: Path, pairs: bool) -> None:
    prepare_torch()
    import torch

    model = load_torch(folder, half=False, pairs=pairs)
    prompt = "" if pairs else (model.prompts or {}).get(model.default_prompt_name or "", "")
    probes: list[Any] = [(_PROBES[1], text) for text in _PROBES] if pairs else [prompt + text for text in _PROBES]
    features = model.preprocess(probes[1:3])  # of two lengths, so that the mask is traced
    names = ["input_ids", "attention_mask"] + ["token_type_ids"] * (pairs and "token_type_ids" in features)
    meta = {"prompt": prompt, "inputs": names} | _tokenizer(model, probes, out)

    class Traced(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *inputs: Any) -> Any:
            made = self.model.forward(dict(zip(names, inputs, strict=True)))
            return self.model.activation_fn(made["scores"]) if pairs else made["sentence_embedding"]

    try:
        with warnings.catch_warnings(), torch.no_grad(), quiet_libraries():
            warnings.simplefilter("ignore")  # of tracing: what it fixes is found by the comparison below
            graph = openvino_quiet().convert_model(Traced().eval(), example_input=tuple(features[n] for n in names))
    except Exception as error:  # a library that refuses an operator raises what it likes
        raise NotConverted((str(error).splitlines() or [type(error).__name__])[0][:200]) from error
    if weights == "int8":
        from bucle.models.embedding.compress import to_int8

        to_int8(graph)
    openvino_quiet().save_model(graph, out / "model.xml", compress_to_fp16=False)
    del graph
    (out / "meta.json").write_text(json.dumps(meta))

    engine = Engine(out, "fp32", threads=1)
    plain: list[Any] = probes if pairs else list(_PROBES)
    with torch.no_grad():
        wanted = (model.predict if pairs else model.encode)(plain, batch_size=len(plain), show_progress_bar=False)
    for found in engine.vectors(plain), engine.alone(plain):
        if off := _differs(found, np.asarray(wanted, dtype=np.float32), pairs, weights):
            raise NotConverted(off)


def _tokenizer(model: Any, probes: Sequence[Any], out: Path) -> dict[str, Any]:
    """Write `tokenizer.json`, truncating as the model does and padding nothing; returns what else is needed."""
    from tokenizers import Tokenizer

    own = model.tokenizer
    backend = getattr(own, "backend_tokenizer", None)
    if backend is None:
        raise NotConverted("its tokenizer has no tokenizer.json")
    longest = model.max_seq_length
    tokenizer = Tokenizer.from_str(backend.to_str())
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if longest and longest < LONGEST:
        tokenizer.enable_truncation(int(longest), direction=own.truncation_side)
    for probe in probes:
        mine = tokenizer.encode(*probe) if isinstance(probe, tuple) else tokenizer.encode(probe)
        if mine.ids != model.preprocess([probe])["input_ids"][0].tolist():
            raise NotConverted("its tokenizer.json cuts texts otherwise than the model does")
    tokenizer.save(str(out / "tokenizer.json"))
    return {"pad": int(own.pad_token_id or 0), "left": own.padding_side == "left"}


def _differs(found: np.ndarray, wanted: np.ndarray, pairs: bool, weights: str) -> str:
    """Why the converted model is not the model; empty where it is."""
    if pairs:
        found = found.reshape(wanted.shape) if found.size == wanted.size else found
        if found.shape == wanted.shape and np.allclose(found, wanted, rtol=1e-3, atol=1e-3):
            return ""
        return "its scores differ from the model's own"
    least = 0.0
    if found.shape == wanted.shape and np.isfinite(found).all():
        least = float(_cosine(found, wanted).min())
    return "" if least >= AGREES[weights] else f"its vectors differ from the model's own (cosine {least:.4f})"


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))
