"""Chain of thought: reasoning first, then the answer after a marker (Wei et al. 2022, arXiv:2201.11903; without
examples Kojima et al. 2022, arXiv:2205.11916).

With `samples` above 1, several are drawn at temperature 0.7 and the answer that most of them reach is given, its score
the share of samples that reached it (self-consistency, Wang et al. 2022, arXiv:2203.11171). A reply without the marker
has no answer: an error, and no vote. A local model's label is the likeliest after its own reasoning, so that one too
small to keep to a form still answers.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bucle.core.errors import BadInput, BucleError
from bucle.core.ports import ChatModel, ChatReply, FitContext, LoadContext, Message, Predictor
from bucle.core.records import Prediction, Usage
from bucle.customise.prompt.classify import ScoringPredictor, classify_prompt, label_in, messages_for
from bucle.customise.prompt.files import load_prompt, needs_chat, save_prompt
from bucle.customise.prompt.fitting import cut_off, is_local
from bucle.customise.prompt.instructions import text_messages, thinking
from bucle.customise.prompt.parsing import answer_after
from bucle.customise.prompt.text import TEMPERATURE, add_usage, reader, text_prompt, took
from bucle.customise.settings import whole
from bucle.models.ask import Ask, ask_all

__all__ = ["ChainOfThought", "Thought", "think", "vote"]

LABEL_TOKENS = 400
MORE_TOKENS = 400  # for the reasoning before a text


class ChainOfThought:
    """The model reasons before it answers."""

    name = "chain-of-thought"
    kinds = frozenset({"classify", "extract", "instruct", "code"})
    needs = frozenset({"chat"})
    rung = 5
    baseline = False
    grown = True
    when = "Answers that need several steps, and a model that can take them; costs the tokens of its reasoning."
    settings: frozenset[str] = frozenset({"instruction", "max_tokens", "samples"})

    def fit(self, ctx: FitContext) -> Mapping[str, Any]:
        """Writes the prompt; nothing is trained."""
        if ctx.kind == "classify":
            prompt = classify_prompt(ctx, 0)
            prompt["samples"] = whole(ctx.params, "samples", 1, most=100)
            prompt["max_tokens"] = whole(ctx.params, "max_tokens", LABEL_TOKENS)
        else:
            prompt = text_prompt(ctx, 0)
            prompt["max_tokens"] += 0 if ctx.params.get("max_tokens") else MORE_TOKENS
        prompt["thinking"] = thinking(ctx.params)
        save_prompt(prompt, ctx.out)
        return {"samples": prompt["samples"], "max_tokens": prompt["max_tokens"]}

    def load(self, folder: Path, ctx: LoadContext) -> Predictor:
        chat, prompt = needs_chat(self.name, ctx), load_prompt(folder)
        if prompt["kind"] != "classify":
            return TextThinker(chat, prompt, ctx.seed)
        return (LabelScorer if is_local(chat) else LabelThinker)(chat, prompt, ctx.seed)


@dataclass(frozen=True)
class Thought:
    """One sample: its answer and reasoning, or its error."""

    answer: str
    reasoning: str = ""
    error: str = ""
    usage: Usage = field(default_factory=Usage)
    ms: float = 0.0


def think(
    model: ChatModel,
    conversations: Sequence[Sequence[Message]],
    read: Callable[[str], str],
    *,
    max_tokens: int,
    samples: int,
    seed: int,
    last: bool,
) -> list[list[Thought]]:
    """`samples` thoughts on each of `conversations`. `read` makes an answer of what follows the marker, and raises
    BadInput; `last`: see `answer_after`."""
    temperature = TEMPERATURE if samples > 1 else 0.0
    asks = [Ask(tuple(m), max_tokens, temperature, seed=seed + i) for m in conversations for i in range(samples)]
    said = [_thought(reply, read, max_tokens, last) for reply in ask_all(model, asks)]
    return [said[start : start + samples] for start in range(0, len(said), samples)]


def _thought(reply: ChatReply | BucleError, read: Callable[[str], str], limit: int, last: bool) -> Thought:
    if isinstance(reply, BucleError):
        return Thought("", error=reply.message)
    spent: dict[str, Any] = {"usage": reply.usage, "ms": reply.ms}
    cut = cut_off(reply, limit)
    try:
        reasoning, rest = answer_after(reply.text, last=last)
    except BadInput as error:
        return Thought("", reply.text.strip(), cut or error.message, **spent)
    try:
        answer = read(rest)
    except BadInput as error:
        return Thought("", reasoning, cut or error.message, **spent)
    return Thought(answer, reasoning, cut, **spent)


def vote(thoughts: Sequence[Thought], model: ChatModel, *, key: Callable[[str], str] = str) -> Prediction:
    """The answer that most of the samples reach, the earliest of equals; `key` says which answers are the same. `score`
    is its share of all the samples, those without an answer too; None for a single one."""
    usage = add_usage(*(t.usage for t in thoughts))
    ms = took([t.ms for t in thoughts], model)
    whole = [t for t in thoughts if not t.error]
    if not whole:
        first = thoughts[0]
        return Prediction(output=first.answer, error=first.error, reasoning=first.reasoning, usage=usage, ms=ms)
    counts = Counter(key(t.answer) for t in whole)
    best = max(whole, key=lambda t: counts[key(t.answer)])
    score = counts[key(best.answer)] / len(thoughts) if len(thoughts) > 1 else None
    return Prediction(output=best.answer, score=score, reasoning=best.reasoning, usage=usage, ms=ms)


class LabelThinker:
    """A remote model reasons, then writes the label."""

    def __init__(self, model: ChatModel, prompt: Mapping[str, Any], seed: int) -> None:
        self.model, self.prompt, self.seed = model, prompt, seed

    def predict(self, inputs: Sequence[str]) -> list[Prediction]:
        asked = [_with_thinking(messages_for(self.prompt, text, []), self.prompt) for text in inputs]
        found = think(self.model, asked, self._label, max_tokens=self.prompt["max_tokens"],
                      samples=self.prompt["samples"], seed=self.seed, last=True)
        return [vote(thoughts, self.model) for thoughts in found]

    def _label(self, answer: str) -> str:
        label = label_in(answer, self.prompt["labels"])
        if label is None:
            raise BadInput(f"the answer names no label: {answer[:80]!r}")
        return label


class LabelScorer(ScoringPredictor):
    """A local model reasons; its label is the likeliest after that reasoning, calibrated as in zero-shot."""

    def __init__(self, model: Any, prompt: Mapping[str, Any], seed: int) -> None:
        self.seed = seed
        self.marker = "\nRESPUESTA: " if "RESPUESTA" in prompt["thinking"] else "\nANSWER: "
        super().__init__(model, prompt, None)

    def _render(self, text: str, examples: Sequence[tuple[str, str]]) -> str:
        return self._prompt(text) + self.marker

    def predict(self, inputs: Sequence[str]) -> list[Prediction]:
        import numpy as np
        from scipy.special import softmax

        labels, samples = self.prompt["labels"], self.prompt["samples"]
        predictions = []
        for text in inputs:
            began = time.perf_counter()
            prompt = self._prompt(text)
            replies = self._reason(text, prompt)
            thoughts = [reply.text.strip() for reply in replies]
            whole = [prompt + thought + self.marker for thought in thoughts]
            scores = self._scores(whole) - self.prior
            shares = softmax(scores, axis=1)
            votes = Counter(int(row.argmax()) for row in shares)
            best = max(votes, key=lambda label: (votes[label], shares[:, label].sum()))
            first = next(i for i, row in enumerate(shares) if int(row.argmax()) == best)
            predictions.append(Prediction(
                output=labels[best],
                score=votes[best] / samples if samples > 1 else float(np.max(shares)),
                reasoning=thoughts[first],
                usage=add_usage(*(reply.usage for reply in replies), Usage(tokens_in=self._tokens(whole))),
                ms=(time.perf_counter() - began) * 1000,
            ))
        return predictions

    def _tokens(self, prompts: Sequence[str]) -> int:
        return sum(self.model.count_tokens(prompts))

    def _prompt(self, text: str) -> str:
        return str(self.model.render(_with_thinking(messages_for(self.prompt, text, []), self.prompt)))

    def _reason(self, text: str, prompt: str) -> list[ChatReply]:
        """The reasoning of every sample: at most a quarter of the context, and what the prompt, the marker and a label
        leave of it; none where they leave nothing."""
        taken = self._tokens([prompt, self.marker])
        room = min(self.prompt["max_tokens"], self.model.context // 4, self.room - taken)
        samples = self.prompt["samples"]
        if room < 1:
            return [ChatReply("", Usage())] * samples
        temperature = TEMPERATURE if samples > 1 else 0.0
        messages = tuple(_with_thinking(messages_for(self.prompt, text, []), self.prompt))
        asks = [Ask(messages, room, temperature, (self.marker.strip(),), self.seed + i) for i in range(samples)]
        replies = ask_all(self.model, asks)
        return [reply if isinstance(reply, ChatReply) else ChatReply("", Usage()) for reply in replies]


class TextThinker:
    """A model reasons, then writes an object, a text or a program. Programs are sampled for pass@k, so theirs are not
    put to the vote: the further ones are `others`."""

    def __init__(self, model: ChatModel, prompt: Mapping[str, Any], seed: int) -> None:
        self.model, self.prompt, self.seed = model, prompt, seed
        self.read = reader(prompt)

    def predict(self, inputs: Sequence[str]) -> list[Prediction]:
        kind = str(self.prompt["kind"])
        asked = [text for text in inputs if text.strip()]
        conversations = [
            _with_thinking(text_messages(kind, self.prompt["system"], text, [], self.prompt["language"]), self.prompt)
            for text in asked
        ]
        found = iter(think(self.model, conversations, self.read, max_tokens=self.prompt["max_tokens"],
                           samples=self.prompt["samples"], seed=self.seed, last=kind == "extract"))
        return [
            self._together(next(found)) if text.strip() else Prediction(output="", error="the input is empty")
            for text in inputs
        ]

    def _together(self, thoughts: Sequence[Thought]) -> Prediction:
        if self.prompt["kind"] != "code":
            return vote(thoughts, self.model, key=lambda answer: " ".join(answer.split()))
        best = next((t for t in thoughts if not t.error), thoughts[0])
        return vote([best], self.model).model_copy(update={
            "usage": add_usage(*(t.usage for t in thoughts)),
            "ms": took([t.ms for t in thoughts], self.model),
            "others": tuple(t.answer if not t.error else "" for t in thoughts if t is not best),
        })


def _with_thinking(messages: Sequence[Message], prompt: Mapping[str, Any]) -> list[Message]:
    system, *rest = messages
    return [{**system, "content": f"{system['content']}\n{prompt['thinking']}"}, *rest]
