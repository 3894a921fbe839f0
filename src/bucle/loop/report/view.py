"""What the first screen says: the answer of each task, whether it is good enough, and one fact for each stage."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bucle.loop.report.formats import Both, duration, metric_value, ms, number, points, same, score, usd
from bucle.loop.report.model import STAGES, Candidate, Comparison, Confusion, Gate, Release, Story
from bucle.loop.sentences import HUNDREDS

__all__ = [
    "Answer", "Stage", "answers", "chips", "current_comparisons", "current_gates", "deciding", "error_said", "headline",
    "in_production", "in_short", "mistakes", "slice_name", "stages",
]

Say = Callable[..., Both]


@dataclass(frozen=True)
class Stage:
    """One stage of the loop. `status`: done, cached, running, failed or pending."""

    name: str
    status: str
    fact: Both
    seconds: float | None


@dataclass(frozen=True)
class Answer:
    """What to use for one task. `tone`: good (beats the baseline), plain (the baseline stands) or none (no answer)."""

    comparison: Comparison
    tone: str
    sentence: Both


def _status(story: Story, stage: str, shown: bool) -> str:
    found = {step.status for step in story.steps if step.stage == stage}
    for status in ("failed", "running"):
        if status in found:
            return status
    if not found:
        return "done" if shown else "pending"
    finished = found & {"done", "cached"}
    if found - {"done", "cached", "skipped"}:
        return "running" if finished else "pending"
    return "cached" if found == {"cached"} else "done"


def _seconds(story: Story, stage: str) -> float | None:
    times = [step.seconds for step in story.steps if step.stage == stage and step.seconds is not None]
    return sum(times) if times else None


def _compact(count: int) -> Both:
    for size, unit in ((1_000_000_000, "B"), (1_000_000, "M"), (1_000, "k")):
        if count >= size:
            return number(count / size, 1) + f"\u00a0{unit}"
    return number(count)


def in_production(story: Story) -> Release | None:
    """The release that `production` points to, else the last one."""
    for release in reversed(story.releases):
        if "production" in release.aliases:
            return release
    return story.releases[-1] if story.releases else None


def current_gates(story: Story) -> list[Gate]:
    """The last gate of each task: what decides whether the project is good enough now."""
    return list({gate.task: gate for gate in story.gates}.values())


def current_comparisons(story: Story) -> list[Comparison]:
    """The last comparison of each task: a second turn of the loop replaces the answer of the first."""
    return list({comparison.task: comparison for comparison in story.comparisons}.values())


def headline(story: Story, t: Say) -> Both:
    """Whether what is recommended is good enough, as far as gates were set: a task without any has passed nothing."""
    gates = current_gates(story)
    unset = [gate.task for gate in gates if gate.passed and not gate.checks]
    if not current_comparisons(story):
        return t("answer.title.empty")
    if not all(gate.passed for gate in gates):
        return t("answer.title.failed")
    if len(unset) == len(gates):
        return t("answer.title.unset") if gates else t("answer.title.open")
    return t("answer.title.partly", tasks=", ".join(unset)) if unset else t("answer.title.good")


def deciding(metric: str, t: Say) -> Both:
    """A comparison's metric for people: BLEU and chrF, which the corpus has too, as the mean of rows."""
    name = t(f"metric.{metric}", default=metric)
    return t("metric.of_rows", metric=name) if metric in HUNDREDS else name


_AT_NOTHING = {"tokens", "errors", "shortened", "usd"}
"""Figures that say nothing where they are 0."""


def chips(row: Candidate, t: Say) -> list[tuple[Both, Both]]:
    """A candidate's figures, each with its name; no calibration of a candidate whose rows all failed."""
    failed = bool(row.metrics.get("errors")) and row.metrics.get("errors") == row.metrics.get("rows")
    found = []
    for name, value in row.metrics.items():
        if name == "rows" or (not value and name in _AT_NOTHING) or (failed and name == "ece"):
            continue
        if name == "usd" and not row.priced:
            continue
        told = t(f"metric.{name}", default=name)
        found.append((t("metric.of_corpus", metric=told) if name in HUNDREDS else told, metric_value(value, name)))
    return found


_ERRORS = {
    r"the reply names no label: (.*)": "no_label",
    r"the answer names no label: (.*)": "no_answer_label",
    r"the reply was cut off after (\d+) tokens: raise `max_tokens`": "cut_off",
    r"empty input|the input is empty": "empty",
    r"the reply holds no JSON object": "no_json",
    r"the reply holds no block of Python": "no_python",
    r"the reply has no line `RESPUESTA:` \(or `ANSWER:`\) after its reasoning": "no_line",
}


def error_said(error: str, t: Say) -> Both:
    """The error of a row in both languages, where it is one that many rows have; else as it was stored."""
    for pattern, key in _ERRORS.items():
        if found := re.fullmatch(pattern, error, re.DOTALL):
            return t(f"error.{key}", rest=found[1] if found.lastindex else "")
    return same(error)


def _facts(story: Story, t: Say) -> dict[str, Both]:
    facts: dict[str, Both] = {}
    if story.data is not None:
        rows = sum(task.rows or 0 for task in story.data.tasks)
        facts["data"] = t("fact.data", documents=number(story.data.documents or 0), rows=number(rows))
    if story.models:
        model = max(story.models, key=lambda m: m.parameters or 0)
        facts["models"] = (
            t("fact.model", name=model.name, parameters=_compact(model.parameters))
            if model.parameters
            else same(model.name)
        )
    candidates = [c for comparison in current_comparisons(story) for c in comparison.candidates]
    if candidates:
        facts["choose"] = t(
            "fact.choose",
            n=number(len(candidates)),
            beats=number(sum(c.verdict == "beats" for c in candidates)),
        )
        times = [c.fit_seconds for c in candidates if not c.baseline and c.fit_seconds]
        if times:
            facts["customise"] = t("fact.customise", n=number(len(times)), time=duration(sum(times)))
    if story.gates:
        checks = [check for gate in current_gates(story) for check in gate.checks]
        passed = number(sum(c.passed for c in checks))
        facts["evaluate"] = t("fact.gate", passed=passed, n=number(len(checks))) if checks else t("fact.ungated")
    release = in_production(story)
    if release is not None:
        facts["release"] = t("fact.release", version=str(release.version) or release.id[:16])
    if story.serve is not None:
        facts["serve"] = t("fact.serve", requests=number(story.serve.requests or 0))
    if story.monitor is not None:
        facts["monitor"] = t("fact.monitor", alerts=number(len(story.monitor.alerts)))
    if story.feedback is not None:
        dataset = story.feedback.dataset
        gain = story.gain.diff if story.gain is not None else None
        facts["feedback"] = (
            t("fact.gain", rows=number(dataset.added or 0), gain=points(gain.value, True))
            if dataset is not None and gain is not None and gain.low is not None and gain.low > 0
            else t("fact.rows", rows=number(dataset.added or 0))
            if dataset is not None
            else t("fact.ratings", ratings=number(story.feedback.ratings or 0))
        )
    return facts


def stages(story: Story, t: Say) -> list[Stage]:
    """The nine stages in order, each with its status and one fact from the evidence."""
    facts = _facts(story, t)
    return [
        Stage(
            name, _status(story, name, name in facts), facts.get(name, t("fact.none")), _seconds(story, name)
        )
        for name in STAGES
    ]


def answers(story: Story, t: Say) -> list[Answer]:
    """For each task, what to use and how it stands against the best baseline, said plainly."""
    found = []
    for comparison in current_comparisons(story):
        winner, baseline = comparison.winner, comparison.reference
        if winner is None:
            found.append(Answer(comparison, "none", t("answer.none")))
        elif comparison.baseline_stands or winner.baseline:
            found.append(Answer(comparison, "plain", t("answer.baseline", name=winner.name)))
        elif winner.verdict == "beats":
            found.append(
                Answer(
                    comparison,
                    "good",
                    t(
                        "answer.beats",
                        baseline=baseline.name if baseline else "–",
                        value=score(baseline.value if baseline else None, comparison.metric),
                    ),
                )
            )
        else:
            found.append(
                Answer(comparison, "plain", t("answer.ties", baseline=baseline.name if baseline else "–"))
            )
    return found


def mistakes(confusion: Confusion | None, limit: int = 8) -> list[tuple[str, str, float]]:
    """The most frequent confusions as (true label, predicted label, count)."""
    if confusion is None:
        return []
    labels = confusion.labels
    found = [
        (labels[i], labels[j], count)
        for i, row in enumerate(confusion.matrix[: len(labels)])
        for j, count in enumerate(row[: len(labels)])
        if i != j and count
    ]
    return sorted(found, key=lambda item: (-item[2], item[0], item[1]))[:limit]


def in_short(row: Candidate, comparison: Comparison, t: Say) -> Both:
    """One candidate in a line, for a dot of a plot."""
    metric = comparison.metric
    text = same(f"{row.name}: ") + score(row.value, metric)
    if row.low is not None and row.high is not None:
        text = text + " [" + score(row.low, metric) + "; " + score(row.high, metric) + "]"
    cost = t("hover.cost", usd=usd(row.usd_per_1k)) if row.priced else t("hover.cost_unknown")
    text = text + " · p95 " + ms(row.ms_p95) + " · " + cost
    if row.verdict == "ruled_out":
        return text + " · " + t("verdict.ruled_out") + (f": {row.reason}" if row.reason else "")
    return text + " · " + t("hover.front") if row.name in comparison.pareto else text


def slice_name(where: Mapping[str, str], t: Say) -> Both:
    """`Idioma: en + Con números` for people."""
    parts = []
    for facet, value in list(where.items())[:3]:
        named = t(f"facet.{facet}.{value}", default="")
        shown = value if len(value) <= 60 else value[:59] + "…"
        parts.append(named or t(f"facet.{facet}", default=facet) + f": {shown}")
    text = parts[0] if parts else same("–")
    for part in parts[1:]:
        text = text + " + " + part
    return text
