"""How far a judge agrees with people, and what sways it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bucle.core.errors import BadInput
from bucle.core.records import Interval, Usage

__all__ = ["Agreement", "HumanRow", "agree", "kappa", "rank_correlation"]


@dataclass(frozen=True)
class HumanRow:
    """An answer that people scored: `human` from 1 to the judge's scale."""

    input: str
    output: str
    human: int
    reference: str = ""
    cluster: str = ""


@dataclass(frozen=True)
class Agreement:
    """A judge beside people on the same `n` rows.

    `kappa`: Cohen's, quadratically weighted, with its interval clustered by source; `exact` and `near`, the shares of
    rows with the same score and with one at most one apart; `by_score[h - 1][j - 1]` counts the rows that people gave h
    and the judge j; `lean` is the judge's mean score less people's, in points of the scale. `spread`: the mean standard
    deviation of the judge's own samples of a row, in points (0 with one sample). `length` and `human_length`: rank
    correlations of the judge's and of people's scores with the answer's length (None where nothing varies). `failed`
    rows could not be judged."""

    kappa: Interval
    n: int
    exact: float
    near: float
    lean: float
    by_score: list[list[int]]
    spread: float
    length: float | None
    human_length: float | None
    failed: int
    usage: Usage

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self) | {"kappa": self.kappa.model_dump(), "usage": self.usage.model_dump()}


def kappa(human: Sequence[int], judge: Sequence[int], *, clusters: Sequence[str] | None = None,
          seed: int = 0, level: float = 0.95) -> Interval:
    """Cohen's kappa with quadratic weights (Cohen 1968, Psychological Bulletin 70:213) of scores on one scale, with its
    bootstrap-t interval over `clusters`. With two scores it is the unweighted one.

    With quadratic weights it is 1 - S(x - y)^2 / (S x^2 + S y^2 - 2 S x S y / n), so it is resampled by its sums.
    Where they agree on every row, the lower bound is that of a share of so many rows (Wilson), as if chance agreed on
    half. Raises BadInput where it is not defined: fewer than two sources, or all scores of both are the same.
    """
    import numpy as np

    from bucle.evaluate.resample import bootstrap

    x, y = np.asarray(human, float), np.asarray(judge, float)
    if len(x) != len(y) or not len(x):
        raise BadInput(f"agreement needs the same rows on both sides, not {len(x)} and {len(y)}")
    if np.ptp(np.concatenate([x, y])) == 0:
        raise BadInput("every score is the same, so agreement beyond chance cannot be measured",
                       "have answers of different quality scored")
    middle = float(x.mean())
    x, y = x - middle, y - middle  # nothing changes but the rounding
    table = np.column_stack([np.ones(len(x)), x, y, x * x + y * y, (x - y) ** 2])

    def combine(sums: Any) -> Any:
        chance = sums[..., 3] - 2 * sums[..., 1] * sums[..., 2] / sums[..., 0]
        return 1 - np.divide(sums[..., 4], chance, out=np.zeros_like(chance), where=chance > 1e-9)

    found = bootstrap({"": (table, combine)}, clusters=clusters, seed=seed, level=level)[""]
    if found.low == found.high:  # they agree on every row: what a share of so many rows could have been
        from bucle.evaluate.statistics import wilson

        many = len(set(clusters)) if clusters else len(x)
        share, _ = wilson(1.0, many, level)
        return found.model_copy(update={"low": min(found.value, 2 * share - 1)})
    return found.model_copy(update={"low": max(found.low, -1.0), "high": min(found.high, 1.0)})


def rank_correlation(scores: Sequence[float], texts: Sequence[str]) -> float | None:
    """Spearman's correlation of `scores` with the texts' length in characters; None where either does not vary."""
    from scipy.stats import spearmanr

    lengths = [len(text) for text in texts]
    if len(set(scores)) < 2 or len(set(lengths)) < 2:
        return None
    return float(spearmanr(scores, lengths).statistic)


def agree(rows: Sequence[HumanRow], judged: Sequence[float | None], spreads: Sequence[float], scale: int,
          usage: Usage, *, seed: int = 0) -> Agreement:
    """People's and the judge's scores of `rows` compared; `judged` and `spreads` are in points of the scale, None where
    the judge failed. A mean of samples counts as its nearest whole score (half upwards). Raises BadInput."""
    kept = [(row, score, spread) for row, score, spread in zip(rows, judged, spreads, strict=True) if score is not None]
    if not kept:
        raise BadInput("the judge could not score a single row")
    given = [row.human for row, _, _ in kept]
    said = [int(score + 0.5) for _, score, _ in kept]
    table = [[0] * scale for _ in range(scale)]
    for one, other in zip(given, said, strict=True):
        table[one - 1][other - 1] += 1
    many = len(kept)
    outputs = [row.output for row, _, _ in kept]
    clusters = [row.cluster or f"row {place}" for place, (row, _, _) in enumerate(kept)]
    return Agreement(
        kappa=kappa(given, said, clusters=clusters, seed=seed), n=many,
        exact=sum(a == b for a, b in zip(given, said, strict=True)) / many,
        near=sum(abs(a - b) <= 1 for a, b in zip(given, said, strict=True)) / many,
        lean=sum(score for _, score, _ in kept) / many - sum(given) / many, by_score=table,
        spread=sum(spread for _, _, spread in kept) / many,
        length=rank_correlation([score for _, score, _ in kept], outputs),
        human_length=rank_correlation([float(g) for g in given], outputs), failed=len(rows) - many, usage=usage)
