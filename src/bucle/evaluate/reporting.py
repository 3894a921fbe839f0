"""What build servers read: JUnit XML (a test case a gate) and the Markdown of a GitHub Actions summary."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

__all__ = [
    "Case",
    "Suite",
    "broken",
    "cases",
    "comparison_table",
    "figures_table",
    "junit",
    "of_comparisons",
    "of_story",
    "suite_xml",
    "summary",
]

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]|[\x7f-\x84\x86-\x9f]")
"""Characters that XML 1.0 forbids, and the control characters that it advises against."""
_LONGEST = 10_000
_HUNDREDS = {"bleu", "chrf"}
"""Metrics that people know from 0 to 100; a comparison's values are in [0, 1]."""
_SUMMARY_BYTES = 900_000
"""GitHub refuses a step's summary of over 1 MiB."""


@dataclass(frozen=True)
class Case:
    """One gate's outcome. `kind` `error` is what could not be measured at all; `told` says the figures and why."""

    name: str
    passed: bool
    told: str = ""
    measured: float | None = None
    needed: float | None = None
    note: str = ""
    kind: Literal["failure", "error"] = "failure"


@dataclass(frozen=True)
class Suite:
    """The gates of one evaluation."""

    name: str
    cases: Sequence[Case]


def cases(checks: Iterable[Any]) -> list[Case]:
    """Cases of gate checks, as `bucle.evaluate.gate.Check` or as their dictionaries."""
    made = []
    for check in checks:
        get = check.get if isinstance(check, Mapping) else lambda key, check=check: getattr(check, key, None)
        measured, needed, note = get("measured"), get("needed"), str(get("note") or "")
        told = f"measured {_figure(measured)}, needed {_figure(needed)}. {note}".rstrip()
        made.append(Case(str(get("gate")), bool(get("passed")), told, measured, needed, note))
    return made


def of_story(story: Mapping[str, Any]) -> list[Suite]:
    """A suite for each gate of a run's story; a task whose comparison recommends nothing fails."""
    suites = [Suite(str(gate.get("release") or gate["task"]), cases(gate["checks"])) for gate in story.get("gates", [])]
    return suites + [one for one in of_comparisons(story.get("comparisons", [])) if not one.cases[0].passed]


def of_comparisons(comparisons: Iterable[Mapping[str, Any]]) -> list[Suite]:
    """A suite of one case for each comparison: it fails where no candidate keeps within the constraints."""
    return [
        Suite(
            str(one["task"]),
            [Case("a candidate keeps within the constraints", bool(one.get("recommended")), str(one.get("why", "")))],
        )
        for one in comparisons
    ]


def comparison_table(comparison: Mapping[str, Any]) -> str:
    """A comparison's candidates as Markdown, best first, the recommended one in bold, and why it is that one. BLEU and
    chrF stand from 0 to 100 as elsewhere, and as what decides: the mean of the rows, not the corpus's."""
    metric, rows = str(comparison["metric"]), comparison["n_test"]
    times, digits, of = (100, 2, ", mean of rows") if metric in _HUNDREDS else (1, 4, "")
    lines = [
        f"**{_cell(str(comparison['task']))}**, {rows} held-out row{'' if rows == 1 else 's'}",
        "",
        f"| candidate | {_cell(metric)}{of} | 95% interval | p95 ms | $ per 1,000 |",
        "|---|---:|---|---:|---:|",
    ]
    for one in sorted(comparison["candidates"], key=lambda c: -c["value"]):
        name = _cell(str(one["name"]))
        name = f"**{name}**" if one["name"] == comparison.get("recommended") else name
        lines.append(
            f"| {name} | {times * one['value']:.{digits}f} | {times * one['low']:.{digits}f} to "
            f"{times * one['high']:.{digits}f} | {one['ms_p95']:.1f} | {_price(one)} |"
        )
    return "\n".join([*lines, "", _cell(str(comparison.get("why", ""))), ""])


def broken(name: str, message: str, hint: str = "", *, gate: bool = False) -> Suite:
    """What stopped the evaluation, as a suite of one case: an error, or a failure where a gate did."""
    told = f"{message}\n{hint}".strip()
    return Suite(name, [Case(name, False, told, note=message, kind="failure" if gate else "error")])


def junit(suites: Sequence[Suite]) -> str:
    """JUnit XML as build servers read it: `testsuites` of one `testsuite` each. Names and notes are escaped; control
    characters are left out."""
    from xml.etree import ElementTree

    root = ElementTree.Element("testsuites", {"name": "bucle"} | _counts([c for s in suites for c in s.cases]))
    root.extend(map(_suite, suites))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def summary(title: str, suites: Sequence[Suite], more: str = "") -> str:
    """GitHub-flavoured Markdown: a table with a row for each gate, then `more` (Markdown of the caller's)."""
    every = [case for suite in suites for case in suite.cases]
    failed, total = sum(not case.passed for case in every), len(every)
    gates = f"{total} gate{'' if total == 1 else 's'}"
    said = "no gates" if not total else f"{failed} of {gates} failed" if failed else f"{gates} passed"
    if any(case.kind == "error" for case in every):
        said = "not measured"
    lines = [f"### {_cell(title)}: {said}", ""]
    if total:
        lines += ["| | evaluation | gate | measured | needed | |", "|---|---|---|---:|---:|---|"]
        lines += [
            f"| {'✅' if c.passed else '❌'} | {_cell(s.name)} | {_code(c.name)} | {_figure(c.measured, '')} "
            f"| {_figure(c.needed, '')} | {_cell(c.note or ('' if c.passed else c.told))} |"
            for s in suites
            for c in s.cases
        ]
    text = "\n".join([*lines, "", more.strip(), ""]).rstrip() + "\n\n"
    return text.encode()[:_SUMMARY_BYTES].decode(errors="ignore")


def figures_table(metrics: Mapping[str, Mapping[str, float]], fresh: Mapping[str, Any] | None = None) -> str:
    """Metrics with their intervals as Markdown; `fresh` are those without the rows that were learned from."""
    lines = ["| metric | value | 95% interval |" + (" on fresh rows alone |" if fresh else "")]
    lines.append("|---|---:|---|" + ("---|" if fresh else ""))
    for name, m in metrics.items():
        line = f"| {_cell(name)} | {m['value']:.4f} | {m['low']:.4f} to {m['high']:.4f} |"
        if fresh:
            f = fresh.get(name)
            line += f" {f['value']:.4f} ({f['low']:.4f} to {f['high']:.4f}) |" if f else "  |"
        lines.append(line)
    return "\n".join(lines) + "\n"


def suite_xml(suite: Suite) -> str:
    """One `testsuite` alone, as JUnit XML."""
    from xml.etree import ElementTree

    return ElementTree.tostring(_suite(suite), encoding="unicode")


def _suite(suite: Suite) -> Element:
    from xml.etree import ElementTree

    name = _xml(suite.name)
    node = ElementTree.Element("testsuite", {"name": name} | _counts(suite.cases))
    for case in suite.cases:
        one = ElementTree.SubElement(node, "testcase", classname=f"bucle.{name}", name=_xml(case.name))
        told = _xml(case.told)
        if case.passed:
            ElementTree.SubElement(one, "system-out").text = told
        else:
            first = told.partition("\n")[0]
            ElementTree.SubElement(one, case.kind, message=first, type="gate").text = told
    return node


def _counts(found: Sequence[Case]) -> dict[str, str]:
    bad = [case.kind for case in found if not case.passed]
    return {"tests": str(len(found)), "failures": str(bad.count("failure")), "errors": str(bad.count("error"))}


def _figure(value: float | None, nothing: str = "nothing") -> str:
    return nothing if value is None else f"{value:.4g}"


def _price(candidate: Mapping[str, Any]) -> str:
    """Dollars for a thousand requests; a question mark where the price is not known."""
    usd = candidate.get("usd_per_1k")
    return "?" if usd is None or candidate.get("priced") is False else f"{usd:.2f}"


def _xml(text: str) -> str:
    return _NOT_XML.sub("", text)[:_LONGEST]


def _cell(text: str) -> str:
    """Text as it stands, in a cell of a table: no Markdown, no HTML, one line."""
    line = " ".join(_xml(text).split())[:500]
    return re.sub(r"([\\`*_{}\[\]<>|#~!@&$])", lambda found: f"&#{ord(found[1])};", line)


def _code(text: str) -> str:
    """Inline code in a cell: HTML, since a backtick or a bar in it would end it."""
    return f"<code>{_cell(text)}</code>"
