"""Supervised fine-tuning with TRL: one thin adapter, every default that matters said aloud, and resumable.

The Trainer keeps its optimizer and random state with torch.save. Only checkpoints that this run wrote into
its own work folder are read again, and torch reads them with weights_only.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bucle.core.errors import BadInput
from bucle.core.ids import canonical_json, file_sha256, sha256_hex
from bucle.core.ports import Report
from bucle.customise.finetune.rows import Rows

__all__ = ["Settings", "train"]

COMPLETE = "complete"


@dataclass(frozen=True)
class Settings:
    """How to train. `rank` 0 trains all the weights; otherwise LoRA of that rank on every linear layer (Hu et
    al. 2021, https://arxiv.org/abs/2106.09685), with `alpha` twice the rank."""

    epochs: int
    learning_rate: float
    batch: int
    rank: int
    seed: int
    threads: int
    save_seconds: float


def train(model: Any, tokenizer: Any, rows: Rows, base: Path, work: Path, settings: Settings, report: Report) -> tuple[
        Any, dict[str, Any]]:
    """Train `model` (float32, on the CPU or the first GPU) on `rows`; returns the trained model and figures:
    `losses` `[[step, nats per trained token], ...]`, `steps`, `seconds` of this process.

    A run killed at any moment continues from its last complete checkpoint in `work` and ends with the same
    weights.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import torch
    from datasets import Dataset, disable_progress_bars
    from transformers import PrinterCallback
    from trl import SFTConfig, SFTTrainer

    from bucle.models.cpu import bf16_is_fast, quiet_libraries

    started = time.monotonic()
    gpu = torch.cuda.is_available()
    key = sha256_hex(canonical_json({
        "rows": [[list(row.ids), row.answer] for row in rows.rows], "settings": asdict(settings), "gpu": gpu,
        "base": [file_sha256(path) for path in sorted(base.glob("*.safetensors"))], "torch": torch.__version__}))
    resume = _prepare(work, key)

    fields = SFTConfig.__dataclass_fields__  # transformers renamed it between 5.10 and 5.23
    checkpointing = "activation_checkpointing" if "activation_checkpointing" in fields else "gradient_checkpointing"
    arguments = SFTConfig(
        output_dir=str(work), num_train_epochs=settings.epochs, per_device_train_batch_size=settings.batch,
        gradient_accumulation_steps=1, learning_rate=settings.learning_rate, lr_scheduler_type="linear",
        warmup_steps=max(1, len(rows.rows) * settings.epochs // settings.batch // 20), weight_decay=0.0,
        max_grad_norm=1.0, optim="adamw_torch", seed=settings.seed, data_seed=settings.seed,
        # TRL's and the Trainer's silent defaults: no truncation (the rows fit), no packing, no checkpointing
        # of
        # activations, no second opinion on what is masked, no reports to anyone, no tqdm, saving when we say
        # so.
        max_length=None, packing=False, padding_free=False, completion_only_loss=True, assistant_only_loss=False,
        **{checkpointing: False}, bf16=gpu or bf16_is_fast(), fp16=False, use_cpu=not gpu, pad_to_multiple_of=None,
        report_to="none", disable_tqdm=True, save_strategy="no", eval_strategy="no", save_total_limit=2,
        logging_strategy="steps", logging_steps=1, logging_nan_inf_filter=False, dataloader_num_workers=0,
        dataloader_pin_memory=False, push_to_hub=False,
    )
    torch.manual_seed(settings.seed)
    data = Dataset.from_list([{"input_ids": list(row.ids), "labels": row.labels} for row in rows.rows])
    disable_progress_bars()
    with quiet_libraries(), warnings.catch_warnings():
        # PEFT reads an attribute that transformers has renamed.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        trainer = SFTTrainer(model=model, args=arguments, train_dataset=data, processing_class=tokenizer,
                             peft_config=_lora(settings), callbacks=[_progress(report, settings.save_seconds)])
        trainer.remove_callback(PrinterCallback)
        _same_labels(trainer, rows)
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    losses = [[entry["step"], round(entry["loss"], 4)] for entry in trainer.state.log_history if "loss" in entry]
    if not losses or not all(loss == loss and abs(loss) < 1e6 for _, loss in losses):
        raise BadInput("The training loss is not a number.", "lower learning_rate")
    return trainer.model.cpu(), {
        "losses": losses, "steps": trainer.state.global_step, "seconds": time.monotonic() - started,
        "resumed_at": int(resume.name.rpartition("-")[2]) if resume else 0, "bf16": arguments.bf16}


def _prepare(work: Path, key: str) -> Path | None:
    """Keep `work` only if it is this very run's; drop half-written checkpoints; return the newest complete
    one."""
    mark = work / "key.json"
    if not mark.is_file() or json.loads(mark.read_text(encoding="utf-8") or "0") != key:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        mark.write_text(json.dumps(key), encoding="utf-8")
        return None
    found = []
    for folder in work.glob("checkpoint-*"):
        if (folder / COMPLETE).is_file():
            found.append((int(folder.name.rpartition("-")[2]), folder))
        else:
            shutil.rmtree(folder)
    return max(found)[1] if found else None


def _progress(report: Report, save_seconds: float) -> Any:
    from transformers import TrainerCallback

    class Progress(TrainerCallback):  # type: ignore[misc, unused-ignore]
        """Reports each step, asks for a checkpoint every `save_seconds`, and marks those that are whole."""

        saved = time.monotonic()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
            loss = next((f"loss {entry['loss']:.2f}" for entry in reversed(state.log_history) if "loss" in entry), "")
            report(state.global_step, state.max_steps, loss)
            if time.monotonic() - self.saved >= save_seconds and state.global_step < state.max_steps:
                control.should_save = True
            return control

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            for path in folder.iterdir():
                with path.open("rb+") as file:
                    os.fsync(file.fileno())
            (folder / COMPLETE).touch()
            self.saved = time.monotonic()

    return Progress()


def _lora(settings: Settings) -> Any:
    if not settings.rank:
        return None
    from peft import LoraConfig

    return LoraConfig(r=settings.rank, lora_alpha=2 * settings.rank, lora_dropout=0.0, bias="none",
                      target_modules="all-linear", task_type="CAUSAL_LM")


def _same_labels(trainer: Any, rows: Rows) -> None:
    """What the Trainer will train on must be what `show_batch` shows, row by row."""
    kept: Mapping[str, Any] = trainer.train_dataset[:]
    if list(map(list, kept["input_ids"])) != [list(row.ids) for row in rows.rows] or list(
            map(list, kept["labels"])) != [row.labels for row in rows.rows]:
        raise BadInput("The training library changed the rows or their masks.",
                       "install the trl version Bucle asks for")
