"""Answering by quoting: the sentences of the team's own documents that best support the question, or nothing.

No model writes anything here, so nothing can be invented: `quote` searches by words (the baseline), `retrieve` by words
and meaning, fused by weights fitted to the team's own questions. Both abstain below a threshold that is calibrated on
train and validation rows, and cite the passages they quote.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bucle.core.errors import BadInput
from bucle.core.ports import FitContext, Hit, LoadContext, Predictor
from bucle.core.records import Example, Prediction
from bucle.customise.overlap import exact_match, token_f1
from bucle.customise.retrieve.fusion import fusion_of
from bucle.customise.retrieve.index import Index
from bucle.customise.retrieve.passages import SETTINGS, Finder, Found, search_settings
from bucle.customise.retrieve.signals import parts_of, support_of
from bucle.customise.settings import whole
from bucle.customise.timing import timed

__all__ = ["NoAnswer", "Quote", "QuotePredictor", "Retrieve", "loading", "open_index"]

PASSAGES = 6
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of meaning against words in how well a sentence supports a question."""
SECOND = (0.0, 0.95, 0.85)
"""How near to the best sentence's support a second one must come to be quoted too; 0: one sentence only."""
SECOND_COSTS = 0.01  # of mean score: what a second sentence must gain at least to be worth reading
LEAST_UNANSWERABLE = 2  # questions without an answer, below which there is nothing to calibrate silence on
RANKS = (0.2, 0.5)
"""Shares of its passage's score in a sentence's support."""
CALIBRATED_ON = 300  # rows
CALIBRATED_ON_DEAR = 100  # where each costs a model's call or a reranker's


@dataclass(frozen=True)
class _Group:
    """The sentences of what was found for a question, with the passage each stands in, its support by words and by
    meaning, and its passage's score."""

    found: Found
    spans: tuple[tuple[Hit, str], ...]
    words: Any
    meaning: Any
    ranks: Any


@dataclass(frozen=True)
class _Answer:
    text: str
    support: float
    quotes: tuple[tuple[str, str], ...]  # passage id and sentence, in the answer's order


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
    version = 2
    kinds = frozenset({"answer"})
    needs = frozenset({"index"})
    rung = 1
    baseline = True
    when = "Answers that stand in the documents word for word; needs no model and invents nothing."
    settings: frozenset[str] = frozenset({"passages"})
    fused = False

    def fit(self, ctx: FitContext) -> Mapping[str, Any]:
        """Fits the fusion (`retrieve`), then chooses on train and validation rows what supports a sentence (its share
        of meaning), whether a second one is quoted, and the threshold below which it abstains. The figures say the
        mean score of each share, exact match and F1 of the answers where the documents hold one."""
        if ctx.index is None:
            raise BadInput("Quoting needs an index of documents.", "Add `data.documents` to bucle.yaml.")
        rows = [*ctx.train, *ctx.validation]
        index = open_index(loading(ctx))
        settings: dict[str, Any] = {"weights": {"words": 1.0}, "passages": whole(ctx.params, "passages", PASSAGES,
                                                                               most=100)}
        figures: dict[str, Any] = {"rows": len(rows)}
        if self.fused:
            settings |= search_settings(ctx.params, ctx.chat, ctx.reranker)
            fusion = fusion_of(index, rows, seed=ctx.seed, depth=settings["depth"], report=ctx.report)
            settings["weights"] = dict(fusion.weights)
            figures["fusion"] = {"chosen": fusion.chosen, "mrr": dict(fusion.mrr), "rows": fusion.rows}
        dear = settings.get("rerank") or settings.get("queries", "plain") != "plain"
        most = CALIBRATED_ON_DEAR if dear else CALIBRATED_ON
        some = rows if len(rows) <= most else random.Random(ctx.seed).sample(rows, most)
        finder = Finder(index, settings, chat=ctx.chat, reranker=ctx.reranker, seed=ctx.seed)
        groups = _groups(finder, [row.input for row in some], settings["passages"], frozenset(), self.fused)
        ctx.report(1, 2, "calibrating")
        calibrated = _calibrate(some, groups, WEIGHTS if self.fused else (0.0,))
        settings |= {name: calibrated[name] for name in ("weight", "rank", "second", "threshold")}
        (ctx.out / "quote.json").write_text(json.dumps(settings))
        return {**settings, **figures, **calibrated["figures"]}

    def load(self, folder: Path, ctx: LoadContext) -> Predictor:
        return opened_quote(folder, ctx)


class Retrieve(Quote):
    """Quotes the best passage found by words and meaning."""

    name = "retrieve"
    needs = frozenset({"index", "encoder"})
    rung = 3
    baseline = False
    when = "Questions asked in other words than the documents use."
    settings: frozenset[str] = frozenset({"passages"}) | SETTINGS
    fused = True


def open_index(ctx: LoadContext) -> Any:
    """The index a candidate answers from, with the labels its documents have today (`extra["labels"]`: path ->
    labels). A folder that holds `store.json` is a vector store of another library's."""
    assert ctx.index is not None  # noqa: S101 - the caller has said what is missing
    if (ctx.index / "store.json").exists():
        from bucle.customise.retrieve.stores import open_store

        return open_store(ctx.index, ctx)
    return Index(ctx.index, ctx.encoder, labels=ctx.extra.get("labels"))


def loading(ctx: FitContext) -> LoadContext:
    """The context to open at fitting what will be opened at answering."""
    return LoadContext(labels=ctx.labels, params=ctx.params, seed=ctx.seed, base=ctx.base, encoder=ctx.encoder,
                       index=ctx.index, chat=ctx.chat, kind=ctx.kind, models=ctx.models, reranker=ctx.reranker,
                       project=ctx.project, trusted=ctx.trusted)


def opened_quote(folder: Path, ctx: LoadContext) -> QuotePredictor:
    """What was fitted into `folder`, over its index."""
    if ctx.index is None:
        raise BadInput("Quoting needs an index of documents.", "Add `data.documents` to bucle.yaml.")
    settings = json.loads((folder / "quote.json").read_text())
    return QuotePredictor(
        Finder(open_index(ctx), settings, chat=ctx.chat, reranker=ctx.reranker, seed=ctx.seed), settings
    )


class QuotePredictor:
    """Finds, quotes and cites; retrieval-augmented generation is built on it. `access` are the labels that the asker
    holds: of a passage with any other, nothing is found, quoted or cited."""

    def __init__(self, finder: Finder, settings: Mapping[str, Any]) -> None:
        self.finder, self.index, self.settings = finder, finder.index, settings

    def predict(self, inputs: Sequence[str], *, access: frozenset[str] = frozenset()) -> list[Prediction]:
        return timed(inputs, lambda some: self._predict(some, access))

    def _predict(self, inputs: Sequence[str], access: frozenset[str]) -> list[Prediction]:
        weight, rank, second = (self.settings[name] for name in ("weight", "rank", "second"))
        predictions = []
        for group in _groups(self.finder, inputs, self.settings["passages"], access, weight > 0):
            answer = _answer(group, weight, rank, second)
            silent = answer.support < self.settings["threshold"] or not answer.text
            cited = () if silent else tuple(dict.fromkeys(chunk for chunk, _ in answer.quotes))
            predictions.append(
                Prediction(
                    output="" if silent else answer.text,
                    score=answer.support,
                    abstained=silent,
                    chunks=tuple(hit.chunk.id for hit in group.found.hits),
                    citations=cited,
                    quotes=tuple(_stretch([s for c, s in answer.quotes if c == chunk],
                                          next(hit.chunk.text for hit in group.found.hits if hit.chunk.id == chunk))
                                 for chunk in cited),
                    usage=group.found.usage,
                    spans=group.found.spans,
                )
            )
        return predictions


def _stretch(quoted: Sequence[str], text: str) -> str:
    """The piece of a passage from the first to the last of its quoted sentences, as it stands there."""
    first = text.find(quoted[0])
    last = text.find(quoted[-1], max(first, 0))
    return text[first : last + len(quoted[-1])] if 0 <= first <= last else quoted[0]


def _groups(
    finder: Finder, questions: Sequence[str], k: int, access: frozenset[str], meaning: bool
) -> list[_Group]:
    import numpy as np

    groups = []
    for question, found in zip(
        questions, finder.find(questions, k=k, access=access, vectors=meaning), strict=True
    ):
        spans = [(hit, span) for hit in found.hits for span in parts_of(finder.index, hit, access)]
        texts = [span for _, span in spans]
        groups.append(_Group(
            found,
            tuple(spans),
            support_of(finder.index, question, texts, 0.0, found.vector, access),
            support_of(finder.index, question, texts, 1.0, found.vector, access) if meaning else np.zeros(len(spans)),
            np.array([hit.score for hit, _ in spans]),
        ))
    return groups


def _answer(group: _Group, weight: float, rank: float, second: float) -> _Answer:
    """The best sentence; and another after it whose support comes within `second` of it, in the documents' order where
    both stand in one passage."""
    if not group.spans:
        return _Answer("", 0.0, ())
    own = (1 - weight) * group.words + weight * group.meaning
    support = (1 - rank) * own + rank * group.ranks
    order = sorted(range(len(support)), key=lambda i: (-support[i], i))
    best = order[0]
    chosen = [best]
    if second:
        other = next((i for i in order[1:] if group.spans[i][1] != group.spans[best][1]), None)
        if other is not None and support[other] >= second * support[best]:
            chosen.append(other)
            if group.spans[other][0].chunk.id == group.spans[best][0].chunk.id:
                chosen.sort()
    quotes = tuple((group.spans[i][0].chunk.id, group.spans[i][1]) for i in chosen)
    return _Answer(" ".join(span for _, span in quotes), min(1.0, max(0.0, float(support[best]))), quotes)


def _calibrate(rows: Sequence[Example], groups: Sequence[_Group], weights: Sequence[float]) -> dict[str, Any]:
    """The share of meaning, the rule for a second sentence and the threshold with the best mean score on these rows
    (token F1; abstaining is right where the documents hold no answer), and what they reach. The simpler of equals.
    With no rows words decide, or both evenly, one sentence is quoted, and it never abstains."""
    if not rows:
        even = weights[len(weights) // 2]
        return {"weight": even, "rank": RANKS[0], "second": 0.0, "threshold": 0.0, "figures": {"calibration": {}}}
    best: tuple[Any, ...] = (-1.0,)
    table: dict[str, float] = {}
    for weight, rank, second in itertools.product(weights, RANKS, SECOND):
        answers = [_answer(group, weight, rank, second) for group in groups]
        threshold, score = _threshold(rows, answers)
        table[f"{weight:g}"] = max(table.get(f"{weight:g}", 0.0), round(score, 5))
        score -= SECOND_COSTS if second else 0.0
        if (score, -second, -weight, -rank) > best[:4]:
            best = (score, -second, -weight, -rank, threshold, answers)
    answered = [(a.text, str(r.target)) for r, a in zip(rows, best[5], strict=True) if r.target]
    figures: dict[str, Any] = {"calibration": table}
    if answered:
        figures["exact_match"] = round(sum(exact_match(a, t) for a, t in answered) / len(answered), 5)
        figures["f1"] = round(sum(token_f1(a, t) for a, t in answered) / len(answered), 5)
    return {"weight": -best[2], "rank": -best[3], "second": -best[1], "threshold": best[4], "figures": figures}


def _threshold(rows: Sequence[Example], answers: Sequence[_Answer]) -> tuple[float, float]:
    """The threshold with the best mean score, half-way between two answers' support, and that score. It stays 0 where
    no silence pays, or fewer than two of the rows have no answer: one says little about the next."""
    import numpy as np

    right = np.array([token_f1(a.text, r.target) if r.target else float(not a.text)
                      for r, a in zip(rows, answers, strict=True)])
    quiet = np.array([0.0 if r.target else 1.0 for r in rows])
    support = np.array([a.support for a in answers])
    ranked = np.argsort(support, kind="stable")
    known = support[ranked]
    gained = np.concatenate([[0.0], np.cumsum((quiet - right)[ranked])])  # by silence on the lowest so many
    ends = np.flatnonzero(np.diff(known, append=np.inf)) + 1  # rows of equal support fall silent together
    best = int(ends[np.argmax(gained[ends])])
    always = float(right.mean())
    apart = np.where(support <= known[best - 1], quiet - right, 0.0)
    if quiet.sum() < LEAST_UNANSWERABLE or apart.mean() <= 1e-9:
        return 0.0, always
    above = known[best] if best < len(known) else 1.0
    return float(known[best - 1] + above) / 2, always + float(apart.mean())
