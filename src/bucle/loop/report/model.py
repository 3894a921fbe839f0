"""The `story`: what a project did, as one JSON-ready record that the report and the studio both show.

Every part is optional: a project that has only read its data renders as far as it got. The text in it comes from
users, files and models, so it is cleaned on the way in (NaN becomes None, control characters go, very long texts
and lists are cut and say so) and escaped on the way out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, ValidationError

from bucle.core.errors import BadInput
from bucle.loop.report.parts import (
    Canary,
    Costs,
    Estimate,
    JudgeAgreement,
    Message,
    NotClimbed,
    Outputs,
    Part,
    RedTeam,
    RuledOut,
    Said,
    Screened,
    Slices,
    Spent,
    SuiteResult,
)

__all__ = ["STAGES", "Alert", "Candidate", "Comparison", "Estimate", "Part", "Said", "Story", "read_story"]

STAGES = ("data", "models", "choose", "customise", "evaluate", "release", "serve", "monitor", "feedback")
"""The loop, in order; the last feeds the first."""

MAX_TEXT = 4_000
MAX_ITEMS = 2_000
MAX_DEPTH = 12


class Project(Part):
    name: str = ""
    language: str = ""
    created: str = ""
    bucle_version: str = ""
    machine: str = ""
    seed: int | None = None


class Step(Part):
    """One step of the plan. `status`: done, cached, running, pending, failed or skipped; `seconds` wall clock."""

    name: str = ""
    stage: str = ""
    status: str = "pending"
    seconds: float | None = None
    key: str = ""
    outputs: list[str] = []
    note: str = ""


class SetAside(Part):
    """A file in quarantine (`message` says why) or a duplicate that was removed (`detail` says of what)."""

    path: str = ""
    reason: str = ""
    message: str = ""
    detail: str = ""
    kept: str = ""


class Suspect(Part):
    """A row whose label may be wrong: a model that has not seen it proposes another with probability `p`."""

    text: str = ""
    label: str = ""
    proposed: str = ""
    p: float | None = None


class TaskData(Part):
    name: str = ""
    kind: str = ""
    rows: int | None = None
    problems: int | None = None
    train: int | None = None
    validation: int | None = None
    test: int | None = None
    labels: dict[str, int] = {}
    suspects: list[Suspect] = []
    leaks_prevented: int | None = None


class Preferences(Part):
    """`longer_wins`: share of pairs, in [0, 1], in which the preferred text is the longer one."""

    pairs: int | None = None
    longer_wins: float | None = None


class Data(Part):
    files: int | None = None
    documents: int | None = None
    quarantined: list[SetAside] = []
    removed: list[SetAside] = []
    languages: dict[str, int] = {}
    personal: dict[str, int] = {}
    tasks: list[TaskData] = []
    preferences: Preferences | None = None


class ModelCard(Part):
    """A base model. `loss_curve` holds (step, loss in nats per token); `context` is in tokens. `model` is what its
    service, at `host`, calls it."""

    name: str = ""
    kind: str = ""
    model: str = ""
    host: str = ""
    parameters: int | None = None
    context: int | None = None
    bits_per_byte_before: float | None = None
    bits_per_byte_after: float | None = None
    loss_curve: list[tuple[float, float | None]] = []
    seconds: float | None = None
    tokens_per_s: float | None = None

    @property
    def measured(self) -> bool:
        """Whether anything but its name is known."""
        figures = (self.parameters, self.context, self.bits_per_byte_after, self.seconds, self.tokens_per_s)
        return bool(self.loss_curve) or any(one is not None for one in figures)


class Looked(Part):
    search: str = ""
    rows: int = 0


class Candidate(Estimate):
    """One candidate on the held-out examples; `diff` is against the best baseline, paired, with its interval.

    `verdict`: beats, ties, loses or ruled_out (`reason` says by which constraint); empty for the baseline itself. `p`
    is corrected for all candidates compared (Holm). Not `priced`: what it costs is not known, which is not nothing.
    `looked_at_before`: of how many of these `rows` a `search` for its prompt had seen the scores.
    """

    name: str = ""
    technique: str = ""
    rung: int | None = None
    baseline: bool = False
    diff: float | None = None
    diff_low: float | None = None
    diff_high: float | None = None
    p: float | None = None
    verdict: str = ""
    reason: str = ""
    usd_per_1k: float | None = None
    usd_per_month: float | None = None
    priced: bool = True
    ms_p50: float | None = None
    ms_p95: float | None = None
    fit_seconds: float | None = None
    looked_at_before: Looked | None = None
    metrics: dict[str, float | None] = {}


class Confusion(Part):
    """Rows are true labels, columns predicted; `matrix` is [labels, labels] counts."""

    labels: list[str] = []
    matrix: list[list[float | None]] = []


class Sample(Part):
    input: str = ""
    target: str | None = None
    outputs: dict[str, str | None] = {}


class Comparison(Part):
    """The answer for one task, and all that it rests on. `flips` are what would change it, `detectable` the difference
    that its rows can show; `outputs` is filled when a report is written, not before."""

    task: str = ""
    kind: str = ""
    metric: str = ""
    n_test: int | None = None
    candidates: list[Candidate] = []
    recommended: str = ""
    why: str = ""
    said: Said = Said()
    runner_up: str = ""
    baseline_stands: bool = False
    best_baseline: str = ""
    pareto: list[str] = []
    confusion: Confusion | None = None
    samples: list[Sample] = []
    screened: list[Screened] = []
    ruled_out: list[RuledOut] = []
    not_climbed: list[NotClimbed] = []
    flips: list[Message] = []
    detectable: Message = Message()
    slices: Slices | None = None
    costs: Costs | None = None
    spent: Spent = Spent()
    outputs: Outputs | None = None

    @property
    def reference(self) -> Candidate | None:
        """The baseline that others are compared with: the one named, else the one with the highest value."""
        rows = [c for c in self.candidates if c.baseline and c.value is not None]
        named = [c for c in rows if c.name == self.best_baseline]
        return max(named or rows, key=lambda c: c.value or 0.0, default=None)

    @property
    def winner(self) -> Candidate | None:
        return next((c for c in self.candidates if c.name == self.recommended), None)

    @property
    def ranked(self) -> list[Candidate]:
        """Best first; those without a value last."""
        return sorted(self.candidates, key=lambda c: (c.value is None, -(c.value or 0.0), c.name))


class Forgetting(Estimate):
    """How much worse a customised model predicts general text than its base, in bits per byte; above 0 it forgot."""

    task: str = ""
    candidate: str = ""


class Check(Part):
    gate: str = ""
    passed: bool = False
    measured: float | str | None = None
    needed: float | str | None = None
    note: str = ""
    said: Said = Said()


class Gate(Part):
    """The conditions of one candidate of `task`; `release` names what was judged."""

    task: str = ""
    release: str = ""
    passed: bool = False
    checks: list[Check] = []


class Release(Part):
    id: str = ""
    version: int | str = ""
    created: str = ""
    tasks: dict[str, str] = {}
    aliases: list[str] = []
    card_path: str = ""


class AliasMove(Part):
    alias: str = ""
    release: str = ""
    at: str = ""
    by: str = ""
    reason: str = ""


class Route(Part):
    route: str = ""
    requests: int | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    usd: float | None = None
    errors: int | None = None


class Serve(Part):
    requests: int | None = None
    errors: int | None = None
    by_route: list[Route] = []


class Window(Part):
    """One window of traces of one route. `mean_rating` in [-1, 1], `score` (confidence) in [0, 1], `abstained` the
    count of answers withheld."""

    start: str = ""
    end: str = ""
    route: str = ""
    requests: int | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    mean_rating: float | None = None
    abstained: float | None = None
    score: float | None = None


class Cluster(Part):
    terms: list[str] = []
    examples: list[str] = []
    size: int | None = None
    label: str = ""


class AlertDetail(Part):
    """`open`: it still goes on where the traces end."""

    open: bool | None = None
    clusters: list[Cluster] = []


class Alert(Part):
    rule: str = ""
    kind: str = ""
    route: str = ""
    start: str = ""
    end: str = ""
    value: float | None = None
    threshold: float | None = None
    message: str = ""
    said: Said = Said()
    examples: list[str] = []
    detail: AlertDetail = AlertDetail()
    next: str = ""


class Monitor(Part):
    windows: list[Window] = []
    alerts: list[Alert] = []


class LabelChange(Part):
    v1: int | None = None
    v2: int | None = None


class NewDataset(Part):
    """Dataset version 2: rows before and after, rows added and relabelled from feedback, and both per label."""

    version_1_rows: int | None = None
    version_2_rows: int | None = None
    added: int | None = None
    relabelled: int | None = None
    by_label: dict[str, LabelChange] = {}


class FeedbackPart(Part):
    ratings: int | None = None
    corrections: int | None = None
    new_labels: list[str] = []
    left_out: dict[str, int] = {}
    dataset: NewDataset | None = None


class Slice(Part):
    name: str = ""
    n: int | None = None
    v1: float | None = None
    v2: float | None = None
    diff: float | None = None
    low: float | None = None
    high: float | None = None


class Gain(Part):
    """Version 2 against version 1 on the same later traffic; `diff` paired."""

    task: str = ""
    n: int | None = None
    metric: str = ""
    v1: Estimate | None = None
    v2: Estimate | None = None
    diff: Estimate | None = None
    slices: list[Slice] = []


class Link(Part):
    """One node of a chain of evidence; `role` is what it was to the node above, `depth` how far below the answer."""

    id: str = ""
    kind: str = ""
    title: str = ""
    said: Said = Said()
    detail: str = ""
    depth: int = 0
    role: str = ""


class Why(Part):
    trace: dict[str, Any] = {}
    chain: list[Link] = []


class Recommendation(Part):
    text: str = ""
    said: Said = Said()
    command_serve: str = ""
    command_studio: str = ""
    report_path: str = ""


class Story(Part):
    project: Project = Project()
    steps: list[Step] = []
    data: Data | None = None
    models: list[ModelCard] = []
    comparisons: list[Comparison] = []
    forgetting: list[Forgetting] = []
    forgetting_suite: list[SuiteResult] = []
    redteam: list[RedTeam] = []
    judges: list[JudgeAgreement] = []
    canaries: list[Canary] = []
    gates: list[Gate] = []
    releases: list[Release] = []
    alias_history: list[AliasMove] = []
    serve: Serve | None = None
    monitor: Monitor | None = None
    feedback: FeedbackPart | None = None
    gain: Gain | None = None
    why: Why | None = None
    recommendation: Recommendation = Field(default_factory=Recommendation)


def clean(value: Any, depth: int = 0) -> Any:
    """`value` fit for a page: NaN and infinities become None, texts and lists are cut at MAX_TEXT and MAX_ITEMS,
    control characters become spaces, and nesting past MAX_DEPTH is dropped."""
    if isinstance(value, str):
        text = value if len(value) <= MAX_TEXT else value[:MAX_TEXT] + "…"
        return text if text.isprintable() else "".join(c if c.isprintable() or c == "\n" else " " for c in text)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if depth > MAX_DEPTH:
        return None
    if isinstance(value, Mapping):
        pairs = list(value.items())[:MAX_ITEMS]
        return {clean(str(k), depth)[:200]: clean(v, depth + 1) for k, v in pairs}
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [clean(item, depth + 1) for item in value[:MAX_ITEMS]]
    return value


def read_story(story: Mapping[str, Any]) -> Story:
    """`story` as a record. Raises BadInput naming the first part whose shape cannot be meant."""
    try:
        return Story.model_validate(clean(story))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BadInput(
            f"the story cannot be shown: {place}: {first['msg']}",
            "run `bucle run` again to rebuild it from the ledger",
        ) from error
