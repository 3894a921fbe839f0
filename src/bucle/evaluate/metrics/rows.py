"""The metrics of a task's evaluation: per row for paired statistics, and as one summary for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bucle.core.errors import BadInput
from bucle.core.records import Example, Prediction, TaskKind
from bucle.evaluate.metrics.numbers import calibration_error
from bucle.evaluate.metrics.words import exact_match, token_f1

__all__ = ["PRIMARY", "score_rows", "summarise"]

PRIMARY: Mapping[str, str] = {"classify": "accuracy", "answer": "token_f1"}
"""The metric a comparison of this kind of task is decided on."""

OTHER = "(other)"
def _check(examples: Sequence[Example], predictions: Sequence[Prediction]) -> None:
    if len(examples) != len(predictions):
        raise BadInput(f"{len(predictions)} predictions for {len(examples)} examples")


def _cited(prediction: Prediction, documents_of_chunks: Mapping[str, str]) -> set[str]:
    return {documents_of_chunks.get(name, name) for name in prediction.citations}


def score_rows(kind: TaskKind, examples: Sequence[Example], predictions: Sequence[Prediction],
               documents_of_chunks: Mapping[str, str] | None = None) -> dict[str, list[float]]:
    """Every per-row metric of the task, each a list as long as `examples`, in order, with values in [0, 1].

    classify: `accuracy`. answer: `exact_match`, `token_f1`, `abstention` (right about whether there is an
    answer) and `citation_hit` (a cited chunk stands in the example's document). A question without an
    answer is right exactly when the candidate abstained; a row that ended in an error scores 0 everywhere.
    `citation_hit` is left out when an answerable row names no document, since it could not be paired;
    `documents_of_chunks` maps a chunk id to its document's path. Raises BadInput when the lengths differ or
    a row to classify has no label.
    """
    _check(examples, predictions)
    if kind == "classify":
        missing = next((row.id for row in examples if row.target is None), None)
        if missing is not None:
            raise BadInput(f"example {missing} has no label to compare with", "remove it or label it")
        return {"accuracy": [
            float(not said.error and not said.abstained and said.output == row.target)
            for row, said in zip(examples, predictions, strict=True)
        ]}
    documents = documents_of_chunks or {}
    names = ["exact_match", "token_f1", "abstention"]
    if examples and all(row.document for row in examples if row.target is not None):
        names.append("citation_hit")
    scores: dict[str, list[float]] = {name: [] for name in names}
    for row, said in zip(examples, predictions, strict=True):
        decided = float(not said.error and said.abstained == (row.target is None))
        values = dict.fromkeys(names, 0.0) | {"abstention": decided}
        if row.target is None:
            values = dict.fromkeys(names, decided)
        elif decided:
            values["exact_match"] = exact_match(said.output, row.target)
            values["token_f1"] = token_f1(said.output, row.target)
            if "citation_hit" in values:
                values["citation_hit"] = float(row.document in _cited(said, documents))
        for name in names:
            scores[name].append(values[name])
    return scores


def summarise(kind: TaskKind, examples: Sequence[Example], predictions: Sequence[Prediction],
              documents_of_chunks: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The evaluation's figures, ready for JSON; empty apart from `rows` when there is nothing to evaluate.

    Always `rows`, `errors`, `p50_ms`, `p95_ms`, `tokens` (mean a request), `usd_per_1k` and the mean of
    every metric of `score_rows`. classify adds `macro_f1` over the labels that occur, `ece` where every row
    has a confidence, `per_label` and `confusion` (rows are true labels; the last column counts outputs that
    are no such label). answer adds `answerable` and `unanswerable` (rows, and the share decided rightly).
    """
    import numpy as np

    scores = score_rows(kind, examples, predictions, documents_of_chunks)
    if not examples:
        return {"rows": 0}
    ms = np.array([said.ms for said in predictions])
    figures: dict[str, Any] = {
        "rows": len(examples),
        "errors": sum(bool(said.error) for said in predictions),
        "p50_ms": float(np.percentile(ms, 50)),
        "p95_ms": float(np.percentile(ms, 95)),
        "tokens": float(np.mean([said.usage.tokens_in + said.usage.tokens_out for said in predictions])),
        "usd_per_1k": float(np.mean([said.usage.usd for said in predictions]) * 1000),
    } | {name: float(np.mean(values)) for name, values in scores.items()}
    if kind == "classify":
        return figures | _classification(examples, predictions, scores["accuracy"])
    for name, wanted in (("answerable", False), ("unanswerable", True)):
        rows = [score for row, score in zip(examples, scores["abstention"], strict=True)
                if (row.target is None) == wanted]
        figures[name] = {"rows": len(rows), "decided_rightly": float(np.mean(rows)) if rows else None}
    return figures


def _classification(examples: Sequence[Example], predictions: Sequence[Prediction],
                    correct: Sequence[float]) -> dict[str, Any]:
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    truth = [row.target or "" for row in examples]
    labels = sorted(set(truth))
    known = set(labels)
    said = [
        prediction.output if prediction.output in known and not prediction.error and not prediction.abstained
        else OTHER for prediction in predictions
    ]
    columns = [*labels, OTHER] if OTHER not in known else labels
    precision, recall, f1, support = precision_recall_fscore_support(
        truth, said, labels=labels, zero_division=0)
    matrix = confusion_matrix(truth, said, labels=columns)[:len(labels)]
    figures: dict[str, Any] = {
        "macro_f1": float(f1.mean()),
        "per_label": [
            {"label": label, "precision": float(precision[i]), "recall": float(recall[i]), "f1": float(f1[i]),
             "rows": int(support[i])} for i, label in enumerate(labels)
        ],
        "confusion": {"labels": labels, "columns": columns, "matrix": matrix.tolist()},
    }
    confidence = [prediction.score for prediction in predictions if prediction.score is not None]
    if len(confidence) == len(predictions):
        figures["ece"] = calibration_error(correct, confidence)
    return figures
