"""What bucle.yaml says about choosing and judging: constraints, budget, traffic, judges, probes, models' facts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from bucle.core.sources import Names, Section

__all__ = ["Budget", "Choose", "Constraints", "Costs", "Forgetting", "Judge", "Licence", "ModelFacts", "RedTeam"]

Licence = Literal["open", "commercial", "research", "unknown"]
"""`open`: a licence that the Open Source Initiative lists, or as free; `commercial`: commercial use is allowed, under
conditions that `conditions` tells; `research`: no commercial use."""


class ModelFacts(Section):
    """What is known about a model; the team's own entries win over the packaged ones, field by field.

    `context` and `max_output` are tokens, `parameters` a count (the active ones of a mixture in `active`), prices US
    dollars for a million tokens. `residency`: where prompts are processed (`eu`, `us`, `local`, …). `checked`: the ISO
    date the facts were looked up, `source` where."""

    provider: str = ""
    model: str = ""
    context: int | None = Field(None, ge=1)
    max_output: int | None = Field(None, ge=1)
    languages: Names = ()
    tasks: Names = ()
    modalities: Names = ()
    licence: Licence | None = None
    licence_name: str = ""
    conditions: str = ""
    parameters: int | None = Field(None, ge=1)
    active: int | None = Field(None, ge=1)
    residency: Names = ()
    usd_per_million_in: float | None = Field(None, ge=0)
    usd_per_million_out: float | None = Field(None, ge=0)
    source: str = ""
    checked: str = ""


class Constraints(Section):
    """Hard limits: what breaks one is ruled out, where that can be known before a token is spent.

    `p95_ms` milliseconds; `usd_per_1k` dollars for a thousand requests, `usd_per_month` at `choose.costs`' traffic;
    `licence` `open` or `commercial` (open is commercial too); `residency` the places allowed (`eu`, `local`);
    `languages` and `context` what a model must have."""

    p95_ms: float | None = Field(None, gt=0)
    usd_per_1k: float | None = Field(None, ge=0)
    usd_per_month: float | None = Field(None, ge=0)
    licence: Literal["open", "commercial"] | None = None
    residency: Names = ()
    languages: Names = ()
    context: int | None = Field(None, ge=1)

    def limits(self) -> dict[str, float]:
        """The limits on measured figures that a comparison checks."""
        return {k: v for k in ("p95_ms", "usd_per_1k", "usd_per_month") if (v := getattr(self, k)) is not None}


class Costs(Section):
    """The team's own exchange rate and prices. `usd_per_point`: what one point of quality (0.01) is worth a month;
    `requests_per_month` the traffic expected; `usd_per_hour` of the machine that would host a model of one's own and
    `requests_per_second` that it answers there (0: as measured here); `training_usd_per_hour` of the one that trains;
    `months` over which training is paid back."""

    usd_per_point: float | None = Field(None, ge=0)
    requests_per_month: int = Field(10_000, ge=0)
    usd_per_hour: float = Field(0.0, ge=0)
    requests_per_second: float = Field(0.0, ge=0)
    training_usd_per_hour: float = Field(0.0, ge=0)
    months: float = Field(12.0, gt=0)


class Budget(Section):
    """The most that choosing may take for one task: dollars to providers, minutes of fitting and asking, scores paid
    for in screening. With any of them, candidates are screened on few rows first and only the live ones on more."""

    usd: float | None = Field(None, ge=0)
    minutes: float | None = Field(None, gt=0)
    samples: int | None = Field(None, ge=1)


class Choose(Section):
    """How candidates are compared. `margin` is the loss of quality the team accepts for a cheaper candidate.

    `models` narrows the models that take part. `refit`: the winner is fitted again on every labelled row before
    release (its figures stay those of the
    model that never saw the held-out rows).
    """

    candidates: Literal["auto"] | tuple[str, ...] = "auto"
    models: tuple[str, ...] | None = None
    margin: float = Field(0.01, ge=0, lt=0.5)
    refit: bool = True
    constraints: Constraints = Constraints()
    costs: Costs = Costs()
    budget: Budget = Budget()
    techniques: Mapping[str, Mapping[str, Any]] = Field(default_factory=dict)

    @property
    def limited(self) -> bool:
        """Whether choosing is a search: with a budget, or a price of quality."""
        limits = (self.budget.usd, self.budget.minutes, self.budget.samples, self.costs.usd_per_point)
        return any(limit is not None for limit in limits)


class Judge(Section):
    """A model that scores answers by a `rubric`, on a `scale` from 1, `samples` times each. `agreement` is a file of
    rows that people scored (columns input, output, human and, where there is one, reference): the judge may gate only
    where its agreement with them (kappa, weighted) reaches `min_kappa`."""

    model: str
    rubric: str
    scale: int = Field(5, ge=2, le=10)
    samples: int = Field(1, ge=1, le=20)
    agreement: str = ""
    min_kappa: float = Field(0.6, ge=0, le=1)


class RedTeam(Section):
    """Attacks on the recommended candidate. `probes`: a file of the team's own beside the packaged ones (columns text,
    kind and, for harmless look-alikes, `harmless`); `limit` the most of each kind (0: all)."""

    probes: str = ""
    limit: int = Field(0, ge=0)


class Forgetting(Section):
    """What a tuned model must still be able to do: `suite`, a file of the team's own beside the packaged questions
    (columns question, choices separated by `|`, answer); `text`, a file or folder of text it must still read well."""

    suite: str = ""
    text: str = ""
