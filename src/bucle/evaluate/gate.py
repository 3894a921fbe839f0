"""Gates: the team's own conditions on an evaluation, written in bucle.yaml and checked with their intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bucle.core.errors import BucleError, ConfigError
from bucle.core.records import Interval
from bucle.evaluate.gate_text import LICENCES, Gate, gate_metrics, parse_gate
from bucle.evaluate.metrics.samples import Measured
from bucle.evaluate.rare import rare_share
from bucle.evaluate.statistics import bootstrap_mean, interval, paired_difference

__all__ = [
    "Agreed", "Apart", "Check", "Gate", "GateFacts", "GateResult", "Reference", "check_gates", "gate_metrics",
    "junit_xml", "parse_gate",
]

SPARED = {
    "not_tuned": "no weight was changed, so nothing is forgotten",
    "nothing_known": "the base answers no part of the suite better than by guessing, so there was nothing to forget",
}


@dataclass(frozen=True)
class Apart:
    """Scores of rows that are not the task's: attacks, look-alikes, the forgetting suite. `clusters` one name a row;
    `minus` the scores that are taken away row by row (what is left after tuning); `bounded`: they lie in [0, 1]."""

    scores: Sequence[float]
    clusters: Sequence[str] | None = None
    minus: Sequence[float] = ()
    bounded: bool = True

    def interval(self, level: float, seed: int) -> Interval:
        """The mean with its interval. Raises BadInput where there are no rows."""
        if not self.bounded:
            values = [a - b for a, b in zip(self.scores, self.minus, strict=True)] if self.minus else self.scores
            return bootstrap_mean(values, seed=seed, level=level)
        if self.minus:
            return paired_difference(self.scores, self.minus, clusters=self.clusters, level=level)
        return rare_share(self.scores, self.clusters, level=level)


@dataclass(frozen=True)
class Agreed:
    """How far a judge agrees with people: `kappa` as measured (None: never), and the least that lets it gate.
    `changed`: what the canary of its `model` said where that is no longer the model that was measured."""

    kappa: Interval | None
    min_kappa: float
    model: str = ""
    changed: str = ""
    unscored: int = 0
    """Rows that people scored and the judge could not, where they are too many for its agreement to count."""


@dataclass(frozen=True)
class Reference:
    """What a gate compares with: figures of the same rows, per-row scores in the same order, corpus metrics with their
    statistics (`measured`) and what was measured apart."""

    name: str
    metrics: Mapping[str, float]
    per_row: Mapping[str, Sequence[float]] = field(default_factory=dict)
    measured: Mapping[str, Measured] = field(default_factory=dict)
    apart: Mapping[str, Apart] = field(default_factory=dict)
    same: bool = False
    """The candidate is itself this reference: nothing can be lost against it, on however few rows."""


@dataclass(frozen=True)
class GateFacts:
    """What was measured.

    `metrics` are values and totals, each in its own unit; `per_row` scores in [0, 1] (of a metric that is no mean of
    its rows they are not read); `measured` the statistics of corpus metrics (BLEU, chrF, macro-F1) on the same rows,
    which give their intervals and differences at any level; `apart` what has rows of its own; `intervals` any other,
    at its one level. `production` and `baseline` are None where there is none yet. `licences` are the candidate's
    models and their licences (None: not looked up, empty: it has no model); `judges` each judge's agreement with
    people; `spared` the metrics that cannot have suffered, and why (keys of `SPARED`): they count as 0.
    """

    rows: int
    metrics: Mapping[str, float]
    per_row: Mapping[str, Sequence[float]] = field(default_factory=dict)
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    clusters: Sequence[str] | None = None
    production: Reference | None = None
    baseline: Reference | None = None
    seed: int = 0
    measured: Mapping[str, Measured] = field(default_factory=dict)
    apart: Mapping[str, Apart] = field(default_factory=dict)
    licences: Mapping[str, str] | None = None
    judges: Mapping[str, Agreed] = field(default_factory=dict)
    spared: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """One gate's outcome: the figure that counted (a bound, where the gate asks for one) and the figure
    needed."""

    gate: str
    passed: bool
    measured: float | None
    needed: float | None
    note: str = ""
    say: Mapping[str, Any] = field(default_factory=dict)
    """The key and the figures of `note`, for other languages."""
    compared: bool = True
    """False where there was nothing to compare with: it holds, and shows nothing."""


@dataclass(frozen=True)
class GateResult:
    passed: bool
    checks: Sequence[Check]

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"passed": self.passed, "checks": [asdict(check) for check in self.checks]}


def check_gates(gates: Sequence[Gate | str], facts: GateFacts) -> GateResult:
    """Check every gate. An evaluation of no rows fails whatever the gates say; a metric that was not
    measured fails with the reason; a gate against production passes with a note while there is no
    production. Raises ConfigError for text that is no gate."""
    checks = [_check(parse_gate(gate) if isinstance(gate, str) else gate, facts) for gate in gates]
    if facts.rows < 1:
        checks.insert(0, Check("rows >= 1", False, float(facts.rows), 1.0, "the evaluation has no rows"))
    return GateResult(all(check.passed for check in checks), checks)


def junit_xml(result: GateResult) -> str:
    """The result as JUnit XML: one test case a gate, for a build server."""
    from bucle.evaluate.reporting import Suite, cases, suite_xml

    return suite_xml(Suite("bucle.gates", cases(result.checks)))


def _failed(gate: Gate, note: str, key: str = "", **figures: Any) -> Check:
    return Check(gate.text, False, None, None, note, _say(key, **figures) if key else {})


def _check(gate: Gate, facts: GateFacts) -> Check:
    if facts.rows < 1:
        return _failed(gate, "the evaluation has no rows", "no_rows")
    if gate.licence:
        return _licences(gate, facts.licences)
    if gate.metric.startswith("judge:") and (unfit := _unfit(gate, facts.judges)):
        return unfit
    if (why := facts.spared.get(gate.metric)) and not gate.reference:
        return _judge(gate, 0.0, gate.offset, SPARED[why], _say(why))
    measured = _value(gate.metric, facts, facts.seed)
    if measured is None:
        return _failed(gate, f"{gate.metric} was not measured", "not_measured", metric=gate.metric)
    if gate.reference:
        other = facts.production if gate.reference == "production" else facts.baseline
        return _against(gate, facts, measured, other)
    if gate.level is None and gate.metric not in facts.apart:
        return _judge(gate, measured, gate.offset, "")
    try:
        found = _interval(gate, facts)
    except BucleError as error:
        return _failed(gate, error.message)
    note = f"{found.value:.4g} [{found.low:.4g}, {found.high:.4g}] on {found.n} rows"
    told = _say("interval" if _is_share(gate.metric, facts) else "interval_number", **found.model_dump())
    bound = found.low if gate.op == ">=" else found.high
    return _judge(gate, measured if gate.level is None else bound, gate.offset, note, told)


def _against(gate: Gate, facts: GateFacts, measured: float, other: Reference | None) -> Check:
    """A gate that compares with production or the baseline."""
    if other is None:
        if gate.reference == "production":
            return Check(gate.text, True, measured, None, "there is no production yet to compare with",
                         _say("no_production"))
        return _failed(gate, "no baseline was evaluated", "no_baseline")
    if other.same:
        kept = gate.offset <= 0 if gate.op == ">=" else gate.offset >= 0
        told = f"nothing to compare: this is {gate.reference}"
        return Check(gate.text, kept, measured, measured + gate.offset, told, _say(f"is_{gate.reference}"),
                     compared=False)
    theirs = _value(gate.metric, other, facts.seed)
    if theirs is None:
        return _failed(gate, f"{gate.metric} was not measured for {other.name}", f"unmeasured_{gate.reference}",
                       metric=gate.metric)
    if gate.level is None:
        return _judge(gate, measured, theirs + gate.offset, f"{gate.reference} is {other.name}: {theirs:.4g}",
                      _say(f"other_{gate.reference}", value=theirs))
    try:
        gap = _difference(gate, facts, other)
    except BucleError as error:
        return _failed(gate, error.message)
    note = f"difference from {other.name} {gap.value:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}] on {gap.n} rows"
    return _judge(gate, gap.low if gate.op == ">=" else gap.high, gate.offset, note,
                  _say(f"difference_{gate.reference}", **gap.model_dump()))


def _value(name: str, facts: GateFacts | Reference, seed: int) -> float | None:
    """The figure itself, in the metric's own unit; None where it was not measured."""
    if name in facts.apart:
        found = facts.apart[name].interval(0.95, seed).value if len(facts.apart[name].scores) else math.nan
    elif name in facts.metrics:
        found = facts.metrics[name]
    else:
        found = facts.measured[name].value if name in facts.measured else math.nan
    return found if math.isfinite(found) else None


def _interval(gate: Gate, facts: GateFacts) -> Interval:
    from bucle.evaluate.resample import score_intervals

    level, name = gate.level or 0.95, gate.metric
    if name in facts.apart:
        return facts.apart[name].interval(level, facts.seed)
    found = facts.intervals.get(name)
    if found is not None and abs(found.level - level) < 1e-9:
        return found
    if name in facts.measured and not _mean_of_shares(facts.measured[name]):
        return score_intervals({name: facts.measured[name]}, clusters=facts.clusters, seed=facts.seed,
                               level=level)[name]
    if name in facts.per_row and found is None:
        return interval(facts.per_row[name], clusters=facts.clusters, level=level)
    raise ConfigError(f"{name} has no interval at {level:.4g}")


def _difference(gate: Gate, facts: GateFacts, other: Reference) -> Interval:
    from bucle.evaluate.resample import score_differences

    level, name = gate.level or 0.95, gate.metric
    mine, before = facts.measured.get(name), other.measured.get(name)
    if mine and before and not _mean_of_shares(mine):
        return score_differences({name: mine}, {name: before}, clusters=facts.clusters, seed=facts.seed,
                                 level=level)[name]
    one, two = facts.apart.get(name), other.apart.get(name)
    if one and two and one.bounded and not one.minus:
        return paired_difference(one.scores, two.scores, clusters=one.clusters, level=level)
    if name not in facts.per_row or name not in other.per_row or name in facts.intervals:
        raise ConfigError(f"{name} has no scores by row, so no interval against {other.name}")
    return paired_difference(facts.per_row[name], other.per_row[name], clusters=facts.clusters, level=level)


def _is_share(name: str, facts: GateFacts) -> bool:
    """Whether people read it as a percentage."""
    if name in facts.apart:
        return facts.apart[name].bounded
    return facts.measured[name].metric.top == 1.0 if name in facts.measured else name in facts.per_row


def _mean_of_shares(measured: Measured) -> bool:
    """Whether the exact intervals of means of scores in [0, 1] hold, rather than the bootstrap."""
    return measured.metric.mean and measured.metric.top == 1.0


def _unfit(gate: Gate, judges: Mapping[str, Agreed]) -> Check | None:
    """Why a judge may not gate; None where it may."""
    name = gate.metric.removeprefix("judge:")
    agreed = judges.get(name)
    if agreed is None or agreed.kappa is None:
        return _failed(gate, f"the agreement of the judge {name} with people was never measured, so it may not gate: "
                       f"name a file of rows that people scored in `judges.{name}.agreement`", "judge_unknown",
                       judge=name)
    if agreed.changed:
        return _failed(gate, f"the model of the judge {name} changed under its name, so its agreement with people "
                       f"counts no more: {agreed.changed} bucle evaluate canary {agreed.model} --accept, then bucle "
                       f"evaluate judge {name}", "judge_changed", judge=name, model=agreed.model)
    kappa = agreed.kappa
    if agreed.unscored:
        many = kappa.n + agreed.unscored
        return _failed(gate, f"the judge {name} could not score {agreed.unscored} of the {many} rows that people "
                       "scored, so it may not gate: name a model that keeps to JSON", "judge_gaps", judge=name,
                       rows=many, failed=agreed.unscored)
    if kappa.low >= agreed.min_kappa:
        return None
    return _failed(gate, f"the judge {name} agrees with people by a kappa of {kappa.value:.2f} [{kappa.low:.2f}, "
                   f"{kappa.high:.2f}] on {kappa.n} rows, which does not show {agreed.min_kappa:g}, so it may not "
                   "gate: have more rows scored, mend its rubric or take a better model", "judge_unfit", judge=name,
                   needed=agreed.min_kappa, **kappa.model_dump())


def _licences(gate: Gate, licences: Mapping[str, str] | None) -> Check:
    if licences is None:
        return _failed(gate, "the licences of the candidate's models were not looked up", "no_licences")
    if not licences:
        return Check(gate.text, True, None, None, "the candidate has no model whose licence could bind",
                     _say("no_model"))
    bad = {name: one for name, one in licences.items() if _rank(one) < gate.offset}
    told = ", ".join(f"{name}: {one or 'unknown'}" for name, one in (bad or licences).items())
    if not bad:
        return Check(gate.text, True, None, None, told, _say("licences", models=told))
    return _failed(gate, f"not {gate.licence}: {told}; choose another model, or write what you know under `catalogue:`",
                   "licence_bad", wanted=gate.licence, models=told)


def _rank(licence: str) -> int:
    return LICENCES.index(licence) if licence in LICENCES else -1


def _say(key: str, **figures: Any) -> dict[str, Any]:
    return {"key": key, "figures": figures}


def _judge(gate: Gate, measured: float, needed: float, note: str, say: Mapping[str, Any] | None = None) -> Check:
    passed = measured >= needed if gate.op == ">=" else measured <= needed
    return Check(gate.text, passed, measured, needed, note, say or {})
