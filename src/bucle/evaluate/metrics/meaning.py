"""BERTScore: greedy matching of contextual token embeddings (Zhang et al. 2020, "BERTScore: Evaluating Text Generation
with BERT", equations of section 3), with any encoder of the project."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from bucle.core.errors import ModelUnavailable
from bucle.evaluate.metrics.samples import Sample

__all__ = ["bertscore"]

PAIRS = 32
"""Pairs of texts compared at once: bounds the memory to some tens of megabytes."""


def bertscore(samples: Sequence[Sample], encoder: Path | None = None) -> tuple[list[float], str]:
    """F1 of each output against its best reference, as `bert-score` computes it from the last layer without idf and
    rescaling, negative ones raised to 0; and the signature. The default encoder is the packaged MiniLM, which knows
    English best. Texts beyond the encoder's length are cut. Raises ModelUnavailable."""
    from bucle.models.encoder import encoder_folder

    folder = encoder if encoder is not None else encoder_folder()
    pairs = [(at, sample.output, one) for at, sample in enumerate(samples) for one in sample.references]
    order = sorted(pairs, key=lambda pair: len(pair[1]) + len(pair[2]))
    best = [0.0] * len(samples)
    for start in range(0, len(order), PAIRS):
        some = order[start:start + PAIRS]
        for (at, _, _), value in zip(some, _f1(folder, [(said, gold) for _, said, gold in some]), strict=True):
            best[at] = max(best[at], value)
    from importlib.metadata import version

    return best, (f"bertscore|model:{folder.name}|weights:{_weights(folder)[:12]}|layer:last|idf:no|rescale:no"
                  f"|transformers:{version('transformers')}")


def _f1(folder: Path, pairs: Sequence[tuple[str, str]]) -> list[float]:
    import torch

    said, said_there, said_counts = _embedded(folder, [one for one, _ in pairs])
    gold, gold_there, gold_counts = _embedded(folder, [one for _, one in pairs])
    alike = torch.bmm(said, gold.transpose(1, 2)) * said_there.unsqueeze(2) * gold_there.unsqueeze(1)
    precision = (alike.max(2).values * said_counts).sum(1) / said_counts.sum(1).clamp(min=1)
    recall = (alike.max(1).values * gold_counts).sum(1) / gold_counts.sum(1).clamp(min=1)
    both = precision + recall
    f1 = torch.where(both > 0, 2 * precision * recall / both.clamp(min=1e-12), torch.zeros_like(both))
    empty = (said_counts.sum(1) == 0) | (gold_counts.sum(1) == 0)
    return [0.0 if none else min(1.0, max(0.0, float(value))) for value, none in zip(f1, empty, strict=True)]


def _embedded(folder: Path, texts: Sequence[str]) -> tuple[Any, Any, Any]:
    """Unit vectors `[texts, length, width]`, where there is a token, and where one counts (the first and last, which
    the encoder adds, are matched with and do not count)."""
    import torch

    tokenizer, model = _opened(folder)
    longest = min(tokenizer.model_max_length, int(getattr(model.config, "max_position_embeddings", 512)))
    batch = tokenizer([text.strip() for text in texts], padding=True, truncation=True, max_length=longest,
                      return_tensors="pt", return_special_tokens_mask=True)
    added = batch.pop("special_tokens_mask")
    with torch.inference_mode():
        vectors = model(**batch).last_hidden_state.float()
    there = batch["attention_mask"].float()
    return torch.nn.functional.normalize(vectors, dim=-1), there, there * (1 - added.float())


@lru_cache(maxsize=2)
def _opened(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    from bucle.models.cpu import prepare_torch, quiet_libraries

    prepare_torch(None)
    try:
        with quiet_libraries():
            tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
            model = AutoModel.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False,
                                              use_safetensors=True)
    except Exception as error:  # transformers raises many kinds; all mean the same here
        raise ModelUnavailable(f"{folder} cannot be loaded as an encoder: {str(error).splitlines()[0][:200]}",
                               "give an encoder with safetensors weights") from error
    return tokenizer, model.eval()


@lru_cache(maxsize=4)
def _weights(folder: Path) -> str:
    from bucle.core.ids import file_sha256, sha256_hex

    return sha256_hex("".join(map(file_sha256, sorted(folder.glob("*.safetensors")))))
