"""What a task's predictions are worth: every kind of task, by its default metrics or by the team's own list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bucle.core.errors import BadInput, ConfigError, ModelUnavailable
from bucle.core.ports import Report
from bucle.core.records import Example, Interval, Prediction, TaskKind, Usage
from bucle.evaluate.metrics.overlap import ratio
from bucle.evaluate.metrics.rows import given, kind_gives, lacking, samples_of, settled, void

if TYPE_CHECKING:
    from bucle.evaluate.judge import Judge
    from bucle.evaluate.metrics.samples import Measured, Metric, Sample

__all__ = ["DEFAULTS", "Scored", "Scoring", "check_metrics", "corpus_metrics", "default_metrics", "says_of", "score"]

DEFAULTS: Mapping[TaskKind, tuple[str, ...]] = {
    "classify": ("accuracy", "macro_f1", "ece"),
    "answer": ("token_f1", "exact_match", "abstention", "citation_hit", "citation_precision", "citation_recall",
               "groundedness"),
    "summarise": ("rougeL_words", "rouge1_words", "rouge2_words", "chrf", "groundedness"),
    "translate": ("chrf", "bleu"),
    "extract": ("field_f1", "schema_valid", "json_match"),
    "generate": ("chrf", "token_f1"),
    "instruct": ("followed", "checks_passed", "all_checks_passed", "token_f1"),
    "converse": ("token_f1", "chrf"),
    "code": ("pass@1",),
    "retrieve": ("ndcg@10", "recall@10", "mrr"),
}
"""The metrics of each kind of task; the first decides a comparison. One that some row lacks what it needs for (a
confidence, the document that an answer stands in) is left out. Where a task says its own `k` or `samples`,
`default_metrics` follows."""

JUDGE = "judge:"
UNRATED = 0.1
"""The share of rows that a judge may fail to rate; they count as 0."""


@dataclass(frozen=True)
class Scoring:
    """How a task is scored. `metrics` are the team's (none: the kind's own), `also` those that gates ask for beside
    them; `k` is how many documents a retrieve task asks for, `samples` how often code is written; `documents` maps a
    chunk's id to its document's path, `passages` to its text; `schema` is an extract task's; `folder` is where a metric
    of the project's own stands, which `trusted` allows to run; `judges` by name; `encoder` the folder of the one that
    BERTScore compares meanings by (groundedness goes by the words alone)."""

    kind: TaskKind
    metrics: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    k: int = 10
    samples: int = 1
    documents: Mapping[str, str] = field(default_factory=dict)
    passages: Mapping[str, str] = field(default_factory=dict)
    schema: Mapping[str, Any] | None = None
    folder: Path | None = None
    trusted: bool = False
    judges: Mapping[str, Judge] = field(default_factory=dict)
    encoder: Path | None = None
    seed: int = 0

    @property
    def primary(self) -> str:
        """The metric that decides."""
        return (self.metrics or default_metrics(self.kind, k=self.k, samples=self.samples))[0]


@dataclass(frozen=True)
class Scored:
    """What predictions scored.

    `per_row`: each metric that has a value by row, the deciding one first, in the rows' order and in [0, 1]. Of BLEU
    and chrF that is each row scored alone, over 100: a comparison decides on the mean of those, which is not the corpus
    score in `figures` (`says_of` tells people). `figures`, ready for JSON: `rows`, `errors`, `p50_ms`, `p95_ms`,
    `tokens` (mean a request), `usd_per_1k`, and every metric in its own unit; of classify also `per_label` and
    `confusion`, of answer `answerable` and `unanswerable` (rows, and the share decided rightly). `values`: scores that
    are no mean of shares, with their interval over the rows' clusters, in their own unit. `signatures`: what to publish
    with a score. `judge_usage`: what judges used, which is no cost of the candidate's."""

    per_row: dict[str, list[float]]
    figures: dict[str, Any]
    values: dict[str, Interval]
    signatures: dict[str, str]
    judge_usage: Usage = field(default_factory=Usage)
    measured: Mapping[str, Measured] = field(default_factory=dict)
    """What `corpus_metrics` names, with statistics of every row (0 where a row has no part in the score), from which
    differences are made; not for JSON."""


def default_metrics(kind: TaskKind, *, k: int = 10, samples: int = 1) -> tuple[str, ...]:
    """`DEFAULTS` of a kind, at the number of documents or of programs that the task asks for."""
    if kind == "retrieve":
        return tuple(name.replace("@10", f"@{k}") for name in DEFAULTS[kind])
    return (*DEFAULTS[kind], f"pass@{samples}") if kind == "code" and samples > 1 else DEFAULTS[kind]


def corpus_metrics(scoring: Scoring, names: Sequence[str]) -> tuple[str, ...]:
    """Those of `names` whose interval and difference are the whole score's, in its own unit: no mean of rows (BLEU,
    macro-F1), or the mean of scores that are no shares (a metric of the project's own with another `top`). Raises
    ConfigError."""
    return tuple(name for name in names
                 if not name.startswith(JUDGE) and _is_whole(_metric(scoring, name, first=False)))


def says_of(name: str) -> dict[str, str]:
    """For people, `es` and `en`: which of two numbers a comparison shows, where a metric's mean of rows is not its
    score of the whole corpus (BLEU, chrF). Empty for every other metric."""
    from bucle.evaluate.metrics.registry import metrics

    one = metrics().get(name)
    if one is None or one.mean or not one.rows or one.top is None:
        return {}
    return {
        "es": f"Se compara por la media de las filas, cada una puntuada sola (0 a 1); el {name} del corpus entero, "
              f"de 0 a {one.top:g}, es otra cifra.",
        "en": f"Compared by the mean of the rows, each scored alone (0 to 1); {name} of the whole corpus, "
              f"0 to {one.top:g}, is another figure.",
    }


def check_metrics(kind: TaskKind, names: Sequence[str], judges: Sequence[str] = (), *, k: int | None = None,
                  samples: int | None = None) -> None:
    """Raises ConfigError, before anything is run, for a metric that does not exist (naming the nearest), that a task of
    this kind cannot have, or that comes first and cannot decide; with `k` or `samples`, what the task asks for, also
    for one that looks at more (`recall@10` of 5 documents, `pass@5` of one program). A metric of the project's own is
    looked at when it is loaded."""
    from bucle.evaluate.metrics.registry import is_own, metric

    for place, name in enumerate(names):
        if name.startswith(JUDGE):
            if name.removeprefix(JUDGE) not in judges:
                raise ConfigError(f"there is no judge {name.removeprefix(JUDGE)[:80]}",
                                  f"known: {', '.join(judges)}" if judges else "describe one under `judges:`")
        elif not is_own(name):
            _check(kind, metric(name), first=place == 0)
            _check_depth(kind, name, k, samples)
    twice = next((name for name in names if list(names).count(name) > 1), None)
    if twice:
        raise ConfigError(f"the metric {twice[:80]} is named twice", "name it once")


def score(scoring: Scoring, examples: Sequence[Example], predictions: Sequence[Prediction], *,
          report: Report | None = None) -> Scored:
    """The metrics of `scoring` on `predictions`, one for each of `examples`, in order.

    A row that ended in an error scores 0 everywhere, and so does an abstention, which is no answer: except where the
    example has no answer (target None), which only an abstention gets right. Such a row counts in every score by row,
    and is left out of a corpus's. Raises BadInput (lengths that differ, a row without what a metric needs),
    ConfigError, ModelUnavailable (a judge that cannot rate) and Infrastructure (code, where there is no sandbox).
    """
    if len(examples) != len(predictions):
        raise BadInput(f"{len(predictions)} predictions for {len(examples)} examples")
    unlabelled = next((row.id for row in examples if scoring.kind == "classify" and row.target is None), None)
    if unlabelled is not None:
        raise BadInput(f"example {unlabelled} has no label to compare with", "remove it or label it")
    check_metrics(scoring.kind, scoring.metrics, tuple(scoring.judges))
    for name in scoring.also:  # none of them decides
        check_metrics(scoring.kind, (scoring.primary, name) if name != scoring.primary else (), tuple(scoring.judges))
    if not examples:
        return Scored({scoring.primary: []}, {"rows": 0}, {}, {})
    settled_as = [settled(scoring.kind, row, one) for row, one in zip(examples, predictions, strict=True)]
    rows = [row for row, value in zip(examples, settled_as, strict=True) if value is None]
    said = [one for one, value in zip(predictions, settled_as, strict=True) if value is None]
    own = scoring.metrics or _defaults(scoring, said)
    names = (*own, *(name for name in scoring.also if name not in own))
    wanted = {name: _metric(scoring, name, first=name == names[0]) for name in names if not name.startswith(JUDGE)}
    samples = samples_of(scoring, rows, said, run_code=any("passed" in one.needs for one in wanted.values()),
                         report=report)
    for name, one in list(wanted.items()):
        asked_for = bool(scoring.metrics) or name in scoring.also
        if (lack := lacking(one, samples)) is None and (asked_for or "sources" not in one.needs or any(
                sample.sources for sample in samples)):
            continue
        if lack is not None and (asked_for or name == names[0]):
            raise BadInput(f"example {rows[lack[0]].id} has no {given(lack[1])}, which {name} needs",
                           "write it, leave the row out, or name other metrics")
        del wanted[name]
    measured = _measured(wanted, samples, [not void(one) for one in said])
    per_row: dict[str, list[float]] = {}
    figures = _costs(predictions)
    judged, usage = _judged(scoring, names, rows, said, report)
    for name in names:
        if name in judged:
            per_row[name] = _spread(judged[name], settled_as)
        elif name in measured and wanted[name].rows and (top := wanted[name].top) is not None:
            per_row[name] = _spread([min(value / top, 1.0) for value in measured[name][1]], settled_as)
        if name in measured and (found := measured[name][0]) is not None and not wanted[name].mean:
            figures[name] = found.value
        elif name in per_row:
            figures[name] = _mean(per_row[name]) * (wanted[name].top or 1.0 if name in wanted else 1.0)
        elif name in measured:
            figures[name] = _mean(measured[name][1])
    found_as = {name: one for name, (one, _) in measured.items() if one is not None}
    whole = {name: one for name, one in found_as.items() if _is_whole(one.metric)}
    return Scored(
        per_row, figures | _described(scoring.kind, examples, predictions),
        _intervals({name: _of_all(one, measured[name][1], [None] * len(rows)) for name, one in whole.items()},
                   [row.cluster for row in rows], scoring.seed),
        {name: one.signature for name, one in found_as.items() if one.signature}, usage,
        {name: _of_all(one, measured[name][1], settled_as) for name, one in whole.items()})


def _check(kind: TaskKind, one: Metric, *, first: bool) -> None:
    gives = kind_gives(kind)
    missing = next((need for need in one.needs if need not in gives), None)
    if missing is not None:
        able = [other for other in DEFAULTS if set(one.needs) <= kind_gives(other)]
        raise ConfigError(f"a {kind} task has no {given(missing)}, which the metric {one.name} needs",
                          f"its own are {', '.join(DEFAULTS[kind])}; {one.name} is for "
                          f"{', '.join(able) or 'bucle.evaluate.metrics.measure'}")
    if first and not one.decides:
        why = ("less of it is better" if one.better == "<=" else "a single row has no such score" if not one.rows
               else "it has no top")
        raise ConfigError(f"a comparison cannot be decided by {one.name}: {why}",
                          f"name it after one that can, such as {DEFAULTS[kind][0]}; a gate can ask for it")


def _check_depth(kind: TaskKind, name: str, k: int | None, samples: int | None) -> None:
    """That a task asks for as much as `pass@k`, `recall@k` or `ndcg@k` looks at."""
    of, _, depth = name.partition("@")
    if not depth:
        return
    if kind == "code" and samples is not None and int(depth) > samples:
        raise ConfigError(f"{name} needs {depth} programs for each row, and the task writes {samples}",
                          f"write `samples: {depth}` for the task, or ask for {of}@{samples}")
    if kind == "retrieve" and k is not None and int(depth) > k:
        raise ConfigError(f"{name} looks at {depth} documents, and the task retrieves {k}",
                          f"write `k: {depth}` for the task, or ask for {of}@{k}")


def _defaults(scoring: Scoring, said: Sequence[Prediction]) -> tuple[str, ...]:
    """The kind's own metrics; of code written several times also pass@k, of as many times as the task says, or, where
    it does not, as every row has."""
    tries = min((1 + len(one.others) for one in said if not void(one)), default=1)
    return default_metrics(scoring.kind, k=scoring.k, samples=scoring.samples if scoring.samples > 1 else tries)


def _is_whole(one: Metric) -> bool:
    return not one.mean or one.top != 1.0


def _of_all(one: Measured, scores: Sequence[float], settled_as: Sequence[float | None]) -> Measured:
    """`one`, measured on the rows that are not settled (a mean: on those that were answered, so that `scores` tell of
    all), with a row of statistics for every row. A settled row is all or nothing of a mean that has a top, and has no
    part in any other score."""
    import numpy as np

    from bucle.evaluate.metrics.samples import Statistics

    top, mean = one.metric.top, one.metric.mean
    rest = iter(np.column_stack([scores, np.ones(len(scores))]) if mean else one.statistics.table)
    nothing = np.zeros(2 if mean else one.statistics.table.shape[1])
    table = np.array([next(rest) if value is None else np.array([value * top, 1.0]) if mean and top is not None
                      else nothing for value in settled_as])
    if not mean:
        return replace(one, statistics=replace(one.statistics, table=table))
    statistics = Statistics(table, ratio, signature=one.signature)
    return replace(one, value=float(ratio(table.sum(axis=0))), per_row=list(scores), statistics=statistics)


def _metric(scoring: Scoring, name: str, *, first: bool) -> Metric:
    from bucle.evaluate.metrics.registry import is_own, metric, own_metric

    if not is_own(name):
        return metric(name, encoder=scoring.encoder if name == "bertscore" else None, folder=scoring.folder)
    if scoring.folder is None:
        raise ConfigError(f"the metric {name} needs the project's folder")
    found = own_metric(name, scoring.folder, trusted=scoring.trusted)
    _check(scoring.kind, found, first=first)
    return found


def _measured(wanted: Mapping[str, Metric], samples: Sequence[Sample], live: Sequence[bool]
              ) -> dict[str, tuple[Measured | None, list[float]]]:
    """Each metric and its scores by row, in its own unit. One that is the mean of its rows sees only live rows: the
    others score 0 (the worst there is, where less is better), and cost nothing."""
    from bucle.evaluate.metrics.registry import measure

    found: dict[str, tuple[Measured | None, list[float]]] = {}
    some = [sample for sample, kept in zip(samples, live, strict=True) if kept]
    means = measure([one for one in wanted.values() if one.mean], some) if some else {}
    whole = measure([one for one in wanted.values() if not one.mean], samples) if samples else {}
    for name, one in wanted.items():
        if not one.mean:
            found[name] = (whole[one.name], list(whole[one.name].per_row)) if samples else (None, [])
            continue
        scores = iter(means[one.name].per_row if some else ())
        worst = 0.0 if one.better == ">=" else (one.top or 0.0)
        found[name] = (means.get(one.name), [next(scores) if kept else worst for kept in live])
    return found


def _judged(scoring: Scoring, names: Sequence[str], rows: Sequence[Example], said: Sequence[Prediction],
            report: Report | None) -> tuple[dict[str, list[float]], Usage]:
    """Each judge's ratings in [0, 1] and what all of them used. Only answers are shown to a judge."""
    found: dict[str, list[float]] = {}
    tokens_in = tokens_out = 0
    usd = 0.0
    live = [place for place, one in enumerate(said) if not void(one)]
    for name in names:
        if not name.startswith(JUDGE):
            continue
        ratings = scoring.judges[name.removeprefix(JUDGE)].rate(
            [rows[i].input for i in live], [said[i].output for i in live], [rows[i].target or "" for i in live],
            report=report)
        failed = [one for one in ratings if one.score is None]
        if len(failed) > UNRATED * len(ratings):
            raise ModelUnavailable(f"{name} could not rate {len(failed)} of {len(ratings)} rows: {failed[0].error}",
                                   "make its rubric say what to answer with, or name another model")
        found[name] = [0.0] * len(rows)
        for i, one in zip(live, ratings, strict=True):
            found[name][i] = one.score or 0.0
            tokens_in, tokens_out = tokens_in + one.usage.tokens_in, tokens_out + one.usage.tokens_out
            usd += one.usage.usd
    return found, Usage(tokens_in=tokens_in, tokens_out=tokens_out, usd=usd)


def _intervals(whole: Mapping[str, Measured], clusters: Sequence[str], seed: int) -> dict[str, Interval]:
    """Those of `_of_all`; none where all rows have one source."""
    from bucle.evaluate.resample import score_intervals

    return score_intervals(whole, clusters=clusters, seed=seed) if whole and len(set(clusters)) > 1 else {}


def _spread(scores: Sequence[float], settled_as: Sequence[float | None]) -> list[float]:
    """`scores` of the rows that were asked, in the places that are not settled."""
    rest = iter(scores)
    return [next(rest) if value is None else value for value in settled_as]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _costs(predictions: Sequence[Prediction]) -> dict[str, Any]:
    import numpy as np

    ms = np.array([one.ms for one in predictions])
    return {
        "rows": len(predictions),
        "errors": sum(bool(one.error) for one in predictions),
        "p50_ms": float(np.percentile(ms, 50)),
        "p95_ms": float(np.percentile(ms, 95)),
        "tokens": float(np.mean([one.usage.tokens_in + one.usage.tokens_out for one in predictions])),
        "usd_per_1k": float(np.mean([one.usage.usd for one in predictions]) * 1000),
    }


def _described(kind: TaskKind, examples: Sequence[Example], predictions: Sequence[Prediction]) -> dict[str, Any]:
    """What a kind tells beside its metrics."""
    if kind == "classify":
        from bucle.evaluate.metrics.labels import by_label

        return by_label([None if void(one) else one.output for one in predictions],
                        [row.target or "" for row in examples])
    if kind != "answer":
        return {}
    rightly = [float(not one.error and one.abstained == (row.target is None))
               for row, one in zip(examples, predictions, strict=True)]
    found: dict[str, Any] = {}
    for name, wanted in (("answerable", False), ("unanswerable", True)):
        some = [value for row, value in zip(examples, rightly, strict=True) if (row.target is None) == wanted]
        found[name] = {"rows": len(some), "decided_rightly": _mean(some) if some else None}
    return found
