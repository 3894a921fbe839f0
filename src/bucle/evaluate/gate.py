"""Gates: the team's own conditions on an evaluation, written in bucle.yaml and checked with their
intervals."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from bucle.core.errors import BucleError, ConfigError
from bucle.core.records import Interval
from bucle.evaluate.statistics import interval, paired_difference

__all__ = [
    "METRICS", "Check", "Gate", "GateFacts", "GateResult", "Reference", "check_gates", "junit_xml",
    "parse_gate",
]

_SHARES = ("accuracy", "macro_f1", "exact_match", "token_f1", "citation_hit", "abstention")
METRICS: Mapping[str, Literal[">=", "<="]] = dict.fromkeys(_SHARES, ">=") | dict.fromkeys(
    ("ece", "p50_ms", "p95_ms", "usd_per_1k", "tokens", "errors", "forgetting"), "<="
)  # type: ignore[assignment]
"""What a gate may name, and the direction in which it can be required."""

_FORM = re.compile(
    r"(?P<metric>\w+)\s*(?P<op>[<>=!]+)\s*"
    r"(?:(?P<ref>[a-z]\w*)\s*(?:(?P<sign>[+-])\s*(?P<offset>[\d.]+))?|(?P<value>-?[\d.]+))"
    r"(?:\s+at\s+(?P<level>[\d.]+)\s*%)?", re.ASCII,
)
_EXAMPLE = "for example `accuracy >= 0.75 at 95%`, `token_f1 >= production - 0.01 at 95%` or `p95_ms <= 800`"


@dataclass(frozen=True)
class Gate:
    """`metric op offset`, or `metric op reference + offset`; `level` in (0.5, 1) asks it of the interval's
    bound."""

    text: str
    metric: str
    op: Literal[">=", "<="]
    offset: float
    reference: Literal["", "production", "baseline"] = ""
    level: float | None = None


@dataclass(frozen=True)
class Reference:
    """What a gate compares with: figures of the same rows, and per-row scores in the same order."""

    name: str
    metrics: Mapping[str, float]
    per_row: Mapping[str, Sequence[float]] = field(default_factory=dict)
    same: bool = False
    """The candidate is itself this reference: nothing can be lost against it, on however few rows."""


@dataclass(frozen=True)
class GateFacts:
    """What was measured. `metrics` are means and totals; `per_row` scores in [0, 1]; `intervals` those that
    are not means of such rows (forgetting). `production` and `baseline` are None where there is none
    yet."""

    rows: int
    metrics: Mapping[str, float]
    per_row: Mapping[str, Sequence[float]] = field(default_factory=dict)
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    clusters: Sequence[str] | None = None
    production: Reference | None = None
    baseline: Reference | None = None
    seed: int = 0


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


@dataclass(frozen=True)
class GateResult:
    passed: bool
    checks: Sequence[Check]

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"passed": self.passed, "checks": [asdict(check) for check in self.checks]}


def parse_gate(text: str) -> Gate:
    """The gate that `text` writes. Raises ConfigError saying what is wrong with it and what is known."""
    found = _FORM.fullmatch(text.strip()) if len(text) <= 200 else None
    if found is None:
        raise ConfigError(f"the gate `{text[:200]}` cannot be read", _EXAMPLE)
    metric, op, reference = found["metric"], found["op"], found["ref"] or ""
    known = f"known metrics: {', '.join(METRICS)}"
    if metric not in METRICS:
        near = difflib.get_close_matches(metric, METRICS, 1)
        raise ConfigError(f"the gate `{text}` names an unknown metric, {metric}",
                          f"did you mean {near[0]}? {known}" if near else known)
    if op != METRICS[metric]:
        raise ConfigError(f"the gate `{text}` should say `{metric} {METRICS[metric]} …`", _EXAMPLE)
    if reference not in ("", "production", "baseline"):
        raise ConfigError(f"the gate `{text}` compares with {reference}",
                          "compare with production or baseline")
    number = _number(text, found["offset"] if reference else found["value"])
    if found["sign"] == "-":
        number = -number
    if metric in _SHARES and not (-1 if reference else 0) <= number <= 1:
        raise ConfigError(f"the gate `{text}` is out of range: {metric} lies between 0 and 1",
                          "write 0.75 for 75%")
    level = None
    if found["level"] is not None:
        level = _number(text, found["level"]) / 100
        if not 0.5 < level < 1:
            raise ConfigError(f"the gate `{text}` has a level outside 50% to 100%", _EXAMPLE)
    return Gate(text.strip(), metric, METRICS[metric], number, reference, level)  # type: ignore[arg-type]


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
    from xml.etree import ElementTree

    failed = sum(not check.passed for check in result.checks)
    counts = {"tests": str(len(result.checks)), "failures": str(failed)}
    suite = ElementTree.Element("testsuite", {"name": "bucle.gates"} | counts)
    for check in result.checks:
        case = ElementTree.SubElement(suite, "testcase", classname="bucle.gates", name=check.gate)
        told = f"measured {_figure(check.measured)}, needed {_figure(check.needed)}. {check.note}".rstrip()
        tag = "system-out" if check.passed else "failure"
        ElementTree.SubElement(case, tag, {} if check.passed else {"message": told}).text = told
    return ElementTree.tostring(suite, encoding="unicode")


def _number(text: str, digits: str | None) -> float:
    try:
        return float(digits or 0)
    except ValueError:
        raise ConfigError(f"the gate `{text}` has a figure that is no number: {digits}", _EXAMPLE) from None


def _figure(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.4g}"


def _check(gate: Gate, facts: GateFacts) -> Check:
    def failed(note: str, key: str = "") -> Check:
        return Check(gate.text, False, None, None, note, _say(key, metric=gate.metric) if key else {})

    if facts.rows < 1:
        return failed("the evaluation has no rows", "no_rows")
    measured = facts.metrics.get(gate.metric)
    if measured is None or not math.isfinite(measured):
        return failed(f"{gate.metric} was not measured", "not_measured")
    other = {"production": facts.production, "baseline": facts.baseline}.get(gate.reference)
    if gate.reference and other is None:
        if gate.reference == "production":
            return Check(gate.text, True, measured, None, "there is no production yet to compare with",
                         _say("no_production"))
        return failed("no baseline was evaluated", "no_baseline")
    if other is None:
        if gate.level is None:
            return _judge(gate, measured, gate.offset, "")
        try:
            found = _interval(gate, facts)
        except BucleError as error:
            return failed(error.message)
        note = f"{found.value:.4g} [{found.low:.4g}, {found.high:.4g}] on {found.n} rows"
        told = _say("interval" if gate.metric in _SHARES else "interval_number", **found.model_dump())
        return _judge(gate, found.low if gate.op == ">=" else found.high, gate.offset, note, told)
    if other.same:
        kept = gate.offset <= 0 if gate.op == ">=" else gate.offset >= 0
        return Check(gate.text, kept, measured, measured + gate.offset, f"the candidate is the {gate.reference} itself",
                     _say(f"is_{gate.reference}"))
    theirs = other.metrics.get(gate.metric)
    if theirs is None or not math.isfinite(theirs):
        return failed(f"{gate.metric} was not measured for {other.name}")
    if gate.level is None:
        return _judge(gate, measured, theirs + gate.offset, f"{gate.reference} is {other.name}: {theirs:.4g}",
                      _say(f"other_{gate.reference}", value=theirs))
    mine, before = facts.per_row.get(gate.metric), other.per_row.get(gate.metric)
    if mine is None or before is None:
        return failed(f"{gate.metric} has no scores by row, so no interval against {other.name}")
    try:
        gap = paired_difference(mine, before, clusters=facts.clusters, level=gate.level)
    except BucleError as error:
        return failed(error.message)
    note = f"difference from {other.name} {gap.value:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}] on {gap.n} rows"
    return _judge(gate, gap.low if gate.op == ">=" else gap.high, gate.offset, note,
                  _say(f"difference_{gate.reference}", **gap.model_dump()))


def _interval(gate: Gate, facts: GateFacts) -> Interval:
    level = gate.level or 0.95
    scores = facts.per_row.get(gate.metric)
    if scores is not None:
        return interval(scores, clusters=facts.clusters, level=level)
    found = facts.intervals.get(gate.metric)
    if found is None or abs(found.level - level) > 1e-9:
        raise ConfigError(f"{gate.metric} has no interval at {level:.4g}")
    return found


def _say(key: str, **figures: Any) -> dict[str, Any]:
    return {"key": key, "figures": figures}


def _judge(gate: Gate, measured: float, needed: float, note: str, say: Mapping[str, Any] | None = None) -> Check:
    passed = measured >= needed if gate.op == ">=" else measured <= needed
    return Check(gate.text, passed, measured, needed, note, say or {})
