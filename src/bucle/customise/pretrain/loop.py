"""Pretrain a small Llama from a project's own text. Read it from top to bottom; nothing else happens
elsewhere.

The recipe follows the small-model speed runs: Muon (Jordan et al. 2024,
https://kellerjordan.github.io/posts/muon/) on the matrices, AdamW on the embeddings and the head, a short
warm-up and a long linear cool-down. The shape stays `LlamaForCausalLM`, so that the folder loads in any tool
that reads Hugging Face folders.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bucle.core.errors import BadInput
from bucle.core.ids import canonical_json, sha256_hex
from bucle.core.ports import Report
from bucle.customise.pretrain.checkpoint import load_checkpoint, save_checkpoint
from bucle.customise.pretrain.tokenizer import encode_documents, train_tokenizer, vocabulary_for

__all__ = ["pretrain"]

VERSION = 1
HELD_OUT_SHARE, HELD_OUT_BYTES = 0.05, 40_000
WARM_UP, COOL_DOWN = 0.02, 0.6
PASSES = 4


def pretrain(texts: Sequence[str], out: Path, work: Path, *, report: Report, steps: int = 0, width: int = 192,
             layers: int = 3, context: int = 256, batch_tokens: int = 2048, vocabulary: int = 0, seed: int = 0,
             threads: int | None = None, save_seconds: float = 10.0, muon_rate: float = 0.02,
             embedding_rate: float = 0.02, head_rate: float = 0.008) -> dict[str, Any]:
    """Train on `texts` for `steps` batches of `batch_tokens` tokens and write a Hugging Face folder into
    `out`.

    `steps` 0 takes four passes over the text, at least 40 batches and at most 500: on a few hundred kB, more
    passes learn it by heart and the held-out figure gets worse.

    Returns figures: `bits_per_byte_before` and `_after` on held-out texts (5%, at most 40 kB), the training
    losses in nats per token (`losses`, `[[step, loss], ...]`), `tokens_per_second`, `seconds`, `parameters`,
    `vocabulary`. A killed run continues from `work` and ends with the same weights, bit for bit, as an
    undisturbed one with as many threads. `vocabulary` 0 chooses by the amount of text. Raises BadInput where
    there is too little text.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from bucle.models.cpu import bf16_is_fast, prepare_torch, quiet_libraries

    threads = prepare_torch(threads)
    started = time.monotonic()
    train, held_out = _split(texts, seed)
    report(0, 0, "learning the tokenizer")
    vocabulary = vocabulary or vocabulary_for(sum(map(len, train)))
    tokenizer = train_tokenizer(train, out, vocabulary=vocabulary, context=context)
    stream = np.concatenate([np.asarray(ids, dtype=np.int64) for ids in encode_documents(tokenizer, train)])
    if len(stream) < 2 * (context + 1):
        raise BadInput(f"{len(stream)} tokens of text are too few for a context of {context}.",
                       "add documents, or lower the context")

    rows = max(1, batch_tokens // context)
    steps = steps or min(500, max(40, round(PASSES * len(stream) / (rows * context))))

    # The model. Master weights stay in float32; where the processor multiplies bfloat16, a copy in it does
    # the work.
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=width, num_hidden_layers=layers,
        intermediate_size=_multiple(width * 8 / 3, 32), num_attention_heads=max(1, width // 64),
        num_key_value_heads=max(1, width // 64), max_position_embeddings=context,
        tie_word_embeddings=False, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, attn_implementation="sdpa", use_cache=True,
    )
    master = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in master.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.zero_()
    low = bf16_is_fast()
    worker = LlamaForCausalLM(config).to(torch.bfloat16) if low else master
    masters, workers = list(master.parameters()), list(worker.parameters())

    matrices = [p for n, p in master.named_parameters() if p.ndim == 2 and n.startswith("model.layers")]
    norms = [p for p in masters if p.ndim == 1]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=muon_rate, momentum=0.95, weight_decay=0.0),
        torch.optim.AdamW([
            {"params": [master.model.embed_tokens.weight], "lr": embedding_rate},
            {"params": [master.lm_head.weight], "lr": head_rate},
            {"params": norms, "lr": 0.005},
        ], betas=(0.8, 0.95), eps=1e-10, weight_decay=0.0, fused=True),
    ]
    rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]

    # Where a killed run stood. The key holds all that decides the weights, so another run's checkpoint is
    # never taken.
    key = sha256_hex(canonical_json({
        "version": VERSION, "stream": hashlib.sha256(stream.tobytes()).hexdigest(), "config": config.to_json_string(),
        "steps": steps, "batch_tokens": batch_tokens, "seed": seed, "threads": threads, "low": low, "rates": rates,
        "torch": torch.__version__,
    }))
    named = dict(master.named_parameters())
    state = load_checkpoint(work, key, named, optimizers)
    if state is None:
        before = _bits_per_byte(master, tokenizer, held_out, context)
        state = {"step": 0, "losses": [], "before": before, "seconds": 0.0}
    losses: list[list[float]] = state["losses"]

    order = _Order(stream, context, rows, seed)
    loop_started = saved = time.monotonic()
    first = int(state["step"])
    for step in range(first, steps):
        if low:
            torch._foreach_copy_([w.data for w in workers], [m.data for m in masters])
        batch = torch.from_numpy(order.batch(step))
        logits = worker(input_ids=batch[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())
        worker.zero_grad(set_to_none=True)
        loss.backward()
        if low:
            for parameter, copy in zip(masters, workers, strict=True):
                parameter.grad = copy.grad.float()
        for optimizer, base in zip(optimizers, rates, strict=True):
            for group, rate in zip(optimizer.param_groups, base, strict=True):
                group["lr"] = rate * _schedule(step, steps)
            optimizer.step()
        value = loss.item()
        if not math.isfinite(value):
            raise BadInput(f"The loss is {value} at step {step}.", "lower muon_rate, embedding_rate and head_rate")
        if step % max(1, steps // 50) == 0 or step == steps - 1:
            losses.append([step, round(value, 4)])
            report(step + 1, steps, f"loss {value:.2f}")
        if time.monotonic() - saved > save_seconds and step < steps - 1:
            saved = time.monotonic()
            save_checkpoint(work, key, named, optimizers, {
                "step": step + 1, "losses": losses, "before": state["before"],
                "seconds": state["seconds"] + saved - started})

    loop_seconds = time.monotonic() - loop_started
    after = _bits_per_byte(master, tokenizer, held_out, context)
    master.generation_config.max_length = context
    with quiet_libraries():
        master.save_pretrained(str(out), safe_serialization=True)
    return {
        "bits_per_byte_before": state["before"], "bits_per_byte_after": after,
        "held_out_bytes": sum(len(t.encode()) for t in held_out),
        "loss": losses[-1][1], "losses": losses, "steps": steps,
        "train_tokens": len(stream),
        "epochs": steps * rows * context / len(stream),
        "tokens_per_second": (steps - first) * rows * context / max(loop_seconds, 1e-9),
        "seconds": state["seconds"] + time.monotonic() - started,
        "parameters": sum(p.numel() for p in masters),
        "vocabulary": len(tokenizer), "bf16": low, "threads": threads,
    }


class _Order:
    """Rows of `context + 1` tokens, each epoch in a new order from a new phase; batch `step` depends on
    `step` alone."""

    def __init__(self, stream: np.ndarray, context: int, rows: int, seed: int) -> None:
        self.stream, self.context, self.rows, self.seed = stream, context, rows, seed
        self.per_epoch = (len(stream) - 1) // context - 1
        self._epoch, self._starts = -1, np.empty(0, dtype=np.int64)

    def batch(self, step: int) -> np.ndarray:
        """Token ids `[rows, context + 1]`."""
        return np.stack([self._row(index) for index in range(step * self.rows, (step + 1) * self.rows)])

    def _row(self, index: int) -> np.ndarray:
        epoch, place = divmod(index, self.per_epoch)
        if epoch != self._epoch:
            random = np.random.default_rng([self.seed, epoch])
            phase = int(random.integers(self.context))
            self._epoch, self._starts = epoch, phase + self.context * random.permutation(self.per_epoch)
        start = int(self._starts[place])
        return self.stream[start:start + self.context + 1]


def _schedule(step: int, steps: int) -> float:
    """The share of the full rate at `step`: linear warm-up, plateau, linear cool-down to 2%."""
    warm, cool = max(1.0, WARM_UP * steps), max(1.0, COOL_DOWN * steps)
    return min(1.0, (step + 1) / warm, 0.02 + 0.98 * (steps - step) / cool)


def _split(texts: Sequence[str], seed: int) -> tuple[list[str], list[str]]:
    """Train and held-out texts, by the hash of the text, so that copies stay on one side."""
    train, held_out, size = [], [], 0
    for text in texts:
        if not text.strip():
            continue
        draw = int(sha256_hex(f"{seed}:{text.strip()}")[:8], 16) / 2**32
        if draw < HELD_OUT_SHARE and size < HELD_OUT_BYTES:
            held_out.append(text)
            size += len(text.encode())
        else:
            train.append(text)
    if not held_out and len(train) > 1:
        held_out.append(train.pop())
    return train, held_out


def _bits_per_byte(model: Any, tokenizer: Any, texts: Sequence[str], context: int) -> float | None:
    from bucle.models.local import bits_per_byte

    scores = bits_per_byte(model, tokenizer, texts, context=context)
    sizes = [len(text.encode()) for text in texts]
    return sum(s * n for s, n in zip(scores, sizes, strict=True)) / sum(sizes) if sizes else None


def _multiple(value: float, of: int) -> int:
    return max(of, round(value / of) * of)
