"""What rows or passages are about: clusters of their vectors, each named by its own words, on a map of two dimensions.

Vectors come from an encoder where a project has one; without, they are TF-IDF reduced by a truncated SVD (Deerwester
et al., "Indexing by latent semantic analysis", 1990). Clusters are k-means', their number the one of best silhouette
(Rousseeuw 1987). Names are by class-based TF-IDF (Grootendorst, "BERTopic", 2022, equation 2). The map is t-SNE
(van der Maaten and Hinton 2008), or the first two principal components of a tiny set.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bucle.core.ports import Report
from bucle.data.similar import normal_form

__all__ = ["STOP_WORDS", "find_topics", "tfidf_vectors"]

DIMENSIONS = 50
SILHOUETTE_ROWS = 1_500
TINY = 40
"""Below this many texts a neighbourhood map says nothing that a projection does not."""
CHOICES = (4, 6, 8, 11, 15, 20)
NAME_WORDS = 4
_WORD = re.compile(r"[^\W\d_]{3,}")
_MAX_CHARACTERS = 2_000

STOP_WORDS = frozenset((Path(__file__).parent / "stopwords.txt").read_text(encoding="utf-8").split())
"""Words that say how something is said, not what about, in Spanish and English."""


def tfidf_vectors(texts: Sequence[str], *, seed: int = 0) -> Any:
    """`[len(texts), up to 50]` unit vectors, float32, from TF-IDF and a truncated SVD; a column of zeros where no text
    has a word."""
    import numpy as np
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(
        sublinear_tf=True, strip_accents="unicode", max_features=30_000, token_pattern=r"(?u)\b\w+\b"  # noqa: S106
    )
    try:
        matrix = words.fit_transform([text[:_MAX_CHARACTERS] for text in texts])
    except ValueError:  # no word in any text
        return np.zeros((len(texts), 1), dtype=np.float32)
    size = min(DIMENSIONS, matrix.shape[1] - 1, matrix.shape[0] - 1)
    dense = TruncatedSVD(size, random_state=seed).fit_transform(matrix) if size >= 2 else matrix.toarray()
    return _unit(np.asarray(dense, dtype=np.float32))


def find_topics(
    texts: Sequence[str], vectors: Any, *, seed: int = 0, report: Report | None = None
) -> dict[str, Any]:
    """The topics of `texts` by their `vectors` ([rows, dimensions], any length), and a place on the map for each text.

    `topics` (largest first): `name`, `words` (the ten most its own), `count`, `share`, `central` (indices of the three
    texts nearest its centre). `of`: each text's topic, an index into `topics`. `places`: each text's [x, y], both in
    [0, 1]. `map`: `t-sne`, `pca` or `` (nothing to map). `silhouette` in [-1, 1]: how apart the topics are (None for
    fewer than two). The same for the same texts, vectors and seed.
    """
    import numpy as np

    say = report or (lambda done, total, note="": None)
    matrix = _unit(np.nan_to_num(np.asarray(vectors, dtype=np.float32)))
    rows = len(texts)
    if not rows:
        return {"topics": [], "of": [], "places": [], "map": "", "silhouette": None}
    small = _reduced(matrix, seed)
    say(1, 3, "topics")
    of, quality = _clusters(small, seed)
    say(2, 3, "map")
    places, method = _map(small, seed)
    names = _names(texts, of)
    order = sorted(names, key=lambda topic: (-int((of == topic).sum()), topic))
    place = {topic: number for number, topic in enumerate(order)}
    topics = []
    for topic in order:
        members = np.flatnonzero(of == topic)
        centre = small[members].mean(axis=0)
        nearest = members[np.argsort(np.linalg.norm(small[members] - centre, axis=1), kind="stable")]
        topics.append(
            {
                "name": " · ".join(names[topic][:NAME_WORDS]),
                "words": names[topic],
                "count": len(members),
                "share": round(len(members) / rows, 4),
                "central": _distinct(texts, nearest.tolist(), 3),
            }
        )
    say(3, 3, "map")
    return {
        "topics": topics,
        "of": [place[int(topic)] for topic in of],
        "places": [[round(float(x), 4), round(float(y), 4)] for x, y in places],
        "map": method,
        "silhouette": quality,
    }


def _unit(matrix: Any) -> Any:
    import numpy as np

    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True).clip(1e-12)


def _reduced(matrix: Any, seed: int) -> Any:
    """Principal components, fifty at most: what k-means and t-SNE work on."""
    from sklearn.decomposition import PCA

    size = min(DIMENSIONS, matrix.shape[1], len(matrix))
    if matrix.shape[1] <= DIMENSIONS or size < 2:
        return matrix
    return PCA(size, svd_solver="randomized", random_state=seed).fit_transform(matrix)


def _clusters(matrix: Any, seed: int) -> tuple[Any, float | None]:
    """Each row's cluster, and the silhouette of the number of clusters chosen."""
    import numpy as np
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import silhouette_score

    rows = len(matrix)
    distinct = len(np.unique(matrix.round(5), axis=0))
    best: tuple[float, Any] | None = None
    for size in CHOICES:
        if size > min(distinct - 1, max(2, rows // 8)) and not (best is None and 2 <= size < distinct):
            break
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            found = KMeans(size, n_init=2, random_state=seed).fit_predict(matrix)
        if len(set(found.tolist())) < 2:
            continue
        some = np.linspace(0, rows - 1, min(rows, SILHOUETTE_ROWS)).astype(int)
        if not 1 < len(set(found[some].tolist())) < len(some):
            continue
        score = float(silhouette_score(matrix[some], found[some]))
        if best is None or score > best[0] + 0.01:  # a finer division must say more
            best = (score, found)
    if best is None:
        return np.zeros(rows, dtype=int), None
    return best[1], round(best[0], 4)


def _map(matrix: Any, seed: int) -> tuple[Any, str]:
    """[rows, 2] in [0, 1], and how they were found."""
    import numpy as np
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    rows = len(matrix)
    if rows < 3 or matrix.shape[1] < 2 or np.ptp(matrix) == 0:
        return np.stack([np.linspace(0, 1, rows), np.full(rows, 0.5)], axis=1), ""
    start = PCA(2, svd_solver="full").fit_transform(matrix)
    method = "pca"
    if rows >= TINY:
        method = "t-sne"
        # Equal vectors have no direction to part in; a seeded trembling far below any distance that matters gives one.
        spread = np.random.default_rng(seed).normal(scale=1e-5, size=matrix.shape)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            start = TSNE(
                2, perplexity=min(30.0, (rows - 1) / 4), init=start / max(1e-9, start[:, 0].std()) * 1e-4,
                max_iter=600, random_state=seed, n_jobs=2,
            ).fit_transform((matrix + spread).astype(np.float32))
    low, high = start.min(axis=0), start.max(axis=0)
    return np.nan_to_num((start - low) / np.where(high > low, high - low, 1)), method


def _names(texts: Sequence[str], of: Any) -> dict[int, list[str]]:
    """Ten words for each topic, by class-based TF-IDF: tf in the topic times log(1 + mean words a topic / tf)."""
    import math

    counts: dict[int, Counter[str]] = {int(topic): Counter() for topic in of}
    written: dict[str, Counter[str]] = {}  # a word is one with and without its accents; it is shown as mostly written
    for text, topic in zip(texts, of, strict=True):
        words = {word for word in _WORD.findall(text[:_MAX_CHARACTERS].lower()) if word not in STOP_WORDS}
        for word in words:
            written.setdefault(normal_form(word), Counter())[word] += 1
        counts[int(topic)].update({normal_form(word) for word in words})  # once a text, however often it repeats itself
    everywhere: Counter[str] = Counter()
    for one in counts.values():
        everywhere.update(one)
    mean = sum(everywhere.values()) / max(1, len(counts))
    named = {}
    for topic, one in counts.items():
        total = max(1, sum(one.values()))
        weight = {word: n / total * math.log(1 + mean / everywhere[word]) for word, n in one.items()}
        best = sorted(weight, key=lambda word: (-weight[word], word))[:10]
        named[topic] = [max(written[word].items(), key=lambda pair: (pair[1], pair[0]))[0] for word in best]
    return named


def _distinct(texts: Sequence[str], order: Sequence[int], most: int) -> list[int]:
    """The first indices of `order` whose texts differ."""
    seen: dict[str, int] = {}
    for index in order:
        seen.setdefault(" ".join(texts[index].lower().split()), index)
        if len(seen) == most:
            break
    return list(seen.values())
