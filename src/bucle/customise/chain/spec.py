"""A chain as its file says it: steps in order, what each needs, where it goes on.

    name: atencion
    steps:
      - {name: buscar, kind: retrieve, k: 4, cache: 3600}
      - name: redactar
        kind: prompt
        model: gpt
        passages: buscar
        prompt: {system: "Responde con los pasajes y cita con [1].", user: "{{ input }}"}
      - {name: citada, kind: check, cites: true, on_fail: {retry: redactar, times: 1}}
    output: "{{ steps.redactar.text }}"

Steps run from the first to the last; `when` skips one, `route` and `then` go elsewhere, `end` ends the chain.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from bucle.core.prompting import PromptSpec
from bucle.core.sources import Names, Section

__all__ = [
    "END",
    "ChainSpec",
    "CheckStep",
    "ClassifyStep",
    "HttpStep",
    "OnFail",
    "ParallelStep",
    "ParseStep",
    "PromptStep",
    "PythonStep",
    "RetrieveStep",
    "Retry",
    "Step",
    "TextStep",
    "all_steps",
]

END = "end"
OTHER = "*"
NAME = r"^[A-Za-z_À-ÿ][\wÀ-ÿ]{0,40}$"
OWN = r"^[A-Za-z_][\w./]*:[A-Za-z_]\w*$"
MAX_STEPS = 100

Seconds = Annotated[float, BeforeValidator(lambda v: -1.0 if v == "forever" else v), Field(ge=-1)]
"""Seconds, or `forever` (-1); 0 is never."""


class Retry(Section):
    """How often a step that failed for its surroundings (no answer, 429, 5xx) is tried again: after `wait_s`, then
    `factor` times as long each time."""

    times: int = Field(1, ge=0, le=10)
    wait_s: float = Field(0.5, ge=0, le=60)
    factor: float = Field(2.0, ge=1, le=10)


class _Step(Section):
    """What every step has. `when` is a condition; a step that is skipped has an empty text. `cache` are the seconds
    that its result is kept for the same content, inputs and access labels. `timeout_s` bounds one attempt. `on_error`:
    `fail` ends the chain, `go_on` leaves the error in `steps.NAME.error`, another step's name goes there. `route` maps
    the step's value to the step that comes next (`*`: any other value), `then` names it outright."""

    name: str = Field(pattern=NAME)
    when: str = ""
    cache: Seconds = 0.0
    timeout_s: float = Field(60, gt=0, le=3600)
    retry: Retry | None = None
    on_error: str = "fail"
    route: Mapping[str, str] = Field(default_factory=dict)
    then: str = ""


class RetrieveStep(_Step):
    """Passages of the project's documents that the asker may see, by the fusion fitted to the task's own questions;
    `weight` is that of meaning against words instead. `where` narrows by path, language or document; `rerank` by the
    project's reranker."""

    kind: Literal["retrieve"]
    query: str = "{{ input }}"
    k: int = Field(6, ge=1, le=100)
    weight: float | None = Field(None, ge=0, le=1)
    where: Mapping[Literal["path", "language", "document"], str] = Field(default_factory=dict)
    rerank: bool = False


class HttpStep(_Step):
    """One call of an HTTP API. Scheme and host of `url` are fixed; `pointer` (RFC 6901) picks the value out of a JSON
    answer. A header's value may hold `env:NAME`, and a secret never stands in any other way. `idempotent`: another
    method than GET may be tried again."""

    kind: Literal["http"]
    url: str = Field(max_length=4000)
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = "GET"
    headers: Mapping[str, str] = Field(default_factory=dict)
    query: Mapping[str, str] = Field(default_factory=dict)
    body: Any = None
    pointer: str = ""
    max_bytes: int = Field(1_000_000, ge=1, le=20_000_000)
    allow_private: bool = False
    idempotent: bool = False


class PythonStep(_Step):
    """A function of the project's own, `module:function`, called with `args` by name. It returns what JSON can say."""

    kind: Literal["python"]
    function: str = Field(pattern=OWN)
    args: Mapping[str, Any] = Field(default_factory=lambda: {"text": "{{ input }}"})


class ClassifyStep(_Step):
    """A label: by a `model` told the `labels`, or by the candidate of another `task` of the project."""

    kind: Literal["classify"]
    text: str = "{{ input }}"
    task: str = ""
    model: str = ""
    labels: Names = ()
    instruction: str = ""

    @model_validator(mode="after")
    def _by_one_or_the_other(self) -> ClassifyStep:
        if bool(self.task) == bool(self.model):
            raise ValueError(f"`{self.name}` classifies by a `task`, or by a `model` and `labels`")
        if self.model and len(set(self.labels)) < 2:
            raise ValueError(f"`{self.name}` needs at least two `labels`")
        return self


def _prompt(value: Any) -> Any:
    return {"name": "prompt", **value} if isinstance(value, Mapping) else value


class PromptStep(_Step):
    """A model writes. Its messages are `system` and `user`, templates of the chain's; or those of a `prompt`, a prompt
    file (path in the project) whose inputs are `input` and `values`. `passages` is the step whose passages it is
    shown. With `json_schema` it gives an object that fits, after one repair at most."""

    kind: Literal["prompt"]
    model: str
    system: str = Field("", max_length=100_000)
    user: str = Field("", max_length=100_000)
    json_schema: str | Mapping[str, Any] = ""
    prompt: Annotated[str | PromptSpec, BeforeValidator(_prompt)] = ""
    input: str = "{{ input }}"
    values: Mapping[str, Any] = Field(default_factory=dict)
    passages: str = ""
    max_tokens: int = Field(0, ge=0, le=100_000)
    temperature: float = Field(0.0, ge=0, le=2)

    @model_validator(mode="after")
    def _one_text(self) -> PromptStep:
        if bool(self.prompt) == bool(self.system or self.user):
            raise ValueError(f"`{self.name}` asks with `system` and `user`, or with a `prompt` file")
        if not self.prompt and self.values:
            raise ValueError(f"`{self.name}`: `values` are for a `prompt`; `system` and `user` read `steps` themselves")
        if self.prompt and self.json_schema != "":
            raise ValueError(f"`{self.name}`: the prompt's own `output` is its schema")
        return self


class ParseStep(_Step):
    """A value out of a text: an object that fits a JSON `json_schema` (file, or written here), the first match of a
    `regex` (its first group where it has one), or the one of the `choice` that the text names. With `model`, an
    object that does not fit is repaired once."""

    kind: Literal["parse"]
    text: str = "{{ last.text }}"
    json_schema: str | Mapping[str, Any] = ""
    regex: str = Field("", max_length=1000)
    choice: Names = ()
    model: str = ""

    @model_validator(mode="after")
    def _one_way(self) -> ParseStep:
        if sum(map(bool, (self.json_schema != "", self.regex, self.choice))) != 1:
            raise ValueError(f"`{self.name}` parses by one of `json_schema`, `regex` and `choice`")
        if self.model and self.json_schema == "":
            raise ValueError(f"`{self.name}`: only an object by `json_schema` is repaired by a `model`")
        return self


class OnFail(Section):
    """What a failed check does: `retry` a step before it (which sees why in `{{ failed }}`) up to `times` times; after
    that, or without it, one of `go` to another step, `answer` with a text, `abstain`; with none the chain fails."""

    retry: str = ""
    times: int = Field(1, ge=1, le=5)
    go: str = ""
    answer: str = ""
    abstain: bool = False

    @model_validator(mode="after")
    def _one_end(self) -> OnFail:
        if sum(map(bool, (self.go, self.answer, self.abstain))) > 1:
            raise ValueError("`on_fail` takes one of `go`, `answer` and `abstain`, beside a `retry`")
        if not (self.retry or self.go or self.answer or self.abstain):
            raise ValueError("`on_fail` says one of `retry`, `go`, `answer` and `abstain`")
        return self


def _on_fail(value: Any) -> Any:
    return {"abstain": True} if value == "abstain" else None if value == "fail" else value


class CheckStep(_Step):
    """Conditions on a text, all of which it must keep; `on_fail` says what follows (nothing: the chain fails).
    `cites`: it cites a passage that was found, and none that was not. `min_words`/`max_words` count words.
    `personal_data: false`: it holds none. `function` takes the text and returns true, false or what is wrong."""

    kind: Literal["check"]
    text: str = "{{ last.text }}"
    cites: bool = False
    json_schema: str | Mapping[str, Any] = ""
    language: str = ""
    min_words: int = Field(0, ge=0)
    max_words: int = Field(0, ge=0)
    personal_data: bool = True
    matches: str = Field("", max_length=1000)
    condition: str = ""
    function: str = Field("", pattern=rf"^$|{OWN}")
    on_fail: Annotated[OnFail | None, BeforeValidator(_on_fail)] = None


class TextStep(_Step):
    """A text of the team's own, without a model; `abstain` gives it as an abstention."""

    kind: Literal["text"]
    text: str
    abstain: bool = False


Single = Annotated[
    RetrieveStep | HttpStep | PythonStep | ClassifyStep | PromptStep | ParseStep | TextStep, Field(discriminator="kind")
]


class ParallelStep(_Step):
    """Steps that run side by side. One that fails fails the group once all have ended (its `on_error` says else)."""

    kind: Literal["parallel"]
    steps: tuple[Single, ...] = Field(min_length=1, max_length=32)


Step = Annotated[
    RetrieveStep | HttpStep | PythonStep | ClassifyStep | PromptStep | ParseStep | TextStep | CheckStep | ParallelStep,
    Field(discriminator="kind"),
]
AnyStep = (
    RetrieveStep | HttpStep | PythonStep | ClassifyStep | PromptStep | ParseStep | TextStep | CheckStep | ParallelStep
)


class ChainSpec(Section):
    """A chain. `output` is its answer (none: the text of the last step that gave one); `timeout_s` bounds the whole.
    `files` are the project's files that it uses, by their sha256 (filled where it is loaded)."""

    name: str = Field(pattern=r"^[\w][\w.-]{0,60}$")
    about: str = ""
    language: Literal["es", "en", ""] = ""
    timeout_s: float = Field(120, gt=0, le=3600)
    steps: tuple[Step, ...] = Field(min_length=1, max_length=MAX_STEPS)
    output: str = ""
    files: Mapping[str, str] = Field(default_factory=dict)


def all_steps(spec: ChainSpec) -> list[AnyStep]:
    """Every step in the file's order, those of a parallel group after it."""
    found: list[AnyStep] = []
    for step in spec.steps:
        found.append(step)
        if isinstance(step, ParallelStep):
            found += step.steps
    return found
