"""Majority and nearest example: what any model must beat."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bucle.core.errors import BadInput
from bucle.core.ports import FitContext, LoadContext, Predictor
from bucle.core.records import Prediction
from bucle.customise.classic.features import fit_tfidf, load_tfidf, save_tfidf, tfidf_matrix
from bucle.customise.timing import timed

__all__ = ["Majority", "Nearest"]


class Majority:
    """Always the commonest label."""

    name = "majority"
    kinds = frozenset({"classify"})
    needs: frozenset[str] = frozenset()
    rung = 0
    baseline = True
    when = "The floor: what a model scores that never reads the message."
    settings: frozenset[str] = frozenset()

    def fit(self, ctx: FitContext) -> Mapping[str, Any]:
        counts = Counter(e.target for e in ctx.train if e.target)
        if not counts:
            raise BadInput("There is no labelled row to learn from.", "bucle explore shows the rows.")
        label, count = min(counts.items(), key=lambda item: (-item[1], item[0]))
        (ctx.out / "majority.json").write_text(json.dumps({"label": label, "share": count / sum(counts.values())}))
        return {"label": label}

    def load(self, folder: Path, ctx: LoadContext) -> Predictor:
        return _MajorityPredictor(json.loads((folder / "majority.json").read_text()))


class _MajorityPredictor:
    def __init__(self, stored: Mapping[str, Any]) -> None:
        self.prediction = Prediction(output=stored["label"], score=stored["share"])

    def predict(self, inputs: Sequence[str]) -> list[Prediction]:
        return [self.prediction for _ in inputs]


class Nearest:
    """The label of the most similar training message (TF-IDF cosine)."""

    name = "nearest"
    kinds = frozenset({"classify"})
    needs: frozenset[str] = frozenset()
    rung = 1
    baseline = True
    when = "No training at all: copies the label of the most similar example."
    settings: frozenset[str] = frozenset()

    def fit(self, ctx: FitContext) -> Mapping[str, Any]:
        rows = [e for e in ctx.train if e.target]
        save_tfidf(fit_tfidf([e.input for e in rows]), ctx.out)
        (ctx.out / "examples.json").write_text(json.dumps([[e.input, e.target] for e in rows], ensure_ascii=False))
        return {"examples": len(rows)}

    def load(self, folder: Path, ctx: LoadContext) -> Predictor:
        return _NearestPredictor(folder)


class _NearestPredictor:
    def __init__(self, folder: Path) -> None:
        self.vectorizers = load_tfidf(folder)
        examples = json.loads((folder / "examples.json").read_text())
        self.labels = [label for _, label in examples]
        self.matrix = tfidf_matrix(self.vectorizers, [text for text, _ in examples])

    def predict(self, inputs: Sequence[str]) -> list[Prediction]:
        return timed(inputs, self._predict)

    def _predict(self, inputs: Sequence[str]) -> list[Prediction]:
        if not inputs:
            return []
        # Each of the two blocks has unit rows, so their sum of products is twice a mean cosine.
        similarity = (tfidf_matrix(self.vectorizers, inputs) @ self.matrix.T).toarray() / 2
        best = similarity.argmax(axis=1)
        return [Prediction(output=self.labels[j], score=float(min(1.0, similarity[i, j]))) for i, j in enumerate(best)]
