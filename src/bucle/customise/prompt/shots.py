"""The two plain rungs of prompting, for classification and for text tasks: `zero-shot` and `few-shot`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bucle.core.ports import FitContext, LoadContext, Predictor
from bucle.customise.prompt.classify import classifier, classify_prompt
from bucle.customise.prompt.files import load_prompt, needs_chat, save_prompt
from bucle.customise.prompt.text import TEXT_KINDS, TextPredictor, text_prompt
from bucle.customise.settings import whole

__all__ = ["FewShot", "ZeroShot"]

SHOTS = {"classify": 6}
TEXT_SHOTS = 3  # a text and its answer take the room of many labelled messages


class ZeroShot:
    """The instruction alone; for classification with the labels."""

    name = "zero-shot"
    version = 2
    kinds = TEXT_KINDS | {"classify"}
    needs = frozenset({"chat"})
    rung = 3
    baseline = False
    when = "A strong general model, and a task or labels that say what they mean; needs no example."
    settings: frozenset[str] = frozenset({"instruction", "shots", "max_tokens"})

    def fit(self, ctx: FitContext) -> Mapping[str, Any]:
        """Writes the prompt: instruction and the examples to draw from. Nothing is trained."""
        shots = whole(ctx.params, "shots", self.shots(ctx.kind), least=0, most=100)
        prompt = classify_prompt(ctx, shots) if ctx.kind == "classify" else text_prompt(ctx, shots)
        save_prompt(prompt, ctx.out)
        return {"shots": shots} | ({"labels": len(ctx.labels)} if ctx.kind == "classify" else {})

    def load(self, folder: Path, ctx: LoadContext) -> Predictor:
        chat, prompt = needs_chat(self.name, ctx), load_prompt(folder)
        if prompt["kind"] == "classify":
            return classifier(chat, prompt, ctx.seed)
        return TextPredictor(chat, prompt, ctx.seed)

    def shots(self, kind: str) -> int:
        """How many examples stand in the prompt where bucle.yaml does not say."""
        return 0


class FewShot(ZeroShot):
    """Zero-shot with the nearest examples put into the prompt. Not for code: its rows hold tests and no program."""

    name = "few-shot"
    kinds = (TEXT_KINDS | {"classify"}) - {"code"}
    rung = 4
    when = "As zero-shot, where a handful of examples shows what is wanted here."

    def shots(self, kind: str) -> int:
        return SHOTS.get(kind, TEXT_SHOTS)
