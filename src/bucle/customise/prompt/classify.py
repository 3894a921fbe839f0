"""Classification by prompt. A local model scores every label's likelihood; a remote one writes the label.

The two ways give a prediction each for the same prompt: scoring cannot say anything but a label, so it needs no
parsing; a remote endpoint gives no likelihoods for a text of ours, so its reply is matched to the labels, and a
reply that names none is an error of that row, never a guess.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bucle.core.errors import BadInput, BucleError, SchemaBroken
from bucle.core.ports import ChatModel, FitContext, Message, Predictor
from bucle.core.records import Prediction, Usage
from bucle.customise.prompt.examples import ExampleChoice, chooser, kept_examples
from bucle.customise.prompt.fitting import ask_fitting, cut_off, is_local
from bucle.customise.prompt.instructions import language_of
from bucle.customise.prompt.spec import OwnPrompt, keep, own_spec
from bucle.customise.prompt.structured import Form, Structured
from bucle.customise.settings import whole
from bucle.customise.timing import timed
from bucle.models.ask import Ask

__all__ = [
    "ScoringPredictor",
    "WritingPredictor",
    "classifier",
    "classify_prompt",
    "failed",
    "label_in",
    "messages_for",
    "named_in",
]

INSTRUCTIONS = {
    "es": "Clasifica el mensaje en una de estas categorías. Responde solo con la categoría.",
    "en": "Classify the message into one of these categories. Answer with the category only.",
}
LABEL_TOKENS = 32


def classify_prompt(ctx: FitContext, shots: int) -> dict[str, Any]:
    """What is kept of a classifying prompt: instruction, labels and the examples to draw from; of a task with a prompt
    of its own, that prompt."""
    spec, labels = own_spec(ctx.params), list(ctx.labels)
    said = {"instruction": str(ctx.params.get("instruction") or INSTRUCTIONS[language_of(ctx.params)])}
    own: dict[str, Any] = {}
    if spec is not None:
        own = keep(spec, {"labels": labels, **said}, {"labels": ", ".join(labels)})
        own["samples"] = whole(ctx.params, "samples", spec.samples, most=100)
        own["schema"] = dict(spec.output) if isinstance(spec.output, Mapping) else {}
    return {
        "kind": "classify",
        **said,
        "labels": labels,
        "max_tokens": whole(ctx.params, "max_tokens", (spec.max_tokens if spec else 0) or LABEL_TOKENS),
        **kept_examples(ctx.params, spec, ctx.train, shots, by_label=True),
        **own,
    }


def classifier(chat: ChatModel, prompt: Mapping[str, Any], seed: int, *, skip_same: bool = False) -> Predictor:
    """What answers with a kept prompt: scores of a local model, a remote one's words. `skip_same` as in
    NearestExamples."""
    examples = chooser(prompt, skip_same=skip_same)
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
    `shortened` counts the prompts that lost examples to its context since loading.

    Subtracting each label's mean log-likelihood over the batch-independent content-free prompt removes the model's
    preference for common words (contextual calibration, Zhao et al. 2021, arXiv:2102.09690, as a difference).
    """

    def __init__(self, model: Any, prompt: Mapping[str, Any], examples: ExampleChoice | None) -> None:
        self.model, self.prompt, self.examples, self.shortened = model, prompt, examples, 0
        self.own = OwnPrompt(prompt) if prompt.get("spec") else None
        self.longest = max(model.count_tokens(prompt["labels"]))
        self.room = model.context - self.longest
        neutral = [self._render("N/A", []), self._render("...", []), self._render("mensaje", [])]
        self.prior = self._scores(neutral).mean(axis=0)

    def predict(self, inputs: Sequence[str]) -> list[Prediction]:
        return timed(inputs, self._predict)

    def _render(self, text: str, examples: Sequence[tuple[str, str]]) -> str:
        return str(self.model.render(self._messages(text, examples, self.longest)))

    def _messages(self, text: str, examples: Sequence[tuple[str, str]], room: int) -> Sequence[Message]:
        if self.own is None:
            return messages_for(self.prompt, text, examples)
        made = self.own.assembled(self.model, text, examples, room)
        self.shortened += bool(made.dropped)
        return made.messages

    def _fitting(self, text: str, shown: Sequence[tuple[str, str]]) -> str:
        """The prompt with as many examples as the context holds: the least similar goes first, the labels never."""
        if self.own is not None:
            return self._render(text, shown)
        for first in range(len(shown)):
            prompt = self._render(text, shown[first:])
            if self.model.count_tokens([prompt])[0] <= self.room:
                self.shortened += first > 0
                return prompt
        self.shortened += bool(shown)
        return self._render(text, [])

    def _scores(self, prompts: Sequence[str]) -> Any:
        return self.model.label_scores(prompts, self.prompt["labels"], per_token=True)

    def _predict(self, inputs: Sequence[str]) -> list[Prediction]:
        from scipy.special import softmax

        if not inputs:
            return []
        near = self.examples.near(inputs, self.prompt["shots"]) if self.examples else [[] for _ in inputs]
        made = [self._made(text, shown) for text, shown in zip(inputs, near, strict=True)]
        prompts = [one for one in made if isinstance(one, str)]
        if not prompts:
            return [one for one in made if isinstance(one, Prediction)]
        shares = softmax(self._scores(prompts) - self.prior, axis=1)
        sizes = self.model.count_tokens(prompts)
        found = iter([
            Prediction(output=self.prompt["labels"][row.argmax()], score=float(row.max()), usage=Usage(tokens_in=size))
            for row, size in zip(shares, sizes, strict=True)
        ])
        return [one if isinstance(one, Prediction) else next(found) for one in made]

    def _made(self, text: str, shown: Sequence[tuple[str, str]]) -> str | Prediction:
        """The prompt of one input, or why there is none: what may not leave it does not fit."""
        try:
            return self._fitting(text, shown)
        except BucleError as error:
            return failed(error)


class WritingPredictor:
    """A remote model writes the label; one that names no label is an error of that row. Rows are asked side by side."""

    def __init__(
        self, model: ChatModel, prompt: Mapping[str, Any], examples: ExampleChoice | None, seed: int
    ) -> None:
        self.model, self.prompt, self.examples, self.seed = model, prompt, examples, seed
        self.shortened = 0
        self.max_tokens = int(prompt.get("max_tokens", LABEL_TOKENS))
        self.own = OwnPrompt(prompt) if prompt.get("spec") else None
        self.form = Form(prompt["schema"]) if prompt.get("schema") else None

    def predict(self, inputs: Sequence[str]) -> list[Prediction]:
        near = self.examples.near(inputs, self.prompt["shots"]) if self.examples and inputs else [[] for _ in inputs]
        said: list[Prediction | None] = [None] * len(inputs)
        prompts: list[Iterator[tuple[Ask, tuple[int, Ask]]]] = []
        for i, (text, shown) in enumerate(zip(inputs, near, strict=True)):
            try:
                prompts.append(self._versions(i, self._ask(text, shown), text, shown))
            except BucleError as error:
                said[i] = failed(error)
        asked = ask_fitting(self.model, prompts)
        self.shortened += sum(one.shortened > 0 for one in asked)
        if self.form is None:
            for one in asked:
                said[one.used[0]] = self._read(one.reply)
        else:
            settled = self.form.settle(self.model, [one.used[1] for one in asked], [one.reply for one in asked])
            for one, found in zip(asked, settled, strict=True):
                said[one.used[0]] = self._of_object(found)
        return [one for one in said if one is not None]

    def _ask(self, text: str, shown: Sequence[tuple[str, str]]) -> Ask:
        if self.own is None:
            messages = tuple(messages_for(self.prompt, text, shown))
        else:
            messages = tuple(self.own.assembled(self.model, text, shown, self.max_tokens).messages)
        ask = Ask(messages, max_tokens=self.max_tokens, seed=self.seed)
        return self.form.wanted(ask) if self.form else ask

    def _versions(
        self, row: int, first: Ask, text: str, shown: Sequence[tuple[str, str]]
    ) -> Iterator[tuple[Ask, tuple[int, Ask]]]:
        """The prompt with all the examples (`first`), with the nearer half of them, …, with none."""
        yield first, (row, first)
        while shown:
            shown = shown[-(len(shown) // 2) :] if len(shown) > 1 else []
            ask = self._ask(text, shown)
            yield ask, (row, ask)

    def _of_object(self, found: Structured) -> Prediction:
        """The label in an object: its `label`, else its first text."""
        spent: dict[str, Any] = {"usage": found.usage, "ms": found.ms}
        if found.value is None:
            return failed(found.error or BadInput("there is no object"), **spent)
        label = label_in(named_in(found.value), self.prompt["labels"])
        if label is None:
            return failed(SchemaBroken(f"the object names no label: {found.reply[:80]!r}"), **spent)
        return Prediction(output=label, **spent)

    def _read(self, reply: Any) -> Prediction:
        if isinstance(reply, BucleError):
            return failed(reply)
        said = reply.text if reply.finish != "length" else " ".join(reply.text.split()[:-1])  # a word may be cut
        label = label_in(said, self.prompt["labels"])
        return Prediction(
            output=label or "",
            usage=reply.usage,
            ms=reply.ms,
            error="" if label else cut_off(reply, self.max_tokens) or f"the reply names no label: {reply.text[:80]!r}",
            error_kind="" if label else BadInput.__name__,
        )


def failed(error: BucleError, **spent: Any) -> Prediction:
    """The prediction of a row that has only an error."""
    return Prediction(output="", error=error.message, error_kind=type(error).__name__, **spent)


def named_in(value: Mapping[str, Any]) -> str:
    """What an object says of a label: its `label`, else its first text."""
    if isinstance(said := value.get("label"), str):
        return said
    return next((one for one in value.values() if isinstance(one, str)), "")


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
