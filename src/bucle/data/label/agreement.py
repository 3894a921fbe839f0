"""How far people agree beyond chance: Krippendorff's alpha for any number of them, Cohen's kappa for each pair.

Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), nominal data, missing answers allowed; Cohen, "A
Coefficient of Agreement for Nominal Scales" (1960). Intervals: percentile bootstrap over rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from bucle.core.records import Interval

__all__ = ["MAX_LABELS", "agreement", "alpha_interval", "krippendorff_alpha", "verdict"]

DRAWS = 1_000
MAX_LABELS = 200
"""Labels that get an alpha of their own."""
RELIABLE, TENTATIVE = 0.8, 0.667
"""Krippendorff, Content Analysis (2004), p. 241: rely on 0.800 and above, draw tentative conclusions from 0.667."""
_ENOUGH_ROWS = 30


def krippendorff_alpha(units: Sequence[Sequence[str]]) -> float | None:
    """Alpha, nominal: 1 is perfect, 0 is chance, below 0 is worse. Each unit is the answers to one row, in any order;
    those with fewer than two say nothing. None where it is not defined: no pair, or only one label ever used."""
    counts = _counts(units)[0]
    if not len(counts):
        return None
    import numpy as np

    value = float(_alphas(counts, np.ones((1, len(counts))))[0])
    return None if value != value else value


def alpha_interval(units: Sequence[Sequence[str]], *, seed: int = 0, draws: int = DRAWS) -> Interval | None:
    """`krippendorff_alpha` with its 95% bootstrap interval over rows; `n` are the rows with two answers or more."""
    return _interval(_counts(units)[0], seed, draws)


def agreement(
    said: Mapping[str, Mapping[str, str]], *, seed: int = 0, draws: int = DRAWS, top: int = 30
) -> dict[str, Any]:
    """Everything about who agrees, JSON-ready. `said` is row -> person -> label.

    `alpha` and each of `labels` (that label against the rest) and `pairs` (kappa, share of equal answers) hold an
    interval or null; `confusions` says who disagrees with whom about what; `verdict` puts alpha into words.
    """
    import numpy as np

    both = {row: people for row, people in said.items() if len(people) > 1}
    counts, names = _counts([list(people.values()) for people in both.values()])
    alpha = _interval(counts, seed, draws)
    per_label: list[dict[str, Any]] = []
    for column, label in enumerate(names[:MAX_LABELS]):
        own = counts[:, [column]]
        part = _interval(np.hstack([own, counts.sum(1, keepdims=True) - own]), seed, draws)
        answers_ = int(own.sum())
        per_label.append({"label": label, "answers": answers_, "alpha": part.model_dump() if part else None})
    per_label.sort(key=lambda one: (one["alpha"]["value"] if one["alpha"] else 2.0, -one["answers"], one["label"]))
    people = sorted({by for answers_ in both.values() for by in answers_})
    pairs = [pair for a, b in combinations(people, 2) if (pair := _pair(both, a, b, seed, draws))]
    return {
        "rows": len(said),
        "rows_with_two_answers": len(both),
        "rows_in_agreement": sum(len(set(people.values())) == 1 for people in both.values()),
        "people": people,
        "alpha": alpha.model_dump() if alpha else None,
        "verdict": verdict(alpha, len(both)),
        "labels": per_label,
        "pairs": pairs,
        "confusions": _confusions(both, top),
    }


def verdict(alpha: Interval | None, rows: int) -> str:
    """What alpha means, in a sentence. Its lower bound decides, since that is what the rows prove."""
    if rows == 0:
        return "No row has answers of two people yet: agreement cannot be measured."
    if alpha is None:
        return "Everybody used one label only: there is nothing to agree about beyond chance, and alpha is not defined."
    few = f" Only {rows} rows have two answers; more would narrow the interval." if rows < _ENOUGH_ROWS else ""
    if alpha.low >= RELIABLE:
        told = "The labels can be relied on: even the low end of the interval reaches 0.80."
    elif alpha.value >= RELIABLE:
        told = "Probably reliable (0.80 or more), but the interval reaches below: not proven yet."
    elif alpha.value >= TENTATIVE:
        told = "Enough for tentative conclusions (0.667 to 0.80): clarify the labels that people confuse."
    else:
        told = (
            "Too low to rely on (below 0.667): what people do not agree on, no model can learn, and no test can "
            "measure. Write the instructions anew before labelling more."
        )
    return told + few + " High agreement does not prove that the labels are right, only that people read them alike."


def _counts(units: Sequence[Sequence[str]]) -> tuple[Any, list[str]]:
    """[rows with two answers or more, labels] of how often each label was given, and the labels, by name."""
    import numpy as np

    usable = [unit for unit in units if len(unit) > 1]
    names = sorted({label for unit in usable for label in unit})
    place = {label: index for index, label in enumerate(names)}
    made = np.zeros((len(usable), len(names)))
    for row, unit in enumerate(usable):
        for label in unit:
            made[row, place[label]] += 1
    return made, names


def _alphas(counts: Any, weights: Any) -> Any:
    """Alpha for each row of `weights` [draws, rows], which say how often each unit counts; NaN where undefined."""
    import numpy as np

    size = counts.sum(1)
    observed = (size**2 - (counts**2).sum(1)) / (size - 1)  # pairs that differ, each unit's weighed by its answers
    totals = weights @ counts
    n = totals.sum(1)
    expected = n**2 - (totals**2).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(expected > 0, 1 - (n - 1) * (weights @ observed) / expected, np.nan)


def _interval(counts: Any, seed: int, draws: int) -> Interval | None:
    import numpy as np

    rows = len(counts)
    if not rows:
        return None
    value = float(_alphas(counts, np.ones((1, rows)))[0])
    if value != value:
        return None
    random = np.random.default_rng(seed)
    drawn = np.concatenate(
        [
            _alphas(counts, random.multinomial(rows, np.full(rows, 1 / rows), size=part).astype(float))
            for part in _parts(draws, rows)
        ]
    )
    return _percentiles(value, drawn, rows)


def _parts(draws: int, width: int) -> list[int]:
    """`draws` in parts whose tables keep under some 16 MB."""
    most = max(1, 2_000_000 // max(1, width))
    return [min(most, draws - start) for start in range(0, draws, most)]


def _percentiles(value: float, drawn: Any, rows: int) -> Interval:
    import numpy as np

    known = drawn[~np.isnan(drawn)]
    low, high = np.percentile(known, [2.5, 97.5]) if len(known) else (value, value)
    return Interval(value=value, low=min(float(low), value), high=max(float(high), value), n=rows)


def _pair(both: Mapping[str, Mapping[str, str]], a: str, b: str, seed: int, draws: int) -> dict[str, Any] | None:
    """Two people on the rows both answered; None where there are none."""
    import numpy as np
    from sklearn.metrics import cohen_kappa_score, confusion_matrix

    rows = [people for people in both.values() if a in people and b in people]
    if not rows:
        return None
    first, second = [people[a] for people in rows], [people[b] for people in rows]
    equal = sum(x == y for x, y in zip(first, second, strict=True)) / len(rows)
    found: dict[str, Any] = {"a": a, "b": b, "rows": len(rows), "equal": equal, "kappa": None}
    if len({*first, *second}) > 1:
        table = confusion_matrix(first, second)
        size = len(table)
        drawn = [_kappas(random.reshape(-1, size, size)) for random in _tables(table, seed, _parts(draws, size * size))]
        value = float(cohen_kappa_score(first, second))
        found["kappa"] = _percentiles(value, np.concatenate(drawn), len(rows)).model_dump()
    return found


def _tables(table: Any, seed: int, parts: Sequence[int]) -> list[Any]:
    """Confusion tables of resampled rows: drawing rows with replacement is drawing cells by their share."""
    import numpy as np

    random = np.random.default_rng(seed)
    return [random.multinomial(int(table.sum()), table.ravel() / table.sum(), size=part) for part in parts]


def _kappas(tables: Any) -> Any:
    import numpy as np

    n = tables.sum((1, 2))
    observed = np.trace(tables, axis1=1, axis2=2) / n
    chance = (tables.sum(1) * tables.sum(2)).sum(1) / n**2
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(chance < 1, (observed - chance) / (1 - chance), np.nan)


def _confusions(both: Mapping[str, Mapping[str, str]], top: int) -> list[dict[str, Any]]:
    seen: Counter[tuple[str, str, str, str]] = Counter()
    for people in both.values():
        for a, b in combinations(sorted(people), 2):
            if people[a] != people[b]:
                seen[a, people[a], b, people[b]] += 1
    ranked = sorted(seen.items(), key=lambda pair: (-pair[1], pair[0]))[:top]
    return [{"a": a, "says": x, "b": b, "instead": y, "rows": n} for (a, x, b, y), n in ranked]
