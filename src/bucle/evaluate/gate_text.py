"""What a gate says, read from bucle.yaml: `metric op figure`, or `licence: commercial`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from bucle.core.choosing import Licence
from bucle.core.errors import ConfigError
from bucle.evaluate.metrics.registry import is_own, metrics
from bucle.evaluate.metrics.registry import metric as registered
from bucle.evaluate.metrics.samples import Metric

__all__ = ["APART", "LICENCES", "Gate", "gate_metrics", "parse_gate"]

Op = Literal[">=", "<="]
APART = ("attack_success", "over_refusal", "forgetting", "bias_flips")
"""Shares that are measured on rows of their own: attacks, harmless look-alikes, the forgetting suite's questions,
inputs with a name, gender or nationality changed."""
_LIMITS = ("p50_ms", "p95_ms", "usd_per_1k", "tokens", "errors", "forgetting_bpb")
LICENCES: tuple[Licence, ...] = ("research", "commercial", "open")
"""What a gate on the licence can ask for, least first; an unknown licence is never enough."""

_FORM = re.compile(
    r"(?P<metric>[A-Za-z][\w./:@-]*?)\s*(?P<op>[<>=!]+)\s*"
    r"(?:(?P<ref>[a-z]\w*)\s*(?:(?P<sign>[+-])\s*(?P<offset>[\d.]+))?|(?P<value>-?[\d.]+))"
    r"(?:\s+at\s+(?P<level>[\d.]+)\s*%)?", re.ASCII,
)
_LICENCE = re.compile(r"licen[cs]e\s*(?::|[<>=!]+)\s*(?P<wanted>[\w-]{1,40})", re.ASCII)
_EXAMPLE = ("for example `accuracy >= 0.75 at 95%`, `token_f1 >= production - 0.01 at 95%`, `p95_ms <= 800` or "
            "`licence: commercial`")
_LONGEST = 200


@dataclass(frozen=True)
class Gate:
    """`metric op offset`, or `metric op reference + offset`; `level` in (0.5, 1) asks it of the interval's bound. Of a
    gate on the licence, `licence` is the class asked for."""

    text: str
    metric: str
    op: Op
    offset: float
    reference: Literal["", "production", "baseline"] = ""
    level: float | None = None
    licence: str = ""


@dataclass(frozen=True)
class _Known:
    """Direction (None: either) and the score that cannot be passed (None: no limit)."""

    op: Op | None
    top: float | None


def parse_gate(text: str, *, own: Mapping[str, Metric] | None = None, judges: Sequence[str] | None = None) -> Gate:
    """The gate that `text` writes.

    Metrics of the registry have their own unit and direction (BLEU and chrF 0 to 100). `own` are the project's
    `module:function` metrics where they are loaded (without, either direction is taken, since only the code knows);
    `judges` the names under `judges:` (None: any). Raises ConfigError saying what is wrong and what is known.
    """
    text = text.strip()
    if len(text) <= _LONGEST and (asked := _LICENCE.fullmatch(text)):
        return _licence(text, asked["wanted"])
    found = _FORM.fullmatch(text) if len(text) <= _LONGEST else None
    if found is None:
        raise ConfigError(f"the gate `{text[:_LONGEST]}` cannot be read", _EXAMPLE)
    name, op, reference = found["metric"], found["op"], found["ref"] or ""
    known = _known(text, name, own or {}, judges)
    wanted = known.op or op
    if op != wanted or op not in get_args(Op):
        raise ConfigError(f"the gate `{text}` should say `{name} {known.op or '>='} …`", _EXAMPLE)
    if reference not in ("", "production", "baseline"):
        raise ConfigError(f"the gate `{text}` compares with {reference}", "compare with production or baseline")
    number = _number(text, found["offset"] if reference else found["value"])
    if found["sign"] == "-":
        number = -number
    _in_range(text, name, number, known.top, bool(reference))
    level = None
    if found["level"] is not None:
        level = _number(text, found["level"]) / 100
        if not 0.5 < level < 1:
            raise ConfigError(f"the gate `{text}` has a level outside 50% to 100%", _EXAMPLE)
    _can_be_checked(text, name, op, number, known, reference, level)
    return Gate(text, name, wanted, number, reference, level)  # type: ignore[arg-type]


def gate_metrics(gates: Sequence[str]) -> tuple[str, ...]:
    """The metrics that scoring has to measure for these gates, each once: of the registry, `judge:NAME`,
    `module:function`; not what is measured apart or always (latency, dollars, errors). Raises ConfigError."""
    names = dict.fromkeys(parse_gate(text).metric for text in gates)
    return tuple(name for name in names if name not in (*APART, *_LIMITS, "licence"))


def _can_be_checked(text: str, name: str, op: str, number: float, known: _Known, reference: str,
                    level: float | None) -> None:
    """Raises ConfigError for a gate that could never be checked, or that holds or fails whatever is measured."""
    if level is not None and name in _LIMITS and name != "forgetting_bpb":
        raise ConfigError(f"the gate `{text}` can never be checked: {name} has no interval",
                          f"write `{text[:text.rfind(' at ')].strip()}`")
    if name in _LIMITS and name != "forgetting_bpb" and not reference and number < 0:
        raise ConfigError(f"the gate `{text}` can never hold: {name} is never below 0", f"for example `{name} <= 0`")
    if known.top is None:
        return
    if not reference and number == (0 if op == ">=" else known.top):
        raise ConfigError(f"the gate `{text}` holds whatever is measured: {name} lies between 0 and {known.top:g}",
                          f"write the {'least' if op == '>=' else 'most'} that you would release")
    if reference and number == (-known.top if op == ">=" else known.top):
        raise ConfigError(f"the gate `{text}` holds whatever is measured: {name} lies between 0 and {known.top:g}",
                          f"write `{name} {op} {reference} {'-' if op == '>=' else '+'} {known.top / 100:g}`")
    if reference and known.top > 1 and 0 < abs(number) < 0.05:
        sign = "-" if number < 0 else "+"
        raise ConfigError(f"the gate `{text}` asks for a difference of {abs(number):g} where {name} goes to "
                          f"{known.top:g}", f"write `{name} {op} {reference} {sign} {abs(number) * known.top:g}` for "
                          f"{abs(number):.2%} of it")


def _licence(text: str, wanted: str) -> Gate:
    if wanted not in LICENCES:
        near = difflib.get_close_matches(wanted, LICENCES, 1)
        hint = "write `licence: commercial` or `licence: open`"
        raise ConfigError(f"the gate `{text}` asks for a licence that is no class of licences: {wanted}",
                          f"did you mean {near[0]}? {hint}" if near else hint)
    return Gate(text, "licence", ">=", float(LICENCES.index(wanted)), licence=wanted)


def _known(text: str, name: str, own: Mapping[str, Metric], judges: Sequence[str] | None) -> _Known:
    if name.startswith("judge:"):
        judge = name.removeprefix("judge:")
        if judges is not None and judge not in judges:
            near = difflib.get_close_matches(judge, judges, 1)
            raise ConfigError(f"the gate `{text}` names a judge that is not under `judges:`, {judge}",
                              f"did you mean judge:{near[0]}?" if near else f"known: {', '.join(judges) or 'none'}")
        return _Known(">=", 1.0)
    if name in own:
        return _Known(own[name].better, own[name].top)
    if is_own(name):
        return _Known(None, None)
    if name in _LIMITS:
        return _Known("<=", None)
    if name in APART:
        return _Known("<=", 1.0)
    try:
        found = registered(name)
    except ConfigError:
        every: list[str] = [*metrics(), *APART, *_LIMITS, "licence"]
        near = difflib.get_close_matches(name, every, 1)
        raise ConfigError(f"the gate `{text}` names an unknown metric, {name}", f"did you mean {near[0]}?" if near else
                          f"known metrics: {', '.join(every)}, judge:NAME, module:function") from None
    return _Known(found.better, found.top)


def _in_range(text: str, name: str, number: float, top: float | None, compared: bool) -> None:
    if top is None:
        return
    if not (-top if compared else 0) <= number <= top:
        raise ConfigError(f"the gate `{text}` is out of range: {name} lies between 0 and {top:g}",
                          "write 0.75 for 75%" if top == 1 else f"{top:g} is the most that can be had")
    if top > 1 and not compared and 0 < number < 1:
        raise ConfigError(f"the gate `{text}` would hold whatever is measured: {name} lies between 0 and {top:g}",
                          f"write {number * top:g} for {number:g} of it")


def _number(text: str, digits: Any) -> float:
    try:
        return float(digits or 0)
    except ValueError:
        raise ConfigError(f"the gate `{text}` has a figure that is no number: {digits}", _EXAMPLE) from None
