"""The kinds of task, as bucle.yaml names them: what goes in, what should come out, how it is split, measured, gated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from bucle.core.sources import Names, RowSource, Section

__all__ = ["AnswerTask", "ClassifyTask", "RetrieveTask", "Split", "TextKind", "TextTask"]

TextKind = Literal["summarise", "translate", "extract", "generate", "instruct", "converse", "code"]


class Split(Section):
    """Shares of rows held out. Rows of one group (customer, document) and near-duplicates stay on one side. `by`:
    `hash` (stratified by label), or `time` (the latest rows are held out)."""

    test: float = Field(0.2, gt=0, lt=0.8)
    validation: float = Field(0.1, gt=0, lt=0.5)
    by: Literal["hash", "time"] = "hash"


def _gate_text(value: Any) -> Any:
    """`- licence: commercial` is a mapping to YAML and a gate to its writer."""
    if isinstance(value, Mapping) and len(value) == 1:
        name, wanted = next(iter(value.items()))
        return f"{name}: {wanted}"
    return value


Gates = tuple[Annotated[str, BeforeValidator(_gate_text)], ...]


class _Task(Section):
    """`metrics`: the first decides comparisons (none: the kind's own); `module:function` is a function of the
    project's, `judge:NAME` a judge. `gates` are conditions on what was measured. `prompt` is the file of the task's own
    prompt (or a stored one, `NAME@ALIAS`); `chains` are those of `chains:` that compete for it."""

    data: str | RowSource
    instruction: str = ""
    prompt: str = ""
    chains: Names = ()
    metrics: Names = ()
    split: Split | None = None
    gates: Gates = ()


class ClassifyTask(_Task):
    kind: Literal["classify"]
    text: str = ""
    label: str = ""
    id: str = ""
    group: str = ""
    time: str = ""
    labels: tuple[str, ...] = ()


class AnswerTask(_Task):
    kind: Literal["answer"]
    question: str = "question"
    answer: str = "answer"
    document: str = "document"


class TextTask(_Task):
    """A text in, a text out. `input` and `reference` are columns.

    summarise, translate (`source`, `target`: languages), generate (in the `voice` described), instruct: the reference
    is a text to be near to. instruct: a `checks` column may hold what an answer must keep, as JSON (see docs/tasks.md).
    extract: the reference is a JSON object, `json_schema` the file with its schema. converse: the input is the
    conversation so far, as a JSON list of messages. code: the input asks for Python, the reference holds the tests that
    it must pass; `samples` are written for pass@k.
    """

    kind: TextKind
    input: str = "input"
    reference: str = "reference"
    checks: str = ""
    id: str = ""
    group: str = ""
    time: str = ""
    json_schema: str = ""
    source: str = ""
    target: str = ""
    voice: str = ""
    samples: int = Field(1, ge=1, le=100)


class RetrieveTask(_Task):
    """A question in, the documents that bear on it out: `document` names the right one, or several, separated by `;`.
    `k` documents are retrieved."""

    kind: Literal["retrieve"]
    query: str = "query"
    document: str = "document"
    id: str = ""
    group: str = ""
    time: str = ""
    k: int = Field(10, ge=1, le=100)
