"""Text tasks by prompt: summarise, translate, extract, generate, instruct, converse, write code.

A reply that was cut is an error of its row, with what there was of it. An object that cannot be read, or does not fit
its schema, is asked for once more with the error shown.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from bucle.core.errors import BadInput, BucleError
from bucle.core.ports import ChatModel, ChatReply, FitContext
from bucle.core.records import Prediction, Usage
from bucle.customise.conversation import conversation, gist
from bucle.customise.prompt.examples import NearestExamples
from bucle.customise.prompt.fitting import ask_fitting, cut_off
from bucle.customise.prompt.instructions import language_of, system_for, text_messages
from bucle.customise.prompt.parsing import json_object, python_block
from bucle.customise.settings import whole
from bucle.data.schema import Schema
from bucle.models.ask import Ask, ask_all

__all__ = [
    "TEMPERATURE",
    "TEXT_KINDS",
    "Answer",
    "TextPredictor",
    "add_usage",
    "answer_of",
    "reader",
    "text_prompt",
    "took",
]

TEXT_KINDS = frozenset({"summarise", "translate", "extract", "generate", "instruct", "converse", "code"})
MAX_TOKENS = {"summarise": 400, "translate": 1000, "extract": 600, "generate": 800, "instruct": 800, "converse": 500,
              "code": 1200}
TEMPERATURE = 0.7  # of several samples (self-consistency, Wang et al. 2022, arXiv:2203.11171, section 3.1)

Reader = Callable[[str], str]
"""What a reply's text says as the task wants it; raises BadInput."""


def text_prompt(ctx: FitContext, shots: int) -> dict[str, Any]:
    """What is kept of a text task's prompt: system message, limits, schema and the examples to draw from."""
    params, kind = ctx.params, str(ctx.kind)
    rows = [e for e in ctx.train if e.target]
    fields: list[str] = []
    if kind == "extract":
        fields = sorted({name for e in rows for name in _object(str(e.target))})
        if params.get("schema"):
            Schema(params["schema"])  # told now, and not at the first row
    return {
        "kind": kind,
        "system": system_for(kind, params, fields),
        "language": language_of(params),
        "max_tokens": whole(params, "max_tokens", MAX_TOKENS[kind]),
        "samples": whole(params, "samples", 1, most=100),
        "schema": dict(params.get("schema") or {}),
        "shots": shots,
        "examples": [[e.input, e.target] for e in rows if _can_be_shown(kind, e.input)] if shots else [],
    }


class TextPredictor:
    """Answers text tasks with a kept prompt. Rows are asked side by side; a prompt with too many examples for the
    model's context loses the farthest first, and is counted in `shortened`."""

    def __init__(self, model: ChatModel, prompt: Mapping[str, Any], seed: int) -> None:
        self.model, self.prompt, self.seed = model, prompt, seed
        self.kind, self.shortened = str(prompt["kind"]), 0
        self.read = reader(prompt)
        # Code is sampled for pass@k; of the rest, one answer at temperature 0 is the likeliest.
        self.samples = int(prompt["samples"]) if self.kind == "code" else 1
        self.examples = None
        if prompt["shots"] and prompt["examples"]:
            self.examples = NearestExamples(prompt["examples"], key=partial(gist, self.kind))

    def predict(self, inputs: Sequence[str]) -> list[Prediction]:
        near = self.examples.near(inputs, self.prompt["shots"]) if self.examples and inputs else [[] for _ in inputs]
        rows: list[list[Answer]] = [[] for _ in inputs]
        prompts: list[Iterator[tuple[Ask, int]]] = []
        for i, (text, shown) in enumerate(zip(inputs, near, strict=True)):
            try:
                prompts += [self._versions(i, text, shown, sample) for sample in range(self.samples)]
            except BadInput as error:
                rows[i].append(Answer("", error=error.message))
        asked = ask_fitting(self.model, prompts)
        for one in asked:
            rows[one.used].append(answer_of(one.reply, self.read, self.prompt["max_tokens"]))
            self.shortened += one.shortened > 0
        if self.kind == "extract":
            self._repair(inputs, rows)
        return [together(answers, self.model) for answers in rows]

    def _versions(
        self, row: int, text: str, shown: Sequence[tuple[str, str]], sample: int
    ) -> Iterator[tuple[Ask, int]]:
        """The prompt with every example, then without the farthest, …, with none. Raises BadInput for an input that
        cannot be asked."""
        if not text.strip():
            raise BadInput("the input is empty", "")
        whole = [self._ask(text, shown[first:], sample) for first in range(len(shown) + 1)]
        return iter([(ask, row) for ask in whole])

    def _ask(self, text: str, shown: Sequence[tuple[str, str]], sample: int) -> Ask:
        messages = text_messages(self.kind, self.prompt["system"], text, shown, self.prompt["language"])
        temperature = TEMPERATURE if self.samples > 1 else 0.0
        return Ask(tuple(messages), self.prompt["max_tokens"], temperature, seed=self.seed + sample)

    def _repair(self, inputs: Sequence[str], rows: list[list[Answer]]) -> None:
        """One more try for objects that could not be read or do not fit: the model sees its reply and what is wrong."""
        wrong = [i for i, answers in enumerate(rows) if answers and answers[0].reply and answers[0].repairable]
        said = {"es": "Ese objeto no vale: {}. Responde solo con el objeto JSON corregido.",
                "en": "That object will not do: {}. Answer with the corrected JSON object only."}
        asks = []
        for i in wrong:
            before = rows[i][0]
            asks.append(Ask(
                (*text_messages("extract", self.prompt["system"], inputs[i], [], self.prompt["language"]),
                 {"role": "assistant", "content": before.reply},
                 {"role": "user", "content": said[self.prompt["language"]].format(before.error)}),
                self.prompt["max_tokens"], seed=self.seed))
        for i, reply in zip(wrong, ask_all(self.model, asks), strict=True):
            before, after = rows[i][0], answer_of(reply, self.read, self.prompt["max_tokens"])
            better = after if after.text or not before.text else before
            rows[i] = [Answer(better.text, better.error, better.reply, before.usage, before.ms).plus(after)]


@dataclass(frozen=True)
class Answer:
    """One reply, read: `text` as the task wants it, or `error`; `reply` what the model wrote."""

    text: str
    error: str = ""
    reply: str = ""
    usage: Usage = field(default_factory=Usage)
    ms: float = 0.0
    repairable: bool = False

    def plus(self, other: Answer) -> Answer:
        return Answer(self.text, self.error, self.reply, add_usage(self.usage, other.usage), self.ms + other.ms)


def answer_of(reply: ChatReply | BucleError, read: Reader, limit: int) -> Answer:
    if isinstance(reply, BucleError):
        return Answer("", error=reply.message)
    text = reply.text.strip()
    cut = cut_off(reply, limit)
    try:
        read_text = read(text) if text else ""
    except Misfit as error:
        return Answer(error.text, error.message, text, reply.usage, reply.ms, repairable=True)
    except BadInput as error:
        return Answer(text if cut else "", cut or error.message, text, reply.usage, reply.ms, repairable=not cut)
    return Answer(read_text, cut or ("" if read_text else "the reply is empty"), text, reply.usage, reply.ms)


class Misfit(BadInput):
    """An object that can be read and does not fit its schema: `text` is the object."""

    def __init__(self, message: str, text: str) -> None:
        super().__init__(message, "")
        self.text = text


def reader(prompt: Mapping[str, Any]) -> Reader:
    """How replies of a prompt's kind are read: an object as JSON in one line, a program without its fence."""
    if prompt["kind"] == "code":
        return python_block
    if prompt["kind"] != "extract":
        return str.strip
    schema = Schema(prompt["schema"]) if prompt["schema"] else None

    def read(text: str) -> str:
        value = json_object(text)
        line = json.dumps(value, ensure_ascii=False)
        if schema is not None and (fault := schema.fault(value)):
            raise Misfit(f"it does not fit the schema: {fault}", line)
        return line

    return read


def together(answers: Sequence[Answer], model: ChatModel) -> Prediction:
    """The answers to one input as a prediction: the first that is whole is its output, the rest its `others` (one that
    failed is empty there, so that pass@k counts it)."""
    best = next((a for a in answers if not a.error), answers[0])
    return Prediction(
        output=best.text,
        error=best.error,
        usage=add_usage(*(one.usage for one in answers)),
        ms=took([one.ms for one in answers], model),
        others=tuple("" if a.error else a.text for a in answers if a is not best),
    )


def took(times: Sequence[float], model: ChatModel) -> float:
    """Milliseconds of several replies to one input: asked side by side, as long as the slowest."""
    return max(times, default=0.0) if int(getattr(model, "max_parallel", 1)) > 1 else sum(times)


def add_usage(*parts: Usage) -> Usage:
    """What several calls used."""
    return Usage(
        tokens_in=sum(u.tokens_in for u in parts),
        tokens_out=sum(u.tokens_out for u in parts),
        usd=sum(u.usd for u in parts),
    )


def _can_be_shown(kind: str, text: str) -> bool:
    try:
        return kind != "converse" or bool(conversation(text))
    except BadInput:
        return False


def _object(text: str) -> dict[str, Any]:
    try:
        read = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}
