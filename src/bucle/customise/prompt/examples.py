"""The training examples that stand in a prompt: the nearest to its input, near ones unlike each other, or always the
same. Every choice is by TF-IDF cosine of the inputs, without chance; ties go by the order of the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, Protocol

from bucle.core.errors import BadInput, ConfigError
from bucle.core.prompting import PromptSpec, Shots
from bucle.core.records import Example
from bucle.customise.classic.features import fit_tfidf, tfidf_matrix
from bucle.customise.settings import whole

__all__ = [
    "CHOICES",
    "DiverseExamples",
    "ExampleChoice",
    "FixedExamples",
    "NearestExamples",
    "chooser",
    "fixed_rows",
    "how_chosen",
    "kept_examples",
    "shots_of",
]

AT_ONCE = 256  # inputs compared at a time: bounds memory at AT_ONCE x examples x 4 bytes
POOL = 60  # near examples among which diverse ones are chosen: bounds the work of an input
RELEVANCE = 0.5  # lambda of maximal marginal relevance: as much weight on being near as on being new
CHOICES = ("nearest", "diverse", "fixed")

Pair = tuple[str, str]


class ExampleChoice(Protocol):
    def near(self, texts: Sequence[str], k: int) -> list[list[Pair]]:
        """For each text at most `k` pairs of input and answer, the most useful last."""
        ...


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

    def near(self, texts: Sequence[str], k: int) -> list[list[Pair]]:
        """For each text the `k` most similar examples, the most similar last; ties by their order."""
        found: list[list[Pair]] = []
        for start in range(0, len(texts), AT_ONCE):
            part = texts[start : start + AT_ONCE]
            similarity = (tfidf_matrix(self.vectorizers, [self.key(t) for t in part]) @ self.matrix.T).toarray()
            order = (-similarity).argsort(axis=1, kind="stable")
            for text, row, near in zip(part, order, similarity, strict=True):
                others = (int(j) for j in row if not (self.skip_same and self.examples[j][0] == text))
                found.append([self.examples[j] for j in self._of(others, near, k)][::-1])
        return found

    def _of(self, order: Any, near: Any, k: int) -> list[int]:
        """Places of the examples to show, the most useful first, of all of them by nearness."""
        return list(islice(order, k))


class DiverseExamples(NearestExamples):
    """Examples near to the input and unlike each other, by maximal marginal relevance (Carbonell and Goldstein 1998,
    equation 1, lambda 0.5). `balanced`: no label stands twice before every label that has a near example stands
    once."""

    def __init__(
        self,
        examples: Sequence[Sequence[str]],
        *,
        key: Callable[[str], str] = str,
        skip_same: bool = False,
        balanced: bool = False,
    ) -> None:
        super().__init__(examples, key=key, skip_same=skip_same)
        self.balanced, self.labels = balanced, max(1, len({answer for _, answer in self.examples}))

    def _of(self, order: Any, near: Any, k: int) -> list[int]:
        import numpy as np

        pool, held = list[int](), Counter[str]()
        most = max(2, -(-2 * k // self.labels)) if self.balanced else max(POOL, k)  # of one answer
        for j in order:
            if held[self.examples[j][1]] < most:
                held[self.examples[j][1]] += 1
                pool.append(j)
            if len(pool) == max(POOL, k):
                break
        if not pool or k < 1:
            return []
        among = (self.matrix[pool] @ self.matrix[pool].T).toarray()
        relevance, repeats = near[pool], np.zeros(len(pool))
        left, chosen, shown = np.ones(len(pool), dtype=bool), list[int](), Counter[str]()
        while left.any() and len(chosen) < k:
            open_ = left.copy()
            if self.balanced:
                fewest = min(shown[self.examples[pool[n]][1]] for n in np.flatnonzero(left))
                open_ &= np.array([shown[self.examples[j][1]] == fewest for j in pool])
            worth = np.where(open_, RELEVANCE * relevance - (1 - RELEVANCE) * repeats, -np.inf)
            best = int(worth.argmax())
            left[best] = False
            chosen.append(best)
            shown[self.examples[pool[best]][1]] += 1
            repeats = np.maximum(repeats, among[best])
        # the nearest to the input first, whatever the order in which they were chosen
        return [pool[n] for n in sorted(chosen, key=lambda n: (-relevance[n], n))]


class FixedExamples:
    """The same pairs whatever the input, in their order. `skip_same` as in NearestExamples."""

    def __init__(self, examples: Sequence[Sequence[str]], *, skip_same: bool = False) -> None:
        self.examples = [(str(text), str(answer)) for text, answer in examples]
        self.skip_same = skip_same

    def near(self, texts: Sequence[str], k: int) -> list[list[Pair]]:
        """The first `k` of them, for each text."""
        return [[one for one in self.examples if not (self.skip_same and one[0] == text)][:k] for text in texts]


def how_chosen(params: Mapping[str, Any], default: str = "nearest") -> tuple[str, tuple[str, ...]]:
    """The setting `examples`: one of CHOICES, or a list of row ids, which are then fixed. Raises ConfigError."""
    value = params.get("examples")
    if value is None:
        return default, ()
    if isinstance(value, str) and value in CHOICES:
        return value, ()
    if isinstance(value, list | tuple) and value and all(isinstance(row, str | int) for row in value):
        return "fixed", tuple(str(row) for row in value)
    raise ConfigError(
        f"The setting `examples` is {str(value)[:40]!r}; it is {', '.join(CHOICES)}, or a list of row ids.",
        "Correct it under `choose.techniques` in bucle.yaml.",
    )


def fixed_rows(train: Sequence[Example], count: int, rows: Sequence[str], *, by_label: bool,
               key: Callable[[str], str] = str) -> list[Example]:
    """The training rows that always stand in the prompt: those called `rows`, in their order; without, `count` of
    them: round by round the row nearest to the centre of its label, the labels with the most rows first, or (not
    `by_label`) the first ones. Raises BadInput for a row that is not a training row: a held-out row is never shown."""
    if rows:
        known = {row.id: row for row in train}
        if missing := [row for row in rows if row not in known or not known[row].target]:
            raise BadInput(
                f"`{missing[0]}` is no training row with an answer, so it cannot stand in a prompt"
                + (f" ({len(missing)} such rows)." if len(missing) > 1 else "."),
                "Name rows of the training side: bucle data show; held-out rows are never shown to a model.",
            )
        return [known[row] for row in rows]
    able = [row for row in train if row.target]
    if not by_label:
        return able[:count]
    groups: dict[str, list[Example]] = {}
    for row in able:
        groups.setdefault(str(row.target), []).append(row)
    typical = [_by_centre(groups[label], key) for label in sorted(groups, key=lambda name: (-len(groups[name]), name))]
    found: list[Example] = []
    for turn in range(max((len(group) for group in typical), default=0)):
        found += [group[turn] for group in typical if turn < len(group)]
        if len(found) >= count:
            break
    return found[:count]


def _by_centre(rows: Sequence[Example], key: Callable[[str], str]) -> list[Example]:
    """`rows`, the most typical first; as they are where they hold no word."""
    import numpy as np

    texts = [key(row.input) for row in rows]
    try:
        matrix = tfidf_matrix(fit_tfidf(texts), texts)
    except BadInput:
        return list(rows)
    closeness = np.asarray(matrix @ np.asarray(matrix.mean(axis=0)).T).ravel()
    return [rows[int(n)] for n in np.argsort(-np.round(closeness, 9), kind="stable")]


def shots_of(params: Mapping[str, Any], spec: PromptSpec | None, default: int) -> int:
    """How many examples stand in a prompt: the setting `shots`, else what the task's own prompt says, else as many as
    there are fixed rows, else `default`."""
    said = spec.shots if spec is not None and spec.shots else Shots()
    _, rows = how_chosen(params)
    return whole(params, "shots", said.count or len(rows or said.rows) or default, least=0, most=100)


def kept_examples(params: Mapping[str, Any], spec: PromptSpec | None, rows: Sequence[Example], shots: int, *,
                  by_label: bool, key: Callable[[str], str] = str) -> dict[str, Any]:
    """What a prompt keeps of its examples: how many are shown, from which pairs, and how they are chosen where that is
    not by nearness. `rows` are training rows. Raises BadInput, ConfigError."""
    said = spec.shots if spec is not None and spec.shots else Shots()
    how, named = how_chosen(params, said.choose)
    if params.get("examples") is None and said.rows:
        how, named = "fixed", said.rows
    if not shots:
        return {"shots": 0, "examples": []}
    able = [row for row in rows if row.target]
    if how == "fixed":
        able = fixed_rows(able, shots, named, by_label=by_label, key=key)[:shots]
        shots = len(able)
    chosen = {} if how == "nearest" else {"choose": how}
    return {"shots": shots, "examples": [[row.input, row.target] for row in able], **chosen}


def chooser(prompt: Mapping[str, Any], *, key: Callable[[str], str] = str,
            skip_same: bool = False) -> ExampleChoice | None:
    """What finds the examples of a kept prompt; None where it shows none."""
    examples = prompt["examples"]
    if not prompt["shots"] or not examples:
        return None
    how = prompt.get("choose", "nearest")
    if how == "fixed":
        return FixedExamples(examples, skip_same=skip_same)
    if how == "diverse":
        return DiverseExamples(examples, key=key, skip_same=skip_same, balanced=prompt["kind"] == "classify")
    return NearestExamples(examples, key=key, skip_same=skip_same)
