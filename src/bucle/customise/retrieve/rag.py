"""Retrieval-augmented generation: a model answers from the passages found, cites them, and abstains without support.

The model is asked to cite the passages by their numbers; what it cites is checked (see citations), and an answer that
no passage of the prompt bears out is withheld. Its prompt is the task's own where it has one, and loses examples of
tone, passages and at last sentences, the least relevant first, until the model's context holds it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bucle.core.errors import BadInput, BucleError, ConfigError
from bucle.core.ids import canonical_json, sha256_hex
from bucle.core.ports import ChatModel, ChatReply, FitContext, LoadContext, Message, Predictor
from bucle.core.prompting import PromptSpec
from bucle.core.records import Chunk, Prediction
from bucle.customise.prompt.files import load_prompt, needs_chat, save_prompt
from bucle.customise.prompt.fitting import Asked, ask_fitting, cut_off, fits, is_local
from bucle.customise.prompt.instructions import language_of, thinking
from bucle.customise.prompt.parsing import answer_after
from bucle.customise.prompt.parts import unnumbered
from bucle.customise.prompt.spec import OwnPrompt, keep, own_spec
from bucle.customise.prompt.text import TEMPERATURE, add_usage
from bucle.customise.prompt.thought import Thought, vote
from bucle.customise.retrieve.citations import cited, without_markers
from bucle.customise.retrieve.passages import shorter_and_shorter
from bucle.customise.retrieve.quote import QuotePredictor, Retrieve, loading, opened_quote
from bucle.customise.settings import whole
from bucle.data.sentences import sentences
from bucle.models.ask import Ask, ask_all

__all__ = ["ClosedBook", "Rag", "RagThought"]

PASSAGES = 3  # in a prompt
MAX_ANSWER_TOKENS = 60
MAX_THOUGHT_TOKENS = 400
COUNTED = 200  # training questions whose prompts are counted at fit
INSTRUCTION = {
    "es": "Responde en una frase usando solo estos pasajes y cita los que uses por su número, como [1]. Si no "
    "contienen la respuesta, responde exactamente: NO CONSTA.",
    "en": "Answer in one sentence from these passages only and cite those you use by number, like [1]. If they lack "
    "the answer, reply exactly: NO CONSTA.",
}
_NO = "no consta"
Used = tuple[int, tuple[Chunk, ...]]
"""The row that a prompt is for, and the passages that stand in it."""


class Rag:
    """A model writes the answer from the passages that `retrieve` finds."""

    name = "rag"
    version = 4
    kinds = frozenset({"answer"})
    needs = frozenset({"index", "encoder", "chat"})
    rung = 4
    baseline = False
    when = "Answers that must be put together from several sentences, or phrased for the person who asked."
    settings: frozenset[str] = frozenset({"instruction", "max_tokens", "markers"}) | Retrieve.settings
    max_tokens = MAX_ANSWER_TOKENS

    def fit(self, ctx: FitContext) -> Mapping[str, Any]:
        """Calibrates the search as `retrieve` does, and keeps the prompt. Of a local model the figures say how many of
        the training questions' `prompts` its context is too small for (`shortened`)."""
        passages = whole(ctx.params, "passages", PASSAGES, most=100)
        figures = _calibrated(ctx)
        spec = own_spec(ctx.params)
        own = spec.max_tokens if spec else 0
        save_prompt(
            {
                "kind": "answer",
                "instruction": str(ctx.params.get("instruction") or INSTRUCTION[language_of(ctx.params)]),
                "max_tokens": whole(ctx.params, "max_tokens", own or self.max_tokens),
                "passages": passages,
                "markers": _markers(ctx.params),
                "language": language_of(ctx.params),
                **(keep(spec, {"language": language_of(ctx.params)}, {}) if spec else {}),
                **self._more(ctx.params, spec),
            },
            ctx.out,
        )
        if ctx.chat is not None and is_local(ctx.chat):
            questions = [e.input for e in ctx.train][:COUNTED]
            figures |= self.load(ctx.out, loading(ctx)).count(questions)
        return figures | {"prompt_passages": passages}

    def _more(self, params: Mapping[str, Any], spec: PromptSpec | None) -> dict[str, Any]:
        return {"thinking": thinking(params), "samples": spec.samples} if spec and spec.thinking else {}

    def load(self, folder: Path, ctx: LoadContext) -> RagPredictor:
        if ctx.index is None or ctx.chat is None:
            raise BadInput(f"`{self.name}` needs an index of documents and a model that writes.", "bucle choose --list")
        return RagPredictor(opened_quote(folder, ctx), ctx.chat, load_prompt(folder), ctx.seed)


class RagThought(Rag):
    """As `rag`, reasoning over the passages before the answer."""

    name = "chain-of-thought-answer"
    version = 3
    rung = 5
    grown = True
    when = "Answers that follow from several passages together; costs the tokens of the reasoning."
    settings: frozenset[str] = Rag.settings | {"samples"}
    max_tokens = MAX_THOUGHT_TOKENS

    def _more(self, params: Mapping[str, Any], spec: PromptSpec | None) -> dict[str, Any]:
        samples = whole(params, "samples", spec.samples if spec else 1, most=100)
        return {"thinking": thinking(params), "samples": samples}


class RagPredictor:
    """Writes answers from what `quote` finds. `shortened` counts the prompts that lost passages or sentences to a small
    context since loading."""

    def __init__(self, quote: QuotePredictor, chat: ChatModel, prompt: Mapping[str, Any], seed: int) -> None:
        self.quote, self.chat, self.seed, self.shortened = quote, chat, seed, 0
        self.index = quote.index
        self.thinking = str(prompt.get("thinking", ""))
        self.system = f"{prompt['instruction']}\n{self.thinking}".strip()
        self.max_tokens = int(prompt.get("max_tokens", MAX_ANSWER_TOKENS))
        self.samples = int(prompt.get("samples", 1))
        self.passages = int(prompt.get("passages", PASSAGES))
        self.keeps_markers = prompt.get("markers") == "keep"
        self.language = str(prompt.get("language", "es"))
        self.spec = PromptSpec.model_validate(prompt["spec"]) if prompt.get("spec") else None
        self.values = dict(prompt.get("values") or {})
        if self.spec is not None:
            self.spec = self.spec.model_copy(update={"thinking": bool(self.thinking)})

    def predict(self, inputs: Sequence[str], *, access: frozenset[str] = frozenset()) -> list[Prediction]:
        quoted = self.quote.predict(inputs, access=access)
        writing = [i for i, found in enumerate(quoted) if not found.abstained]
        said: dict[int, list[Asked[Used]]] = {i: [] for i in writing}
        for one in ask_fitting(self.chat, [
            self._versions(i, inputs[i], quoted[i], access, sample) for i in writing for sample in range(self.samples)
        ]):
            said[one.used[0]].append(one)
        self.shortened += sum(any(one.shortened for one in replies) for replies in said.values())
        return [
            self._prediction(inputs[i], found, said[i], access) if i in said
            else found.model_copy(update={"quotes": (), "citations": ()})
            for i, found in enumerate(quoted)
        ]

    def count(self, questions: Sequence[str]) -> dict[str, int]:
        """How many of these questions make a prompt (`prompts`), and of how many a local model's context is too small
        for all their passages (`shortened`)."""
        found = self.quote.predict(questions)
        asked = [(i, q, f) for i, (q, f) in enumerate(zip(questions, found, strict=True)) if not f.abstained]
        whole = [next(self._versions(i, q, f, frozenset(), 0))[0] for i, q, f in asked]
        return {"prompts": len(whole), "shortened": sum(not fits(self.chat, ask) for ask in whole)}

    def _versions(
        self, row: int, question: str, found: Prediction, access: frozenset[str], sample: int
    ) -> Iterator[tuple[Ask, Used]]:
        held = self.index.get(found.chunks, access)
        chunks = sorted((held[c] for c in found.chunks if c in held), key=lambda c: c.id not in found.citations)
        weight = self.quote.settings["weight"]
        temperature = TEMPERATURE if self.samples > 1 else 0.0
        for messages, used in self._shrinking(question, chunks, weight, access):
            yield Ask(messages, self.max_tokens, temperature, seed=self.seed + sample), (row, used)

    def _shrinking(
        self, question: str, chunks: Sequence[Chunk], weight: float, access: frozenset[str]
    ) -> Iterator[tuple[tuple[Message, ...], tuple[Chunk, ...]]]:
        """Prompts for one question, the longest first, with the passages that stand in each."""
        shorter = shorter_and_shorter(self.index, question, chunks, weight, access, self.passages)
        if self.spec is None:
            for used, texts in shorter:
                yield tuple(self._messages(question, texts)), used
            return
        from bucle.customise.prompt.parts import passage_of
        from bucle.customise.prompt.template import messages_of

        shown = tuple(chunks[: self.passages])
        left = messages_of(self.spec, question, values=self.values, passages=shown, language=self.language)
        for parts in (left, *(less for _, less in left.leaving())):
            if shown and not parts.passages:
                break
            left = parts
            yield parts.messages(), shown[: len(parts.passages)]
        for used, texts in shorter:
            if len(used) == 1 and texts[0] != used[0].text:
                one = ({**passage_of(used[0], 1), "text": unnumbered(texts[0])},)
                yield replace(left, passages=one).messages(), used

    def _messages(self, question: str, texts: Sequence[str]) -> list[Message]:
        passages = "\n\n".join(f"[{i}] {unnumbered(text)}" for i, text in enumerate(texts, 1))
        return [
            {"role": "system", "content": self.system},
            {"role": "user", "content": f"{passages}\n\n{question}"},
        ]

    def _prediction(
        self, question: str, found: Prediction, asked: Sequence[Asked[Used]], access: frozenset[str]
    ) -> Prediction:
        said = vote([self._read(one.reply) for one in asked], self.chat,
                    key=lambda text: " ".join(without_markers(text).split()))
        used = min((one.used[1] for one in asked), key=len)
        checked = cited(said.output, said.reasoning, question, used, self.index, access, keep=self.keeps_markers)
        alone = bool(said.output) and not checked.citations  # an answer that nothing found supports
        silent = not checked.text or alone
        shown: dict[str, Any] = {"name": "passages", "ms": 0.0, "shown": [chunk.id for chunk in used]}
        span: dict[str, Any] = {"name": "citations", "ms": 0.0, "cited": len(checked.citations),
                                "dropped": checked.dropped, "unsupported": checked.unsupported,
                                "by_words": checked.by_words and bool(checked.citations)}
        if alone and not said.error:
            span["withheld"] = said.output[:MOST_WITHHELD]
        return found.model_copy(
            update={
                "output": "" if silent and not said.error else checked.text,
                "abstained": silent and not said.error,
                "citations": () if silent else checked.citations,
                "quotes": () if silent else checked.quotes,
                "score": found.score if said.score is None else said.score,
                "reasoning": said.reasoning,
                "usage": add_usage(found.usage, said.usage),
                "ms": found.ms + said.ms,
                "error": said.error,
                "error_kind": said.error_kind,
                "spans": (*found.spans, shown, span) if said.output else (*found.spans, shown),
            }
        )

    def _read(self, reply: ChatReply | BucleError) -> Thought:
        if isinstance(reply, BucleError):
            return Thought("", error=reply.message, kind=type(reply).__name__)
        if not self.thinking:
            return _answer(reply, reply.text, "", self.max_tokens)
        try:
            reasoning, answer = answer_after(reply.text, last=True)
        except BadInput as error:
            problem = cut_off(reply, self.max_tokens) or error.message
            return Thought("", reply.text.strip(), problem, reply.usage, reply.ms)
        return _answer(reply, answer, reasoning, self.max_tokens)


def _calibrated(ctx: FitContext) -> dict[str, Any]:
    """The figures of `retrieve`, fitted into `ctx.out`. Prompts that are fitted side by side (one `ctx.work`) with the
    same rows and search settings share one fit: what a prompt says does not change what is found."""
    params = {k: v for k, v in ctx.params.items() if k != "passages"}
    search = {k: v for k, v in params.items() if k not in ("prompt", "instruction", "max_tokens", "markers", "samples")}
    rows = [[e.id for e in ctx.train], [e.id for e in ctx.validation]]
    kept = ctx.work / f"search-{sha256_hex(canonical_json([rows, search, ctx.seed]))[:24]}.json"
    fitted = ctx.out / "quote.json"
    if kept.exists():
        figures, body = json.loads(kept.read_text("utf-8"))
        fitted.write_text(body, "utf-8")
        return dict(figures)
    figures = dict(Retrieve().fit(replace(ctx, params=params)))
    part = kept.with_suffix(".part")
    part.write_text(json.dumps([figures, fitted.read_text("utf-8")]), "utf-8")
    os.replace(part, kept)
    return figures


MOST_WITHHELD = 500
"""Characters of a withheld answer that its trace shows."""


def _markers(params: Mapping[str, Any]) -> str:
    """Whether the markers stay in the answer. Raises ConfigError."""
    given = params.get("markers") or "remove"
    if given not in ("keep", "remove"):
        raise ConfigError(f"The setting `markers` is {str(given)[:40]!r}; it is keep or remove.",
                          "Correct it under `choose.techniques` in bucle.yaml.")
    return str(given)


def _answer(reply: ChatReply, text: str, reasoning: str, limit: int) -> Thought:
    """The answer in a reply, empty where the model says that there is none. Of one that was cut off the sentences that
    were finished; where none was, it is an error."""
    text = text.strip()
    if _NO in text.lower():
        text = ""
    elif reply.finish == "length" and text:
        text = " ".join(sentences(text)[:-1])
        if not text:
            return Thought("", reasoning, cut_off(reply, limit), reply.usage, reply.ms)
    return Thought(text, reasoning, "", reply.usage, reply.ms)


class ClosedBook:
    """The model answers from what it was trained on, with no documents at hand."""

    name = "zero-shot-answer"
    version = 3
    kinds = frozenset({"answer"})
    needs = frozenset({"chat"})
    rung = 2
    baseline = False
    when = "Shows what documents add: the same model without them."
    settings: frozenset[str] = frozenset({"instruction", "max_tokens"})

    def fit(self, ctx: FitContext) -> Mapping[str, Any]:
        spec = own_spec(ctx.params)
        save_prompt(
            {
                "kind": "answer",
                "instruction": str(ctx.params.get("instruction") or ""),
                "max_tokens": whole(ctx.params, "max_tokens", (spec.max_tokens if spec else 0) or MAX_ANSWER_TOKENS),
                "language": language_of(ctx.params),
                **(keep(spec, {"language": language_of(ctx.params)}, {}) if spec else {}),
            },
            ctx.out,
        )
        return {}

    def load(self, folder: Path, ctx: LoadContext) -> Predictor:
        return _ClosedBookPredictor(needs_chat(self.name, ctx), load_prompt(folder), ctx.seed)


class _ClosedBookPredictor:
    def __init__(self, chat: ChatModel, prompt: Mapping[str, Any], seed: int) -> None:
        self.chat, self.seed = chat, seed
        self.own = OwnPrompt(prompt) if prompt.get("spec") else None
        self.instruction = str(prompt["instruction"])
        self.max_tokens = int(prompt.get("max_tokens", MAX_ANSWER_TOKENS))

    def predict(self, inputs: Sequence[str]) -> list[Prediction]:
        made = [self._messages(text) for text in inputs]
        asks = [Ask(one, self.max_tokens, seed=self.seed) for one in made if not isinstance(one, BucleError)]
        replies = iter(ask_all(self.chat, asks))
        return [self._prediction(one if isinstance(one, BucleError) else next(replies)) for one in made]

    def _messages(self, text: str) -> tuple[Message, ...] | BucleError:
        if self.own is not None:
            try:
                return self.own.assembled(self.chat, text, (), self.max_tokens).messages
            except BucleError as error:
                return error
        system: list[Message] = [{"role": "system", "content": self.instruction}] if self.instruction else []
        return (*system, {"role": "user", "content": text})

    def _prediction(self, reply: ChatReply | BucleError) -> Prediction:
        if isinstance(reply, BucleError):
            return Prediction(output="", error=reply.message, error_kind=type(reply).__name__)
        said = _answer(reply, reply.text, "", self.max_tokens)
        silent = not said.answer and not said.error
        return Prediction(output=said.answer, abstained=silent, usage=said.usage, ms=said.ms, error=said.error)
