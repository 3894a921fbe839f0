"""Pretraining: `nano`, a small Llama trained from a project's own text in about a minute."""

from __future__ import annotations

from bucle.customise.pretrain.loop import pretrain

__all__ = ["pretrain"]
