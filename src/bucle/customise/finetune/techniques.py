"""The two rungs of fine-tuning for the classify task: `lora` and `full`."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bucle.core.errors import ConfigError, ModelUnavailable, NotFound
from bucle.core.ports import FitContext, LoadContext
from bucle.core.records import Prediction, Usage
from bucle.customise.finetune.rows import INSTRUCTION, build_rows, check_rows, continuation, prompt_for
from bucle.customise.finetune.sft import Settings, train
from bucle.models.cpu import prepare_torch, quiet_libraries
from bucle.models.local import LocalModel, load_model

__all__ = ["Full", "LabelPredictor", "Lora"]

PROMPT_FILE = "prompt.json"
# Full tuning's learning rate by the size of the model: (up to so many parameters, rate).
RATES = ((20_000_000, 1e-3), (200_000_000, 1e-4), (float("inf"), 2e-5))
# LoRA wants up to ten times full tuning's rate (Schulman et al. 2025, "LoRA Without Regret"), but 1e-2 is too much for
# a model of 3M: 78.8% on intents-es with 560 rows, against 92.7% at 3e-3. So it is bounded.
LORA_TIMES, LORA_MOST = 10, 3e-3
STEPS = 220      # enough to finish learning a small set; a large set is passed over at least twice
PARAMS = frozenset({"epochs", "learning_rate", "batch", "rank", "threads", "instruction", "held_out_ids",
                    "save_seconds"})


class _FineTuning:
    name = ""
    kinds = frozenset({"classify"})
    needs = frozenset({"base"})
    rung = 0
    baseline = False
    when = ""
    settings: frozenset[str] = PARAMS
    rank = 0

    def fit(self, ctx: FitContext) -> Mapping[str, Any]:
        """Train on `ctx.train` from `ctx.base` and write the model (`full`) or the PEFT adapter (`lora`) into
        `ctx.out`.

        Reads the parameters `epochs`, `learning_rate`, `batch`, `rank`, `threads`, `instruction`,
        `save_seconds` and `held_out_ids` (example ids that must not be trained on). Returns `losses`,
        `seconds`, `rows`, `dropped` (reason -> count), `truncated`, and the settings. Raises BadInput before
        the first step for rows that cannot teach (see `check_rows`), ConfigError for an unknown parameter,
        ModelUnavailable for the base.
        """
        if unknown := sorted(set(ctx.params) - PARAMS):
            raise ConfigError(f"{self.name} has no parameter {unknown[0]}.", f"it reads: {', '.join(sorted(PARAMS))}")
        if ctx.base is None:
            raise ModelUnavailable(f"{self.name} needs a base model.", "name one under models: in bucle.yaml")
        threads = prepare_torch(ctx.params.get("threads"))
        model, tokenizer = load_model(ctx.base, float32=True)
        instruction = ctx.params.get("instruction", INSTRUCTION)
        context = int(getattr(model.config, "max_position_embeddings", 0) or 2048)
        rows = build_rows(tokenizer, ctx.train, ctx.labels, instruction=instruction, context=context)
        ends = model.generation_config.eos_token_id
        check_rows(rows, {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])},
                   ctx.params.get("held_out_ids", ()))

        size = sum(parameter.numel() for parameter in model.parameters())
        rank = ctx.params.get("rank", self.rank)
        rate = next(rate for limit, rate in RATES if size <= limit)
        rate = min(LORA_TIMES * rate, LORA_MOST) if rank else rate
        batch = ctx.params.get("batch", 16)
        settings = Settings(
            epochs=ctx.params.get("epochs", max(2, round(STEPS * batch / len(rows.rows)))),
            learning_rate=ctx.params.get("learning_rate", rate), batch=batch,
            rank=rank, seed=ctx.seed, threads=threads,
            save_seconds=ctx.params.get("save_seconds", 10.0))
        tuned, figures = train(model, tokenizer, rows, ctx.base, ctx.work, settings, ctx.report)
        with quiet_libraries():
            tuned.save_pretrained(str(ctx.out), safe_serialization=True)
            if not settings.rank:
                tokenizer.save_pretrained(str(ctx.out))
        prompt = {"instruction": instruction, "labels": list(ctx.labels)}
        (ctx.out / PROMPT_FILE).write_text(json.dumps(prompt, ensure_ascii=False, indent=2), encoding="utf-8")
        return {**figures, "rows": len(rows.rows), "dropped": dict(rows.dropped), "truncated": rows.truncated,
                "epochs": settings.epochs, "learning_rate": settings.learning_rate, "rank": settings.rank,
                "trained_parameters": sum(p.numel() for p in tuned.parameters() if p.requires_grad)}

    def load(self, folder: Path, ctx: LoadContext) -> LabelPredictor:
        """The fitted model with the prompt it was trained with. Raises NotFound, ModelUnavailable."""
        file = folder / PROMPT_FILE
        if not file.is_file():
            raise NotFound(f"{folder} holds no fine-tuned model.", "bucle tune")
        prompt = json.loads(file.read_text(encoding="utf-8"))
        adapter = (folder / "adapter_config.json").is_file()
        if adapter and ctx.base is None:
            raise ModelUnavailable("A LoRA adapter needs its base model.", "name it under models: in bucle.yaml")
        model = LocalModel(ctx.base if adapter and ctx.base else folder, adapter=folder if adapter else None,
                           threads=ctx.params.get("threads"))
        return LabelPredictor(model, prompt["labels"], prompt["instruction"])


class Full(_FineTuning):
    """Every weight of the base model is trained."""

    name = "full"
    rung = 60
    when = "Hundreds of examples or more, a small base model, and a model of its own to serve."
    settings: frozenset[str] = PARAMS


class Lora(_FineTuning):
    """Low-rank adapters on every linear layer are trained; the base model stays as it is."""

    name = "lora"
    rung = 50
    rank = 16
    when = "Hundreds of examples, and several tasks that share one base model in memory."
    settings: frozenset[str] = PARAMS


class LabelPredictor:
    """Classifies by the probability the model gives to each label as its whole answer, end token included."""

    def __init__(self, model: LocalModel, labels: Sequence[str], instruction: str) -> None:
        self.model, self.labels, self.instruction = model, list(labels), instruction
        self.answers = [continuation(model.tokenizer, label, instruction) for label in labels]

    def predict(self, inputs: Sequence[str]) -> list[Prediction]:
        """The likeliest label of each input; `score` is its share of the probability of all labels."""
        started = time.monotonic()
        asked = [text for text in inputs if text.strip()]
        prompts = [prompt_for(self.model.tokenizer, text, self.instruction) for text in asked]
        scores = self.model.label_scores(prompts, self.answers)
        shares = np.exp(scores - scores.max(axis=1, keepdims=True)) if len(asked) else scores
        shares /= shares.sum(axis=1, keepdims=True)
        sizes = self.model.count_tokens(prompts)
        ms = 1000 * (time.monotonic() - started) / max(1, len(asked))
        answered = iter(zip(shares, sizes, strict=True))
        predictions = []
        for text in inputs:
            if not text.strip():
                predictions.append(Prediction(output="", error="empty input"))
                continue
            share, size = next(answered)
            best = int(share.argmax())
            predictions.append(Prediction(output=self.labels[best], score=float(share[best]), ms=ms,
                                          usage=Usage(tokens_in=size)))
        return predictions
