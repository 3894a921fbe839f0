"""Fine-tuning with TRL and PEFT: the techniques `full` and `lora`, and the exact batch they train on."""

from __future__ import annotations

from bucle.customise.finetune.rows import show_batch
from bucle.customise.finetune.techniques import Full, LabelPredictor, Lora

__all__ = ["Full", "LabelPredictor", "Lora", "show_batch"]
