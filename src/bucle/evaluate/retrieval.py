"""The figures of a retrieval: what was found, what was cited, and whether abstaining paid; intervals by document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bucle.core.records import Interval, Prediction
from bucle.evaluate.lost import Asked, Home, Passage, right
from bucle.evaluate.metrics.retrieval import citation_precision, citation_recall, ndcg, recall, reciprocal_rank
from bucle.evaluate.metrics.samples import Measured, Metric, Sample, Statistics
from bucle.evaluate.statistics import interval, wilson

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["retrieval_figures", "risk_coverage"]

DEPTHS = (1, 3, 5, 10)
DRAWS = 2_000


def retrieval_figures(
    asked: Sequence[Asked], passages: Mapping[str, Passage], found: Sequence[Home], *, ks: Sequence[int] = DEPTHS,
    forced: Sequence[Prediction] | None = None, documents: bool = False, paths: bool = False, seed: int = 0,
) -> dict[str, Interval]:
    """Every figure that the rows allow, each in [0, 1] with its interval over `Example.cluster`, and `n` its rows.

    Of questions that name documents: `recall@k`, `mrr` and `ndcg@K` (K the largest of `ks`, or 10 where it is among
    them) of the documents in the order in which their first passage was found. Of questions with an answer:
    `passage_hit@k` (a passage that holds it is among the first k) and `passage_mrr`. Of those that were answered:
    `citation_precision` and `citation_recall` (documents), `citation_support` (the share of citations that hold the
    answer). Where questions without an answer are among them: `answered` (the share of answerable ones), `abstained`
    (of unanswerable ones: the recall of abstaining), `abstain_precision`, `abstain_f1`. Of all: `risk`, the share of
    answers that are wrong, at the `coverage` that the calibrated threshold gives, and `aurc`, see `risk_coverage`;
    `forced` are the predictions without a threshold, from which that curve goes on where the candidate is silent, up to
    `curve_coverage`. `documents` (a retrieve task): the figures of documents alone. `paths`: what was found and cited
    are documents, so there are none of passages.
    """
    ks, told = sorted(set(ks)), dict[str, Interval]()
    gain = 10 if 10 in ks else ks[-1]
    by_document = [(one, _documents(one, passages)) for one in asked if one.row.document.strip(" ;")]
    told |= _means(by_document, {f"recall@{k}": lambda s, k=k: recall(s, k) for k in ks})
    told |= _means(by_document, {"mrr": reciprocal_rank, f"ndcg@{gain}": lambda s: ndcg(s, gain)})
    if documents:
        return told
    by_passage = [
        (one, Sample(ranking=one.ranking, citations=one.said.citations, relevant=dict.fromkeys(home.passages, 1.0)))
        for one, home in zip(asked, found, strict=True) if one.row.target is not None and not paths
    ]
    told |= _means(by_passage, {
        f"passage_hit@{k}": lambda s, k=k: float(bool(s.relevant) and recall(s, k) > 0) for k in ks})
    told |= _means(by_passage, {"passage_mrr": reciprocal_rank})
    spoke = [(one, sample) for one, sample in by_document if one.row.target is not None and _answered(one.said)]
    told |= _means(spoke, {"citation_precision": citation_precision, "citation_recall": citation_recall})
    told |= _means([pair for pair in by_passage if _answered(pair[0].said)], {"citation_support": citation_precision})
    return told | _abstaining(asked, seed) | _risk(asked, forced, seed)


def risk_coverage(confidence: Sequence[float], loss: Sequence[float]) -> list[tuple[float, float]]:
    """Coverage and selective risk as the least sure answers are left out one after another, from the surest alone to
    all: `[(coverage, risk)]` (Geifman and El-Yaniv 2017, equations 1 and 2). Answers that are equally sure come in
    together. The mean of the risks over all answers is the area under the curve (AURC)."""
    import numpy as np

    order = np.argsort(-np.asarray(confidence, dtype=float), kind="stable")
    sure, losses = np.asarray(confidence, dtype=float)[order], np.asarray(loss, dtype=float)[order]
    last = np.append(np.flatnonzero(np.diff(sure)), len(sure) - 1) if len(sure) else np.zeros(0, dtype=int)
    return [(float((i + 1) / len(sure)), float(losses[:i + 1].sum() / (i + 1))) for i in last]


def _documents(one: Asked, passages: Mapping[str, Passage]) -> Sample:
    def paths(names: Sequence[str]) -> tuple[str, ...]:
        return tuple(passages[name].document if name in passages else name for name in names)

    relevant = {part.strip(): 1.0 for part in one.row.document.split(";") if part.strip()}
    return Sample(ranking=paths(one.ranking), citations=paths(one.said.citations), relevant=relevant)


def _answered(said: Prediction) -> bool:
    return not said.abstained and not said.error


def _means(pairs: Sequence[tuple[Asked, Sample]], scores: Mapping[str, Any]) -> dict[str, Interval]:
    if not pairs:
        return {}
    clusters = [one.row.cluster for one, _ in pairs]
    return {name: interval([score(sample) for _, sample in pairs], clusters=clusters) for name, score in scores.items()}


def _abstaining(asked: Sequence[Asked], seed: int) -> dict[str, Interval]:
    """Abstaining as a decision: right on a question without an answer."""
    from bucle.evaluate.resample import score_intervals

    told: dict[str, Interval] = {}

    def share(name: str, some: Sequence[Asked], is_so: Sequence[float]) -> None:
        if some:
            told[name] = interval(is_so, clusters=[one.row.cluster for one in some])

    answerable = [one for one in asked if one.row.target is not None]
    without = [one for one in asked if one.row.target is None]
    silent = [one for one in asked if one.said.abstained and not one.said.error]
    share("answered", answerable, [float(_answered(one.said)) for one in answerable])
    if not without:
        return told
    share("abstained", without, [float(one.said.abstained and not one.said.error) for one in without])
    share("abstain_precision", silent, [float(one.row.target is None) for one in silent])
    part = [one for one in asked if one.row.target is None or (one.said.abstained and not one.said.error)]
    clusters, sums = [one.row.cluster for one in part], _f1(part)
    if len(set(clusters)) > 1:
        f1 = Measured(Metric("abstain_f1", "F1 of abstaining", (), lambda _: sums), 0.0, (), sums)
        return told | score_intervals({"abstain_f1": f1}, clusters=clusters, seed=seed, draws=DRAWS)
    value = float(sums.combine(sums.table.sum(axis=0)))
    low, high = wilson(value, 1, 0.95)  # one source counts as one row, as in `interval`
    return told | {"abstain_f1": Interval(value=value, low=low, high=high, n=len(part))}


def _f1(asked: Sequence[Asked]) -> Statistics:
    """Sums of: abstained rightly, abstained, unanswerable."""
    import numpy as np

    rows = [(one.said.abstained and not one.said.error, one.row.target is None) for one in asked]
    table = np.array([(silent and none, silent, none) for silent, none in rows], dtype=float)

    def combine(sums: NDArray[Any]) -> NDArray[Any]:
        both = sums[..., 1] + sums[..., 2]
        return np.where(both > 0, 2 * sums[..., 0] / np.where(both > 0, both, 1.0), 0.0)

    return Statistics(table, combine, signature="abstain_f1")


def _risk(asked: Sequence[Asked], forced: Sequence[Prediction] | None, seed: int) -> dict[str, Interval]:
    said = [one.said for one in asked]
    spoke = [one for one in asked if _answered(one.said)]
    told = {"coverage": interval([float(_answered(one)) for one in said], clusters=[a.row.cluster for a in asked])}
    if spoke:
        told["risk"] = interval([float(not right(one.row, one.said)) for one in spoke],
                                clusters=[one.row.cluster for one in spoke])
    curve = [(one, given) for one, given in zip(asked, forced or said, strict=True)
             if _answered(given) and given.score is not None]
    if len(curve) < 2:
        return told
    sure = [float(given.score or 0.0) for _, given in curve]
    loss = [float(not right(one.row, given)) for one, given in curve]
    told["aurc"] = _area(sure, loss, [one.row.cluster for one, _ in curve], seed)
    told["curve_coverage"] = interval([float(_answered(one)) for one in forced or said],
                                      clusters=[a.row.cluster for a in asked])
    return told


def _area(sure: Sequence[float], loss: Sequence[float], clusters: Sequence[str], seed: int) -> Interval:
    """AURC with the percentile interval of a bootstrap over clusters: the area is no function of sums of rows."""
    import numpy as np

    order = np.argsort(-np.asarray(sure), kind="stable")
    losses, values = np.asarray(loss)[order], np.asarray(sure)[order]
    _, place = np.unique(np.asarray(clusters, dtype=str)[order], return_inverse=True)
    ends = np.append(np.flatnonzero(np.diff(values)), len(values) - 1)
    group = np.searchsorted(ends, np.arange(len(values)))  # equally sure answers have one risk

    def area(counts: NDArray[Any]) -> NDArray[Any]:
        weights = counts[:, place]
        covered, wrong = weights.cumsum(axis=1)[:, ends], (weights * losses).cumsum(axis=1)[:, ends]
        risk = np.divide(wrong, covered, out=np.zeros_like(wrong), where=covered > 0)
        found: NDArray[Any] = (weights * risk[:, group]).sum(axis=1) / weights.sum(axis=1)
        return found

    many, rng = int(place.max()) + 1, np.random.default_rng(seed)
    point = float(area(np.ones((1, many)))[0])
    size = max(1, 4_000_000 // len(values))
    drawn = [area(rng.multinomial(many, np.full(many, 1 / many), min(size, DRAWS - at)).astype(float))
             for at in range(0, DRAWS, size)]
    low, high = np.quantile(np.concatenate(drawn), [0.025, 0.975])
    if high - low < 1e-12:  # nothing varies: each document counts as one row
        low, high = wilson(point, many, 0.95)
    return Interval(value=point, low=min(point, float(low)), high=max(point, float(high)), n=len(values))
