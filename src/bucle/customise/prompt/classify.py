"""Classification by prompt. A local model scores every label's likelihood; a remote one writes the label.

The two ways give a prediction each for the same prompt: scoring cannot say anything but a label, so it needs no
parsing; a remote endpoint gives no likelihoods for a text of ours, so its reply is matched to the labels, and a
reply that names none is an error of that row, never a guess.
"""

from __future__ import annotations

import json
import time
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bucle.core.errors import BadInput, BucleError, ModelUnavailable
from bucle.core.ports import ChatModel, FitContext, LoadContext, Message, Predictor
from bucle.core.records import Prediction, Usage
from bucle.customise.classic.features import fit_tfidf, tfidf_matrix
from bucle.customise.timing import timed

__all__ = ["FewShot", "ZeroShot", "messages_for"]

EXAMPLES = 6


class ZeroShot:
    """Instruction and labels, no examples."""

    name = "zero-shot"
    kinds = frozenset({"classify"})
    needs = frozenset({"chat"})
    rung = 3
    baseline = False
    when = "A strong general model and labels that say what they mean; needs no labelled row."
    settings: frozenset[str] = frozenset({"instruction", "shots"})
    shots = 0

    def fit(self, ctx: FitContext) -> Mapping[str, Any]:
        """Writes the prompt: instruction, labels and the examples to draw from. Nothing is trained."""
        instruction = str(
            ctx.params.get("instruction")
            or "Clasifica el mensaje en una de estas categorías. Responde solo con la categoría."
        )
        shots = int(ctx.params.get("shots", self.shots))
        prompt = {
            "instruction": instruction,
            "labels": list(ctx.labels),
            "shots": shots,
            "examples": [[e.input, e.target] for e in ctx.train if e.target] if shots else [],
        }
        (ctx.out / "prompt.json").write_text(json.dumps(prompt, ensure_ascii=False))
        return {"shots": shots, "labels": len(ctx.labels)}

    def load(self, folder: Path, ctx: LoadContext) -> Predictor:
        if ctx.chat is None:
            raise BadInput(f"`{self.name}` needs a model that writes.", "Add one under `models:` in bucle.yaml.")
        prompt = json.loads((folder / "prompt.json").read_text())
        examples = _NearestExamples(prompt["examples"]) if prompt["shots"] and prompt["examples"] else None
        if hasattr(ctx.chat, "label_scores"):
            return _ScoringPredictor(ctx.chat, prompt, examples)
        return _WritingPredictor(ctx.chat, prompt, examples, ctx.seed)


class FewShot(ZeroShot):
    """Zero-shot with the nearest labelled examples put into the prompt."""

    name = "few-shot"
    rung = 4
    when = "As zero-shot, where a handful of examples shows what the labels mean here."
    settings: frozenset[str] = frozenset({"instruction", "shots"})
    shots = EXAMPLES


def messages_for(prompt: Mapping[str, Any], text: str, examples: Sequence[tuple[str, str]]) -> list[Message]:
    """The conversation for one message: instruction with labels, examples as earlier turns, then the message."""
    labels = ", ".join(prompt["labels"])
    messages: list[Message] = [{"role": "system", "content": f"{prompt['instruction']}\n{labels}"}]
    for shown, label in examples:
        messages += [{"role": "user", "content": shown}, {"role": "assistant", "content": label}]
    return [*messages, {"role": "user", "content": text}]


class _NearestExamples:
    """The labelled examples most similar to a message, the most similar last."""

    def __init__(self, examples: Sequence[Sequence[str]]) -> None:
        self.examples = [(str(text), str(label)) for text, label in examples]
        texts = [text for text, _ in self.examples]
        self.vectorizers = fit_tfidf(texts)
        self.matrix = tfidf_matrix(self.vectorizers, texts)

    def near(self, texts: Sequence[str], k: int) -> list[list[tuple[str, str]]]:
        similarity = (tfidf_matrix(self.vectorizers, texts) @ self.matrix.T).toarray()
        order = (-similarity).argsort(axis=1, kind="stable")[:, :k]
        return [[self.examples[j] for j in reversed(row)] for row in order]


class _ScoringPredictor:
    """A local model: the label whose text is likeliest after the prompt, relative to how likely it is on its own.

    Subtracting each label's mean log-likelihood over the batch-independent content-free prompt removes the model's
    preference for common words (contextual calibration, Zhao et al. 2021, arXiv:2102.09690, as a difference).
    """

    def __init__(self, model: Any, prompt: Mapping[str, Any], examples: _NearestExamples | None) -> None:
        self.model, self.prompt, self.examples = model, prompt, examples
        self.room = model.context - max(model.count_tokens(prompt["labels"]))
        neutral = [self._render("N/A", []), self._render("...", []), self._render("mensaje", [])]
        self.prior = self._scores(neutral).mean(axis=0)

    def predict(self, inputs: Sequence[str]) -> list[Prediction]:
        return timed(inputs, self._predict)

    def _render(self, text: str, examples: Sequence[tuple[str, str]]) -> str:
        return str(self.model.render(messages_for(self.prompt, text, examples)))

    def _fitting(self, text: str, shown: Sequence[tuple[str, str]]) -> str:
        """The prompt with as many examples as the context holds: the least similar goes first, the labels never."""
        for first in range(len(shown)):
            prompt = self._render(text, shown[first:])
            if self.model.count_tokens([prompt])[0] <= self.room:
                return prompt
        return self._render(text, [])

    def _scores(self, prompts: Sequence[str]) -> Any:
        return self.model.label_scores(prompts, self.prompt["labels"], per_token=True)

    def _predict(self, inputs: Sequence[str]) -> list[Prediction]:
        from scipy.special import softmax

        if not inputs:
            return []
        near = self.examples.near(inputs, self.prompt["shots"]) if self.examples else [[] for _ in inputs]
        prompts = [self._fitting(text, shown) for text, shown in zip(inputs, near, strict=True)]
        shares = softmax(self._scores(prompts) - self.prior, axis=1)
        sizes = self.model.count_tokens(prompts)
        return [
            Prediction(output=self.prompt["labels"][row.argmax()], score=float(row.max()), usage=Usage(tokens_in=size))
            for row, size in zip(shares, sizes, strict=True)
        ]


class _WritingPredictor:
    """A remote model writes the label; one that names no label is an error of that row."""

    def __init__(
        self, model: ChatModel, prompt: Mapping[str, Any], examples: _NearestExamples | None, seed: int
    ) -> None:
        self.model, self.prompt, self.examples, self.seed = model, prompt, examples, seed
        self.labels = {_fold(label): label for label in prompt["labels"]}

    def predict(self, inputs: Sequence[str]) -> list[Prediction]:
        near = self.examples.near(inputs, self.prompt["shots"]) if self.examples and inputs else [[] for _ in inputs]
        return [self._one(text, shown) for text, shown in zip(inputs, near, strict=True)]

    def _one(self, text: str, shown: Sequence[tuple[str, str]]) -> Prediction:
        began = time.perf_counter()
        try:
            reply = self.model.chat(messages_for(self.prompt, text, shown), max_tokens=32, seed=self.seed)
        except ModelUnavailable:  # no answer was given: an endpoint that is down must not be scored as a bad model
            raise
        except BucleError as error:
            return Prediction(output="", error=error.message)
        label = self._match(reply.text)
        return Prediction(
            output=label or "",
            score=None,
            usage=reply.usage,
            ms=(time.perf_counter() - began) * 1000,
            error="" if label else f"the reply names no label: {reply.text[:80]!r}",
        )

    def _match(self, reply: str) -> str | None:
        if reply.strip() in self.prompt["labels"]:
            return reply.strip()
        said = f" {_fold(reply)} "  # whole words only: `rebajas` does not name `baja`
        named = [fold for fold in self.labels if fold and f" {fold} " in said]
        # Several labels in one reply is no answer, unless one contains the others (`alta` in `alta_contrato`).
        longest = max(named, key=len, default="")
        return self.labels[longest] if named and all(f" {n} " in f" {longest} " for n in named) else None


def _fold(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    kept = "".join(c if c.isalnum() else " " for c in decomposed if not unicodedata.combining(c))
    return " ".join(kept.split())
