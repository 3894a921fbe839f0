"""A sentence-transformers model to OpenVINO, once: kept under `cache_root()` by what it is made from.

The whole chain of modules is traced as it stands (transformer, pooling, dense, normalisation), so that no module is
re-implemented here; what comes out is compared with the model itself before it is kept.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from bucle.core.errors import ModelUnavailable
from bucle.models.cpu import prepare_torch, quiet_libraries
from bucle.models.embedding.identity import cache_root, identity_of

__all__ = ["NotConverted", "converted", "load_torch"]

FORMAT = 1
AGREES = 0.9999
"""Least cosine between the converted model and the model, in float32: only rounding may differ."""
LONGEST = 1_000_000
"""A tokenizer that says more than this has no limit (transformers writes 10^30)."""
ABANDONED_S = 86_400.0
_PROBES = (
    "a", "¿Dónde está la biblioteca más cercana?", "The quick brown fox jumps over the lazy dog; 1,234.5 times.",
    "  MiXeD Case\twith tabs\r\nand lines — “quotes”, 日本語 and 🙂  ", "word " * 700,
)


class NotConverted(Exception):
    """This model cannot run on OpenVINO, and why."""


def converted(folder: Path, precision: str) -> Path:
    """The folder of the model in `folder` for OpenVINO: `model.xml`, `model.bin`, `tokenizer.json`, `meta.json`.

    `precision` `int8`: the matrices of its linear layers have 8 bits, a scale for each row. Made at the first call;
    several processes may make the same at once, and a kill leaves only a temporary folder. Raises NotConverted, and
    ModelUnavailable where the model itself cannot be loaded.
    """
    root = cache_root() / "openvino"
    weights = "int8" if precision == "int8" else "fp32"
    libraries = "-".join(version(name) for name in ("openvino", "transformers", "sentence-transformers"))
    final = root / f"{identity_of(folder)[:32]}-{weights}-{libraries}-{FORMAT}"
    if (final / "meta.json").is_file():
        return final
    try:
        root.mkdir(parents=True, exist_ok=True)
        _sweep(root)
        making = Path(tempfile.mkdtemp(prefix=".making-", dir=root))
    except OSError as error:
        raise NotConverted(f"{root} cannot be written ({error.strerror}); set BUCLE_CACHE to a folder") from error
    try:
        _convert(folder, weights, making)
        _settle(making, final)
    except OSError as error:
        raise NotConverted(f"the converted model cannot be kept in {root} ({error.strerror})") from error
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return final


def load_torch(folder: Path, *, half: bool) -> Any:
    """The SentenceTransformer in `folder` in torch, bfloat16 where `half`. Raises ModelUnavailable."""
    import torch
    from sentence_transformers import SentenceTransformer

    try:
        with quiet_libraries():
            return SentenceTransformer(str(folder), device="cpu", local_files_only=True, trust_remote_code=False,
                                       model_kwargs={"dtype": torch.bfloat16 if half else torch.float32})
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, AttributeError, TypeError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelUnavailable(f"{folder} cannot be loaded as an encoder: {said}",
                               "give a sentence-transformers model with safetensors weights") from error


def _convert(folder: Path, weights: str, out: Path) -> None:
    prepare_torch()
    import openvino
    import torch

    model = load_torch(folder, half=False)
    meta = _tokenizer(model, out)

    class Traced(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.model.forward({"input_ids": input_ids, "attention_mask": attention_mask})["sentence_embedding"]

    features = model.preprocess([meta["prompt"] + text for text in _PROBES[1:3]])
    example = {name: features[name] for name in ("input_ids", "attention_mask")}  # of two lengths: masks are traced
    try:
        with warnings.catch_warnings(), torch.no_grad(), quiet_libraries():
            warnings.simplefilter("ignore")  # of tracing: what it fixes is found by the comparison below
            graph = openvino.convert_model(Traced().eval(), example_input=example)
    except Exception as error:  # a library that refuses an operator raises what it likes
        raise NotConverted((str(error).splitlines() or [type(error).__name__])[0][:200]) from error
    if weights == "int8":
        from bucle.models.embedding.compress import to_int8

        to_int8(graph)
    openvino.save_model(graph, out / "model.xml", compress_to_fp16=False)
    del graph
    (out / "meta.json").write_text(json.dumps(meta))

    from bucle.models.embedding.engine import Engine

    expected = np.asarray(model.encode(list(_PROBES), batch_size=len(_PROBES), show_progress_bar=False))
    engine = Engine(out, "fp32", threads=1)
    texts = list(_PROBES)
    cosines = _cosine(engine.vectors(texts), expected), _cosine(engine.alone(texts), expected)
    least = min(cosine.min() if cosine.size else 0.0 for cosine in cosines)
    if not least >= (AGREES if weights == "fp32" else 0.95):
        raise NotConverted(f"its vectors differ from the model's own (cosine {least:.4f})")
    meta["dimensions"] = int(expected.shape[1])
    (out / "meta.json").write_text(json.dumps(meta))


def _tokenizer(model: Any, out: Path) -> dict[str, Any]:
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
    prompt = (model.prompts or {}).get(model.default_prompt_name or "", "")
    for text in _PROBES:
        mine = tokenizer.encode(prompt + text).ids
        if mine != model.preprocess([prompt + text])["input_ids"][0].tolist():
            raise NotConverted("its tokenizer.json cuts texts otherwise than the model does")
    tokenizer.save(str(out / "tokenizer.json"))
    return {"prompt": prompt, "pad": int(own.pad_token_id or 0), "left": own.padding_side == "left"}


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return np.zeros(1)
    return np.asarray((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))


def _settle(making: Path, final: Path) -> None:
    for path in making.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    try:
        making.rename(final)
    except OSError:
        if not (final / "meta.json").is_file():  # not because another process was first
            raise


def _sweep(root: Path) -> None:
    """Remove what killed conversions left a day ago."""
    for old in root.glob(".making-*"):
        if old.stat().st_mtime < time.time() - ABANDONED_S:
            shutil.rmtree(old, ignore_errors=True)
