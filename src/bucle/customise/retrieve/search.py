"""Retrieval as a task of its own: a question in, the documents that bear on it out, best first.

`bm25` searches by words (Robertson and Zaragoza 2009), `dense` by meaning, `hybrid-search` fuses both and what their
sentences say, by weights fitted to the team's own questions (see fusion). `rewritten-search` has a model write the
queries. Each document stands once, at its best passage.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bucle.core.errors import BadInput
from bucle.core.ports import FitContext, LoadContext, Predictor
from bucle.core.records import Prediction
from bucle.customise.retrieve.fusion import fusion_of
from bucle.customise.retrieve.passages import SETTINGS, Finder, search_settings
from bucle.customise.retrieve.quote import loading, open_index
from bucle.customise.settings import whole
from bucle.customise.timing import timed

__all__ = ["Bm25", "Dense", "HybridSearch", "RewrittenSearch", "SearchPredictor"]

K = 10


class Bm25:
    """Search by words."""

    name = "bm25"
    version = 2
    kinds = frozenset({"retrieve"})
    needs = frozenset({"index"})
    rung = 1
    baseline = True
    when = "The baseline to beat: questions in the documents' own words, codes and names."
    settings: frozenset[str] = frozenset({"k"})
    weights: Mapping[str, float] | None = {"words": 1.0}

    def fit(self, ctx: FitContext) -> Mapping[str, Any]:
        """Writes what is searched and how; `hybrid-search` fits its weights on train and validation questions, and its
        figures say them."""
        if ctx.index is None:
            raise _without_index()
        settings = {"k": whole(ctx.params, "k", K, most=1000), **self._settings(ctx)}
        figures: dict[str, Any] = {}
        if self.weights is None:
            rows = [e for e in [*ctx.train, *ctx.validation] if e.document]
            found = fusion_of(open_index(loading(ctx)), rows, seed=ctx.seed, depth=settings["depth"],
                              report=ctx.report)
            settings["weights"] = dict(found.weights)
            figures = {"chosen": found.chosen, "mrr": dict(found.mrr), "rows": found.rows}
        else:
            settings["weights"] = dict(self.weights)
        (ctx.out / "search.json").write_text(json.dumps(settings))
        return {**settings, **figures}

    def _settings(self, ctx: FitContext) -> dict[str, Any]:
        return {}

    def load(self, folder: Path, ctx: LoadContext) -> Predictor:
        if ctx.index is None:
            raise _without_index()
        settings = json.loads((folder / "search.json").read_text())
        return SearchPredictor(
            Finder(open_index(ctx), settings, chat=ctx.chat, reranker=ctx.reranker, seed=ctx.seed), int(settings["k"])
        )


class Dense(Bm25):
    """Search by meaning: the nearest embeddings."""

    name = "dense"
    needs = frozenset({"index", "encoder"})
    rung = 2
    baseline = False
    when = "Questions in other words, or another language, than the documents; the encoder must know both."
    weights = {"meaning": 1.0}


class HybridSearch(Bm25):
    """Search by words and meaning, of passages and of their sentences, fused; reranked where there is a reranker."""

    name = "hybrid-search"
    needs = frozenset({"index", "encoder"})
    rung = 3
    baseline = False
    when = "When words and meaning each miss documents that the other finds."
    settings: frozenset[str] = frozenset({"k"}) | SETTINGS
    weights = None

    def _settings(self, ctx: FitContext) -> dict[str, Any]:
        return search_settings(ctx.params, ctx.chat, ctx.reranker)


class RewrittenSearch(HybridSearch):
    """As `hybrid-search`, for what a model makes of the question."""

    name = "rewritten-search"
    version = 1
    needs = frozenset({"index", "encoder", "chat"})
    rung = 5
    grown = True
    when = "Questions that are long, vague or in other words than the documents; a model's call for each."

    def _settings(self, ctx: FitContext) -> dict[str, Any]:
        return search_settings({"queries": "multi", **ctx.params}, ctx.chat, ctx.reranker)


class SearchPredictor:
    """Finds documents. `access` are the labels that the asker holds: without all of a document's, it is not found."""

    def __init__(self, finder: Finder, k: int) -> None:
        self.finder, self.index, self.k = finder, finder.index, k

    def predict(self, inputs: Sequence[str], *, access: frozenset[str] = frozenset()) -> list[Prediction]:
        """Paths one a line, best first, and in `chunks` the best passage of each; nothing found is an abstention."""
        return timed(inputs, lambda some: self._predict(some, access))

    def _predict(self, inputs: Sequence[str], access: frozenset[str]) -> list[Prediction]:
        return [
            Prediction(
                output="\n".join(hit.chunk.path for hit in found.hits),
                abstained=not found.hits,
                chunks=tuple(hit.chunk.id for hit in found.hits),
                usage=found.usage,
                spans=found.spans,
            )
            for found in self.finder.find(inputs, k=self.k, access=access, documents=True)
        ]


def _without_index() -> BadInput:
    return BadInput("Searching needs an index of documents.", "Add `data.documents` to bucle.yaml.")
