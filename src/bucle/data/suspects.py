"""Labels that are probably wrong: rows on which a classifier that never saw them confidently says something
else.

Northcutt et al., "Confident learning" (JAIR 2021), reduced to its ranking by out-of-fold self-confidence.
"""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from bucle.core.records import Example

__all__ = ["Suspect", "suspect_labels"]

_FOLDS = 4
_MIN_ROWS = 30
_MAX_ROWS = 100_000
_WEIGHTS = 20_000_000
"""Numbers in the classifier, labels times words: 160 MB at most."""


@dataclass(frozen=True)
class Suspect:
    """A label in doubt. `confidence` in [0, 1] is the classifier's in `proposed`; `given_confidence` in the
    label given.
    """

    id: str
    source: str
    input: str
    given: str
    proposed: str
    confidence: float
    given_confidence: float


def suspect_labels(
    examples: Sequence[Example], groups: Sequence[Sequence[int]] = (), *, top: int = 50, least: float = 0.5
) -> list[Suspect]:
    """The `top` labels most in doubt, worst first: TF-IDF with logistic regression, out of fold, at least
    `least` sure.

    `groups` are near duplicates as indices: they share a fold, so that no row is judged by its own copy.
    Empty for fewer than 30 labelled rows or one label; of over 100,000 rows so many are looked at, chosen by their
    ids' hashes.
    """
    rows = [index for index, example in enumerate(examples) if example.target is not None]
    if len(rows) > _MAX_ROWS:
        rows = sorted(sorted(rows, key=lambda index: _hash(examples[index].id))[:_MAX_ROWS])
    labels = [str(examples[index].target) for index in rows]
    if len(rows) < _MIN_ROWS or len(set(labels)) < 2:
        return []
    import numpy as np
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import SGDClassifier

    leader = {index: group[0] for group in groups for index in group}
    folds = np.array([_fold(examples[leader.get(index, index)].id) for index in rows])
    target = np.array(labels)
    words = TfidfVectorizer(
        ngram_range=(1, 2),
        sublinear_tf=True,
        strip_accents="unicode",
        token_pattern=r"\b\w+\b",  # noqa: S106
        max_features=max(2_000, _WEIGHTS // len(set(labels))),
        dtype=np.float32,
    )
    try:
        features = words.fit_transform([examples[index].input for index in rows])
    except ValueError:  # no word in any text
        return []
    found = []
    for fold in range(_FOLDS):
        inside, outside = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        if not len(inside) or len(set(target[outside])) < 2:
            continue
        # Logistic regression by stochastic gradients: 0.05 s for 1,800 rows, L-BFGS 1.7 s.
        model = SGDClassifier(loss="log_loss", alpha=1e-5, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            chances = model.fit(features[outside], target[outside]).predict_proba(features[inside])
        known = {label: column for column, label in enumerate(model.classes_)}
        for row, chance in zip(inside, chances, strict=True):
            best = int(chance.argmax())
            proposed, given = str(model.classes_[best]), str(target[row])
            if proposed != given and given in known and chance[best] >= least:
                example = examples[rows[row]]
                found.append(
                    Suspect(
                        example.id,
                        example.source,
                        example.input[:200],
                        given,
                        proposed,
                        round(float(chance[best]), 4),
                        round(float(chance[known[given]]), 4),
                    )
                )
    counts = Counter(labels)
    found.sort(key=lambda one: (one.given_confidence - one.confidence, -counts[one.given], one.id))
    return found[:top]


def _fold(key: str) -> int:
    return _hash(key)[0] % _FOLDS


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
