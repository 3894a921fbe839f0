"""The training examples nearest to an input, to show in a prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice

from bucle.customise.classic.features import fit_tfidf, tfidf_matrix

__all__ = ["NearestExamples"]

AT_ONCE = 256  # inputs compared at a time: bounds memory at AT_ONCE x examples x 4 bytes


class NearestExamples:
    """Pairs of input and answer, found by TF-IDF cosine of their inputs.

    `key` makes the text that is compared of an input (a conversation's words without its JSON). `skip_same` leaves an
    example out where its text is the very input asked about: a teacher that labels training rows must not be shown
    their own labels. Raises BadInput where no example holds a word.
    """

    def __init__(
        self, examples: Sequence[Sequence[str]], *, key: Callable[[str], str] = str, skip_same: bool = False
    ) -> None:
        self.examples = [(str(text), str(answer)) for text, answer in examples]
        self.key, self.skip_same = key, skip_same
        texts = [key(text) for text, _ in self.examples]
        self.vectorizers = fit_tfidf(texts)
        self.matrix = tfidf_matrix(self.vectorizers, texts)

    def near(self, texts: Sequence[str], k: int) -> list[list[tuple[str, str]]]:
        """For each text the `k` most similar examples, the most similar last; ties by their order."""
        found: list[list[tuple[str, str]]] = []
        for start in range(0, len(texts), AT_ONCE):
            part = texts[start : start + AT_ONCE]
            similarity = (tfidf_matrix(self.vectorizers, [self.key(t) for t in part]) @ self.matrix.T).toarray()
            order = (-similarity).argsort(axis=1, kind="stable")
            for text, row in zip(part, order, strict=True):
                others = (self.examples[j] for j in row if not (self.skip_same and self.examples[j][0] == text))
                found.append(list(islice(others, k))[::-1])
        return found
