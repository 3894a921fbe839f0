"""Where a candidate is worse than on the rest: slices of the held-out rows, found without being asked for.

Every slice that the rows themselves name is looked at (language, length, source, label, document, group, weekday and
month, numbers, question words, and two of these together), so chance alone would find some. The p values are corrected
for all that were looked at, and a slice is called worse only after that.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import combinations, pairwise
from typing import Any

from bucle.core.errors import BadInput
from bucle.core.records import Example, Interval
from bucle.evaluate.statistics import benjamini_hochberg, interval, wilson

__all__ = ["Slice", "find_slices"]

LEVEL = 0.05
MOST_VALUES = 40
"""Values of one facet that are looked at, the most frequent first."""
MOST_PAIRS = 200
"""Pairs that are looked at, the largest first: each one more costs all of them power."""
_WORDS = re.compile(r"[^\W\d_]+")
_ASKING = {
    "qué": "qué", "que": "qué", "quién": "quién", "quien": "quién", "cuál": "cuál", "cual": "cuál", "cómo": "cómo",
    "como": "cómo", "dónde": "dónde", "donde": "dónde", "cuándo": "cuándo", "cuando": "cuándo", "cuánto": "cuánto",
    "cuanto": "cuánto", "cuánta": "cuánto", "cuántos": "cuánto", "cuántas": "cuánto", "what": "what", "which": "which",
    "who": "who", "how": "how", "where": "where", "when": "when", "why": "why",
}
_Looked = tuple[dict[str, str], Any, list[Any]]
_SOURCES = {"document", "group"}
_FAR = 12.0  # standard errors: beyond them p is 0 to fourteen digits


@dataclass(frozen=True)
class Slice:
    """Rows that share something, beside all the others.

    `where` names the facets and their values (`{"language": "en"}`; two facets for a slice of two); `value` is the mean
    score with its interval, `rest` the mean of the other rows, `difference` their difference with its interval. `p` is
    two-sided, `q` corrected for every slice looked at (Benjamini and Hochberg); `worse` says that q is below 0.05 and
    the difference below 0. `rows` are the places of the slice's rows.
    """

    where: Mapping[str, str]
    value: Interval
    rest: float
    difference: Interval
    p: float
    q: float
    worse: bool
    rows: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {**asdict(self), "where": dict(self.where), "n": len(self.rows), "rows": list(self.rows),
                "value": self.value.model_dump(), "difference": self.difference.model_dump()}


def find_slices(examples: Sequence[Example], scores: Sequence[float], *, clusters: Sequence[str] | None = None,
                least: int = 20) -> list[Slice]:
    """Every slice of at least `least` rows that leaves as many out: those below the rest first, the surest ones
    before the others.

    `scores` are in [0, 1], higher is better, one a row. `clusters` names the source of each row (none:
    `Example.cluster`). The difference of two means has Newcombe's hybrid score interval (1998, Statistics in Medicine
    17, method 10) for as many independent rows as would vary as much: the design effect is the jackknife's variance of
    the difference over whole clusters against that of independent rows, and t takes the place of the normal where rows
    are clustered or graded. The p is that interval's own. A slice of two facets must stand out from the
    rest of both (its p is the larger of the two), so that it is not found again for what one facet does alone. Of
    slices with the same rows one is tested; of two that share out all rows, the worse. A document or group that is one
    cluster is judged by its own rows, as the one it is; any other slice of one cluster is not looked at. Raises
    BadInput.
    """
    import numpy as np

    values = np.asarray(scores, dtype=float)
    if len(values) != len(examples):
        raise BadInput(f"{len(values)} scores for {len(examples)} rows")
    if len(values) and not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise BadInput("scores must lie between 0 and 1")
    if len(values) < 2 * least:
        return []
    names = np.unique(list(clusters or [one.cluster for one in examples]), return_inverse=True)[1]
    tested = []
    for where, mask, parents in _worse_of_two(_masks(examples, least), values):
        own = names
        if len(np.unique(names[mask])) == 1:
            if where.keys() - _SOURCES:
                continue
            own = np.where(mask, len(names) + np.arange(len(names)), names)
        tested.append((*_test(where, mask, parents, values, own), own))
    adjusted = benjamini_hochberg([p for _, _, _, p, _ in tested])
    found = []
    for (where, mask, difference, p, own), q in zip(tested, adjusted, strict=True):
        inside = np.flatnonzero(mask)
        found.append(Slice(
            where, interval(values[mask].tolist(), clusters=[str(name) for name in own[mask]]),
            float(values[~mask].mean()), difference, p, q, q < LEVEL and difference.value < 0, tuple(inside.tolist()),
        ))
    return sorted(found, key=lambda one: (one.difference.value >= 0, one.q, one.p, sorted(one.where.items())))


def _masks(examples: Sequence[Example], least: int) -> list[_Looked]:
    """What is to be tested: the facets, the rows, and the rows of each facet alone (of a pair)."""
    import numpy as np

    facets = {name: make(examples) for name, make in _FACETS.items()}
    rows = len(examples)
    singles: list[_Looked] = []
    for name, told in facets.items():
        held: dict[str, list[int]] = defaultdict(list)
        for place, some in enumerate(told):
            for value in {some} if isinstance(some, str) else set(some):
                held[value].append(place)
        for value in sorted(held, key=lambda value: (-len(held[value]), value))[:MOST_VALUES]:
            if value and least <= len(held[value]) <= rows - least:
                mask = np.zeros(rows, dtype=bool)
                mask[held[value]] = True
                singles.append(({name: value}, mask, []))
    seen: set[bytes] = set()
    kept = [one for one in singles if _new(one[1], seen)]
    pairs = []
    for (first, one, _), (second, other, _) in combinations(kept, 2):
        both = one & other
        alone = min(int((one & ~other).sum()), int((other & ~one).sum()))
        if not first.keys() & second.keys() and both.sum() >= least and alone >= least:
            pairs.append((first | second, both, [one, other]))
    pairs.sort(key=lambda pair: -int(pair[1].sum()))
    return kept + [pair for pair in pairs if _new(pair[1], seen)][:MOST_PAIRS]


def _new(mask: Any, seen: set[bytes]) -> bool:
    import numpy as np

    rows = np.packbits(mask).tobytes()
    if rows in seen:
        return False
    seen.add(rows)
    return True


def _worse_of_two(looked: Sequence[_Looked], values: Any) -> list[_Looked]:
    """Without the better one of two slices that share out all rows: their difference is the same, and so is its p."""
    import numpy as np

    means = {np.packbits(mask).tobytes(): values[mask].mean() for _, mask, _ in looked}
    kept, taken = [], set()
    for one in looked:
        rows, others = (np.packbits(mask).tobytes() for mask in (one[1], ~one[1]))
        if others in taken or means.get(others, np.inf) < means[rows]:
            continue
        taken.add(rows)
        kept.append(one)
    return kept


def _test(where: dict[str, str], mask: Any, parents: Sequence[Any], values: Any,
          names: Any) -> tuple[dict[str, str], Any, Interval, float]:
    difference, p = _difference(values, mask, ~mask, names)
    for parent in parents:
        against, its = _difference(values, mask, parent & ~mask, names)
        same_way = against.value * difference.value > 0
        p = max(p, its if same_way else 1.0)
    return where, mask, difference, p


def _difference(values: Any, inside: Any, outside: Any, names: Any) -> tuple[Interval, float]:
    """Mean of the rows `inside` less that of the rows `outside`, with its interval and two-sided p."""
    import numpy as np
    from scipy.stats import norm, t

    a, b = float(values[inside].mean()), float(values[outside].mean())
    m, n = int(inside.sum()), int(outside.sum())
    effect, freedom = _design_effect(values, inside, outside, names)
    m_like, n_like = m / effect, n / effect

    def z_of(level: float) -> float:
        return float(norm.ppf(0.5 + level / 2) if freedom is None else t.ppf(0.5 + level / 2, freedom))

    def edges(z: float) -> tuple[float, float]:
        (a_low, a_high), (b_low, b_high) = wilson(a, m_like, 0.95, z), wilson(b, n_like, 0.95, z)
        return a - b - float(np.hypot(a - a_low, b_high - b)), a - b + float(np.hypot(a_high - a, b - b_low))

    near, far = 0.0, _FAR
    for _ in range(40):  # the widest interval that leaves 0 out
        middle = (near + far) / 2
        low, high = edges(middle)
        near, far = (near, middle) if low <= 0 <= high else (middle, far)
    p = 1.0 if a == b else float(2 * (norm.sf(near) if freedom is None else t.sf(near, freedom)))
    low, high = edges(z_of(0.95))
    return Interval(value=a - b, low=low, high=high, n=m), p


def _design_effect(values: Any, inside: Any, outside: Any, names: Any) -> tuple[float, float | None]:
    """How many times the variance of the difference is that of independent 0/1 rows, and the degrees of freedom of
    clusters (None where every row is its own and 0 or 1)."""
    import numpy as np

    both = inside | outside
    some, each = values[both], names[both]
    of_slice = inside[both]
    alone = sum(float(side.mean() * (1 - side.mean())) / len(side) for side in (some[of_slice], some[~of_slice]))
    many = len(np.unique(each))
    if many == len(each) and np.isin(some, (0.0, 1.0)).all():
        return 1.0, None
    place = np.unique(each, return_inverse=True)[1]
    sums = [np.bincount(place, some * side, many) for side in (of_slice, ~of_slice)]
    counts = [np.bincount(place, side, many).astype(float) for side in (of_slice, ~of_slice)]
    whole = [float(one.sum()) for one in counts]
    freedom = min(float(size**2 / (count**2).sum()) for size, count in zip(whole, counts, strict=True)) - 1
    if any((size - count).min() <= 0 for size, count in zip(whole, counts, strict=True)):
        return len(some) / many, 1.0  # the rest is one cluster: nothing is known of how clusters differ
    without = [(one.sum() - one) / (size - count) for one, size, count in zip(sums, whole, counts, strict=True)]
    gaps = without[0] - without[1]
    variance = (many - 1) / many * float(((gaps - gaps.mean()) ** 2).sum())
    return (variance / alone if variance > 1e-15 and alone > 1e-15 else len(some) / many), max(freedom, 1.0)


def _text(example: Example) -> str:
    """What the user wrote: of a conversation, its messages one after the other."""
    return "\n".join(turns) if (turns := _turns(example)) else example.input


def _turns(example: Example) -> list[str]:
    if not example.input.startswith("["):
        return []
    try:
        told = json.loads(example.input)
    except ValueError:
        return []
    return [str(one.get("content", "")) for one in told if isinstance(one, dict)]


def _language(examples: Sequence[Example]) -> list[str]:
    from bucle.data.language import detect_all

    given = [one.language for one in examples]
    if all(given):
        return given
    found = detect_all([_text(one) for one in examples])
    return [own or ("" if code == "und" else code) for own, code in zip(given, found, strict=True)]


def _length(examples: Sequence[Example]) -> list[str]:
    """Quarters of the rows by the words of the input, named by their first and last number of words."""
    import numpy as np

    words = np.array([len(_text(one).split()) for one in examples])
    cuts = [0, *np.quantile(words, (0.25, 0.5, 0.75), method="inverted_cdf").astype(int).tolist(), int(words.max())]
    told = [""] * len(words)
    for low, high in pairwise(cuts):
        inside = (words > low) & (words <= high) if low else words <= high
        if inside.any():
            least, most = int(words[inside].min()), int(words[inside].max())
            name = str(least) if least == most else f"{least}–{most}"
            for place in np.flatnonzero(inside):
                told[place] = name
    return told


def _label(examples: Sequence[Example]) -> list[str]:
    return ["(none)" if one.target is None else one.target if len(one.target) <= 80 else "" for one in examples]


def _time(form: str) -> Callable[[Sequence[Example]], list[str]]:
    def told(examples: Sequence[Example]) -> list[str]:
        found = []
        for one in examples:
            try:
                found.append(datetime.fromisoformat(one.at).strftime(form))
            except ValueError:
                found.append("")
        return found

    return told


def _asking(examples: Sequence[Example]) -> list[str]:
    found = []
    for one in examples:
        words = [word.lower() for word in _WORDS.findall(_text(one))[:3]]
        found.append(next((_ASKING[word] for word in words if word in _ASKING), ""))
    return found


def _documents(examples: Sequence[Example]) -> list[tuple[str, ...]]:
    return [tuple(part.strip() for part in one.document.split(";") if part.strip()) for one in examples]


_FACETS: Mapping[str, Callable[[Sequence[Example]], Sequence[str | tuple[str, ...]]]] = {
    "label": _label,
    "language": _language,
    "length": _length,
    "source": lambda examples: [one.source.rpartition(":")[0] or one.source for one in examples],
    "document": _documents,
    "group": lambda examples: [one.group for one in examples],
    "weekday": _time("%u"),
    "month": _time("%Y-%m"),
    "numbers": lambda examples: ["yes" if any(c.isdigit() for c in _text(one)) else "no" for one in examples],
    "asks": _asking,
    "turns": lambda examples: [str(len(turns)) if (turns := _turns(one)) else "" for one in examples],
}
"""What rows may share, each as one text a row (empty: nothing), or several. Weekdays are 1 (Monday) to 7."""
