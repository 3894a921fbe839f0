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
from functools import partial
from pathlib import Path
from typing import Any

from bucle.core.errors import BadInput, BucleError, SchemaBroken
from bucle.core.ports import ChatModel, ChatReply, FitContext, LoadContext, Message, Predictor
from bucle.core.records import Prediction, Usage
from bucle.customise.conversation import gist
from bucle.customise.prompt.classify import (
    ScoringPredictor,
    classify_prompt,
    failed,
    label_in,
    messages_for,
    named_in,
)
from bucle.customise.prompt.examples import chooser, shots_of
from bucle.customise.prompt.files import load_prompt, needs_chat, save_prompt
from bucle.customise.prompt.fitting import cut_off, is_local
from bucle.customise.prompt.instructions import text_messages, thinking
from bucle.customise.prompt.parsing import answer_after
from bucle.customise.prompt.spec import OwnPrompt, own_spec
from bucle.customise.prompt.structured import Form, as_line
from bucle.customise.prompt.text import TEMPERATURE, add_usage, form_of, reader, text_prompt, took
from bucle.customise.settings import whole
from bucle.models.ask import Ask, ask_all

__all__ = ["ChainOfThought", "Thought", "think", "thinker", "thinking_prompt", "vote"]

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
    settings: frozenset[str] = frozenset({"instruction", "max_tokens", "samples", "shots", "examples"})

    def fit(self, ctx: FitContext) -> Mapping[str, Any]:
        """Writes the prompt; nothing is trained."""
        spec = own_spec(ctx.params)
        prompt = thinking_prompt(ctx, shots_of(ctx.params, spec, 0))
        save_prompt(prompt, ctx.out)
        return {"samples": prompt["samples"], "max_tokens": prompt["max_tokens"]}

    def load(self, folder: Path, ctx: LoadContext) -> Predictor:
        return thinker(needs_chat(self.name, ctx), load_prompt(folder), ctx.seed)


def thinking_prompt(ctx: FitContext, shots: int) -> dict[str, Any]:
    """What is kept of a prompt that reasons before it answers."""
    spec = own_spec(ctx.params)
    said = bool(ctx.params.get("max_tokens") or (spec and spec.max_tokens))
    if ctx.kind == "classify":
        prompt = classify_prompt(ctx, shots)
        prompt["samples"] = whole(ctx.params, "samples", spec.samples if spec else 1, most=100)
        prompt["max_tokens"] = prompt["max_tokens"] if said else LABEL_TOKENS
    else:
        prompt = text_prompt(ctx, shots)
        prompt["max_tokens"] += 0 if said else MORE_TOKENS
    prompt["thinking"] = thinking(ctx.params)
    return prompt


def thinker(chat: ChatModel, prompt: Mapping[str, Any], seed: int) -> Predictor:
    """What reasons with a kept prompt, or only samples it and takes the vote, where it says no `thinking`."""
    if prompt["kind"] != "classify":
        return TextThinker(chat, prompt, seed)
    return (LabelScorer if is_local(chat) else LabelThinker)(chat, prompt, seed)


@dataclass(frozen=True)
class Thought:
    """One sample: its answer and reasoning, or its error. `reply` is all that the model wrote."""

    answer: str
    reasoning: str = ""
    error: str = ""
    usage: Usage = field(default_factory=Usage)
    ms: float = 0.0
    kind: str = ""
    reply: str = ""


def think(
    model: ChatModel,
    conversations: Sequence[Sequence[Message]],
    read: Callable[[str], str],
    *,
    max_tokens: int,
    samples: int,
    seed: int,
    last: bool,
    marker: bool = True,
) -> list[list[Thought]]:
    """`samples` thoughts on each of `conversations`. `read` makes an answer of what follows the marker, and raises
    BadInput; `last`: see `answer_after`. Without `marker` the whole reply is the answer."""
    temperature = TEMPERATURE if samples > 1 else 0.0
    asks = [Ask(tuple(m), max_tokens, temperature, seed=seed + i) for m in conversations for i in range(samples)]
    said = [_thought(reply, read, max_tokens, last, marker) for reply in ask_all(model, asks)]
    return [said[start : start + samples] for start in range(0, len(said), samples)]


def _thought(
    reply: ChatReply | BucleError, read: Callable[[str], str], limit: int, last: bool, marker: bool
) -> Thought:
    if isinstance(reply, BucleError):
        return Thought("", error=reply.message, kind=type(reply).__name__)
    text = reply.text.strip()
    spent: dict[str, Any] = {"usage": reply.usage, "ms": reply.ms, "reply": text}
    cut = cut_off(reply, limit)
    try:
        reasoning, rest = answer_after(reply.text, last=last) if marker else ("", text)
    except BadInput as error:
        return Thought("", text, cut or error.message, kind=type(error).__name__, **spent)
    try:
        answer = read(rest)
        if not answer:
            raise BadInput("the reply is empty")
    except BadInput as error:
        return Thought("", reasoning, cut or error.message, kind=type(error).__name__, **spent)
    return Thought(answer, reasoning, cut, kind=BadInput.__name__ if cut else "", **spent)


def vote(thoughts: Sequence[Thought], model: ChatModel, *, key: Callable[[str], str] = str) -> Prediction:
    """The answer that most of the samples reach, the earliest of equals; `key` says which answers are the same. `score`
    is its share of all the samples, those without an answer too; None for a single one."""
    usage = add_usage(*(t.usage for t in thoughts))
    ms = took([t.ms for t in thoughts], model)
    whole = [t for t in thoughts if not t.error]
    if not whole:
        first = thoughts[0]
        return Prediction(output=first.answer, error=first.error, error_kind=first.kind or BadInput.__name__,
                          reasoning=first.reasoning, usage=usage, ms=ms)
    counts = Counter(key(t.answer) for t in whole)
    best = max(whole, key=lambda t: counts[key(t.answer)])
    score = counts[key(best.answer)] / len(thoughts) if len(thoughts) > 1 else None
    return Prediction(output=best.answer, score=score, reasoning=best.reasoning, usage=usage, ms=ms)


class _Talk:
    """The conversation of each input: the task's own prompt or the technique's, with its examples and, where the model
    is to reason first, the words that say so."""

    def __init__(self, model: ChatModel, prompt: Mapping[str, Any]) -> None:
        self.model, self.prompt, self.kind = model, prompt, str(prompt["kind"])
        self.thinks = bool(prompt.get("thinking"))
        self.own = OwnPrompt(prompt) if prompt.get("spec") else None
        self.examples = chooser(prompt, key=partial(gist, self.kind))
        self.sign = "" if not self.thinks else "RESPUESTA: " if "RESPUESTA" in prompt["thinking"] else "ANSWER: "

    def shown(self, inputs: Sequence[str]) -> list[list[tuple[str, str]]]:
        """The examples of each input, their answers after the sign by which answers are read."""
        if self.examples is None or not inputs:
            return [[] for _ in inputs]
        found = self.examples.near(inputs, self.prompt["shots"])
        return [[(text, f"{self.sign}{answer}") for text, answer in one] for one in found]

    def messages(self, text: str, shown: Sequence[tuple[str, str]], room: int) -> list[Message]:
        """Raises ContextOverflow, and BadInput for an input that is no conversation."""
        if self.own is not None:
            return list(self.own.assembled(self.model, text, shown, room).messages)
        if self.kind == "classify":
            said: Sequence[Message] = messages_for(self.prompt, text, shown)
        else:
            said = text_messages(self.kind, self.prompt["system"], text, shown, self.prompt["language"])
        return _with_thinking(said, self.prompt)

    def of(self, inputs: Sequence[str]) -> tuple[list[list[Message]], dict[int, Prediction]]:
        """The conversations, and the rows that have none, with why."""
        asked: list[list[Message]] = []
        wrong: dict[int, Prediction] = {}
        for i, (text, shown) in enumerate(zip(inputs, self.shown(inputs), strict=True)):
            try:
                if self.kind != "classify" and not text.strip():
                    raise BadInput("the input is empty")
                asked.append(self.messages(text, shown, self.prompt["max_tokens"]))
            except BucleError as error:
                wrong[i] = failed(error)
        return asked, wrong


class LabelThinker:
    """A remote model reasons, then writes the label."""

    def __init__(self, model: ChatModel, prompt: Mapping[str, Any], seed: int) -> None:
        self.model, self.prompt, self.seed = model, prompt, seed
        self.talk = _Talk(model, prompt)
        self.form = Form(prompt["schema"]) if prompt.get("schema") else None

    def predict(self, inputs: Sequence[str]) -> list[Prediction]:
        asked, wrong = self.talk.of(inputs)
        found = iter(think(self.model, asked, self._label, max_tokens=self.prompt["max_tokens"],
                           samples=self.prompt["samples"], seed=self.seed, last=True, marker=self.talk.thinks))
        return [wrong[i] if i in wrong else vote(next(found), self.model) for i in range(len(inputs))]

    def _label(self, answer: str) -> str:
        if self.form is not None:
            value, fault = self.form.read(answer)
            if value is None or fault:
                raise SchemaBroken(fault, "")
            answer = named_in(value)
        label = label_in(answer, self.prompt["labels"])
        if label is None:
            raise BadInput(f"the answer names no label: {answer[:80]!r}")
        return label


class LabelScorer(ScoringPredictor):
    """A local model reasons; its label is the likeliest after that reasoning, calibrated as in zero-shot."""

    def __init__(self, model: Any, prompt: Mapping[str, Any], seed: int) -> None:
        self.seed = seed
        self.talk = _Talk(model, prompt)
        self.marker = f"\n{self.talk.sign or 'RESPUESTA: '}"
        super().__init__(model, prompt, None)

    def _render(self, text: str, examples: Sequence[tuple[str, str]]) -> str:
        return str(self.model.render(self._said(text, examples))) + self.marker

    def _said(self, text: str, shown: Sequence[tuple[str, str]]) -> list[Message]:
        """The conversation with as many examples as leave room to reason: the nearest stay."""
        need = self.longest + min(self.prompt["max_tokens"], self.model.context // 4)
        if self.talk.own is None:
            while shown and self._tokens([self.model.render(self.talk.messages(text, shown, need))]) + need > \
                    self.model.context:
                shown = shown[1:]
        return self.talk.messages(text, shown, need)

    def predict(self, inputs: Sequence[str]) -> list[Prediction]:
        return [self._one(text, shown) for text, shown in zip(inputs, self.talk.shown(inputs), strict=True)]

    def _one(self, text: str, shown: Sequence[tuple[str, str]]) -> Prediction:
        import numpy as np
        from scipy.special import softmax

        labels, samples = self.prompt["labels"], self.prompt["samples"]
        began = time.perf_counter()
        try:
            messages = self._said(text, shown)
        except BucleError as error:
            return failed(error)
        prompt = str(self.model.render(messages))
        replies = self._reason(messages, prompt)
        thoughts = [reply.text.strip() for reply in replies]
        whole = [prompt + thought + self.marker for thought in thoughts]
        shares = softmax(self._scores(whole) - self.prior, axis=1)
        votes = Counter(int(row.argmax()) for row in shares)
        best = max(votes, key=lambda label: (votes[label], shares[:, label].sum()))
        first = next(i for i, row in enumerate(shares) if int(row.argmax()) == best)
        return Prediction(
            output=labels[best],
            score=votes[best] / samples if samples > 1 else float(np.max(shares)),
            reasoning=thoughts[first],
            usage=add_usage(*(reply.usage for reply in replies), Usage(tokens_in=self._tokens(whole))),
            ms=(time.perf_counter() - began) * 1000,
        )

    def _tokens(self, prompts: Sequence[str]) -> int:
        return sum(self.model.count_tokens(prompts))

    def _reason(self, messages: Sequence[Message], prompt: str) -> list[ChatReply]:
        """The reasoning of every sample: at most a quarter of the context, and what the prompt, the marker and a label
        leave of it; none where they leave nothing, or where the prompt asks for none."""
        taken = self._tokens([prompt, self.marker])
        room = min(self.prompt["max_tokens"], self.model.context // 4, self.room - taken)
        samples = self.prompt["samples"]
        if room < 1 or not self.talk.thinks:
            return [ChatReply("", Usage())] * samples
        temperature = TEMPERATURE if samples > 1 else 0.0
        asks = [Ask(tuple(messages), room, temperature, (self.marker.strip(),), self.seed + i) for i in range(samples)]
        replies = ask_all(self.model, asks)
        return [reply if isinstance(reply, ChatReply) else ChatReply("", Usage()) for reply in replies]


class TextThinker:
    """A model reasons, then writes an object, a text or a program. Programs are sampled for pass@k, so theirs are not
    put to the vote: the further ones are `others`. An object that no sample got right is asked for once more, with its
    fault."""

    def __init__(self, model: ChatModel, prompt: Mapping[str, Any], seed: int) -> None:
        self.model, self.prompt, self.seed = model, prompt, seed
        self.read, self.form = reader(prompt), form_of(prompt)
        self.talk = _Talk(model, prompt)

    def predict(self, inputs: Sequence[str]) -> list[Prediction]:
        asked, wrong = self.talk.of(inputs)
        found = think(self.model, asked, self.read, max_tokens=self.prompt["max_tokens"],
                      samples=self.prompt["samples"], seed=self.seed, last=self.form is not None,
                      marker=self.talk.thinks)
        if self.form is not None:
            self._repair(self.form, asked, found)
        said = iter(found)
        return [wrong[i] if i in wrong else self._together(next(said)) for i in range(len(inputs))]

    def _repair(self, form: Form, asked: Sequence[Sequence[Message]], found: list[list[Thought]]) -> None:
        broken = [i for i, said in enumerate(found) if all(t.error for t in said) and said[0].reply
                  and "cut off" not in said[0].error]
        asks = [form.again(Ask(tuple(asked[i]), self.prompt["max_tokens"], seed=self.seed), found[i][0].reply,
                           found[i][0].error) for i in broken]
        for i, reply in zip(broken, ask_all(self.model, asks), strict=True):
            first = found[i][0]
            if isinstance(reply, BucleError):
                value, fault, spent, ms = None, first.error, first.usage, first.ms
            else:
                value, fault = form.read(_after(reply.text))
                spent, ms = add_usage(first.usage, reply.usage), first.ms + reply.ms
            kept = as_line(value) if value is not None else first.answer
            error = fault
            found[i] = [Thought(kept, first.reasoning, error, spent, ms, SchemaBroken.__name__ if error else "")]

    def _together(self, thoughts: Sequence[Thought]) -> Prediction:
        if self.prompt["kind"] != "code":
            return vote(thoughts, self.model, key=lambda answer: " ".join(answer.split()))
        best = next((t for t in thoughts if not t.error), thoughts[0])
        return vote([best], self.model).model_copy(update={
            "usage": add_usage(*(t.usage for t in thoughts)),
            "ms": took([t.ms for t in thoughts], self.model),
            "others": tuple(t.answer if not t.error else "" for t in thoughts if t is not best),
        })


def _after(reply: str) -> str:
    """What follows the marker, in a reply that may have none."""
    try:
        return answer_after(reply, last=True)[1]
    except BadInput:
        return reply


def _with_thinking(messages: Sequence[Message], prompt: Mapping[str, Any]) -> list[Message]:
    if not prompt.get("thinking"):
        return list(messages)
    system, *rest = messages
    return [{**system, "content": f"{system['content']}\n{prompt['thinking']}"}, *rest]
