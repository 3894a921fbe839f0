"""Retrieval as a task of its own: a question in, the documents that bear on it out, best first.

`bm25` searches by words (Robertson and Zaragoza 2009), `dense` by meaning, `hybrid-search` by both with a weight fitted
to the team's own questions. Each document stands once, at its best passage.
"""

from __future__ import annotations

import json
import random
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bucle.core.errors import BadInput
from bucle.core.ports import FitContext, LoadContext, Predictor
from bucle.core.records import Example, Prediction
from bucle.customise.retrieve.index import Hit, Index
from bucle.customise.retrieve.quote import WEIGHTS, open_index
from bucle.customise.settings import whole
from bucle.customise.timing import timed

__all__ = ["Bm25", "Dense", "HybridSearch", "SearchPredictor"]

K = 10
PASSAGES_PER_DOCUMENT = 4  # asked for at first; more where documents are fewer than k
FITTED_ON = 500  # questions that the weight is fitted on at most


class Bm25:
    """Search by words."""

    name = "bm25"
    kinds = frozenset({"retrieve"})
    needs = frozenset({"index"})
    rung = 1
    baseline = True
    when = "The baseline to beat: questions in the documents' own words, codes and names."
    settings: frozenset[str] = frozenset({"k"})
    weights: tuple[float, ...] = (0.0,)

    def fit(self, ctx: FitContext) -> Mapping[str, Any]:
        """Chooses the weight of meaning against words by the mean reciprocal rank of the first right document, on train
        and validation questions; the least meaning of equals. Without questions it is the middle one."""
        if ctx.index is None:
            raise _without_index()
        k = whole(ctx.params, "k", K, most=1000)
        rows = [e for e in [*ctx.train, *ctx.validation] if e.document]
        if len(rows) > FITTED_ON:
            rows = random.Random(ctx.seed).sample(rows, FITTED_ON)
        table: dict[str, float] = {}
        if len(self.weights) > 1 and rows:
            index = Index(ctx.index, ctx.encoder)
            vectors = index.embed([e.input for e in rows])
            for done, weight in enumerate(self.weights):
                ctx.report(done, len(self.weights), f"weight {weight:g}")
                ranks = [_reciprocal_rank(e, documents(index, e.input, k, weight, vector=v))
                         for e, v in zip(rows, vectors, strict=True)]
                table[f"{weight:g}"] = round(sum(ranks) / len(ranks), 5)
        weight = max(self.weights, key=lambda w: (table[f"{w:g}"], -w)) if table else statistics.median(self.weights)
        settings = {"weight": weight, "k": k}
        (ctx.out / "search.json").write_text(json.dumps(settings))
        return {**settings, "mrr": table, "rows": len(rows)}

    def load(self, folder: Path, ctx: LoadContext) -> Predictor:
        if ctx.index is None:
            raise _without_index()
        return SearchPredictor(open_index(ctx), json.loads((folder / "search.json").read_text()))


class Dense(Bm25):
    """Search by meaning: the nearest embeddings."""

    name = "dense"
    needs = frozenset({"index", "encoder"})
    rung = 2
    baseline = False
    when = "Questions in other words, or another language, than the documents; the encoder must know both."
    weights = (1.0,)


class HybridSearch(Bm25):
    """Search by words and meaning, fused."""

    name = "hybrid-search"
    needs = frozenset({"index", "encoder"})
    rung = 3
    baseline = False
    when = "When words and meaning each miss documents that the other finds."
    weights = WEIGHTS


class SearchPredictor:
    """Finds documents. `access` are the labels that the asker holds: without all of a document's, it is not found."""

    def __init__(self, index: Index, settings: Mapping[str, Any]) -> None:
        self.index, self.settings = index, settings

    def predict(self, inputs: Sequence[str], *, access: frozenset[str] = frozenset()) -> list[Prediction]:
        """Paths one a line, best first, and in `chunks` the best passage of each; nothing found is an abstention."""
        return timed(inputs, lambda some: self._predict(some, access))

    def _predict(self, inputs: Sequence[str], access: frozenset[str]) -> list[Prediction]:
        weight, k = self.settings["weight"], self.settings["k"]
        vectors = self.index.embed(inputs) if weight > 0 and inputs else [None] * len(inputs)
        predictions = []
        for text, vector in zip(inputs, vectors, strict=True):
            hits = documents(self.index, text, k, weight, vector=vector, access=access)
            predictions.append(Prediction(
                output="\n".join(hit.chunk.path for hit in hits),
                abstained=not hits,
                chunks=tuple(hit.chunk.id for hit in hits),
            ))
        return predictions


def documents(
    index: Index, question: str, k: int, weight: float, *, vector: Any = None, access: frozenset[str] = frozenset()
) -> list[Hit]:
    """The best passage of each of the `k` best documents that a holder of `access` may see."""
    passages = k * PASSAGES_PER_DOCUMENT
    while True:
        hits = index.search(question, k=passages, weight=weight, vector=vector, access=access)
        best: dict[str, Hit] = {}
        for hit in hits:
            best.setdefault(hit.chunk.path, hit)
        if len(best) >= k or len(hits) < passages or passages >= len(index.chunks):
            return list(best.values())[:k]
        passages *= 4


def _reciprocal_rank(row: Example, hits: Sequence[Hit]) -> float:
    right = {part.strip() for part in row.document.split(";")}
    return next((1 / rank for rank, hit in enumerate(hits, 1) if hit.chunk.path in right), 0.0)


def _without_index() -> BadInput:
    return BadInput("Searching needs an index of documents.", "Add `data.documents` to bucle.yaml.")
