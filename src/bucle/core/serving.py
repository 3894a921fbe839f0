"""The `serve` section of bucle.yaml: routes, keys' budgets, guards, caches, traces."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from bucle.core.sources import Section

__all__ = ["Allowance", "Cache", "Canary", "GuardRule", "Guards", "RouteRule", "Serve", "Target", "Traces", "a_host"]

MAX_PORT = 65535
Action = Literal["off", "flag", "mask", "block"]


def a_host(name: str) -> str:
    """`name`, where it may be a host's name or address; raises ValueError else."""
    if not re.fullmatch(r"\[?[\w.:%-]{1,255}\]?", name):
        raise ValueError("it is no name or address of this machine; 127.0.0.1 is this machine alone")
    return name


class Target(Section):
    """A task, model or other route of this project, and its share of the traffic. `release` (a version, an id, an
    alias) serves a task from another release than the one that is served."""

    to: str
    weight: float = Field(1.0, ge=0, allow_inf_nan=False)
    release: str = ""


class Canary(Section):
    """The first target of a route is what was; the others are new. One whose live figures are worse than the first's
    beyond doubt gets no more traffic: `errors` and `bad_ratings` are shares, `p95_ratio` a factor, by which it may be
    worse; nothing is decided before `min_requests` of each. `level` is the chance of a false alarm in the whole run."""

    errors: float = Field(0.02, ge=0, le=1)
    bad_ratings: float = Field(0.05, ge=0, le=1)
    p95_ratio: float = Field(2.0, ge=1)
    min_requests: int = Field(50, ge=10)
    level: float = Field(0.01, gt=0, lt=0.5)


class Cache(Section):
    """Answers kept for `minutes`. `exact`: the same question, settings and labels; `semantic`: a question whose
    embedding is at least `similarity` near (an encoder of the project)."""

    kind: Literal["exact", "semantic"] = "exact"
    minutes: float = Field(60, gt=0)
    entries: int = Field(10_000, ge=1, le=1_000_000)
    similarity: float = Field(0.97, gt=0.5, le=1)

    @model_validator(mode="after")
    def _similar_means_semantic(self) -> Cache:
        if self.kind == "exact" and "similarity" in self.model_fields_set:
            raise ValueError("`similarity` is read with `kind: semantic` only: take it out, or write that")
        return self


class RouteRule(Section):
    """A name in `/v1/models` that stands for others. `to` share the traffic by a stable hash of the user (`prefer`
    empty), or the first that fits is asked: the cheapest, the fastest lately, the one of the text's language, the one
    with the least context that holds it (`explore`: the share of requests by which `latency` tries another). `shadow`
    get a copy of `shadow_share` of the requests, whose answers nobody sees (`shadow_parallel` at once, each has
    `shadow_s`); `fallback` are asked in order where the chosen one fails. `retries` again with the same one, paid from
    a budget of `retry_share` of the traffic; `hedge_ms` asks a second one where the first is silent that long;
    `breaker` failures in a row rest a target for `breaker_s`."""

    to: tuple[Target, ...]
    prefer: Literal["", "cost", "latency", "language", "context"] = ""
    languages: Mapping[str, str] = Field(default_factory=dict)
    explore: float = Field(0.05, ge=0, le=0.5)
    shadow: tuple[str, ...] = ()
    shadow_share: float = Field(1.0, gt=0, le=1)
    shadow_parallel: int = Field(4, ge=1, le=1000)
    shadow_s: float = Field(60, gt=0, le=3600)
    fallback: tuple[str, ...] = ()
    retries: int = Field(1, ge=0, le=5)
    retry_share: float = Field(0.1, ge=0, le=1)
    hedge_ms: float | None = Field(None, gt=0)
    breaker: int = Field(5, ge=1)
    breaker_s: float = Field(30, gt=0)
    cache: Cache | None = None
    canary: Canary | None = None

    @model_validator(mode="after")
    def _somewhere_to_go(self) -> RouteRule:
        if not self.to:
            raise ValueError("a route needs at least one target in `to`")
        if self.prefer == "language" and not self.languages:
            raise ValueError("`prefer: language` needs `languages: {es: TARGET, …}`")
        for key, needed, there in (("explore", "`prefer: latency`", self.prefer == "latency"),
                                   ("shadow_share", "`shadow`", bool(self.shadow)),
                                   ("shadow_parallel", "`shadow`", bool(self.shadow)),
                                   ("shadow_s", "`shadow`", bool(self.shadow))):
            if key in self.model_fields_set and not there:
                raise ValueError(f"`{key}` is read with {needed} only: take it out, or add that")
        return self


class Allowance(Section):
    """Limits of a team; those of a key are its own (`bucle keys create`). None: no limit."""

    usd_per_month: float | None = Field(None, ge=0)
    requests_per_minute: int | None = Field(None, ge=0)
    tokens_per_minute: int | None = Field(None, ge=0)


class GuardRule(Section):
    """What one check does with what it flags. `model` names another scorer than the packaged one: a folder or Hub name
    of a text classifier, or a model of this project with `/v1/moderations`."""

    input: Action = "flag"
    output: Action = "flag"
    threshold: float = Field(0.5, ge=0, le=1)
    model: str = ""


class Guards(Section):
    """The checks on what goes in and comes out. `languages` are those that the language check accepts (none: off);
    `answer_schema` sees whether an answer is the JSON that was asked for. Only personal data and secrets can be masked;
    only injection and abuse can be scored by another `model`."""

    personal_data: GuardRule = GuardRule()
    secrets: GuardRule = GuardRule()
    injection: GuardRule = GuardRule()
    abuse: GuardRule = GuardRule()
    prompt_leak: GuardRule = GuardRule()
    answer_schema: GuardRule = GuardRule()
    language: GuardRule = GuardRule()
    languages: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _can_be_done(self) -> Guards:
        for name in ("injection", "abuse", "prompt_leak", "answer_schema", "language"):
            rule: GuardRule = getattr(self, name)
            if "mask" in (rule.input, rule.output):
                raise ValueError(f"`{name}` cannot mask, only flag or block: it judges a text as a whole")
        for name in ("personal_data", "secrets", "prompt_leak", "answer_schema", "language"):
            if getattr(self, name).model:
                raise ValueError(f"`{name}` takes no `model`; `injection` and `abuse` do")
        return self


class Traces(Section):
    """`keep_days`: older traces are deleted (0: never), what they cost stays counted. `otlp`: where spans go as well, a
    URL such as http://127.0.0.1:4318/v1/traces; `otlp_content` sends what users and models wrote with them."""

    keep_days: float = Field(0, ge=0)
    queue: int = Field(10_000, ge=1, le=1_000_000)
    otlp: str = ""
    otlp_content: bool = False


class Serve(Section):
    """`timeout_s` bounds a request, `in_flight` how many are at work, `per_key` and `per_route` how many of one key and
    one route (0: half, and three quarters where there are several); `body_kb` one's body, `messages` those of one
    conversation, `max_tokens` an answer, `embed_inputs` the texts of one request for vectors."""

    host: Annotated[str, AfterValidator(a_host)] = "127.0.0.1"
    port: int = Field(8700, ge=0, le=MAX_PORT)
    redact: bool = True
    timeout_s: float = Field(60, gt=0, le=3600)
    in_flight: int = Field(256, ge=1, le=100_000)
    per_key: int = Field(0, ge=0, le=100_000)
    per_route: int = Field(0, ge=0, le=100_000)
    body_kb: int = Field(1024, ge=1, le=100_000)
    messages: int = Field(2000, ge=1, le=100_000)
    max_tokens: int = Field(131_072, ge=1, le=10_000_000)
    embed_inputs: int = Field(2048, ge=1, le=100_000)
    routes: Mapping[str, RouteRule] = Field(default_factory=dict)
    teams: Mapping[str, Allowance] = Field(default_factory=dict)
    guards: Guards = Guards()
    traces: Traces = Traces()
