"""The comparison that every decision rests on: candidates on the same rows, against an honest baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from bucle.core.errors import BadInput, ConfigError
from bucle.core.records import Interval
from bucle.evaluate.statistics import holm, interval, mcnemar, non_inferior, paired_difference, paired_p

__all__ = ["CONSTRAINTS", "Comparison", "Row", "Scored", "compare"]

Verdict = Literal["reference", "beats", "ties", "loses", "ruled_out"]
CONSTRAINTS: Mapping[str, str] = {
    "p50_ms": "ms_p50", "p95_ms": "ms_p95", "usd_per_1k": "usd_per_1k", "usd_per_month": "usd_per_month",
    "tokens": "tokens",
}
"""What a constraint may limit from above, and the figure of `Scored` that it limits."""

SIGNIFICANT = 0.05
POINT = 0.01
"""`usd_per_point` prices this much quality."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return self.model_dump(mode="json")


class Scored(_Frozen):
    """One evaluated candidate. `rung` is its place on the ladder, cheapest first; `per_row` a list for each
    metric; `usd_per_1k` dollars for a thousand requests; `ms_p50`, `ms_p95` milliseconds; `tokens` the mean
    a request; `usd_per_month` what it costs to serve the team's traffic, hosting and training included."""

    name: str
    rung: int
    baseline: bool
    per_row: Mapping[str, Sequence[float]]
    usd_per_1k: float = 0.0
    ms_p50: float = 0.0
    ms_p95: float = 0.0
    tokens: float = 0.0
    usd_per_month: float = 0.0


class Row(_Frozen):
    """What was found about one candidate. `difference` is candidate minus best baseline; `p` is
    Holm-adjusted over the candidates that are not baselines (over the baselines, for a baseline); both None
    for the best baseline."""

    name: str
    rung: int
    baseline: bool
    quality: Interval
    difference: Interval | None
    p: float | None
    verdict: Verdict
    beats_baseline: bool
    reasons: Sequence[str] = ()
    pareto: bool = False
    usd_per_1k: float = 0.0
    ms_p50: float = 0.0
    ms_p95: float = 0.0
    tokens: float = 0.0
    usd_per_month: float = 0.0
    mcnemar: float | None = None
    """McNemar's exact p against the best baseline where every score is 0 or 1; it ignores clusters, `p` does not."""


class Comparison(_Frozen):
    """The finished comparison. `why` is a message key with its figures; `rows` stand in the order of the
    ladder."""

    metric: str
    rows: Sequence[Row]
    best_baseline: str
    recommended: str | None
    runner_up: str | None
    baseline_stands: bool
    pareto: Sequence[str]
    margin: float
    why: Mapping[str, Any] = Field(default_factory=dict)


def compare(scored: Sequence[Scored], *, metric: str, clusters: Sequence[str] | None = None,
            margin: float = 0.01, constraints: Mapping[str, float] | None = None,
            usd_per_point: float | None = None, known: dict[tuple[str, str], Any] | None = None) -> Comparison:
    """Compare candidates on `metric` and recommend one.

    The rule, in order:

    1. The best honest baseline is the baseline with the highest mean (ties: lower rung, then name), whether
       or not a constraint rules it out: it is what the others are measured against.
    2. Each other candidate `beats` it, `loses` to it or `ties` by the sign of the mean paired difference
       where the Holm-adjusted two-sided p is below 0.05. A candidate over a constraint is `ruled_out`, with
       its reasons.
    3. The pool is the candidates that beat the best baseline and are not ruled out. The highest mean in it
       is the mark. Recommended is the cheapest in the pool (dollars a month, then a thousand requests, then the
       rung) that is as good as the mark: its paired 95%
       interval against the mark lies above -`margin`, or its mean is at most `margin` lower and p against
       the mark is at least 0.05. So a dearer step must show its gain, and a cheaper one may not hide a loss
       behind few rows.
    4. If the pool is empty the baseline stands: recommended is the best baseline, or, where a constraint
       rules that out, the baseline with the highest mean that is not. If every baseline is ruled out, it is
       the cheapest that is as good (as in 3) as the highest mean of what is left, and nothing is claimed
       against a baseline.
    5. If everything is ruled out nothing is recommended.
    6. With `usd_per_point` (what 0.01 of the metric is worth a month) the margin between two candidates is at least
       the loss that their difference in `usd_per_month` buys, so that a dearer one must be worth its price; one that
       beats the best baseline gives way to it where the gain is worth less than what it costs more.

    Measured latency takes part only through `constraints` (keys of `CONSTRAINTS`, upper limits): a rerun on
    a busier machine reaches the same recommendation. The runner-up is the highest mean among the others not
    ruled out. The Pareto front is of mean quality, dollars and p95 latency over all. `known` keeps what was found
    about each pair for further comparisons of the same rows under other conditions. Raises BadInput (no
    baseline, unequal rows, no such metric, a name twice) and ConfigError (unknown constraint).
    """
    limits = dict(constraints or {})
    _check(scored, metric, limits)
    order = sorted(scored, key=lambda one: (one.rung, one.name))
    scores = {one.name: one.per_row[metric] for one in order}
    kept = {} if known is None else known
    for name, values in scores.items():
        if (name, "") not in kept:
            kept[name, ""] = interval(values, clusters=clusters)
    quality: dict[str, Interval] = {name: kept[name, ""] for name in scores}

    def highest(pool: Sequence[Scored]) -> Scored:
        return max(pool, key=lambda one: (quality[one.name].value, -order.index(one)))

    def cheapest(pool: Sequence[Scored]) -> list[Scored]:
        """By what they cost a month, then a thousand requests; where that is the same, by the ladder."""
        return sorted(pool, key=lambda one: (one.usd_per_month, one.usd_per_1k, order.index(one)))

    def gap(one: str, other: str) -> tuple[Interval, float]:
        if (one, other) not in kept:
            kept[one, other] = (paired_difference(scores[one], scores[other], clusters=clusters),
                                paired_p(scores[one], scores[other], clusters=clusters))
        found: tuple[Interval, float] = kept[one, other]
        return found

    def saved(one: Scored, other: Scored) -> float:
        """The quality that the dollars `one` saves a month are worth; 0 without an exchange rate."""
        return (other.usd_per_month - one.usd_per_month) / usd_per_point * POINT if usd_per_point else 0.0

    def as_good(one: Scored, mark: Scored) -> bool:
        if one is mark:
            return True
        difference, p = gap(one.name, mark.name)
        allowed = max(margin, saved(one, mark))
        return non_inferior(difference, allowed) or (difference.value >= -allowed and p >= SIGNIFICANT) or (
            difference.value >= -saved(one, mark) and saved(one, mark) > 0)

    base = highest([one for one in order if one.baseline])
    gaps = {one.name: gap(one.name, base.name) for one in order if one is not base}
    adjusted: dict[str, float] = {}
    for kind in (False, True):
        names = [one.name for one in order if one.baseline is kind and one is not base]
        adjusted |= dict(zip(names, holm([gaps[name][1] for name in names]), strict=True))
    reasons = {one.name: _over(one, limits) for one in order}
    front = _front(order, {name: found.value for name, found in quality.items()})
    binary = all(score in (0.0, 1.0) for values in scores.values() for score in values)
    exact = {name: mcnemar(scores[name], scores[base.name]) for name in gaps} if binary else {}
    rows = [_row(one, quality[one.name], gaps.get(one.name), adjusted.get(one.name), reasons[one.name],
                 one.name in front, exact.get(one.name)) for one in order]
    beating = {row.name for row in rows if row.beats_baseline}
    allowed = [one for one in order if not reasons[one.name]]
    pool = [one for one in allowed if one.name in beating]
    baselines = [one for one in allowed if one.baseline]
    chosen: Scored | None = None
    if pool:
        mark = highest(pool)
        chosen = next(one for one in cheapest(pool) if as_good(one, mark))
        key = "best" if chosen is mark else "cheapest_as_good"
        if base in baselines and usd_per_point and quality[chosen.name].value - quality[base.name].value < saved(
                base, chosen):
            chosen, key = base, "gain_does_not_pay"
    elif baselines:
        chosen = mark = highest(baselines)
        key = "baseline_stands" if chosen is base else "allowed_baseline_stands"
    elif allowed:
        mark = highest(allowed)
        chosen, key = next(one for one in cheapest(allowed) if as_good(one, mark)), "baselines_ruled_out"
    else:
        mark, key = base, "all_ruled_out"
    others = [one for one in allowed if one is not chosen]
    figures = {
        "metric": metric, "margin": margin, "rows": len(scores[base.name]), "beating": len(pool),
        "best_baseline": base.name, "baseline_value": quality[base.name].value,
        "mark": mark.name, "mark_value": quality[mark.name].value,
    }
    if chosen is not None:
        figures |= {"recommended": chosen.name, "value": quality[chosen.name].value}
        if chosen is not mark:
            figures["difference_from_mark"] = gap(chosen.name, mark.name)[0].model_dump()
        if usd_per_point:
            figures |= {"usd_per_point": usd_per_point, "usd_per_month": chosen.usd_per_month,
                        "mark_usd_per_month": mark.usd_per_month}
    return Comparison(
        metric=metric, rows=rows, best_baseline=base.name, recommended=chosen.name if chosen else None,
        runner_up=highest(others).name if others else None, baseline_stands=not pool and bool(baselines),
        pareto=front, margin=margin, why={"key": key, "figures": figures},
    )


def _check(scored: Sequence[Scored], metric: str, limits: Mapping[str, float]) -> None:
    if not any(one.baseline for one in scored):
        raise BadInput("there is no honest baseline to compare with",
                       "add one, such as `majority` or `tfidf`")
    if len({one.name for one in scored}) < len(scored):
        raise BadInput("two candidates have the same name")
    for one in scored:
        if metric not in one.per_row:
            raise BadInput(f"{one.name} was not measured by {metric}",
                           f"known: {', '.join(sorted(one.per_row))}")
        if len(one.per_row[metric]) != len(scored[0].per_row[metric]):
            raise BadInput(f"{one.name} and {scored[0].name} were evaluated on different rows",
                           "evaluate both on the same")
    unknown = sorted(set(limits) - set(CONSTRAINTS))
    if unknown:
        raise ConfigError(f"unknown constraint {unknown[0]}", f"known: {', '.join(CONSTRAINTS)}")


def _over(one: Scored, limits: Mapping[str, float]) -> list[str]:
    """`p95_ms 950 > 800` for each limit that is passed."""
    return [f"{key} {getattr(one, CONSTRAINTS[key]):.4g} > {limit:g}" for key, limit in sorted(limits.items())
            if getattr(one, CONSTRAINTS[key]) > limit]


def _row(one: Scored, quality: Interval, gap: tuple[Interval, float] | None, p: float | None,
         reasons: Sequence[str], pareto: bool, exact: float | None) -> Row:
    verdict: Verdict = "reference"
    if gap is not None and p is not None:
        verdict = "ties" if p >= SIGNIFICANT else "beats" if gap[0].value > 0 else "loses"
    return Row(
        name=one.name, rung=one.rung, baseline=one.baseline, quality=quality,
        difference=gap[0] if gap else None, p=p, verdict="ruled_out" if reasons else verdict,
        beats_baseline=verdict == "beats" and not one.baseline, reasons=reasons, pareto=pareto,
        usd_per_1k=one.usd_per_1k, ms_p50=one.ms_p50, ms_p95=one.ms_p95, tokens=one.tokens,
        usd_per_month=one.usd_per_month, mcnemar=exact,
    )


def _front(order: Sequence[Scored], quality: Mapping[str, float]) -> list[str]:
    """Names that no other candidate equals or betters in quality, dollars and p95 latency while bettering
    one."""
    cost = {one.name: (-quality[one.name], one.usd_per_1k, one.ms_p95) for one in order}
    return [name for name, mine in cost.items() if not any(
        theirs != mine and all(other <= own for other, own in zip(theirs, mine, strict=True))
        for theirs in cost.values()
    )]
