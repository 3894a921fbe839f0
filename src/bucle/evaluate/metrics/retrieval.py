"""Whether the right passages were found and cited: recall@k, MRR, nDCG@k, precision and recall of citations."""

from __future__ import annotations

from math import log2

from bucle.evaluate.metrics.samples import Sample

__all__ = ["citation_hit", "citation_precision", "citation_recall", "ndcg", "recall", "reciprocal_rank"]


def recall(sample: Sample, k: int) -> float:
    """Share of the relevant ids that stand among the first `k` retrieved."""
    return len(set(_ranked(sample)[:k]) & set(sample.relevant)) / len(sample.relevant)


def reciprocal_rank(sample: Sample) -> float:
    """1 over the rank of the first relevant id; 0 where none was retrieved. Its mean is MRR (Voorhees 1999)."""
    return next((1 / rank for rank, name in enumerate(_ranked(sample), 1) if name in sample.relevant), 0.0)


def ndcg(sample: Sample, k: int) -> float:
    """Gain of the first `k`, discounted by log2(rank + 1), over that of the best order (Järvelin and Kekäläinen 2002,
    gains as given, as in trec_eval and scikit-learn)."""
    found = [sample.relevant.get(name, 0.0) for name in _ranked(sample)[:k]]
    best = sorted(sample.relevant.values(), reverse=True)[:k]
    return _discounted(found) / _discounted(best)


def citation_hit(sample: Sample) -> float:
    """1 where one of the relevant ids is cited."""
    return float(any(name in sample.relevant for name in sample.citations))


def citation_precision(sample: Sample) -> float:
    """Share of the distinct citations that are relevant; 0 where something should have been cited and nothing was."""
    cited = set(sample.citations)
    return len(cited & set(sample.relevant)) / len(cited) if cited else 0.0


def citation_recall(sample: Sample) -> float:
    """Share of the relevant ids that are cited."""
    return len(set(sample.citations) & set(sample.relevant)) / len(sample.relevant)


def _ranked(sample: Sample) -> list[str]:
    """The ranking with each id once, at its first place."""
    return list(dict.fromkeys(sample.ranking))


def _discounted(gains: list[float]) -> float:
    return sum(gain / log2(place + 2) for place, gain in enumerate(gains))
