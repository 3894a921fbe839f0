"""Text tasks by prompt: summarise, translate, extract, generate, instruct, converse, write code.

A reply that was cut is an error of its row, with what there was of it. An object that cannot be read, or does not fit
its schema, is asked for once more with the error shown.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

from bucle.core.errors import BadInput, BucleError, SchemaBroken
from bucle.core.ports import ChatModel, ChatReply, FitContext
from bucle.core.prompting import PromptSpec
from bucle.core.records import Prediction, Usage
from bucle.customise.conversation import conversation, gist
from bucle.customise.prompt.examples import chooser, kept_examples
from bucle.customise.prompt.fitting import ask_fitting, cut_off
from bucle.customise.prompt.instructions import language_of, needed_by, system_for, text_messages
from bucle.customise.prompt.parsing import python_block
from bucle.customise.prompt.spec import OwnPrompt, keep, own_spec
from bucle.customise.prompt.structured import Form, Structured, as_line
from bucle.customise.settings import whole
from bucle.data.schema import Schema
from bucle.models.ask import Ask

__all__ = [
    "TEMPERATURE",
    "TEXT_KINDS",
    "Answer",
    "TextPredictor",
    "add_usage",
    "answer_of",
    "answer_of_object",
    "form_of",
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
    params, kind, spec = ctx.params, str(ctx.kind), own_spec(ctx.params)
    rows = [e for e in ctx.train if e.target]
    fields: list[str] = []
    schema = dict(params.get("schema") or {})
    if spec is not None and not schema and isinstance(spec.output, Mapping):
        schema = dict(spec.output)
    if kind == "extract":
        fields = sorted({name for e in rows for name in _object(str(e.target))})
    if schema:
        Schema(schema)  # told now, and not at the first row
    able = [e for e in rows if _can_be_shown(kind, e.input)]
    own = {"system": system_for(kind, params, fields)} if spec is None else _own(spec, kind, params, schema, fields)
    return {
        "kind": kind,
        "language": language_of(params),
        "max_tokens": whole(params, "max_tokens", (spec.max_tokens if spec else 0) or MAX_TOKENS[kind]),
        "samples": whole(params, "samples", spec.samples if spec else 1, most=100),
        "schema": schema,
        **kept_examples(params, spec, able, shots, by_label=False, key=partial(gist, kind)),
        **own,
    }


def _own(spec: PromptSpec, kind: str, params: Mapping[str, Any], schema: Mapping[str, Any],
         fields: Sequence[str]) -> dict[str, Any]:
    """What is kept of the task's own prompt, with what this kind always needs."""
    more = needed_by(kind, params, {}, [] if schema else fields)  # the schema comes with the prompt's other parts
    if spec.voice.description:
        more.pop("voice", None)  # the prompt's own voice stands in its place
    given = {name: str(params[name]) for name in ("instruction", "source", "target", "voice") if params.get(name)}
    return keep(spec, {**given, "fields": list(fields), "schema": dict(schema)}, more)


class TextPredictor:
    """Answers text tasks with a kept prompt. Rows are asked side by side; a prompt with too many examples for the
    model's context loses the farthest first, and is counted in `shortened`."""

    def __init__(self, model: ChatModel, prompt: Mapping[str, Any], seed: int) -> None:
        self.model, self.prompt, self.seed = model, prompt, seed
        self.kind, self.shortened = str(prompt["kind"]), 0
        self.form, self.read = form_of(prompt), reader(prompt)
        # Code is sampled for pass@k; of the rest, one answer at temperature 0 is the likeliest.
        self.samples = int(prompt["samples"]) if self.kind == "code" else 1
        self.examples = chooser(prompt, key=partial(gist, self.kind))
        self.own = OwnPrompt(prompt) if prompt.get("spec") else None

    def predict(self, inputs: Sequence[str]) -> list[Prediction]:
        near = self.examples.near(inputs, self.prompt["shots"]) if self.examples and inputs else [[] for _ in inputs]
        rows: list[list[Answer]] = [[] for _ in inputs]
        prompts: list[Iterator[tuple[Ask, int]]] = []
        for i, (text, shown) in enumerate(zip(inputs, near, strict=True)):
            try:
                prompts += [self._versions(i, text, shown, sample) for sample in range(self.samples)]
            except BucleError as error:
                rows[i].append(Answer("", error=error.message, kind=type(error).__name__))
        asked = ask_fitting(self.model, prompts)
        self.shortened += sum(one.shortened > 0 for one in asked)
        if self.form is not None:
            bare = [self._ask(inputs[one.used], [], 0) for one in asked]  # a repair needs no examples
            settled = self.form.settle(self.model, bare, [one.reply for one in asked])
            answers = [answer_of_object(one) for one in settled]
        else:
            answers = [answer_of(one.reply, self.read, self.prompt["max_tokens"]) for one in asked]
        for one, answer in zip(asked, answers, strict=True):
            rows[one.used].append(answer)
        return [together(found, self.model) for found in rows]

    def _versions(
        self, row: int, text: str, shown: Sequence[tuple[str, str]], sample: int
    ) -> Iterator[tuple[Ask, int]]:
        """The prompt with every example, then without the farthest, …, with none. Raises BadInput for an input that
        cannot be asked."""
        if not text.strip():
            raise BadInput("the input is empty", "")
        first = self._ask(text, shown, sample, count=True)
        more = (self._ask(text, shown[n:], sample) for n in range(1, len(shown) + 1))
        return ((ask, row) for ask in chain([first], more))

    def _ask(self, text: str, shown: Sequence[tuple[str, str]], sample: int, *, count: bool = False) -> Ask:
        most = self.prompt["max_tokens"]
        if self.own is None:
            messages = text_messages(self.kind, self.prompt["system"], text, shown, self.prompt["language"])
        else:
            made = self.own.assembled(self.model, text, shown, most)
            self.shortened += bool(count and made.dropped)
            messages = list(made.messages)
        temperature = TEMPERATURE if self.samples > 1 else 0.0
        ask = Ask(tuple(messages), most, temperature, seed=self.seed + sample)
        return self.form.wanted(ask) if self.form else ask


@dataclass(frozen=True)
class Answer:
    """One reply, read: `text` as the task wants it, or `error`; `reply` what the model wrote."""

    text: str
    error: str = ""
    kind: str = ""
    usage: Usage = field(default_factory=Usage)
    ms: float = 0.0


def answer_of(reply: ChatReply | BucleError, read: Reader, limit: int) -> Answer:
    """What a reply says as the task wants it, or its error."""
    if isinstance(reply, BucleError):
        return Answer("", reply.message, type(reply).__name__)
    text = reply.text.strip()
    cut = cut_off(reply, limit)
    try:
        read_text = read(text) if text else ""
    except BadInput as error:
        return Answer(text if cut else "", cut or error.message, type(error).__name__, reply.usage, reply.ms)
    wrong = cut or ("" if read_text else "the reply is empty")
    return Answer(read_text, wrong, BadInput.__name__ if wrong else "", reply.usage, reply.ms)


def answer_of_object(found: Structured) -> Answer:
    """An object as one line of JSON; one that does not fit stands beside its error, and so does a reply that was
    cut."""
    held = found.value if found.value is not None else found.draft
    if found.error is None:
        return Answer(as_line(held or {}), usage=found.usage, ms=found.ms)
    text = as_line(held) if held is not None else "" if found.repaired else found.reply
    return Answer(text, found.error.message, type(found.error).__name__, found.usage, found.ms)


def form_of(prompt: Mapping[str, Any]) -> Form | None:
    """The form that replies are held to: of extraction, and of any prompt whose output has a schema."""
    if prompt["kind"] == "code" or not (prompt["kind"] == "extract" or prompt.get("schema")):
        return None
    return Form(prompt["schema"], prompt["language"])


def reader(prompt: Mapping[str, Any]) -> Reader:
    """How replies of a prompt's kind are read: an object as JSON in one line, a program without its fence. The reader
    of objects raises SchemaBroken."""
    if prompt["kind"] == "code":
        return python_block
    form = form_of(prompt)
    if form is None:
        return str.strip

    def read(text: str) -> str:
        value, fault = form.read(text)
        if value is None or fault:
            raise SchemaBroken(fault, "")
        return as_line(value)

    return read


def together(answers: Sequence[Answer], model: ChatModel) -> Prediction:
    """The answers to one input as a prediction: the first that is whole is its output, the rest its `others` (one that
    failed is empty there, so that pass@k counts it)."""
    best = next((a for a in answers if not a.error), answers[0])
    return Prediction(
        output=best.text,
        error=best.error,
        error_kind=best.kind,
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
