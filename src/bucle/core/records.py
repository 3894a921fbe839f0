"""The records that pass between rooms. Frozen, small, and the same in Python, in the ledger and over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "Alert",
    "Annotation",
    "Block",
    "Candidate",
    "Chunk",
    "Document",
    "Edge",
    "Example",
    "Feedback",
    "Interval",
    "Node",
    "Prediction",
    "TaskKind",
    "Trace",
    "Usage",
]

TaskKind = Literal[
    "classify", "answer", "summarise", "translate", "extract", "generate", "instruct", "converse", "code", "retrieve"
]


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")


class Edge(Record):
    """`child` was made from `parent`, which played `role` (for example `train`, `base_model`, `prompt`)."""

    child: str
    role: str
    parent: str


class Node(Record):
    """One immutable thing in the ledger. `blobs` maps a file name to its sha256."""

    id: str
    kind: str
    attrs: Mapping[str, Any]
    blobs: Mapping[str, str] = Field(default_factory=dict)
    created_at: str


class Block(Record):
    """A piece of a parsed document with the place it stands in (`page 3`, `slide 2`, `sheet Tarifas`, `section
    Bajas`)."""

    text: str
    place: str = ""
    kind: Literal["text", "heading", "table", "notes"] = "text"


class Document(Record):
    """A parsed file. `id` is `document:sha256` of path and bytes; `path` is relative to the source's root, with `/`.

    `access` are the labels a reader needs, all of them, to see it (none: everyone may); `origin` is the URL or row it
    came from where that is not a file of the project."""

    id: str
    path: str
    sha256: str
    media_type: str
    title: str
    language: str
    blocks: tuple[Block, ...]
    access: tuple[str, ...] = ()
    origin: str = ""

    @property
    def text(self) -> str:
        return "\n\n".join(block.text for block in self.blocks)


class Chunk(Record):
    """A passage of a document, as indexed. `id` is `chunk:sha256`; `heading` is its context, `place` its citation,
    `access` its document's."""

    id: str
    document_id: str
    path: str
    text: str
    heading: str = ""
    place: str = ""
    language: str = ""
    access: tuple[str, ...] = ()


class Example(Record):
    """One row of a task: `input` is what a user wrote, `target` the label or the answer (None: not answerable).

    `group` holds rows together in a split (same customer, same document); `at` is an ISO date where known;
    `document` is the path the answer stands in (of a retrieve task, the right ones, separated by `;`); `checks` what an
    answer must keep, as JSON (instruct); `source` says where the row came from (`file.tsv:12`) and `span` its
    bytes there, first and one past the last (None where a row has no bytes of its own, as in Parquet). `labelled_by`
    is the person whose label took the place of the source's.
    """

    id: str
    input: str
    target: str | None
    group: str = ""
    at: str = ""
    language: str = ""
    document: str = ""
    checks: str = ""
    source: str = ""
    span: tuple[int, int] | None = None
    labelled_by: str = ""

    @property
    def cluster(self) -> str:
        """What intervals cluster by: rows about one document, or of one group, are no independent evidence."""
        return self.document or self.group or self.id


class Usage(Record):
    """What one call used. Tokens by the model's own tokenizer; `usd` in US dollars."""

    tokens_in: int = 0
    tokens_out: int = 0
    usd: float = 0.0


class Prediction(Record):
    """What a candidate said to one input. `score` in [0, 1] is its confidence; `ms` wall-clock milliseconds;
    `reasoning` what it wrote before the answer (chain of thought); `others` further samples of the same input (code,
    pass@k). `chunks` were retrieved, best first; `citations` are those of them that the answer cites, and `quotes` the
    span of each that supports it, in the same order. `error_kind` is the class of the error (`SchemaBroken`); `spans`
    are the steps of a chain, as in a Trace: `name`, `start_ms`, `ms` and what each tells."""

    output: str
    score: float | None = None
    abstained: bool = False
    chunks: tuple[str, ...] = ()
    citations: tuple[str, ...] = ()
    usage: Usage = Usage()
    ms: float = 0.0
    error: str = ""
    error_kind: str = ""
    reasoning: str = ""
    others: tuple[str, ...] = ()
    quotes: tuple[str, ...] = ()
    spans: tuple[Mapping[str, Any], ...] = ()


class Candidate(Record):
    """Base model + adapter + prompt + index + decoding, as one thing to score, judge and serve.

    Its ledger node (kind `candidate`) holds these fields, its files as blobs, and edges to base, encoder, index,
    dataset and split. `base` and `encoder` are model names in bucle.yaml, `models` all that a chain asks; `fitted_on`
    is `train` (the held-out rows were never seen) or `all` (the same recipe on every row, for release).
    """

    name: str
    task: str
    kind: TaskKind
    technique: str
    base: str = ""
    encoder: str = ""
    labels: tuple[str, ...] = ()
    params: Mapping[str, Any] = Field(default_factory=dict)
    models: tuple[str, ...] = ()
    fitted_on: Literal["train", "all"] = "train"


class Interval(Record):
    """An estimate with its confidence interval (95% unless `level` says otherwise) and the rows behind it."""

    value: float
    low: float
    high: float
    n: int
    level: float = 0.95


class Trace(Record):
    """One request through the API. `at` is the time of the event, `received_at` of its arrival here (they differ in a
    replay); both ISO 8601 with offset. `key` is the id of the API key (never the key), `team` its team; `served_by` the
    model that the engine said it was; `prompt` the id of the prompt; `cached` `exact` or `semantic`. `role` is `shadow`
    of an answer that nobody saw. `input` and `output` are stored redacted. `estimated` says that nobody counted
    all of `usage` (a reply without it, a call that broke off); of a server that was killed it is what was reserved."""

    id: str
    at: str
    received_at: str
    route: str
    model: str
    release: str = ""
    candidate: str = ""
    user: str = ""
    input: str
    output: str = ""
    score: float | None = None
    status: int = 200
    error: str = ""
    ms: float = 0.0
    ms_first: float = 0.0
    usage: Usage = Usage()
    chunks: tuple[str, ...] = ()
    guard: Mapping[str, Any] = Field(default_factory=dict)
    spans: tuple[Mapping[str, Any], ...] = ()
    key: str = ""
    team: str = ""
    served_by: str = ""
    prompt: str = ""
    cached: str = ""
    role: Literal["", "shadow"] = ""
    estimated: bool = False


class Feedback(Record):
    """A rating (+1 or -1) and/or a correction of one trace. Stored beside the trace, never over it."""

    id: str
    trace: str
    at: str
    by: str
    rating: Literal[-1, 1] | None = None
    correction: str | None = None
    reason: str = ""
    source: str = "api"


class Annotation(Record):
    """What one person (or machine: kind `prelabel`) says about one row of a task. Appended, never changed: a person's
    latest counts. `label` is the label or answer (empty: the question has no answer); None takes back what they said
    before. An `adjudication` decides for everybody. `at` is ISO 8601 with offset."""

    id: str
    task: str
    row: str
    by: str
    label: str | None
    at: str
    kind: Literal["annotation", "prelabel", "adjudication"] = "annotation"
    note: str = ""


class Alert(Record):
    """Something a rule noticed in one window. `examples` are trace ids; `next` is the command to run."""

    id: str
    rule: str
    kind: Literal["drift", "abuse", "latency", "errors", "cost", "quality"]
    route: str
    start: str
    end: str
    value: float
    threshold: float
    message: str
    examples: tuple[str, ...] = ()
    detail: Mapping[str, Any] = Field(default_factory=dict)
    next: str = ""
