"""Retrieval-augmented generation: a model answers from the passages found, cites them, and abstains without support."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bucle.core.errors import BadInput, BucleError, ModelUnavailable
from bucle.core.ports import ChatModel, FitContext, LoadContext, Message, Predictor
from bucle.core.records import Chunk, Prediction
from bucle.customise.retrieve.quote import QuotePredictor, Retrieve, open_index

__all__ = ["ClosedBook", "Rag"]

MAX_ANSWER_TOKENS = 60
MAX_PASSAGES = 3
INSTRUCTION = (
    "Responde en una frase usando solo estos pasajes. Si no contienen la respuesta, responde exactamente: "
    "NO CONSTA. / Answer in one sentence from these passages only; if they lack it, answer: NO CONSTA."
)
_NO = "no consta"


class Rag:
    """A model writes the answer from the passages that `retrieve` finds."""

    name = "rag"
    kinds = frozenset({"answer"})
    needs = frozenset({"index", "encoder", "chat"})
    rung = 4
    baseline = False
    when = "Answers that must be put together from several sentences, or phrased for the person who asked."
    settings: frozenset[str] = frozenset({"instruction"})

    def fit(self, ctx: FitContext) -> Mapping[str, Any]:
        """Calibrates the search as `retrieve` does, and keeps the instruction."""
        figures = dict(Retrieve().fit(ctx))
        instruction = str(ctx.params.get("instruction") or INSTRUCTION)
        (ctx.out / "prompt.json").write_text(json.dumps({"instruction": instruction}, ensure_ascii=False))
        return figures

    def load(self, folder: Path, ctx: LoadContext) -> Predictor:
        if ctx.index is None or ctx.chat is None:
            raise BadInput("`rag` needs an index of documents and a model that writes.", "bucle choose --list")
        quote = QuotePredictor(open_index(ctx), json.loads((folder / "quote.json").read_text()))
        return _RagPredictor(quote, ctx.chat, json.loads((folder / "prompt.json").read_text())["instruction"], ctx.seed)


class _RagPredictor:
    def __init__(self, quote: QuotePredictor, chat: ChatModel, instruction: str, seed: int) -> None:
        self.quote, self.chat, self.instruction, self.seed = quote, chat, instruction, seed

    def predict(self, inputs: Sequence[str], *, access: frozenset[str] = frozenset()) -> list[Prediction]:
        quoted = self.quote.predict(inputs, access=access)
        return [self._one(question, found, access) for question, found in zip(inputs, quoted, strict=True)]

    def _one(self, question: str, found: Prediction, access: frozenset[str]) -> Prediction:
        if found.abstained:
            return found
        began = time.perf_counter()
        index = self.quote.index
        chunks = [index.chunks[c] for c in found.chunks if index.visible(c, access)]
        chunks.sort(key=lambda c: c.id != found.citations[0])
        for used in range(MAX_PASSAGES, 0, -1):  # a short context drops the worst passage first
            try:
                reply = self.chat.chat(
                    self._messages(question, chunks[:used]), max_tokens=MAX_ANSWER_TOKENS, seed=self.seed
                )
                break
            except BadInput as error:
                problem = error.message
            except ModelUnavailable:  # no answer was given: the endpoint is down
                raise
            except BucleError as error:
                return found.model_copy(update={"output": "", "citations": (), "error": error.message})
        else:
            return found.model_copy(update={"output": "", "citations": (), "error": problem})
        silent = not reply.text.strip() or _NO in reply.text.lower()
        return found.model_copy(
            update={
                "output": "" if silent else reply.text.strip(),
                "abstained": silent,
                "usage": reply.usage,
                "citations": () if silent else tuple(c.id for c in chunks[:used]),
                "ms": found.ms + (time.perf_counter() - began) * 1000,
            }
        )

    def _messages(self, question: str, chunks: Sequence[Chunk]) -> list[Message]:
        passages = "\n\n".join(f"[{i}] {c.text}" for i, c in enumerate(chunks, 1))
        return [
            {"role": "system", "content": self.instruction},
            {"role": "user", "content": f"{passages}\n\n{question}"},
        ]


class ClosedBook:
    """The model answers from what it was trained on, with no documents at hand."""

    name = "zero-shot-answer"
    kinds = frozenset({"answer"})
    needs = frozenset({"chat"})
    rung = 2
    baseline = False
    when = "Shows what documents add: the same model without them."
    settings: frozenset[str] = frozenset({"instruction"})

    def fit(self, ctx: FitContext) -> Mapping[str, Any]:
        (ctx.out / "prompt.json").write_text(json.dumps({"instruction": str(ctx.params.get("instruction") or "")}))
        return {}

    def load(self, folder: Path, ctx: LoadContext) -> Predictor:
        if ctx.chat is None:
            raise BadInput("`zero-shot-answer` needs a model that writes.", "bucle choose --list")
        return _ClosedBookPredictor(ctx.chat, json.loads((folder / "prompt.json").read_text())["instruction"], ctx.seed)


class _ClosedBookPredictor:
    def __init__(self, chat: ChatModel, instruction: str, seed: int) -> None:
        self.chat, self.instruction, self.seed = chat, instruction, seed

    def predict(self, inputs: Sequence[str]) -> list[Prediction]:
        return [self._one(question) for question in inputs]

    def _one(self, question: str) -> Prediction:
        began = time.perf_counter()
        system = [{"role": "system", "content": self.instruction}] if self.instruction else []
        try:
            reply = self.chat.chat(
                [*system, {"role": "user", "content": question}], max_tokens=MAX_ANSWER_TOKENS, seed=self.seed
            )
        except ModelUnavailable:
            raise
        except BucleError as error:
            return Prediction(output="", error=error.message)
        silent = not reply.text.strip() or _NO in reply.text.lower()
        return Prediction(
            output="" if silent else reply.text.strip(),
            abstained=silent,
            usage=reply.usage,
            ms=(time.perf_counter() - began) * 1000,
        )
