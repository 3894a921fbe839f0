"""Summaries without a model: the first sentences, and the most central ones. How many is fitted to the references."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bucle.core.ports import FitContext, LoadContext, Predictor
from bucle.core.records import Prediction
from bucle.customise.overlap import token_f1
from bucle.customise.timing import timed
from bucle.data.sentences import sentences

__all__ = ["Extractive", "Lead", "central"]

MOST = 8  # sentences of a summary
DEFAULT = 3  # without references
FITTED_ON = 300  # rows that the length is fitted on at most
READ = 400  # sentences of a text that are compared with each other at most


class Lead:
    """The first sentences: hard to beat on news (See et al. 2017, arXiv:1704.04368, table 1)."""

    name = "lead"
    kinds = frozenset({"summarise"})
    needs: frozenset[str] = frozenset()
    rung = 0
    baseline = True
    when = "The baseline to beat: the first sentences, as many as the references are long."
    settings: frozenset[str] = frozenset()

    def fit(self, ctx: FitContext) -> Mapping[str, Any]:
        """Chooses the number of sentences by the mean F1 of words against the references, the fewest of equals."""
        rows = [e for e in [*ctx.train, *ctx.validation] if e.target]
        if len(rows) > FITTED_ON:
            rows = random.Random(ctx.seed).sample(rows, FITTED_ON)
        sums = [0.0] * MOST
        for row in rows:
            own = cut(row.input)
            order = self.order(own)
            for i in range(MOST):
                sums[i] += token_f1(together(own, order[: i + 1]), str(row.target))
        table = {str(i + 1): round(total / len(rows), 5) for i, total in enumerate(sums)} if rows else {}
        length = max(table, key=lambda n: (table[n], -int(n))) if table else str(DEFAULT)
        (ctx.out / "summary.json").write_text(json.dumps({"sentences": int(length)}))
        return {"sentences": int(length), "token_f1": table, "rows": len(rows)}

    def load(self, folder: Path, ctx: LoadContext) -> Predictor:
        return _Summariser(self, json.loads((folder / "summary.json").read_text())["sentences"])

    def order(self, own: Sequence[str]) -> list[int]:
        """The sentences of a text, the ones to keep first."""
        return list(range(len(own)))


class Extractive(Lead):
    """The most central sentences (TextRank), in the order of the text."""

    name = "extractive"
    rung = 1
    when = "Texts whose point is not at the beginning."

    def order(self, own: Sequence[str]) -> list[int]:
        return central(own)


class _Summariser:
    def __init__(self, technique: Lead, length: int) -> None:
        self.technique, self.length = technique, length

    def predict(self, inputs: Sequence[str]) -> list[Prediction]:
        return timed(inputs, self._predict)

    def _predict(self, inputs: Sequence[str]) -> list[Prediction]:
        cuts = [cut(text) for text in inputs]
        return [Prediction(output=together(own, self.technique.order(own)[: self.length])) for own in cuts]


def cut(text: str) -> list[str]:
    """The sentences of a text; a text too short for one is its own."""
    return sentences(text) or ([text.strip()] if text.strip() else [])


def together(own: Sequence[str], chosen: Sequence[int]) -> str:
    """Some sentences, in the order of the text."""
    return " ".join(own[i] for i in sorted(chosen))


def central(own: Sequence[str]) -> list[int]:
    """Sentences by their centrality, first the most central: PageRank over how many words two share, over the
    logarithms of their lengths (TextRank, Mihalcea and Tarau 2004, section 4.1; damping 0.85)."""
    import numpy as np

    words = [set(re.findall(r"\w+", s.lower())) for s in own[:READ]]
    vocabulary = {word: i for i, word in enumerate(sorted(set().union(*words)))} if words else {}
    count = len(words)
    if count < 2 or not vocabulary:
        return list(range(len(own)))
    has = np.zeros((count, len(vocabulary)), dtype="float32")
    for i, own_words in enumerate(words):
        has[i, [vocabulary[word] for word in own_words]] = 1
    logs = np.log(np.maximum([len(w) for w in words], 1))
    likeness = (has @ has.T) / np.maximum(logs[:, None] + logs[None, :], 1e-9) * (logs[:, None] + logs[None, :] > 0)
    np.fill_diagonal(likeness, 0)
    totals = likeness.sum(axis=1, keepdims=True)
    step = np.divide(likeness, totals, out=np.full_like(likeness, 1 / count), where=totals > 0)
    rank = np.full(count, 1 / count)
    for _ in range(50):
        before, rank = rank, 0.15 / count + 0.85 * (rank @ step)
        if float(np.abs(rank - before).max()) < 1e-6:
            break
    first = sorted(range(count), key=lambda i: (-round(float(rank[i]), 6), i))
    return [*first, *range(count, len(own))]
