"""Retrieval-augmented generation: a model answers from the passages found, cites them, and abstains without support."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bucle.core.errors import BadInput, BucleError
from bucle.core.ports import ChatModel, ChatReply, FitContext, LoadContext, Message, Predictor
from bucle.core.records import Chunk, Prediction
from bucle.customise.prompt.files import load_prompt, needs_chat, save_prompt
from bucle.customise.prompt.fitting import Asked, ask_fitting, cut_off, fits, is_local
from bucle.customise.prompt.instructions import thinking
from bucle.customise.prompt.parsing import answer_after
from bucle.customise.prompt.text import TEMPERATURE
from bucle.customise.prompt.thought import Thought, vote
from bucle.customise.retrieve.passages import shorter_and_shorter
from bucle.customise.retrieve.quote import QuotePredictor, Retrieve, open_index
from bucle.customise.settings import whole
from bucle.data.sentences import sentences
from bucle.models.ask import Ask, ask_all

__all__ = ["ClosedBook", "Rag", "RagThought"]

MAX_ANSWER_TOKENS = 60
MAX_THOUGHT_TOKENS = 400
COUNTED = 200  # training questions whose prompts are counted at fit
INSTRUCTION = (
    "Responde en una frase usando solo estos pasajes. Si no contienen la respuesta, responde exactamente: "
    "NO CONSTA. / Answer in one sentence from these passages only; if they lack it, answer: NO CONSTA."
)
_NO = "no consta"


class Rag:
    """A model writes the answer from the passages that `retrieve` finds."""

    name = "rag"
    version = 2
    kinds = frozenset({"answer"})
    needs = frozenset({"index", "encoder", "chat"})
    rung = 4
    baseline = False
    when = "Answers that must be put together from several sentences, or phrased for the person who asked."
    settings: frozenset[str] = frozenset({"instruction", "max_tokens"})
    max_tokens = MAX_ANSWER_TOKENS

    def fit(self, ctx: FitContext) -> Mapping[str, Any]:
        """Calibrates the search as `retrieve` does, and keeps the instruction. Of a local model the figures say how
        many of the training questions' `prompts` its context is too small for (`shortened`)."""
        figures = dict(Retrieve().fit(ctx))
        save_prompt(
            {
                "kind": "answer",
                "instruction": str(ctx.params.get("instruction") or INSTRUCTION),
                "max_tokens": whole(ctx.params, "max_tokens", self.max_tokens),
                **self._more(ctx.params),
            },
            ctx.out,
        )
        if ctx.chat is not None and is_local(ctx.chat):
            questions = [e.input for e in ctx.train][:COUNTED]
            opened = LoadContext(labels=(), params=ctx.params, seed=ctx.seed, encoder=ctx.encoder, index=ctx.index,
                                 chat=ctx.chat, kind=ctx.kind)
            figures |= self.load(ctx.out, opened).count(questions)
        return figures

    def _more(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    def load(self, folder: Path, ctx: LoadContext) -> RagPredictor:
        if ctx.index is None or ctx.chat is None:
            raise BadInput(f"`{self.name}` needs an index of documents and a model that writes.", "bucle choose --list")
        quote = QuotePredictor(open_index(ctx), json.loads((folder / "quote.json").read_text()))
        return RagPredictor(quote, ctx.chat, load_prompt(folder), ctx.seed)


class RagThought(Rag):
    """As `rag`, reasoning over the passages before the answer."""

    name = "chain-of-thought-answer"
    version = 1
    rung = 5
    grown = True
    when = "Answers that follow from several passages together; costs the tokens of the reasoning."
    settings: frozenset[str] = frozenset({"instruction", "max_tokens", "samples"})
    max_tokens = MAX_THOUGHT_TOKENS

    def _more(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return {"thinking": thinking(params), "samples": whole(params, "samples", 1, most=100)}


class RagPredictor:
    """Writes answers from what `quote` finds. `shortened` counts the prompts that lost passages or sentences to a small
    context since loading."""

    def __init__(self, quote: QuotePredictor, chat: ChatModel, prompt: Mapping[str, Any], seed: int) -> None:
        self.quote, self.chat, self.seed, self.shortened = quote, chat, seed, 0
        self.thinking = str(prompt.get("thinking", ""))
        self.system = f"{prompt['instruction']}\n{self.thinking}".strip()
        self.max_tokens = int(prompt.get("max_tokens", MAX_ANSWER_TOKENS))
        self.samples = int(prompt.get("samples", 1))

    def predict(self, inputs: Sequence[str], *, access: frozenset[str] = frozenset()) -> list[Prediction]:
        quoted = self.quote.predict(inputs, access=access)
        writing = [i for i, found in enumerate(quoted) if not found.abstained]
        said: dict[int, list[Asked[tuple[int, tuple[Chunk, ...]]]]] = {i: [] for i in writing}
        for one in ask_fitting(self.chat, [
            self._versions(i, inputs[i], quoted[i], access, sample) for i in writing for sample in range(self.samples)
        ]):
            said[one.used[0]].append(one)
        self.shortened += sum(any(one.shortened for one in replies) for replies in said.values())
        return [self._prediction(found, said[i]) if i in said else found for i, found in enumerate(quoted)]

    def count(self, questions: Sequence[str]) -> dict[str, int]:
        """How many of these questions make a prompt (`prompts`), and of how many a local model's context is too small
        for all their passages (`shortened`)."""
        found = self.quote.predict(questions)
        asked = [(i, q, f) for i, (q, f) in enumerate(zip(questions, found, strict=True)) if not f.abstained]
        whole = [next(self._versions(i, q, f, frozenset(), 0))[0] for i, q, f in asked]
        return {"prompts": len(whole), "shortened": sum(not fits(self.chat, ask) for ask in whole)}

    def _versions(
        self, row: int, question: str, found: Prediction, access: frozenset[str], sample: int
    ) -> Iterator[tuple[Ask, tuple[int, tuple[Chunk, ...]]]]:
        index = self.quote.index
        chunks = [index.chunks[c] for c in found.chunks if index.visible(c, access)]
        chunks.sort(key=lambda c: c.id != found.citations[0])
        weight = self.quote.settings["weight"]
        temperature = TEMPERATURE if self.samples > 1 else 0.0
        for used, texts in shorter_and_shorter(index, question, chunks, weight, access):
            messages = tuple(self._messages(question, texts))
            yield Ask(messages, self.max_tokens, temperature, seed=self.seed + sample), (row, used)

    def _messages(self, question: str, texts: Sequence[str]) -> list[Message]:
        passages = "\n\n".join(f"[{i}] {text}" for i, text in enumerate(texts, 1))
        return [
            {"role": "system", "content": self.system},
            {"role": "user", "content": f"{passages}\n\n{question}"},
        ]

    def _prediction(self, found: Prediction, asked: Sequence[Asked[tuple[int, tuple[Chunk, ...]]]]) -> Prediction:
        said = vote([self._read(one.reply) for one in asked], self.chat, key=lambda text: " ".join(text.split()))
        silent = not said.output
        used = min((one.used[1] for one in asked), key=len)
        return found.model_copy(
            update={
                "output": said.output,
                "abstained": silent and not said.error,
                "citations": () if silent else tuple(c.id for c in used),
                "score": found.score if said.score is None else said.score,
                "reasoning": said.reasoning,
                "usage": said.usage,
                "ms": found.ms + said.ms,
                "error": said.error,
            }
        )

    def _read(self, reply: ChatReply | BucleError) -> Thought:
        if isinstance(reply, BucleError):
            return Thought("", error=reply.message)
        if not self.thinking:
            return _answer(reply, reply.text, "", self.max_tokens)
        try:
            reasoning, answer = answer_after(reply.text, last=True)
        except BadInput as error:
            problem = cut_off(reply, self.max_tokens) or error.message
            return Thought("", reply.text.strip(), problem, reply.usage, reply.ms)
        return _answer(reply, answer, reasoning, self.max_tokens)


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
    version = 2
    kinds = frozenset({"answer"})
    needs = frozenset({"chat"})
    rung = 2
    baseline = False
    when = "Shows what documents add: the same model without them."
    settings: frozenset[str] = frozenset({"instruction", "max_tokens"})

    def fit(self, ctx: FitContext) -> Mapping[str, Any]:
        save_prompt(
            {
                "kind": "answer",
                "instruction": str(ctx.params.get("instruction") or ""),
                "max_tokens": whole(ctx.params, "max_tokens", MAX_ANSWER_TOKENS),
            },
            ctx.out,
        )
        return {}

    def load(self, folder: Path, ctx: LoadContext) -> Predictor:
        return _ClosedBookPredictor(needs_chat(self.name, ctx), load_prompt(folder), ctx.seed)


class _ClosedBookPredictor:
    def __init__(self, chat: ChatModel, prompt: Mapping[str, Any], seed: int) -> None:
        self.chat, self.seed = chat, seed
        self.instruction = str(prompt["instruction"])
        self.max_tokens = int(prompt.get("max_tokens", MAX_ANSWER_TOKENS))

    def predict(self, inputs: Sequence[str]) -> list[Prediction]:
        system: list[Message] = [{"role": "system", "content": self.instruction}] if self.instruction else []
        asks = [Ask((*system, {"role": "user", "content": text}), self.max_tokens, seed=self.seed) for text in inputs]
        return [self._prediction(reply) for reply in ask_all(self.chat, asks)]

    def _prediction(self, reply: ChatReply | BucleError) -> Prediction:
        if isinstance(reply, BucleError):
            return Prediction(output="", error=reply.message)
        said = _answer(reply, reply.text, "", self.max_tokens)
        silent = not said.answer and not said.error
        return Prediction(output=said.answer, abstained=silent, usage=said.usage, ms=said.ms, error=said.error)
