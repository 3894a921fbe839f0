"""bucle.yaml: what the team wants. Unknown keys are errors; every field is read by something."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from bucle.core.choosing import Choose, Forgetting, Judge, ModelFacts, RedTeam
from bucle.core.errors import ConfigError
from bucle.core.serving import MAX_PORT, Serve
from bucle.core.sources import Section, Sources
from bucle.core.tasks import AnswerTask, ClassifyTask, RetrieveTask, Split, TextTask
from bucle.core.yamlfile import load_yaml_model

__all__ = [
    "REMOTE",
    "AnthropicModel",
    "Data",
    "EncoderModel",
    "External",
    "LocalModel",
    "MonitorRules",
    "Names",
    "OpenAIModel",
    "Preferences",
    "PretrainModel",
    "Project",
    "ProviderModel",
    "Quality",
    "RemoteModel",
    "Replay",
    "RerankerModel",
    "Retrieval",
    "Rows",
    "Serve",
    "Task",
    "load_project",
]

Policy = Literal["keep", "mask", "hash", "drop"]
PersonalKind = Literal["email", "phone", "iban", "card", "dni", "nie", "nuss", "name"]
"""Secrets are no kind that a policy is for: they always go."""


class Quality(Section):
    """Named thresholds a document must keep (0 or 1 where a filter shall never act). Shares are of words, lines or
    characters, of what is no table. After Rae et al., "Scaling Language Models" (2021), table A1, loosened until office
    documents (price lists, slides that repeat one sentence) stay."""

    min_words: int = Field(3, ge=0)
    min_letters: float = Field(0.25, ge=0, le=1)
    max_symbols: float = Field(0.4, ge=0, le=1)
    max_repeated_lines: float = Field(0.8, ge=0, le=1)
    max_repeated_ngrams: float = Field(0.9, ge=0, le=1)
    max_word_length: float = Field(25, gt=0)


class Rows(Section):
    """How a task's rows are cleaned. `duplicates`: `keep` (how often something is asked is information; a split keeps
    copies together), `exact` drops all but the first of the same text and target, `near` of nearly the same too.
    `min_words` and `max_characters` bound the input; `personal_data` and `languages` are `data`'s."""

    duplicates: Literal["keep", "exact", "near"] = "keep"
    min_words: int = Field(1, ge=0)
    max_characters: int = Field(100_000, ge=1)


class Names(Section):
    """A token-classification model (a folder or Hub name, safetensors) that finds people's names."""

    path: str
    min_score: float = Field(0.6, ge=0, le=1)


class Data(Section):
    """`parsers` names the parser for a suffix (`.pdf: docling`): `builtin`, `docling`, `unstructured`, or a plug-in.
    `boilerplate`: the share of a source's documents in which a paragraph must stand to be boilerplate (1: never)."""

    documents: Sources | None = None
    parsers: Mapping[str, str] = Field(default_factory=dict)
    near_duplicates: float = Field(0.85, ge=0.5, le=1.0)
    boilerplate: float = Field(0.5, gt=0, le=1)
    quality: Quality = Quality()
    languages: tuple[str, ...] = ()
    personal_data: Mapping[PersonalKind, Policy] = Field(default_factory=dict)
    names: Names | None = None
    rows: Rows = Rows()

    @model_validator(mode="after")
    def _names_are_found_by_a_model(self) -> Data:
        if "name" in self.personal_data and self.names is None:
            raise ValueError("`personal_data: {name: …}` needs `names:` with a model that finds them")
        return self


class Preferences(Section):
    data: str
    prompt: str = "prompt"
    chosen: str = "chosen"
    rejected: str = "rejected"


def _address(url: str) -> str:
    """An address of an API. A message of it repeats nothing: it may hold a password."""
    from urllib.parse import urlsplit

    if not url:
        return url
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError("it is no address; write it as https://HOST/v1") from None
    if parts.username is not None or parts.password is not None:
        raise ValueError("an address holds no user and password; put the key into the environment, and the variable's "
                         "name into `api_key_env`")
    if parts.scheme not in ("http", "https") or not parts.hostname or any(c.isspace() for c in url):
        raise ValueError("it is no address of an API; it begins with http:// or https:// and has a host")
    return url


def _variable(name: str) -> str:
    """The name of an environment variable. A message of it repeats nothing: somebody may have put a key there."""
    if name and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", name):
        raise ValueError("it is no name of an environment variable (capitals, digits, `_`); put the key itself into "
                         "the environment, as in `export PROVIDER_KEY=…`, and write `PROVIDER_KEY` here")
    return name


def _callable_name(name: str) -> str:
    if not name.strip() or set(name) & set(":@"):
        raise ValueError("a name is not empty, and has no `:` (it comes before an adapter) or `@` (a release)")
    return name


Address = Annotated[str, AfterValidator(_address)]
Variable = Annotated[str, AfterValidator(_variable)]
Called = Annotated[str, AfterValidator(_callable_name)]
"""What a client asks by: tasks and models."""

Engine = Literal["auto", "transformers", "openvino", "vllm"]
Precision = Literal["auto", "fp32", "bf16", "int8", "int4"]


REMOTE = frozenset({"openai", "anthropic", "provider"})
"""The kinds of model behind somebody's API, each a RemoteModel."""


class Served(Section):
    """How a model of this machine is served."""

    engine: Engine = "auto"
    precision: Precision = "auto"

    @model_validator(mode="after")
    def _an_engine_that_has_it(self) -> Served:
        if self.engine in ("transformers", "vllm") and self.precision in ("int8", "int4"):
            raise ValueError(f"`engine: {self.engine}` has no `precision: {self.precision}`; openvino has")
        return self


class PretrainModel(Served):
    """A small Llama-architecture model trained here from the project's own text. `steps` 0: four passes over it.
    `engine` and `precision` are how it is served, as of a local model."""

    kind: Literal["pretrain"]
    steps: int = Field(0, ge=0)
    width: int = Field(192, ge=32, multiple_of=32)
    layers: int = Field(3, ge=1)
    context: int = Field(256, ge=64)
    batch_tokens: int = Field(2048, ge=256)


class LocalModel(Served):
    """A Hugging Face folder, or a Hub name already in the local cache or downloadable. It is served by `engine` in a
    process of its own (`auto`: OpenVINO where it can convert the model, else transformers) in `precision`; `adapters`
    are PEFT folders by the names they are called by, `adapters_loaded` of them in memory at most. `memory_gb` bounds
    what that process may allocate (0: no bound; not vLLM's)."""

    kind: Literal["local"]
    path: str
    adapters: Mapping[str, str] = Field(default_factory=dict)
    adapters_loaded: int = Field(4, ge=1, le=64)
    memory_gb: float = Field(0.0, ge=0)


class EncoderModel(Section):
    """A sentence-transformers model by folder or name; `minilm` is the packaged one. With `base_url` it is one behind
    an OpenAI-compatible API, called `model` there, for `usd_per_million_in` dollars a million tokens (the catalogue's
    where it is not given). `precision` is that of its arithmetic here: `auto` is bfloat16 where
    the processor is fast at it."""

    kind: Literal["encoder"]
    path: str = "minilm"
    precision: Literal["auto", "fp32", "bf16", "int8"] = "auto"
    base_url: Address = ""
    model: str = ""
    api_key_env: Variable = "OPENAI_API_KEY"
    timeout_s: float = Field(60, gt=0)
    usd_per_million_in: float | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _remote_has_a_name(self) -> EncoderModel:
        if bool(self.base_url) != bool(self.model):
            raise ValueError("a remote encoder needs both `base_url` and `model`")
        return self


class RerankerModel(Section):
    """A cross-encoder by folder or Hub name; with `base_url` one behind an API that has `/rerank`, called `model`
    there."""

    kind: Literal["reranker"]
    path: str = ""
    base_url: Address = ""
    model: str = ""
    api_key_env: Variable = "OPENAI_API_KEY"
    timeout_s: float = Field(30, gt=0)

    @model_validator(mode="after")
    def _one_or_the_other(self) -> RerankerModel:
        if bool(self.path) == bool(self.base_url):
            raise ValueError("a reranker is a folder (`path`) or an API (`base_url` and `model`)")
        return self


class RemoteModel(Section):
    """A model behind somebody's API, as `model` there. The key comes from the environment variable `api_key_env`.
    `max_parallel` calls are made at once, and no more than the limits a minute (0: no limit). Prices are dollars for a
    million tokens; the catalogue's where they are not given."""

    base_url: Address = ""
    model: str
    api_key_env: Variable = ""
    timeout_s: float = Field(60, gt=0)
    max_parallel: int = Field(16, ge=1, le=1000)
    requests_per_minute: int = Field(0, ge=0)
    tokens_per_minute: int = Field(0, ge=0)
    usd_per_million_in: float | None = Field(None, ge=0)
    usd_per_million_out: float | None = Field(None, ge=0)


class OpenAIModel(RemoteModel):
    """Any OpenAI-compatible endpoint: a provider, vLLM, Ollama."""

    kind: Literal["openai"]
    base_url: Address
    api_key_env: Variable = "OPENAI_API_KEY"


class AnthropicModel(RemoteModel):
    """A model behind Anthropic's Messages API."""

    kind: Literal["anthropic"]
    base_url: Address = "https://api.anthropic.com"
    api_key_env: Variable = "ANTHROPIC_API_KEY"


class ProviderModel(RemoteModel):
    """A model of any other provider (`bedrock`, `vertexai`, `azure`, …), through the extra `bucle[providers]`. Where
    `api_key_env` is empty, credentials are that provider's own environment variables."""

    kind: Literal["provider"]
    provider: str = Field(pattern=r"^[a-z0-9_]+$")


Model = Annotated[
    PretrainModel | LocalModel | EncoderModel | RerankerModel | OpenAIModel | AnthropicModel | ProviderModel,
    Field(discriminator="kind"),
]
Task = Annotated[ClassifyTask | AnswerTask | TextTask | RetrieveTask, Field(discriminator="kind")]


class Retrieval(Section):
    """How documents are cut, indexed and searched. `encoder` and `reranker` name models (none: the first encoder, no
    reranker); `depth` passages of each search are fused and reranked. `store` is where vectors live: empty for the
    packaged index, or `module:function` that returns a LangChain vector store."""

    chunk_words: int = Field(120, ge=20, le=2000)
    overlap_words: int = Field(20, ge=0, le=500)
    encoder: str = ""
    reranker: str = ""
    depth: int = Field(50, ge=5, le=1000)
    store: str = ""


class External(Section):
    """A chain of another library's, unchanged: `object` is `module:name` of a LangChain Runnable or a LlamaIndex query
    engine (or of a function that makes one)."""

    library: Literal["langchain", "llamaindex", "python"]
    object: str = Field(pattern=r"^[\w.]+:[\w.]+$")
    timeout_s: float = Field(60, gt=0)


class MonitorRules(Section):
    """When to raise an alert. Times are of events. `window_days` is for latency, errors and cost; `long_window`
    for drift and abuse, which need more traffic; `reference_days` is how far back usual goes; `alarm_rate`
    is the chance of a false drift alarm in one long window, shared by the routes."""

    window_days: float = Field(1, gt=0)
    long_window_days: float = Field(7, gt=0)
    reference_days: int = Field(default=14, ge=1, le=366)
    alarm_rate: float = Field(default=0.005, gt=0, lt=0.5)
    min_drift_requests: int = Field(default=50, ge=20)
    p95_ms: float | None = Field(default=None, gt=0)
    latency_ratio: float = Field(default=2.0, gt=1)
    min_latency_rise_ms: float = Field(default=150.0, ge=0)
    min_latency_requests: int = Field(default=20, ge=5)
    max_error_rate: float = Field(default=0.05, ge=0, lt=1)
    min_errors: int = Field(default=5, ge=1)
    min_suspicious: int = Field(default=5, ge=1)
    min_suspicious_share: float = Field(default=0.3, ge=0, le=1)
    min_burst: int = Field(default=60, ge=2)
    min_repeats: int = Field(default=10, ge=1)
    budget_usd_per_day: float | None = Field(default=None, gt=0)

    @property
    def window(self) -> timedelta:
        return timedelta(days=self.window_days)

    @property
    def long_window(self) -> timedelta:
        return timedelta(days=self.long_window_days)


class Replay(Section):
    """A log to send through the served API: JSON lines with at, user, route, input, review and upstream_ms.

    Feedback on `task` up to `learn_until_day` makes the next version; what comes later measures it. `upstream`
    names the
    model whose place a local stand-in takes, which holds each reply for the milliseconds in the log.
    """

    log: str
    task: str
    upstream: str = ""
    learn_until_day: float = Field(18, gt=0)


class Project(Section):
    project: str = Field(min_length=1, max_length=80, pattern=r"^[\w][\w .-]*$")
    language: Literal["es", "en"] = "es"
    seed: int = 7
    threads: int = Field(0, ge=0)
    data: Data = Data()
    split: Split = Split()
    tasks: Mapping[Called, Task] = Field(default_factory=dict)
    preferences: Preferences | None = None
    models: Mapping[Called, Model] = Field(default_factory=dict)
    catalogue: Mapping[str, ModelFacts] = Field(default_factory=dict)
    retrieval: Retrieval = Retrieval()
    chains: Mapping[str, str | External] = Field(default_factory=dict)
    choose: Choose = Choose()
    judges: Mapping[str, Judge] = Field(default_factory=dict)
    redteam: RedTeam = RedTeam()
    forgetting: Forgetting = Forgetting()
    serve: Serve = Serve()
    monitor: MonitorRules = MonitorRules()
    replay: Replay | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Project:
        if not self.tasks and self.data.documents is None and not self.models:
            raise ValueError("a project needs `tasks:`, or `data.documents` to start from, or `models:` to serve")
        if self.replay and self.replay.task not in self.tasks:
            raise ValueError(f"replay.task `{self.replay.task}` is none of the tasks: {', '.join(self.tasks)}")
        if any(task.kind == "answer" for task in self.tasks.values()) and self.data.documents is None:
            raise ValueError("an answer task needs data.documents")
        if any(task.kind == "retrieve" for task in self.tasks.values()) and self.data.documents is None:
            raise ValueError("a retrieve task needs data.documents")
        for role, kind in (("encoder", "encoder"), ("reranker", "reranker")):
            named = getattr(self.retrieval, role)
            if named and (named not in self.models or self.models[named].kind != kind):
                of_kind = ", ".join(n for n, m in self.models.items() if m.kind == kind) or "none"
                raise ValueError(f"retrieval.{role} `{named}` is no model of kind {kind}: {of_kind}")
        for name, task in self.tasks.items():
            if unknown := set(task.chains) - set(self.chains):
                known = ", ".join(self.chains) or "none"
                raise ValueError(f"tasks.{name}.chains `{sorted(unknown)[0]}` is none of the chains: {known}")
        for name, judge in self.judges.items():
            if judge.model not in self.models:
                known = ", ".join(self.models) or "none"
                raise ValueError(f"judges.{name}.model `{judge.model}` is none of the models: {known}")
        return self


def load_project(folder: Path) -> Project:
    """The project in `folder` (or the bucle.yaml given). Environment variables `BUCLE_SEED`, `BUCLE_THREADS`,
    `BUCLE_PORT` and `BUCLE_HOST` win over the file. Raises ConfigError with file and line."""
    path = folder if folder.suffix in {".yaml", ".yml"} else folder / "bucle.yaml"
    project = load_yaml_model(path, Project)
    updates: dict[str, Any] = {"models": {name: _found(path.parent, model) for name, model in project.models.items()}}
    serve: dict[str, Any] = {}
    for name, target, key in (
        ("BUCLE_SEED", updates, "seed"),
        ("BUCLE_THREADS", updates, "threads"),
        ("BUCLE_PORT", serve, "port"),
    ):
        if value := os.environ.get(name):
            if not (value.isascii() and value.isdigit() and len(value) < 10):
                raise ConfigError(f"{name}={value!r} is not a whole number.", f"unset {name}")
            target[key] = int(value)
    if host := os.environ.get("BUCLE_HOST"):
        serve["host"] = host
    if serve.get("port", 0) > MAX_PORT:
        raise ConfigError(f"BUCLE_PORT={serve['port']} is beyond {MAX_PORT}.", "unset BUCLE_PORT")
    if serve:
        updates["serve"] = project.serve.model_copy(update=serve)
    return project.model_copy(update=updates)


def _found(folder: Path, model: Model) -> Model:
    """`model` with the folder that it names, where that stands in the project's: wherever the command is run from."""
    own = folder / path if (path := getattr(model, "path", "")) else folder
    if not path or Path(path).is_absolute() or not own.is_dir():
        return model
    return model.model_copy(update={"path": str(own.absolute())})
