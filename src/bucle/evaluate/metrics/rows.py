"""A task's rows as metrics see them: what each kind of task gives, and which rows need no metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bucle.core.errors import BadInput
from bucle.core.ports import Report
from bucle.core.records import Example, Prediction, TaskKind
from bucle.evaluate.metrics.registry import lacks
from bucle.evaluate.metrics.samples import Metric, Sample

if TYPE_CHECKING:
    from bucle.evaluate.scoring import Scoring

__all__ = ["given", "kind_gives", "lacking", "samples_of", "settled", "void"]

_GIVES = {
    "references": "text to be near to", "correct": "label", "wanted": "label", "confidence": "confidence",
    "relevant": "document to be found", "citations": "citations", "ranking": "ranking", "sources": "text to stand on",
    "decided": "question without an answer", "passed": "tests", "checks": "checks", "schema": "schema",
    "logprobs": "log-probability of each token",
}
_TEXT = frozenset({"references", "checks"})
_KINDS: Mapping[TaskKind, frozenset[str]] = {
    "classify": frozenset({"references", "correct", "wanted", "confidence"}),
    "answer": frozenset({"references", "relevant", "sources", "decided"}),
    "summarise": _TEXT | {"sources"},
    "translate": _TEXT,
    "extract": _TEXT | {"schema"},
    "generate": _TEXT,
    "instruct": _TEXT,
    "converse": _TEXT,
    "code": frozenset({"passed"}),
    "retrieve": frozenset({"relevant"}),
}


def given(need: str) -> str:
    """`need`, a field of Sample, for people."""
    return _GIVES.get(need, need)


def kind_gives(kind: TaskKind) -> frozenset[str]:
    """What the rows of a kind may hold for metrics: fields of Sample."""
    return _KINDS[kind]


def settled(kind: TaskKind, row: Example, said: Prediction) -> float | None:
    """The score, by every metric, of a question without an answer: right is to abstain. None for all other rows."""
    if kind != "answer" or row.target is not None:
        return None
    return float(said.abstained and not said.error)


def void(said: Prediction) -> bool:
    """Whether there is no answer: an error, or an abstention."""
    return bool(said.error) or said.abstained


def lacking(one: Metric, samples: Sequence[Sample]) -> tuple[int, str] | None:
    """The first row, and what it lacks, where some row lacks what the metric reads."""
    found = ((place, need) for need in one.needs for place, sample in enumerate(samples) if lacks(sample, need))
    return next(found, None)


def samples_of(scoring: Scoring, rows: Sequence[Example], said: Sequence[Prediction], *, run_code: bool,
               report: Report | None) -> list[Sample]:
    """One sample a row; of a row without an answer the output is empty. `run_code`: tests are run, in the sandbox. Who
    writes one program for each row would write the same again: it stands for all the task's tries."""
    samples = [_sample(scoring, row, one) for row, one in zip(rows, said, strict=True)]
    if not run_code:
        return samples
    from bucle.evaluate.sandbox import idle, python_of, tried

    for row in rows:
        if idle(row.target or ""):
            raise BadInput(f"example {row.id} has tests that test nothing: what they define is called nowhere",
                           "call it at their end, as in `check(my_function)`, or name functions `test…`")
    tries = [() if void(one) else (one.output, *one.others) for one in said]
    jobs = [(python_of(text), row.target or "") for row, texts in zip(rows, tries, strict=True) for text in texts]
    outcomes = iter(tried(jobs, report=report))
    found = []
    for sample, texts in zip(samples, tries, strict=True):
        passed = tuple(next(outcomes).passed for _ in texts) or (False,)
        found.append(replace(sample, passed=passed * scoring.samples if len(passed) == 1 else passed))
    return found


def _sample(scoring: Scoring, row: Example, said: Prediction) -> Sample:
    kind, output = scoring.kind, "" if void(said) else said.output
    if kind == "classify":
        right = float(not void(said) and said.output == row.target)
        sure = 0.0 if said.score is None and void(said) else said.score  # no answer is nothing to be sure of
        return Sample(output, (row.target or "",), correct=right, confidence=sure, wanted=row.target)
    relevant = {name.strip(): 1.0 for name in row.document.split(";") if name.strip()}
    chunks = () if void(said) else said.chunks
    shown = tuple(scoring.documents.get(name, name) for name in chunks)
    if kind == "retrieve":
        return Sample(output, relevant=relevant, ranking=shown)
    references = () if row.target is None else (row.target,)
    if kind == "answer":
        cited = () if void(said) else tuple(scoring.documents.get(name, name) for name in said.citations)
        return Sample(output, references, relevant=relevant, ranking=shown, citations=cited,
                      sources=tuple(scoring.passages[name] for name in chunks if name in scoring.passages),
                      decided=float(not void(said)))
    return Sample(output, references, checks=row.checks, schema=scoring.schema,
                  sources=(row.input,) if kind == "summarise" else ())
