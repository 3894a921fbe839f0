"""What is new in a window: its strangest messages, grouped, with the words that set each group apart."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from bucle.core.records import Trace

__all__ = ["clusters_of"]

WORDS: Mapping[str, Any] = {"token_pattern": r"(?u)\b[^\W\d_]{2,}\b"}
MOST_CLUSTERS = 4
SMALLEST = 5
MOST_CHARACTERS = 2000


def clusters_of(strange: Sequence[Trace], reference: Sequence[Trace], *,
                seed: int = 0) -> list[dict[str, Any]]:
    """Groups of `strange` messages, largest first, by k-means on TF-IDF with the number of groups of best
    silhouette.

    Each is `{label, terms, size, examples, traces}`: the proposed label is its most distinguishing words;
    up to five examples, the nearest to the centre first. Groups of fewer than five messages are left out.
    """
    import numpy as np
    from sklearn.cluster import KMeans
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.metrics import silhouette_score

    if len(strange) < SMALLEST:
        return []
    texts = [trace.input[:MOST_CHARACTERS] for trace in strange]
    vectorizer = TfidfVectorizer(strip_accents="unicode", sublinear_tf=True, **WORDS)
    try:
        vectorizer.fit([*texts, *(trace.input[:MOST_CHARACTERS] for trace in reference)])
    except ValueError:  # no words
        return []
    matrix = vectorizer.transform(texts)
    distinct = len({tuple(row.indices) for row in matrix})
    place, best = np.zeros(len(texts), int), 0.15  # a weaker silhouette is one group
    for groups in range(2, min(MOST_CLUSTERS, distinct - 1, len(texts) // SMALLEST) + 1):
        tried = KMeans(groups, n_init=4, random_state=seed).fit_predict(matrix)
        if len(set(tried)) > 1 and (quality := float(silhouette_score(matrix, tried))) > best:
            place, best = tried, quality
    analyse = vectorizer.build_analyzer()
    common = Counter(word for trace in reference for word in set(analyse(trace.input[:MOST_CHARACTERS])))
    found = []
    for group in range(int(place.max()) + 1):
        inside = np.flatnonzero(place == group)
        if len(inside) < SMALLEST:
            continue
        centre = np.asarray(matrix[inside].mean(axis=0)).ravel()
        closeness = matrix[inside] @ centre
        typical = [int(inside[i]) for i in np.argsort(-closeness, kind="stable")]
        terms = _terms([analyse(texts[i]) for i in inside], common, len(reference))
        examples = list(dict.fromkeys(texts[i] for i in typical))[:5]
        found.append({"label": "_".join(terms[:2]), "terms": terms, "size": len(inside), "examples": examples,
                      "traces": [strange[i].id for i in typical[:5]]})
    return sorted(found, key=lambda one: (-one["size"], one["label"]))


def _terms(messages: Sequence[Sequence[str]], common: Counter[str], reference: int,
           most: int = 6) -> list[str]:
    """Words by their share here times the log of how much commoner they are here than in the reference."""
    here = Counter(word for words in messages for word in set(words))
    weight = {
        word: share * math.log(share / ((common[word] + 0.5) / (reference + 1)))
        for word, count in here.items() if count >= 2 and (share := count / len(messages))
    }
    return [word for word in sorted(weight, key=lambda one: (-weight[one], one)) if weight[word] > 0][:most]
