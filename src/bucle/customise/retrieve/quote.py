"""Answering by quoting: the sentence of the team's own documents that best supports the question, or nothing.

No model writes anything here, so nothing can be invented: `quote` searches by words (the baseline), `retrieve` by words
and meaning with a weight fitted to the team's own questions. Both abstain below a threshold that is calibrated on
validation rows, and cite the passage they quote.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bucle.core.errors import BadInput
from bucle.core.ports import FitContext, LoadContext, Predictor
from bucle.core.records import Example, Prediction
from bucle.customise.retrieve.index import Hit, Index
from bucle.customise.timing import timed

__all__ = ["NoAnswer", "Quote", "QuotePredictor", "Retrieve", "open_index"]

PASSAGES = 6
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class _Found:
    answer: str
    support: float
    hits: tuple[Hit, ...]
    chosen: str


class NoAnswer:
    """Always abstains."""

    name = "no-answer"
    kinds = frozenset({"answer"})
    needs: frozenset[str] = frozenset()
    rung = 0
    baseline = True
    when = "The floor: right only where the documents hold no answer."
    settings: frozenset[str] = frozenset()

    def fit(self, ctx: FitContext) -> Mapping[str, Any]:
        (ctx.out / "no-answer.json").write_text("{}")
        return {}

    def load(self, folder: Path, ctx: LoadContext) -> Predictor:
        return _Silent()


class _Silent:
    def predict(self, inputs: Sequence[str]) -> list[Prediction]:
        return [Prediction(output="", abstained=True, score=0.0) for _ in inputs]


class Quote:
    """Quotes the best passage found by words alone (BM25 with stemming)."""

    name = "quote"
    kinds = frozenset({"answer"})
    needs = frozenset({"index"})
    rung = 1
    baseline = True
    when = "Answers that stand in the documents word for word; needs no model and invents nothing."
    settings: frozenset[str] = frozenset()
    weights: tuple[float, ...] = (0.0,)

    def fit(self, ctx: FitContext) -> Mapping[str, Any]:
        """Chooses the weight of meaning against words and the abstention threshold on train and validation rows."""
        if ctx.index is None:
            raise BadInput("Quoting needs an index of documents.", "Add `data.documents` to bucle.yaml.")
        rows = [*ctx.train, *ctx.validation]
        index = Index(ctx.index, ctx.encoder)
        table, best = {}, (-1.0, 0.0, 0.0)
        for done, weight in enumerate(self.weights):
            ctx.report(done, len(self.weights), f"weight {weight:g}")
            found = _search_all(index, [r.input for r in rows], weight)
            threshold, score = _calibrate(rows, found)
            table[f"{weight:g}"] = round(score, 5)
            best = max(best, (score, -weight, threshold))
        settings = {"weight": -best[1], "threshold": best[2], "passages": PASSAGES}
        (ctx.out / "quote.json").write_text(json.dumps(settings))
        return {**settings, "calibration": table, "rows": len(rows)}

    def load(self, folder: Path, ctx: LoadContext) -> Predictor:
        if ctx.index is None:
            raise BadInput("Quoting needs an index of documents.", "Add `data.documents` to bucle.yaml.")
        return QuotePredictor(open_index(ctx), json.loads((folder / "quote.json").read_text()))


class Retrieve(Quote):
    """Quotes the best passage found by words and meaning."""

    name = "retrieve"
    needs = frozenset({"index", "encoder"})
    rung = 3
    baseline = False
    when = "Questions asked in other words than the documents use."
    settings: frozenset[str] = frozenset()
    weights = WEIGHTS


def open_index(ctx: LoadContext) -> Index:
    """The index a candidate answers from, with the labels its documents have today (`extra["labels"]`: path ->
    labels)."""
    assert ctx.index is not None  # noqa: S101 - the caller has said what is missing
    return Index(ctx.index, ctx.encoder, labels=ctx.extra.get("labels"))


class QuotePredictor:
    """Finds, quotes and cites; retrieval-augmented generation is built on it. `access` are the labels that the asker
    holds: of a passage with any other, nothing is found, quoted or cited."""

    def __init__(self, index: Index, settings: Mapping[str, Any]) -> None:
        self.index, self.settings = index, settings

    def predict(self, inputs: Sequence[str], *, access: frozenset[str] = frozenset()) -> list[Prediction]:
        return timed(inputs, lambda some: self._predict(some, access))

    def _predict(self, inputs: Sequence[str], access: frozenset[str]) -> list[Prediction]:
        predictions = []
        weight, passages = self.settings["weight"], self.settings["passages"]
        for found in _search_all(self.index, inputs, weight, passages, access):
            silent = found.support < self.settings["threshold"] or not found.answer
            predictions.append(
                Prediction(
                    output="" if silent else found.answer,
                    score=found.support,
                    abstained=silent,
                    chunks=tuple(h.chunk.id for h in found.hits),
                    citations=() if silent else (found.chosen,),
                )
            )
        return predictions


def _search_all(
    index: Index, questions: Sequence[str], weight: float, k: int = PASSAGES, access: frozenset[str] = frozenset()
) -> list[_Found]:
    """For each question the passages found and the sentence among them that supports it best: four fifths its own
    support, one fifth the rank of its passage."""
    vectors = index.embed(questions) if weight > 0 else [None] * len(questions)
    return [
        _search(index, question, vector, weight, k, access)
        for question, vector in zip(questions, vectors, strict=True)
    ]


def _search(index: Index, question: str, vector: Any, weight: float, k: int, access: frozenset[str]) -> _Found:
    hits = index.search(question, k=k, weight=weight, vector=vector, access=access)
    group = [(hit, span) for hit in hits for span in index.sentences(hit.chunk.id, access)]
    if not group:
        return _Found("", 0.0, tuple(hits), "")
    own = index.support(question, [span for _, span in group], weight=weight, vector=vector)
    support = [0.8 * float(s) + 0.2 * hit.score for s, (hit, _) in zip(own, group, strict=True)]
    best = max(range(len(group)), key=lambda i: (support[i], -i))
    hit, sentence = group[best]
    return _Found(sentence, min(1.0, max(0.0, support[best])), tuple(hits), hit.chunk.id)


def _calibrate(rows: Sequence[Example], found: Sequence[_Found]) -> tuple[float, float]:
    """The threshold with the best mean score on these rows, and that score (token F1; abstaining is right where
    the documents hold no answer). With no rows the threshold is 0: never abstain."""
    from bucle.customise.overlap import token_f1

    if not rows:
        return 0.0, 0.0
    gains = [
        (f.support, token_f1(f.answer, r.target) if r.target else 0.0, 1.0 if r.target is None else 0.0)
        for r, f in zip(rows, found, strict=True)
    ]
    best = (-1.0, 0.0)
    for threshold in sorted({0.0, *(round(s, 3) for s, _, _ in gains)}):
        score = sum(right if s >= threshold else quiet for s, right, quiet in gains) / len(gains)
        best = max(best, (score, -threshold))
    return -best[1], best[0]
