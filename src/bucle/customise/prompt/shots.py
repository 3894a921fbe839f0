"""The two plain rungs of prompting, for classification and for text tasks: `zero-shot` and `few-shot`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bucle.core.ports import ChatModel, FitContext, LoadContext, Predictor
from bucle.core.prompting import PromptSpec
from bucle.customise.prompt.classify import classifier, classify_prompt
from bucle.customise.prompt.examples import shots_of
from bucle.customise.prompt.files import load_prompt, needs_chat, save_prompt
from bucle.customise.prompt.fitting import is_local
from bucle.customise.prompt.spec import own_spec
from bucle.customise.prompt.text import TEXT_KINDS, TextPredictor, text_prompt
from bucle.customise.prompt.thought import thinker, thinking_prompt
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
    settings: frozenset[str] = frozenset({"instruction", "shots", "examples", "max_tokens"})

    def fit(self, ctx: FitContext) -> Mapping[str, Any]:
        """Writes the prompt: instruction and the examples to draw from. Nothing is trained."""
        spec = own_spec(ctx.params)
        shots = self._count(ctx.params, spec, ctx.kind)
        if spec is not None and spec.thinking:
            prompt = thinking_prompt(ctx, shots)
        else:
            prompt = classify_prompt(ctx, shots) if ctx.kind == "classify" else text_prompt(ctx, shots)
        save_prompt(prompt, ctx.out)
        return {"shots": prompt["shots"]} | ({"labels": len(ctx.labels)} if ctx.kind == "classify" else {})

    def load(self, folder: Path, ctx: LoadContext) -> Predictor:
        chat, prompt = needs_chat(self.name, ctx), load_prompt(folder)
        if prompt.get("thinking") or self._sampled(chat, prompt):
            return thinker(chat, prompt, ctx.seed)
        if prompt["kind"] == "classify":
            return classifier(chat, prompt, ctx.seed)
        return TextPredictor(chat, prompt, ctx.seed)

    def _count(self, params: Mapping[str, Any], spec: PromptSpec | None, kind: str) -> int:
        return whole(params, "shots", 0, least=0, most=100)

    @staticmethod
    def _sampled(chat: ChatModel, prompt: Mapping[str, Any]) -> bool:
        """Whether the vote of several replies is taken: where the task's own prompt says so. A local model's scores
        of labels are the same each time, and programs are sampled for pass@k."""
        if not prompt.get("spec") or int(prompt.get("samples", 1)) < 2 or prompt["kind"] == "code":
            return False
        return not (prompt["kind"] == "classify" and is_local(chat))


class FewShot(ZeroShot):
    """Zero-shot with examples put into the prompt: the nearest, diverse or fixed ones. Not for code: its rows hold
    tests and no program."""

    name = "few-shot"
    kinds = (TEXT_KINDS | {"classify"}) - {"code"}
    rung = 4
    when = "As zero-shot, where a handful of examples shows what is wanted here."

    def _count(self, params: Mapping[str, Any], spec: PromptSpec | None, kind: str) -> int:
        return shots_of(params, spec, SHOTS.get(kind, TEXT_SHOTS))
