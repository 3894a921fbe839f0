"""Classification by prompt. A local model scores every label's likelihood; a remote one writes the label.

The two ways give a prediction each for the same prompt: scoring cannot say anything but a label, so it needs no
parsing; a remote endpoint gives no likelihoods for a text of ours, so its reply is matched to the labels, and a
reply that names none is an error of that row, never a guess.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bucle.core.errors import BucleError
from bucle.core.ports import ChatModel, FitContext, Message, Predictor
from bucle.core.records import Prediction, Usage
from bucle.customise.prompt.examples import NearestExamples
from bucle.customise.prompt.fitting import ask_fitting, cut_off, is_local
from bucle.customise.prompt.instructions import language_of
from bucle.customise.settings import whole
from bucle.customise.timing import timed
from bucle.models.ask import Ask

__all__ = [
    "ScoringPredictor",
    "WritingPredictor",
    "classifier",
    "classify_prompt",
    "label_in",
    "messages_for",
]

INSTRUCTIONS = {
    "es": "Clasifica el mensaje en una de estas categorías. Responde solo con la categoría.",
    "en": "Classify the message into one of these categories. Answer with the category only.",
}
LABEL_TOKENS = 32


def classify_prompt(ctx: FitContext, shots: int) -> dict[str, Any]:
    """What is kept of a classifying prompt: instruction, labels and the examples to draw from."""
    return {
        "kind": "classify",
        "instruction": str(ctx.params.get("instruction") or INSTRUCTIONS[language_of(ctx.params)]),
        "labels": list(ctx.labels),
        "shots": shots,
        "max_tokens": whole(ctx.params, "max_tokens", LABEL_TOKENS),
        "examples": [[e.input, e.target] for e in ctx.train if e.target] if shots else [],
    }


def classifier(chat: ChatModel, prompt: Mapping[str, Any], seed: int, *, skip_same: bool = False) -> Predictor:
    """What answers with a kept prompt: scores of a local model, a remote one's words. `skip_same` as in
    NearestExamples."""
    examples = None
    if prompt["shots"] and prompt["examples"]:
        examples = NearestExamples(prompt["examples"], skip_same=skip_same)
    if is_local(chat):
        return ScoringPredictor(chat, prompt, examples)
    return WritingPredictor(chat, prompt, examples, seed)


def messages_for(prompt: Mapping[str, Any], text: str, examples: Sequence[tuple[str, str]]) -> list[Message]:
    """The conversation for one message: instruction with labels, examples as earlier turns, then the message."""
    labels = ", ".join(prompt["labels"])
    messages: list[Message] = [{"role": "system", "content": f"{prompt['instruction']}\n{labels}"}]
    for shown, label in examples:
        messages += [{"role": "user", "content": shown}, {"role": "assistant", "content": label}]
    return [*messages, {"role": "user", "content": text}]


class ScoringPredictor:
    """A local model: the label whose text is likeliest after the prompt, relative to how likely it is on its own.

    Subtracting each label's mean log-likelihood over the batch-independent content-free prompt removes the model's
    preference for common words (contextual calibration, Zhao et al. 2021, arXiv:2102.09690, as a difference).
    """

    def __init__(self, model: Any, prompt: Mapping[str, Any], examples: NearestExamples | None) -> None:
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


class WritingPredictor:
    """A remote model writes the label; one that names no label is an error of that row. Rows are asked side by side."""

    def __init__(
        self, model: ChatModel, prompt: Mapping[str, Any], examples: NearestExamples | None, seed: int
    ) -> None:
        self.model, self.prompt, self.examples, self.seed = model, prompt, examples, seed
        self.max_tokens = int(prompt.get("max_tokens", LABEL_TOKENS))

    def predict(self, inputs: Sequence[str]) -> list[Prediction]:
        near = self.examples.near(inputs, self.prompt["shots"]) if self.examples and inputs else [[] for _ in inputs]
        asked = ask_fitting(
            self.model, [self._versions(text, shown) for text, shown in zip(inputs, near, strict=True)]
        )
        return [self._read(one.reply) for one in asked]

    def _versions(self, text: str, shown: Sequence[tuple[str, str]]) -> Iterator[tuple[Ask, None]]:
        """The prompt with all the examples, with the nearer half of them, …, with none."""
        while True:
            messages = tuple(messages_for(self.prompt, text, shown))
            yield Ask(messages, max_tokens=self.max_tokens, seed=self.seed), None
            if not shown:
                return
            shown = shown[-(len(shown) // 2) :] if len(shown) > 1 else []

    def _read(self, reply: Any) -> Prediction:
        if isinstance(reply, BucleError):
            return Prediction(output="", error=reply.message)
        said = reply.text if reply.finish != "length" else " ".join(reply.text.split()[:-1])  # a word may be cut
        label = label_in(said, self.prompt["labels"])
        return Prediction(
            output=label or "",
            usage=reply.usage,
            ms=reply.ms,
            error="" if label else cut_off(reply, self.max_tokens) or f"the reply names no label: {reply.text[:80]!r}",
        )


def label_in(reply: str, labels: Sequence[str]) -> str | None:
    """The one label that a reply names, in whole words, case and accents folded; None for none, or for several."""
    if reply.strip() in labels:
        return reply.strip()
    folded = {_fold(label): label for label in labels}
    said = f" {_fold(reply)} "  # whole words only: `rebajas` does not name `baja`
    named = [fold for fold in folded if fold and f" {fold} " in said]
    # Several labels in one reply is no answer, unless one contains the others (`alta` in `alta_contrato`).
    longest = max(named, key=len, default="")
    return folded[longest] if named and all(f" {n} " in f" {longest} " for n in named) else None


def _fold(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    kept = "".join(c if c.isalnum() else " " for c in decomposed if not unicodedata.combining(c))
    return " ".join(kept.split())
