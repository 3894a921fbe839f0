"""Whether a window's traffic is another than the reference's, by permutation tests, and what is new in it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bucle.core.errors import BadInput
from bucle.core.ports import Embedder
from bucle.core.records import Trace
from bucle.monitor.explain import clusters_of

__all__ = ["Drift", "drift"]

NEIGHBOURS = 10
MOST = 1500  # traces a side: bounds the similarity matrix to some 40 MB
BATCH = 500  # relabellings at once
HOPELESS = 10  # times the alarm rate: a p above it after two batches needs no more of them
MOST_CHARACTERS = 2000
MOST_OUTPUTS = 60  # more distinct outputs than this are answers, not labels
WORDS: Mapping[str, Any] = {"token_pattern": r"(?u)\b[^\W\d_]{2,}\b", "max_features": 20_000}
Statistic = Callable[[Any], Any]  # 0/1 labels `[messages, relabellings]` to one number a relabelling
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
    texts = [trace.input[:MOST_CHARACTERS] for trace in pooled]
    base = len(new) / len(both)
    graph = _neighbours(texts, embed)
    tests: dict[str, Statistic] = {"inputs": lambda labels: _excess(graph @ labels, labels, base)}
    tests |= _labels_test([trace.output for trace in pooled], len(new))
    tests |= _words_test(texts, len(new))
    tests |= _confidence_test([trace.score for trace in pooled])
    real = is_new[:, None]
    seen = {name: float(test(real)[0]) for name, test in tests.items()}
    strange = (graph @ is_new >= (1 + base) / 2) * is_new > 0
    draws = min(9999, max(999, math.ceil(20 / alarm_rate) - 1))
    beyond, by_chance, done = dict.fromkeys(tests, 1), 0.0, 0
    total = sum(WEIGHTS[name] for name in tests)
    weighted = dict.fromkeys(tests, 0.0)
    while done < draws and (done < 2 * BATCH or min(weighted.values()) <= HOPELESS * alarm_rate):
        size = min(BATCH, draws - done)
        labels = rng.permuted(np.repeat(real.T.astype(np.int8), size, axis=0), axis=1).T.astype(np.float32)
        for name, test in tests.items():
            beyond[name] += int((test(labels) >= seen[name] - 1e-6 * abs(seen[name])).sum())
        by_chance += float(((graph @ labels >= (1 + base) / 2) * labels).sum())
        done += size
        found = {name: count / (done + 1) for name, count in beyond.items()}
        weighted = {name: value * total / WEIGHTS[name] for name, value in found.items()}
    kind = min(weighted, key=lambda name: (weighted[name], name))
    p = min(1.0, weighted[kind])
    score = max(0.0, (float(strange.sum()) - by_chance / done) / len(new))
    changed: list[dict[str, Any]] = []
    clusters: list[dict[str, Any]] = []
    if p <= alarm_rate:
        changed = [_told(name, found[name], old, new) for name in found if weighted[name] <= alarm_rate]
        picked = [pooled[place] for place in np.flatnonzero(strange)]
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


def _excess(shares: Any, labels: Any, base: float) -> Any:
    """Sum over the window's messages of the squared excess of such messages around them: `[relabellings]`."""
    return ((shares - base).clip(0) ** 2 * labels).sum(axis=0)


def _neighbours(texts: Sequence[str], embed: Embedder | None) -> Any:
    """Sparse `[messages, messages]`: a row's nearest others, each with the same weight, summing to 1."""
    import numpy as np
    from scipy.sparse import csr_matrix, hstack
    from sklearn.feature_extraction.text import TfidfVectorizer

    options: dict[str, Any] = {"sublinear_tf": True, "strip_accents": "unicode", "dtype": np.float32}
    words = TfidfVectorizer(**options | {"token_pattern": r"(?u)\b\w+\b"})
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
    weights = np.full(count * nearest, 1 / nearest, np.float32)
    return csr_matrix((weights, (rows, places.ravel())), (count, count))


def _labels_test(outputs: Sequence[str], new: int) -> dict[str, Statistic]:
    import numpy as np
    from scipy.sparse import csr_matrix

    names, place = np.unique(np.asarray(outputs, dtype=str), return_inverse=True)
    if not 2 <= len(names) <= min(MOST_OUTPUTS, len(outputs) // 5):
        return {}
    member = csr_matrix((np.ones(len(place), np.float32), (place, np.arange(len(place)))))
    expected = (np.bincount(place) * new / len(outputs))[:, None]
    return {"labels": lambda labels: ((member @ labels - expected) ** 2 / expected).sum(axis=0)}


def _words_test(texts: Sequence[str], new: int) -> dict[str, Statistic]:
    import numpy as np
    from sklearn.feature_extraction.text import CountVectorizer

    vectorizer = CountVectorizer(binary=True, strip_accents="unicode", min_df=2, dtype=np.float32, **WORDS)
    try:
        counts = vectorizer.fit_transform(texts).T.tocsr()
    except ValueError:  # no word is used twice
        return {}
    total = np.asarray(counts.sum(axis=1)).ravel()
    counts, frequency = counts[total <= new], total[total <= new][:, None]
    return {"words": lambda labels: ((counts @ labels >= frequency) * frequency).sum(axis=0)}


def _confidence_test(scores: Sequence[float | None]) -> dict[str, Statistic]:
    import numpy as np

    values = np.array([math.nan if score is None else score for score in scores], np.float32)
    there = np.isfinite(values)
    if there.mean() < 0.9:
        return {}
    doubt = np.where(there, 1 - values, 0).astype(np.float32)
    return {"confidence": lambda labels: doubt @ labels / (there.astype(np.float32) @ labels).clip(1)}


def _told(name: str, p: float, old: Sequence[Trace], new: Sequence[Trace]) -> dict[str, Any]:
    told: dict[str, Any] = {"test": name, "p": p}
    if name == "labels":
        before, after = Counter(one.output for one in old), Counter(one.output for one in new)
        rises = {label: after[label] / len(new) - before[label] / len(old) for label in before | after}
        top = sorted(rises, key=lambda label: (-abs(rises[label]), label))[:3]
        told["labels"] = [
            {"label": label, "before": before[label] / len(old), "after": after[label] / len(new)} for label in top]
    if name == "confidence":
        for side, traces in (("before", old), ("after", new)):
            values = [one.score for one in traces if one.score is not None]
            told[side] = sum(values) / max(len(values), 1)
    return told
