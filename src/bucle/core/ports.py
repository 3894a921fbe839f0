"""Ports: what a plug-in implements to join Bucle, each small enough to write in a page.

Found through Python entry points in the groups `bucle.chat_models`, `bucle.embedders`, `bucle.parsers`,
`bucle.techniques`, `bucle.guards`, `bucle.rerankers` and `bucle.sinks`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from bucle.core.records import Block, Chunk, Example, Prediction, TaskKind, Usage

__all__ = [
    "ChatModel",
    "ChatReply",
    "Embedder",
    "FitContext",
    "Guard",
    "Hit",
    "Message",
    "Parser",
    "Predictor",
    "Report",
    "Reranker",
    "SearchIndex",
    "Sink",
    "Technique",
    "Verdict",
]

Message = Mapping[str, str]
"""`{"role": "system" | "user" | "assistant", "content": str}`."""


@dataclass(frozen=True)
class ChatReply:
    """A finished reply. `finish` is `stop` or `length`; `ms` the milliseconds it took when it was made; `cached`
    whether it was remembered; `served_by` the model (and fingerprint) that the provider says it is, where it says
    so."""

    text: str
    usage: Usage
    finish: str = "stop"
    ms: float = 0.0
    cached: bool = False
    served_by: str = ""


class Report(Protocol):
    """Progress of something long: `report(done, total, note)`. Total 0 means not known yet."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


@runtime_checkable
class ChatModel(Protocol):
    """A model that continues a conversation."""

    name: str

    def chat(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
        seed: int = 0,
    ) -> ChatReply: ...

    def stream(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        stop: Sequence[str] = (),
        seed: int = 0,
    ) -> Iterator[str | ChatReply]:
        """Text pieces as they come, then one ChatReply whose text is their concatenation."""
        ...


@runtime_checkable
class Embedder(Protocol):
    """A model that turns texts into unit vectors: `embed(texts)` returns `[len(texts), dimensions]` as lists of
    floats."""

    name: str
    dimensions: int

    def embed(self, texts: Sequence[str]) -> list[list[float]]: ...


@dataclass(frozen=True)
class Hit:
    """A passage that was found. `score` in [0, 1] within its search, 1 for the best; `words` and `meaning` what each
    search gave it before fusion (BM25; cosine), None where that search did not find it; `rerank` the reranker's."""

    chunk: Chunk
    score: float
    words: float | None = None
    meaning: float | None = None
    rerank: float | None = None


@runtime_checkable
class Reranker(Protocol):
    """Judges question and passage together: `score(question, texts)` gives one number a text, higher is better."""

    name: str

    def score(self, question: str, texts: Sequence[str]) -> list[float]: ...


@runtime_checkable
class SearchIndex(Protocol):
    """Passages that can be searched. `access` are the labels that the asker holds: a passage that needs any other is
    never returned, counted or named. `where` narrows by metadata (`path` with `*`, `language`, `document`)."""

    def search(
        self,
        question: str,
        *,
        k: int,
        weight: float,
        vector: Any = None,
        access: frozenset[str] = frozenset(),
        where: Mapping[str, str] | None = None,
    ) -> list[Hit]: ...

    def get(self, ids: Sequence[str], access: frozenset[str] = frozenset()) -> dict[str, Chunk]:
        """Passages by id: those of them that are here and that `access` may see."""
        ...

    def count(self, access: frozenset[str] = frozenset()) -> int:
        """How many passages a holder of `access` may see."""
        ...


@runtime_checkable
class Parser(Protocol):
    """Reads one kind of file into blocks. Raises Quarantined with a reason for a file that cannot be read."""

    media_types: Sequence[str]

    def parse(self, path: Path) -> tuple[str, list[Block]]:
        """Title and blocks of the file at `path`."""
        ...


@dataclass(frozen=True)
class Verdict:
    """What a guard found: `flagged`, a score in [0, 1], and kinds such as `injection`."""

    guard: str
    flagged: bool
    score: float
    kinds: tuple[str, ...] = ()
    ms: float = 0.0


@runtime_checkable
class Guard(Protocol):
    """Looks at a text on the way in or out."""

    name: str

    def check(self, text: str) -> Verdict: ...


@runtime_checkable
class Predictor(Protocol):
    """A fitted candidate in memory: answers inputs in order. Errors of one input stand in its Prediction."""

    def predict(self, inputs: Sequence[str]) -> list[Prediction]: ...


@dataclass(frozen=True)
class FitContext:
    """What a technique gets to fit. `out` is an empty folder for its files; `work` survives a kill, for checkpoints.

    `train` may be used to fit and `validation` to tune; no held-out row is in either. `base` is the folder of the
    base model where the technique has one; `index` the folder of the retrieval index for the answer task;
    `chat` the model that prompting techniques ask; `kind` the task's, for a technique that serves several. `models` are
    further ones by their names in bucle.yaml (a chain's), `reranker` the project's; `project` is its folder, whose own
    Python runs only where `trusted`.
    """

    out: Path
    work: Path
    train: Sequence[Example]
    validation: Sequence[Example]
    labels: Sequence[str]
    params: Mapping[str, Any]
    seed: int
    report: Report
    base: Path | None = None
    encoder: Path | None = None
    index: Path | None = None
    chat: ChatModel | None = None
    kind: TaskKind = "classify"
    models: Mapping[str, ChatModel] = field(default_factory=dict)
    reranker: Reranker | None = None
    project: Path | None = None
    trusted: bool = False


@runtime_checkable
class Technique(Protocol):
    """One rung of the ladder: a way to make a candidate. Stateless; `fit` writes files, `load` reads them again.

    `kinds` are the task kinds it serves; `needs` any of `base`, `encoder`, `index`, `chat`; `rung` its place on the
    ladder, cheapest first; `when` one line on when to use it; `settings` the parameters that bucle.yaml may give it.
    Where it has them, `uses` are roles that it takes if the project has them, and `serving_needs` what it needs to
    answer, if that is less than `needs`.
    """

    name: str
    kinds: frozenset[str]
    needs: frozenset[str]
    rung: int
    baseline: bool
    when: str
    settings: frozenset[str]

    def fit(self, ctx: FitContext) -> Mapping[str, Any]:
        """Fit, write the files into `ctx.out`, return figures worth keeping (losses, chosen settings)."""
        ...

    def load(self, folder: Path, ctx: LoadContext) -> Predictor: ...


@dataclass(frozen=True)
class LoadContext:
    """What a technique gets to load what it fitted; folders as in FitContext."""

    labels: Sequence[str]
    params: Mapping[str, Any]
    seed: int = 0
    base: Path | None = None
    encoder: Path | None = None
    index: Path | None = None
    chat: ChatModel | None = None
    kind: TaskKind = "classify"
    models: Mapping[str, ChatModel] = field(default_factory=dict)
    reranker: Reranker | None = None
    project: Path | None = None
    trusted: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Sink(Protocol):
    """Receives alerts (webhook, e-mail, log). Must not raise; returns whether it was delivered."""

    name: str

    def send(self, alert: Mapping[str, Any]) -> bool: ...


Clock = Callable[[], float]
"""Seconds since the epoch."""
