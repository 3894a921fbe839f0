"""What to label next: uncertain rows first, unlike each other, with a random share among them.

Uncertainty is the margin of Scheffer et al., "Active Hidden Markov Models" (2001); diversity is greedy maximal marginal
relevance (Carbonell and Goldstein, SIGIR 1998) over TF-IDF vectors, also against what was chosen before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Pick", "Ranker", "chance_of", "in_share", "random_sample"]

Why = Literal["random", "uncertain", "diverse", "overlap", "suspect"]
SHORTLIST = 2_000
"""Rows that the greedy choice looks at: the most uncertain, or where nothing is known a random draw."""
MIN_LABELLED = 10
DIVERSITY = 0.5
"""Weight of being unlike the others against uncertainty."""
_FEATURES = 2**18


@dataclass(frozen=True)
class Pick:
    """A row to ask about. `uncertainty` in [0, 1], None where nothing could be predicted."""

    id: str
    why: Why
    uncertainty: float | None = None


def chance_of(seed: int, name: str, row: str) -> float:
    """A number in [0, 1) that is a row's for ever: a draw that does not depend on when or by whom it is asked."""
    digest = hashlib.sha256(f"{seed}\0{name}\0{row}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64


def in_share(seed: int, name: str, row: str, share: float) -> bool:
    """Whether a row is in a random share of all rows, such as those that several people answer."""
    return chance_of(seed, name, row) < share


def random_sample(ids: Sequence[str], labelled: Collection[str], seed: int) -> list[str]:
    """The labelled rows that are a simple random sample of `ids`: in an order by lot, all up to the first without
    a label. Shares and accuracies estimated on these alone are unbiased; on all labelled rows they are not, since
    uncertain rows were asked first."""
    known = set(labelled)
    found = []
    for row in sorted(ids, key=lambda one: chance_of(seed, "random", one)):
        if row not in known:
            break
        found.append(row)
    return found


class Ranker:
    """The texts of a pool as sparse TF-IDF vectors (one unit row each), and the order in which to ask about them.

    100,000 rows of 12 words take some seconds once and some 100 MB; asking again is quick.
    """

    def __init__(self, ids: Sequence[str], texts: Sequence[str], seed: int) -> None:
        from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

        self.ids, self.seed = list(ids), seed
        self.place = {row: index for index, row in enumerate(self.ids)}
        words = HashingVectorizer(
            n_features=_FEATURES,
            alternate_sign=False,
            norm=None,
            strip_accents="unicode",
            token_pattern=r"\b\w+\b",  # noqa: S106
        )
        counts = words.transform(texts if len(texts) else [""])
        self.vectors = TfidfTransformer(sublinear_tf=True).fit_transform(counts)

    def uncertainties(self, labels: Mapping[str, str]) -> Any:
        """One minus the margin between the two likeliest labels, [rows], by a classifier fitted on `labels` (row ->
        label), which never saw the rows without one. None under 10 labels or with only one."""
        chances, _ = self.predict(labels)
        if chances is None:
            return None
        import numpy as np

        best = np.partition(chances, -2, axis=1)[:, -2:]
        return 1 - (best[:, 1] - best[:, 0])

    def predict(self, labels: Mapping[str, str]) -> tuple[Any, list[str]]:
        """[rows, labels] probabilities of TF-IDF with logistic regression fitted on `labels`, and the labels. (None,
        []) where it cannot be fitted."""
        known = [(self.place[row], label) for row, label in sorted(labels.items()) if row in self.place]
        names = sorted({label for _, label in known})
        if len(known) < MIN_LABELLED or len(names) < 2:
            return None, []
        import warnings

        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import SGDClassifier

        model = SGDClassifier(loss="log_loss", alpha=1e-5, random_state=self.seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(self.vectors[[place for place, _ in known]], [label for _, label in known])
        return model.predict_proba(self.vectors), [str(name) for name in model.classes_]

    def order(
        self,
        wanted: Sequence[str],
        n: int,
        *,
        uncertainty: Any = None,
        near: Collection[str] = (),
        random_share: float = 0.2,
        start: int = 0,
    ) -> list[Pick]:
        """`n` of the `wanted` rows in the order to ask them. `uncertainty` is [rows of the pool] in [0, 1], NaN where
        unknown, or None; `near` are rows just asked about, which the new ones should not be like. The same every time.

        A `random_share` of the places goes to rows by lot, in the order of `random_sample`; `start` is how many
        places went before, so that asking one by one has the same share as asking for all at once.
        """
        import numpy as np

        places = np.array([self.place[row] for row in wanted if row in self.place], dtype=int)
        if not len(places) or n < 1:
            return []
        lot = np.array([chance_of(self.seed, "random", self.ids[place]) for place in places])
        by_lot = [int(place) for place in places[np.argsort(lot, kind="stable")]]
        value = np.full(len(self.ids), np.nan) if uncertainty is None else np.asarray(uncertainty, dtype=float)
        known = ~np.isnan(value[places])
        score = np.where(known, value[places], 0.0)
        shortlist = places[np.lexsort((lot, -score))[: max(SHORTLIST, 2 * n)]]
        chosen: list[Pick] = []
        taken: set[int] = set()
        ranked = self._greedy(shortlist, np.nan_to_num(value[shortlist], nan=0.0), near, n)
        while len(chosen) < min(n, len(places)):
            random = _is_random(start + len(chosen), random_share)
            rest = by_lot if random else ranked
            place = next((one for one in rest if one not in taken), None)
            if place is None:
                place = next(one for one in by_lot if one not in taken)
            taken.add(place)
            sure = float(value[place])
            why: Why = "random" if random else "uncertain" if sure == sure else "diverse"
            chosen.append(Pick(self.ids[place], why, round(sure, 4) if sure == sure else None))
        return chosen

    def _greedy(self, shortlist: Any, worth: Any, near: Collection[str], n: int) -> list[int]:
        """Places of `shortlist` by uncertainty and unlikeness to those before."""
        import numpy as np

        vectors = self.vectors[shortlist]
        closest = np.zeros(len(shortlist))
        before = [self.place[row] for row in near if row in self.place][-200:]
        if before:
            closest = np.asarray((vectors @ self.vectors[before].T).max(axis=1).todense()).ravel()
        free = np.ones(len(shortlist), dtype=bool)
        found = []
        for _ in range(min(n, len(shortlist))):
            value = np.where(free, (1 - DIVERSITY) * worth - DIVERSITY * closest, -np.inf)
            best = int(value.argmax())
            found.append(int(shortlist[best]))
            free[best] = False
            closest = np.maximum(closest, np.asarray((vectors @ vectors[[best]].T).todense()).ravel())
        return found


def _is_random(place: int, share: float) -> bool:
    """Whether this place of the order goes to a row by lot: evenly spread."""
    return int((place + 1) * share) > int(place * share)
