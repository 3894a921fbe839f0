"""Fusion: one order of passages from several signals, by weights that are fitted to the team's own questions.

The score is a weighted mean of the signals (see signals). The weights start even and are pulled from there by the
questions (conditional logit; McFadden 1974), never below zero, and only as far as they pay for the distance: with no
questions they stay even, with few almost. Searching by words alone, by meaning alone and by even weights are compared
with them in cross-validation, whole documents at a time, and the best of those serves instead where it is better by
more than one standard error.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bucle.core.ports import Hit, Report, SearchIndex
from bucle.core.records import Example
from bucle.customise.overlap import folded
from bucle.customise.retrieve.passages import embedded
from bucle.customise.retrieve.signals import DEPTH, SIGNALS, Pool, look, weighed

__all__ = ["EVEN", "Fitted", "fit_weights", "fusion_of", "right_passages"]

EVEN = {name: 1 / len(SIGNALS) for name in SIGNALS}
SCALE = 2.0  # even weights of the logit: a passage that leads by half in every signal is e^5 times likelier
PULL = 0.3  # what leaving them costs, shared by the questions
FOLDS = 5
LEAST = 8  # documents asked about, below which nothing is compared: the shrunken weights serve
FITTED_ON = 200  # questions at most: more move the weights little
ALONE: Mapping[str, Mapping[str, float]] = {"words": {"words": 1.0}, "meaning": {"meaning": 1.0}, "even": EVEN}


@dataclass(frozen=True)
class Fitted:
    """Weights by signal (they sum to 1); `chosen` is `fitted`, `even`, `words` or `meaning`; `mrr` the mean reciprocal
    rank of each in cross-validation (empty where there were too few questions); `rows` how many questions taught."""

    weights: Mapping[str, float]
    chosen: str
    mrr: Mapping[str, float]
    rows: int


def fusion_of(
    index: SearchIndex, rows: Sequence[Example], *, seed: int, depth: int = DEPTH, report: Report | None = None
) -> Fitted:
    """Weights fitted to those of `rows` that say where their answer stands: a document, or an answer that is found in
    a passage word for word. At most FITTED_ON of them, drawn by `seed`."""
    rows = [row for row in rows if row.document or row.target]
    if len(rows) > FITTED_ON:
        rows = random.Random(seed).sample(rows, FITTED_ON)
    pools, right = [], []
    for done, (row, vector) in enumerate(zip(rows, embedded(index, [row.input for row in rows]), strict=True)):
        if report is not None and done % 20 == 0:
            report(done, len(rows), "fusion")
        pools.append(look(index, row.input, vector, depth=depth))
        right.append(right_passages(row, pools[-1].hits))
    return fit_weights(pools, right, [row.cluster for row in rows], seed)


def right_passages(row: Example, hits: Sequence[Hit]) -> list[bool]:
    """Which passages are right for a row: those of its documents; of these, where some hold its answer word for word,
    only they. Without a document, those that hold the answer."""
    documents = {part.strip() for part in row.document.split(";")} - {""}
    within = [not documents or hit.chunk.path in documents for hit in hits]
    answer = folded(row.target or "").strip(" .")
    holding = [bool(answer) and inside and answer in folded(hit.chunk.text)
               for inside, hit in zip(within, hits, strict=True)]
    return holding if any(holding) or not documents else within


def fit_weights(pools: Sequence[Pool], right: Sequence[Sequence[bool]], clusters: Sequence[str], seed: int) -> Fitted:
    """Weights fitted to questions: `right` says of each pool's passages which are right, `clusters` which questions
    are about one document. Deterministic for a seed."""
    import numpy as np

    teaching = [i for i, marks in enumerate(right) if any(marks) and not all(marks)]
    weights = _fit([pools[i] for i in teaching], [right[i] for i in teaching])
    groups = sorted(set(clusters))
    if len(groups) < LEAST or not teaching:
        return Fitted(weights, "fitted" if teaching else "even", {}, len(teaching))
    fold = dict(zip(np.random.default_rng(seed).permutation(groups).tolist(), (i % FOLDS for i in range(len(groups))),
                    strict=True))
    ranks = {name: np.zeros(len(pools)) for name in ("fitted", *ALONE)}
    for out in range(FOLDS):
        kept = [i for i in teaching if fold[clusters[i]] != out]
        here = {**ALONE, "fitted": _fit([pools[i] for i in kept], [right[i] for i in kept])}
        for i in (i for i in range(len(pools)) if fold[clusters[i]] == out):
            for name, some in here.items():
                ranks[name][i] = _reciprocal(pools[i], right[i], some)
    mrr = {name: round(float(values.mean()), 5) for name, values in ranks.items()}
    better = {
        name: mrr[name] for name in ALONE
        if mrr[name] - mrr["fitted"] > _standard_error(ranks[name] - ranks["fitted"], clusters)
    }
    chosen = max(better, key=lambda name: better[name]) if better else "fitted"
    return Fitted(ALONE.get(chosen, weights), chosen, mrr, len(teaching))


def _fit(pools: Sequence[Pool], right: Sequence[Sequence[bool]]) -> dict[str, float]:
    """The weights under which the right passages are likeliest, less what it costs to leave the even ones."""
    import numpy as np
    from scipy.optimize import minimize
    from scipy.special import logsumexp

    even = np.full(len(SIGNALS), SCALE)
    if not pools:
        return dict(EVEN)
    most = max(len(p.hits) for p in pools)
    signals = np.zeros((len(pools), most, len(SIGNALS)))
    absent, wrong = np.full((len(pools), most), -np.inf), np.full((len(pools), most), -np.inf)
    for i, (pool, marks) in enumerate(zip(pools, right, strict=True)):
        signals[i, : len(pool.hits)] = pool.signals
        absent[i, : len(pool.hits)] = 0.0
        wrong[i, : len(pool.hits)][np.array(marks, bool)] = 0.0

    def cost(weights: Any) -> tuple[float, Any]:
        scores = signals @ weights
        of_all, of_right = logsumexp(scores + absent, axis=1), logsumexp(scores + wrong, axis=1)
        shares = np.exp(scores + absent - of_all[:, None]) - np.exp(scores + wrong - of_right[:, None])
        away = weights - even
        slope = np.einsum("nc,ncf->f", shares, signals) + 2 * PULL * away
        return float((of_all - of_right).sum() + PULL * away @ away) / len(pools), slope / len(pools)

    found = minimize(cost, even, jac=True, method="L-BFGS-B", bounds=[(0.0, None)] * len(SIGNALS)).x
    total = float(found.sum())
    if not total > 0:
        return dict(EVEN)
    return {name: round(float(value) / total, 4) for name, value in zip(SIGNALS, found, strict=True)}


def _reciprocal(pool: Pool, right: Sequence[bool], weights: Mapping[str, float]) -> float:
    """One over the rank of the first right passage; among equals the middle."""
    import numpy as np

    if not any(right):
        return 0.0
    scores, marks = weighed(pool, weights), np.array(right, bool)
    best = scores[marks].max()
    return float(1 / (1 + (scores[~marks] > best).sum() + (scores[~marks] == best).sum() / 2))


def _standard_error(differences: Any, clusters: Sequence[str]) -> float:
    """Of a mean, with questions about one document counted as one piece of evidence."""
    import numpy as np

    away = differences - differences.mean()
    sums: dict[str, float] = {}
    for cluster, value in zip(clusters, away.tolist(), strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + value
    return float(np.sqrt(sum(value**2 for value in sums.values()))) / len(differences)
