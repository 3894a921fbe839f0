"""What a text task's model must beat: the input itself, the answer of the nearest example, nothing, the commonest."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bucle.core.ports import FitContext, LoadContext, Predictor
from bucle.core.records import Prediction
from bucle.customise.classic.features import fit_tfidf, load_tfidf, save_tfidf, tfidf_matrix
from bucle.customise.conversation import gist
from bucle.customise.timing import timed

__all__ = ["Copy", "Empty", "Frequent", "NearestText", "as_object"]


class _Fixed:
    """The same output for every input."""

    def __init__(self, output: str) -> None:
        self.prediction = Prediction(output=output)

    def predict(self, inputs: Sequence[str]) -> list[Prediction]:
        return [self.prediction for _ in inputs]


class Copy:
    """The input itself."""

    name = "copy"
    kinds = frozenset({"translate", "instruct"})
    needs: frozenset[str] = frozenset()
    rung = 0
    baseline = True
    when = "The floor: what the metric gives to a text that nobody has touched."
    settings: frozenset[str] = frozenset()

    def fit(self, ctx: FitContext) -> Mapping[str, Any]:
        (ctx.out / "copy.json").write_text("{}")
        return {}

    def load(self, folder: Path, ctx: LoadContext) -> Predictor:
        return _Copier()


class _Copier:
    def predict(self, inputs: Sequence[str]) -> list[Prediction]:
        return [Prediction(output=text) for text in inputs]


class Empty:
    """An object without fields; a program that does nothing."""

    name = "empty"
    kinds = frozenset({"extract", "code"})
    needs: frozenset[str] = frozenset()
    rung = 0
    baseline = True
    when = "The floor: what passes with nothing in it says that the metric, or the tests, ask nothing."
    settings: frozenset[str] = frozenset()

    def fit(self, ctx: FitContext) -> Mapping[str, Any]:
        (ctx.out / "empty.json").write_text(json.dumps("pass\n" if ctx.kind == "code" else "{}"))
        return {}

    def load(self, folder: Path, ctx: LoadContext) -> Predictor:
        return _Fixed(json.loads((folder / "empty.json").read_text()))


class Frequent:
    """The commonest value of each field, where it has one more often than not."""

    name = "frequent"
    kinds = frozenset({"extract"})
    needs: frozenset[str] = frozenset()
    rung = 1
    baseline = True
    when = "What is known of the fields without reading the text: categories and what seldom changes."
    settings: frozenset[str] = frozenset()

    def fit(self, ctx: FitContext) -> Mapping[str, Any]:
        objects = [value for e in ctx.train if (value := as_object(e.target or "")) is not None]
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for value in objects:
            for field, content in value.items():
                counts[field][json.dumps(content, ensure_ascii=False, sort_keys=True)] += 1
        common = {}
        for field in sorted(counts):
            content, times = min(counts[field].items(), key=lambda item: (-item[1], item[0]))
            if times >= len(objects) - sum(counts[field].values()):
                common[field] = json.loads(content)
        (ctx.out / "frequent.json").write_text(json.dumps(common, ensure_ascii=False), "utf-8")
        return {"fields": len(common), "rows": len(objects)}

    def load(self, folder: Path, ctx: LoadContext) -> Predictor:
        return _Fixed((folder / "frequent.json").read_text("utf-8"))


class NearestText:
    """The reference of the most similar training input (TF-IDF cosine); of a conversation by its words."""

    name = "nearest-text"
    kinds = frozenset({"translate", "extract", "generate", "instruct", "converse"})
    needs: frozenset[str] = frozenset()
    rung = 2
    baseline = True
    when = "Inputs that come again: gives the answer that the most similar one had."
    settings: frozenset[str] = frozenset()

    def fit(self, ctx: FitContext) -> Mapping[str, Any]:
        """Keeps the inputs and references. Without a row that has one (instructions with checks alone), there is
        nothing to give, and the outputs are empty."""
        rows = [e for e in ctx.train if e.target]
        texts = [gist(ctx.kind, e.input) for e in rows]
        worded = any(any(c.isalnum() for c in text) for text in texts)
        stored = {"kind": ctx.kind, "answers": [e.target for e in rows] if worded else [], "texts": texts}
        if stored["answers"]:
            save_tfidf(fit_tfidf(texts), ctx.out)
        (ctx.out / "answers.json").write_text(json.dumps(stored, ensure_ascii=False), "utf-8")
        return {"examples": len(stored["answers"])}

    def load(self, folder: Path, ctx: LoadContext) -> Predictor:
        stored = json.loads((folder / "answers.json").read_text("utf-8"))
        return _NearestPredictor(folder, stored) if stored["answers"] else _Fixed("")


class _NearestPredictor:
    def __init__(self, folder: Path, stored: Mapping[str, Any]) -> None:
        self.vectorizers, self.answers = load_tfidf(folder), stored["answers"]
        self.matrix = tfidf_matrix(self.vectorizers, stored["texts"])
        self.gist = partial(gist, stored["kind"])

    def predict(self, inputs: Sequence[str]) -> list[Prediction]:
        return timed(inputs, self._predict)

    def _predict(self, inputs: Sequence[str]) -> list[Prediction]:
        predictions = []
        for text in inputs:  # one at a time: long texts have wide rows
            likeness = (tfidf_matrix(self.vectorizers, [self.gist(text)]) @ self.matrix.T).toarray()[0] / 2
            best = int(likeness.argmax())
            predictions.append(Prediction(output=self.answers[best], score=float(min(1.0, likeness[best]))))
        return predictions


def as_object(text: str) -> dict[str, Any] | None:
    """The JSON object that a row's reference is; None for what is none."""
    try:
        read = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return read if isinstance(read, dict) else None
