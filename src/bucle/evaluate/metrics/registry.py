"""Every metric by name. Others join through the entry point `bucle.metrics`, or stand in the project's own folder.

A metric of one's own is a function of the output and the reference, in a file beside bucle.yaml:

    # my_metrics.py, asked for as `my_metrics:same_length`
    def same_length(output: str, reference: str) -> float:
        \"\"\"Share of the longer text's length that the shorter has.\"\"\"
        return min(len(output), len(reference)) / max(len(output), len(reference), 1)
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from bucle.core.errors import BadInput, ConfigError
from bucle.evaluate.metrics import checks, labels, meaning, numbers, overlap, retrieval, structured, toxic
from bucle.evaluate.metrics.grounded import SUPPORT, groundedness
from bucle.evaluate.metrics.overlap import ratio
from bucle.evaluate.metrics.samples import Measured, Metric, Sample, Statistics
from bucle.evaluate.metrics.words import exact_match, token_f1

__all__ = ["check_own", "is_own", "lacks", "measure", "metric", "metrics", "own_metric"]

_AT = re.compile(r"(recall|ndcg|pass)@([1-9]\d{0,3})")
_OWN = re.compile(r"[A-Za-z_]\w*(?:[./][A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)

TOXICITY = "toxicity:"


@cache
def metrics() -> dict[str, Metric]:
    """All metrics by name, with `recall@k`, `ndcg@k` and `pass@k` at a usual `k`; `metric` knows them at any."""
    from importlib import metadata

    own = [
        _mean("accuracy", "share of rows that are right", ("correct",), lambda one: float(one.correct or 0)),
        _best("exact_match", "equal after normalisation (Spanish and English)", exact_match),
        _best("token_f1", "F1 of the normalised words (Spanish and English)", token_f1),
        Metric("bleu", "BLEU, sacrebleu's default", ("references",), overlap.bleu, top=100.0, mean=False),
        Metric("chrf", "chrF2, sacrebleu's default", ("references",), overlap.chrf, top=100.0, mean=False),
        *(_rouge(kind, words) for words in (False, True) for kind in ("rouge1", "rouge2", "rougeL")),
        Metric("ece", "expected calibration error, ten bins", ("correct", "confidence"), numbers.calibration, "<=",
               mean=False, rows=False),
        Metric("brier", "squared distance of the confidence from what happened", ("correct", "confidence"),
               lambda samples: _means(numbers.brier(samples), "brier"), "<="),
        Metric("perplexity", "exp of the mean negative log-probability of a token", ("logprobs",),
               numbers.perplexities, "<=", None, mean=False, rows=False),
        Metric("macro_f1", "mean F1 of the labels that occur", ("wanted",), labels.macro_f1, mean=False, rows=False),
        _mean("abstention", "right to answer, or not to", ("decided",), lambda one: float(one.decided or 0)),
        _mean("citation_hit", "a right document is cited", ("relevant",), retrieval.citation_hit),
        _mean("mrr", "1 over the rank of the first relevant passage", ("relevant",), retrieval.reciprocal_rank),
        *(_at(name) for name in ("recall@5", "recall@10", "ndcg@10", "pass@1", "pass@10")),
        _mean("citation_precision", "share of citations that are relevant", ("relevant",),
              retrieval.citation_precision),
        _mean("citation_recall", "share of the relevant that is cited", ("relevant",), retrieval.citation_recall),
        _best("field_f1", "F1 of the fields of a JSON object", structured.field_f1),
        _best("json_match", "the same JSON value", structured.json_match),
        _mean("schema_valid", "JSON that keeps the schema", ("schema",), structured.schema_valid),
        _mean("followed", "share of its checks passed; token F1 where a row has none", (), checks.followed),
        _mean("checks_passed", "share of its checks that an answer passes", ("checks",), checks.checks_passed),
        _mean("all_checks_passed", "all of its checks are passed", ("checks",), checks.all_checks_passed),
        _grounded(None),
        _bertscore(None),
        _mean("toxicity_lexicon", "holds a word of the packaged list of insults and slurs", (),
              lambda one: toxic.lexicon(one.output), better="<="),
    ]
    found = {one.name: one for one in own}
    for point in metadata.entry_points(group="bucle.metrics"):
        if point.name in found:
            raise ConfigError(f"{point.value} brings a metric {point.name}, which Bucle has", "give it another name")
        found[point.name] = _from_function(point.name, point.load())
    return found


def metric(name: str, *, encoder: Path | None = None, folder: Path | None = None) -> Metric:
    """The metric called `name`; those of meaning by the model in the folder `encoder`, where one is given.
    `toxicity:MODEL` is a text-classification model, by Hub name or folder (as seen from `folder`). Raises ConfigError
    naming the nearest."""
    if name.startswith(TOXICITY):
        if name == TOXICITY:
            raise ConfigError("toxicity: names no model", "write `toxicity:MODEL`, or `toxicity_lexicon`")
        score = partial(toxic.scores, name.removeprefix(TOXICITY), folder)
        return Metric(name, "chance that a model calls it toxic", (), lambda rows: _means(score(rows), name), "<=")
    known = metrics()
    if encoder is not None and name in ("groundedness", "bertscore"):
        return _grounded(encoder) if name == "groundedness" else _bertscore(encoder)
    if name in known:
        return known[name]
    if _AT.fullmatch(name):
        return _at(name)
    near = difflib.get_close_matches(name, known, 1)
    raise ConfigError(f"there is no metric {name[:80]}",
                      f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}")


def is_own(name: str) -> bool:
    """Whether `name` is that of a function in the project's folder, `module:function`."""
    return not name.startswith("judge:") and _OWN.fullmatch(name) is not None and not name.startswith(TOXICITY)


def own_metric(name: str, folder: Path, *, trusted: bool) -> Metric:
    """The function `module:function` of a Python file in the project's `folder`, as a metric.

    Its code runs in this process with the user's rights, so a project that came from elsewhere must not bring it
    along unasked: `trusted` is what the user said on the command line or in their own configuration, never what the
    project's files say. Only a file that truly lies inside the folder is read, by path (the module search path is
    neither used nor changed). Raises ConfigError.
    """
    from bucle.execute.own import own_object

    if not _OWN.fullmatch(name):
        raise ConfigError(f"{name[:80]} does not name a metric", "write it as `my_metrics:function`")
    found = own_object(name, folder, trusted, what="the metric")
    if not callable(found):
        raise ConfigError(f"{name.partition(':')[0]}.py has no function {name.partition(':')[2]}")
    return _from_function(name, found)


def check_own(names: Sequence[str], folder: Path, trusted: bool) -> None:
    """That each `module:function` among `names` is there and may run, before anything is asked. Raises ConfigError."""
    for name in names:
        if is_own(name):
            own_metric(name, folder, trusted=trusted)


def measure(names: Sequence[str | Metric], samples: Sequence[Sample]) -> dict[str, Measured]:
    """Each metric on the same rows. Raises BadInput where there are no rows or one lacks what a metric reads, and
    ConfigError for an unknown metric."""
    if not samples:
        raise BadInput("there are no rows to measure", "evaluate on at least one row")
    wanted = [metric(name) if isinstance(name, str) else name for name in names]
    for one in wanted:
        _check(one, samples)
    shared = _rouges(wanted, samples)
    found = {}
    for one in wanted:
        statistics = shared.get(one.name) or one.statistics(samples)
        by_row = statistics.by_row or statistics.combine
        found[one.name] = Measured(
            one, float(statistics.combine(statistics.table.sum(axis=0))), by_row(statistics.table).tolist(), statistics)
    return found


def lacks(sample: Sample, need: str) -> bool:
    """Whether `sample` lacks a field that a metric reads. An answer may be shown nothing to stand on."""
    value = getattr(sample, need)
    return need != "sources" and (value is None or (not isinstance(value, int | float) and not len(value)))


def _check(one: Metric, samples: Sequence[Sample]) -> None:
    for need in one.needs:
        for place, sample in enumerate(samples, 1):
            if lacks(sample, need):
                raise BadInput(f"row {place} has no {need}, which {one.name} needs", "leave the row or the metric out")
    if "references" in one.needs:
        for place, sample in enumerate(samples, 1):
            texts = (sample.output, *sample.references)
            if isinstance(sample.references, str) or not all(isinstance(text, str) for text in texts):
                raise BadInput(f"row {place} needs a text as output and a list of texts, not one text, as references")
    if "relevant" in one.needs and any(gain <= 0 for sample in samples for gain in sample.relevant.values()):
        raise BadInput("a relevant passage has a gain of 0 or less", "leave it out of `relevant`")


def _rouges(wanted: Sequence[Metric], samples: Sequence[Sample]) -> dict[str, Statistics]:
    """All ROUGE of one tokenisation in one pass over the texts."""
    names = {one.name for one in wanted}
    found: dict[str, Statistics] = {}
    for words in (False, True):
        kinds = [kind for kind in ("rouge1", "rouge2", "rougeL") if kind + "_words" * words in names]
        if kinds:
            scored = overlap.rouge(samples, kinds, words=words)
            found |= {kind + "_words" * words: scored[kind] for kind in kinds}
    return found


def _means(values: Any, signature: str) -> Statistics:
    import numpy as np

    column = np.asarray(values, dtype=float)
    return Statistics(np.column_stack([column, np.ones(len(column))]), ratio, signature=signature)


def _mean(name: str, says: str, needs: tuple[str, ...], score: Callable[[Sample], float], **more: Any) -> Metric:
    return Metric(name, says, needs, lambda samples: _means([score(one) for one in samples], name), **more)


def _best(name: str, says: str, score: Callable[[str, str], float]) -> Metric:
    return _mean(name, says, ("references",), lambda one: max(score(one.output, gold) for gold in one.references))


def _grounded(encoder: Path | None) -> Metric:
    signature = f"groundedness|support:{SUPPORT}|encoder:{encoder.name if encoder else 'no'}"
    return Metric("groundedness", "share of its sentences that a text shown bears out", ("sources",),
                  lambda samples: _means(groundedness(samples, encoder), signature))


def _bertscore(encoder: Path | None) -> Metric:
    return Metric("bertscore", "F1 of matched token meanings (BERTScore)", ("references",),
                  lambda samples: _means(*meaning.bertscore(samples, encoder)))


def _rouge(kind: str, words: bool) -> Metric:
    says = f"{kind}, whole words of any script" if words else f"{kind}, as rouge-score (letters a to z only)"
    return Metric(kind + "_words" * words, says, ("references",),
                  lambda samples: overlap.rouge(samples, [kind], words=words)[kind])


def _at(name: str) -> Metric:
    found = _AT.fullmatch(name)
    assert found is not None  # noqa: S101 -- callers have matched it
    kind, k = found[1], int(found[2])
    if kind == "pass":
        return _mean(name, f"one of {k} tries passes (unbiased)", ("passed",),
                     lambda one: numbers.pass_at_k(len(one.passed), sum(map(bool, one.passed)), k))
    score = partial(retrieval.recall if kind == "recall" else retrieval.ndcg, k=k)
    return _mean(name, f"{'relevant found' if kind == 'recall' else 'discounted gain'} in the first {k}",
                 ("relevant",), score)


def _from_function(name: str, function: Callable[..., float]) -> Metric:
    """A function of (output, reference) or of one `Sample`. Its attributes `better` (`<=`), `top` (None: no limit) and
    `needs` may say what else there is to know."""
    import inspect

    if isinstance(function, Metric):
        return function
    if not callable(function):
        raise ConfigError(f"the metric {name} is not a function")
    settings: Mapping[str, Any] = {key: getattr(function, key) for key in ("better", "top") if hasattr(function, key)}
    if settings.get("better", ">=") not in (">=", "<="):
        raise ConfigError(f"the metric {name} says `better` is {settings['better']!r}", "write '>=' or '<='")
    top = settings.get("top", 1.0)
    whole = len(inspect.signature(function).parameters) == 1
    needs = tuple(getattr(function, "needs", () if whole else ("references",)))

    def score(sample: Sample) -> float:
        try:
            values = [function(sample)] if whole else [function(sample.output, one) for one in sample.references]
            checked = [float(value) for value in values]
        except Exception as error:  # any mistake in the user's own function
            raise BadInput(f"the metric {name} failed: {type(error).__name__}: {error}", "mend the function") from error
        value = min(checked) if settings.get("better") == "<=" else max(checked)
        if not (value == value and abs(value) != float("inf")) or (top is not None and not 0 <= value <= top):
            raise BadInput(f"the metric {name} gave {value}, which is outside 0 to {top}" if top is not None else
                           f"the metric {name} gave {value}", "let it return a share, or set `function.top = None`")
        return value

    return _mean(name, (inspect.getdoc(function) or name).splitlines()[0], needs, score, **settings)
