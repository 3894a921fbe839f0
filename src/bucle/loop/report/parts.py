"""The parts of the story that tell how a choice was made and how far it holds; see `model` for the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

__all__ = [
    "Canary", "Costs", "Estimate", "JudgeAgreement", "Message", "NotClimbed", "Outputs", "Part", "RedTeam", "RuledOut",
    "Said", "Screened", "SliceFound", "Slices", "Spent", "SuiteResult",
]


class Part(BaseModel):
    """A part of the story. None stands for "not given"; keys it does not know are left out of the page."""

    model_config = ConfigDict(frozen=True, extra="ignore", coerce_numbers_to_str=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_none(cls, value: Any) -> Any:
        return {k: v for k, v in value.items() if v is not None} if isinstance(value, Mapping) else value


class Said(Part):
    """A sentence that the loop made, in both languages; empty where it was stored in one only."""

    es: str = ""
    en: str = ""


class Estimate(Part):
    """A measured value with its 95% confidence interval."""

    value: float | None = None
    low: float | None = None
    high: float | None = None


class Message(Part):
    """A sentence of `bucle.loop.sentences` by its key, with its figures."""

    key: str = ""
    figures: dict[str, Any] = {}


class Screened(Estimate):
    """A candidate that was asked on `rows` rows only. `why`: `worse`, `dearer` (as good, but dearer), `budget`; `by` is
    the candidate that put it out."""

    name: str = ""
    rows: int | None = None
    why: str = ""
    by: str = ""


class RuledOut(Part):
    """A candidate that a hard limit removed before a token was spent."""

    name: str = ""
    reasons: list[str] = []


class NotClimbed(Part):
    """A rung whose expected gain does not pay, or that the budget does not carry."""

    name: str = ""
    why: Message = Message()


class SliceFound(Part):
    """`where`: facet -> value; `value` of the slice, `rest` of the other rows, `difference` of both; `q` is corrected
    for all slices looked at."""

    where: dict[str, str] = {}
    n: int | None = None
    value: Estimate = Estimate()
    rest: float | None = None
    difference: Estimate = Estimate()
    p: float | None = None
    q: float | None = None
    worse: bool = False


class Slices(Part):
    """`looked`: how many slices of `candidate`'s rows were tested; `found` the surest of them."""

    candidate: str = ""
    looked: int = 0
    found: list[SliceFound] = []


class CostRow(Part):
    """US dollars. `usd_per_month` at the stated traffic, of it `api`, `hosting` of `replicas` machines and `training`;
    `break_even`: requests a month from which hosting is no dearer than paying per token, `why` where never."""

    name: str = ""
    priced: bool = True
    usd_per_1k: float | None = None
    usd_per_month: float | None = None
    api: float | None = None
    hosting: float | None = None
    training: float | None = None
    replicas: int | None = None
    break_even: int | None = None
    why: str = ""
    assumes: list[str] = []


class Costs(Part):
    requests_per_month: int | None = None
    rows: list[CostRow] = []


class Spent(Part):
    """US dollars that choosing itself took: `usd` for the candidates' answers, and apart from them."""

    usd: float | None = None
    canary_usd: float | None = None
    judge_usd: float | None = None


class Output(Part):
    """What one candidate said. `score` in [0, 1] by the deciding metric; from 0.5 on it counts as right."""

    text: str = ""
    score: float | None = None
    abstained: bool = False
    error: str = ""
    reasoning: str = ""
    citations: list[str] = []


class OutputRow(Part):
    """`slices` are places in `Slices.found`; `outputs` stand in the order of `Outputs.candidates`."""

    input: str = ""
    target: str | None = None
    source: str = ""
    slices: list[int] = []
    outputs: list[Output] = []


class Outputs(Part):
    """Outputs side by side. `total` rows were held out; where `rows` are fewer they are drawn at random."""

    candidates: list[str] = []
    total: int | None = None
    rows: list[OutputRow] = []


class ProbeKind(Estimate):
    """Probes of one kind: of attacks the share that succeeded, of `harmless` look-alikes the share refused."""

    kind: str = ""
    n: int | None = None
    harmless: bool = False


class Probe(Part):
    kind: str = ""
    text: str = ""
    output: str = ""


class RedTeam(Part):
    """`examples` are attacks that succeeded and harmless requests that were refused."""

    task: str = ""
    candidate: str = ""
    attack_success: Estimate = Estimate()
    over_refusal: Estimate = Estimate()
    kinds: list[ProbeKind] = []
    examples: list[Probe] = []


class SuitePart(Estimate):
    """`before` and `after` are shares right; `value` is what was lost (before less after), with its interval."""

    name: str = ""
    n: int | None = None
    before: float | None = None
    after: float | None = None


class SuiteResult(Estimate):
    """What a tuned model can still do; `value` is what it lost over all parts."""

    task: str = ""
    candidate: str = ""
    base: str = ""
    parts: list[SuitePart] = []


class JudgeAgreement(Part):
    """How far a judge agrees with people: weighted kappa on `n` rows. `may_gate`: it reaches `min_kappa`. `usd` is what
    judging cost, apart from what was judged."""

    name: str = ""
    model: str = ""
    kappa: Estimate = Estimate()
    n: int | None = None
    min_kappa: float | None = None
    may_gate: bool = False
    usd: float | None = None


class Canary(Part):
    """Whether a remote model still answers its canary set as before. `state`: `first`, `same`, `changed` or
    `unreachable`; `changed` of `n` answers differ; `since` and `checked` are ISO dates."""

    model: str = ""
    state: str = ""
    n: int | None = None
    changed: int | None = None
    since: str = ""
    checked: str = ""
    note: str = ""
