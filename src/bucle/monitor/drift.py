"""Whether a window's traffic is another than the reference's, by permutation tests, and what is new in it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bucle.core.errors import BadInput
from bucle.core.ports import Embedder
from bucle.core.records import Trace
from bucle.monitor.explain import clusters_of

__all__ = ["Drift", "drift"]

NEIGHBOURS = 10
MOST = 1500  # traces a side: bounds the similarity matrix to some 40 MB
MOST_CHARACTERS = 2000
MOST_OUTPUTS = 60  # more distinct outputs than this are answers, not labels
WEIGHTS = {"inputs": 0.5, "labels": 0.2, "words": 0.2, "confidence": 0.1}
"""How the alarm rate is shared out (weighted Bonferroni): new inputs are what retraining can mend."""


@dataclass(frozen=True)
class Drift:
    """`p` is the combined p value, `score` the estimated share of the window that is unlike the reference,
    in [0, 1], `kind` the strongest test, or `none`. `changed` tells each significant test with its figures;
    `clusters` hold `label` (proposed), `terms`, `size`, `examples` (texts) and `traces` (their ids)."""

    score: float
    p: float
    alarm: bool
    kind: str
    changed: Sequence[Mapping[str, Any]]
    clusters: Sequence[Mapping[str, Any]]
    tests: Mapping[str, float]
    n_reference: int
    n_window: int

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def drift(reference: Sequence[Trace], window: Sequence[Trace], *, alarm_rate: float = 0.01, seed: int = 0,
          embed: Embedder | None = None) -> Drift:
    """Test `window` against `reference`. Under no change the chance of an alarm is at most `alarm_rate`.

    Four statistics share one set of random relabellings, so each is exact for exchangeable traces whatever
    the texts look like, and they are combined by a weighted Bonferroni bound:

    - `inputs`: a nearest-neighbour two-sample test (Schilling 1986, Henze 1988) on TF-IDF of words and
    character n-grams, averaged with `embed`'s similarities where given; each window message counts by the
    squared excess of window messages among its 10 nearest, so that a small new topic weighs more than noise
    everywhere; - `labels`: chi-square of the outputs, where they are labels; - `words`: occurrences of
    words that two or more messages share and only the window has; - `confidence`: fall of the mean score,
    where there are scores.

    A text that one user repeats counts once, and no user for more than a twentieth of a side (at least
    five), so one caller is not a trend. Both sides should cover the same weekdays. Raises BadInput for
    fewer than 20 traces on a side or an alarm rate outside (0, 0.5).
    """
    import numpy as np

    if not 0 < alarm_rate < 0.5:
        raise BadInput("the alarm rate must lie between 0 and 0.5")
    rng = np.random.default_rng(seed)
    old, new = _thinned(reference, rng), _thinned(window, rng)
    if min(len(old), len(new)) < 20:
        raise BadInput(f"drift needs 20 traces a side, not {len(old)} and {len(new)}", "widen the window")
    both = [*old, *new]
    order = rng.permutation(len(both))  # so that ties between equal texts favour neither side
    pooled = [both[place] for place in order]
    is_new = (order >= len(old)).astype(np.float32)
    draws = min(9999, max(999, math.ceil(20 / alarm_rate) - 1))
    labels = np.empty((len(both), draws + 1), np.float32)
    labels[:, 0] = is_new
    for draw in range(1, draws + 1):
        labels[:, draw] = rng.permutation(is_new)
    texts = [trace.input[:MOST_CHARACTERS] for trace in pooled]
    shares = _neighbour_shares(texts, labels, embed)
    base = len(new) / len(both)
    found: dict[str, float] = {"inputs": _p((np.clip(shares - base, 0, None) ** 2 * labels).sum(axis=0))}
    found |= _labels_test([trace.output for trace in pooled], labels)
    found |= _words_test(texts, labels)
    found |= _confidence_test([trace.score for trace in pooled], labels)
    total = sum(WEIGHTS[name] for name in found)
    weighted = {name: p * total / WEIGHTS[name] for name, p in found.items()}
    kind = min(weighted, key=lambda name: (weighted[name], name))
    p = min(1.0, weighted[kind])
    strange = (shares >= (1 + base) / 2) * labels
    counts = strange.sum(axis=0) / len(new)
    score = float(max(0.0, counts[0] - counts[1:].mean()))
    changed: list[dict[str, Any]] = []
    clusters: list[dict[str, Any]] = []
    if p <= alarm_rate:
        changed = [_told(name, found[name], old, new) for name in found if weighted[name] <= alarm_rate]
        picked = [pooled[place] for place in np.flatnonzero(strange[:, 0])]
        clusters = clusters_of(picked, old, seed=seed)
    return Drift(score, p, p <= alarm_rate, kind if p <= alarm_rate else "none", changed, clusters,
                 {name: float(value) for name, value in found.items()}, len(old), len(new))


def _thinned(traces: Sequence[Trace], rng: Any) -> list[Trace]:
    most, seen, users = max(5, len(traces) // 20), set(), Counter[str]()
    kept = []
    for trace in sorted(traces, key=lambda one: (one.at, one.id)):
        said = (trace.user, " ".join(trace.input[:MOST_CHARACTERS].casefold().split()))
        if not said[1] or (trace.user and (said in seen or users[trace.user] >= most)):
            continue
        seen.add(said)
        users[trace.user] += 1
        kept.append(trace)
    if len(kept) > MOST:
        kept = [kept[place] for place in sorted(rng.choice(len(kept), MOST, replace=False))]
    return kept


def _p(statistics: Any) -> float:
    """Share of relabellings, the real one included, whose statistic is at least the real one's."""
    return float((statistics >= statistics[0] - 1e-6 * abs(statistics[0])).mean())


def _neighbour_shares(texts: Sequence[str], labels: Any, embed: Embedder | None) -> Any:
    """For each message and relabelling the share of window messages among its nearest: `[messages, draws +
    1]`."""
    import numpy as np
    from scipy.sparse import csr_matrix, hstack
    from sklearn.feature_extraction.text import TfidfVectorizer

    options: dict[str, Any] = {"sublinear_tf": True, "strip_accents": "unicode", "dtype": np.float32}
    words = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b", **options)
    letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 4), **options)
    blocks = []
    for vectorizer in (words, letters):
        try:
            blocks.append(vectorizer.fit_transform(texts))
        except ValueError:  # no word at all, only punctuation
            continue
    count = len(texts)
    similar = np.zeros((count, count), np.float32)
    if blocks:
        matrix = hstack(blocks).tocsr()
        similar += (matrix @ matrix.T).toarray() / len(blocks)
    if embed is not None:
        vectors = np.asarray(embed.embed(texts), np.float32)
        similar += vectors @ vectors.T
    np.fill_diagonal(similar, -np.inf)
    nearest = min(NEIGHBOURS, count - 1)
    places = np.argpartition(-similar, nearest - 1, axis=1)[:, :nearest]
    rows = np.repeat(np.arange(count), nearest)
    graph = csr_matrix((np.full(count * nearest, 1 / nearest, np.float32), (rows, places.ravel())), (count, count))
    return graph @ labels


def _labels_test(outputs: Sequence[str], labels: Any) -> dict[str, float]:
    import numpy as np

    names, place = np.unique(np.asarray(outputs, dtype=str), return_inverse=True)
    if not 2 <= len(names) <= min(MOST_OUTPUTS, len(outputs) // 5):
        return {}
    seen = np.stack([labels[place == index].sum(axis=0) for index in range(len(names))])
    expected = (np.bincount(place) / len(outputs) * labels[:, 0].sum())[:, None]
    return {"labels": _p(((seen - expected) ** 2 / expected).sum(axis=0))}


def _words_test(texts: Sequence[str], labels: Any) -> dict[str, float]:
    from sklearn.feature_extraction.text import CountVectorizer

    try:
        counts = CountVectorizer(binary=True, strip_accents="unicode", min_df=2, dtype=labels.dtype,
                                 max_features=20_000, token_pattern=r"(?u)\b[^\W\d_]{2,}\b").fit_transform(texts)
    except ValueError:
        return {}
    total = counts.sum(axis=0).A1 if hasattr(counts.sum(axis=0), "A1") else counts.sum(axis=0)
    rare = total <= labels[:, 0].sum()
    inside = counts.T.tocsr()[rare] @ labels
    frequency = total[rare][:, None]
    return {"words": _p(((inside >= frequency) * frequency).sum(axis=0))}


def _confidence_test(scores: Sequence[float | None], labels: Any) -> dict[str, float]:
    import numpy as np

    there = np.array([score is not None and math.isfinite(score) for score in scores])
    if there.sum() < 0.9 * len(scores):
        return {}
    values = np.array([score if ok else 0.0 for score, ok in zip(scores, there, strict=True)], np.float32)
    count = np.maximum((labels * there[:, None]).sum(axis=0), 1)
    return {"confidence": _p(1 - (values * there) @ labels / count)}


def _told(name: str, p: float, old: Sequence[Trace], new: Sequence[Trace]) -> dict[str, Any]:
    told: dict[str, Any] = {"test": name, "p": p}
    if name == "labels":
        before, after = Counter(one.output for one in old), Counter(one.output for one in new)
        rises = {label: after[label] / len(new) - before[label] / len(old) for label in before | after}
        top = sorted(rises, key=lambda label: (-abs(rises[label]), label))[:3]
        told["labels"] = [{"label": label, "before": before[label] / len(old), "after": after[label] / len(new)}
                          for label in top]
    if name == "confidence":
        for side, traces in (("before", old), ("after", new)):
            values = [one.score for one in traces if one.score is not None]
            told[side] = sum(values) / max(len(values), 1)
    return told
