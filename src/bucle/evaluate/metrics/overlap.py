"""Overlap with reference texts: BLEU and chrF (sacrebleu), ROUGE-1, -2 and -L (rouge-score's, computed in Rust)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bucle.core.errors import BadInput
from bucle.evaluate.metrics.samples import Sample, Statistics

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["bleu", "chrf", "rouge"]

LONGEST = 200_000
"""Characters of one text: the longest common subsequence takes time with the product of both lengths."""

_ORDERS = 4
_BETA = 2


def bleu(samples: Sequence[Sample]) -> Statistics:
    """BLEU of the corpus in [0, 100] as sacrebleu computes it by default (Papineni et al. 2002; Post 2018), from the
    lengths, matches and totals of each row. By row it is sentence BLEU with effective order."""
    from sacrebleu.metrics.bleu import BLEU

    scorer = BLEU(force=True)
    return Statistics(_counts(scorer, samples), _bleu, lambda table: _bleu(table, effective=True),
                      f"BLEU|{scorer.get_signature()}")


def chrf(samples: Sequence[Sample]) -> Statistics:
    """chrF2 of the corpus in [0, 100] as sacrebleu computes it by default (Popović 2015): character n-grams up to 6."""
    from sacrebleu.metrics.chrf import CHRF

    scorer = CHRF()
    return Statistics(_counts(scorer, samples), _chrf, signature=f"chrF2|{scorer.get_signature()}")


def rouge(samples: Sequence[Sample], kinds: Sequence[str] = ("rouge1", "rouge2", "rougeL"), *,
          words: bool = False) -> dict[str, Statistics]:
    """F1 of ROUGE in [0, 1] for each of `kinds` (Lin 2004), equal to rouge-score 0.1.2 without stemming; against
    several references the best counts. rouge-score reads the letters a to z and digits only, so that `año` is `a` and
    `o`: `words` reads whole words of any script instead, and is another metric with another signature."""
    from importlib.metadata import version

    import numpy as np
    from rouge_score_rs import rouge_scorer, tokenizers

    tokenizer = tokenizers.UnicodeTokenizer() if words else None
    scorer = rouge_scorer.RougeScorer(list(kinds), tokenizer=tokenizer)
    _bounded(samples)
    if all(len(one.references) == 1 for one in samples):
        found = scorer.score_batch([one.references[0] for one in samples], [one.output for one in samples])
    else:
        found = [scorer.score_multi(list(one.references), one.output) for one in samples]
    signature = f"tok:{'unicode-v1' if words else 'rouge-score'}|stem:no|f:1|rouge-score-rs:{version('rouge-score-rs')}"
    return {kind: Statistics(
        np.column_stack([[one[kind].fmeasure for one in found], np.ones(len(found))]), ratio,
        signature=f"{kind}|{signature}") for kind in kinds}


def ratio(table: NDArray[Any]) -> NDArray[Any]:
    """First column over second: the mean, where the second counts rows."""
    return table[..., 0] / table[..., 1]


def _bounded(samples: Sequence[Sample]) -> None:
    for place, one in enumerate(samples, 1):
        if max(map(len, (one.output, *one.references))) > LONGEST:
            raise BadInput(f"row {place} holds a text of more than {LONGEST:,} characters",
                           "leave the row out or cut its text")


def _counts(scorer: Any, samples: Sequence[Sample]) -> NDArray[Any]:
    """Sacrebleu's statistics of each row, `[rows, k]`. Its own bootstrap stands on the same function."""
    import numpy as np

    _bounded(samples)
    most = max(len(one.references) for one in samples)
    streams = [[one.references[i] if i < len(one.references) else None for one in samples] for i in range(most)]
    scorer._ref_cache = scorer._cache_references(streams)
    return np.array(scorer._extract_corpus_statistics([one.output for one in samples], None), dtype=float)


def _bleu(table: NDArray[Any], effective: bool = False) -> NDArray[Any]:
    """BLEU from summed statistics `[..., 10]`: lengths said and wanted, matches and totals of orders 1 to 4.
    Exponential smoothing of orders without a match (sacrebleu's default)."""
    import numpy as np

    said, wanted = table[..., 0], table[..., 1]
    match, total = table[..., 2:2 + _ORDERS], table[..., 2 + _ORDERS:]
    usable = np.cumprod(total > 0, axis=-1).astype(bool)  # orders after one that is not said are not looked at
    missed = usable & (match == 0)
    smoothed = 2.0 ** np.cumsum(missed, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(missed, 1 / (smoothed * total), match / total)
        logs = np.where(usable, np.log(100 * share), 0.0)
        orders = np.maximum(usable.sum(axis=-1), 1) if effective else _ORDERS
        penalty = np.where(said < wanted, np.exp(1 - wanted / np.maximum(said, 1e-300)), 1.0)
        score = penalty * np.exp(logs.sum(axis=-1) / orders)
    # an order that nothing was long enough for has precision 0, unless the order counted is the effective one
    whole = usable.any(axis=-1) if effective else usable.all(axis=-1)
    return np.where((match.sum(axis=-1) > 0) & whole, score, 0.0)


def _chrf(table: NDArray[Any]) -> NDArray[Any]:
    """chrF2 from summed statistics `[..., 18]`: n-grams said, wanted and matched of orders 1 to 6."""
    import numpy as np

    said, wanted, match = table[..., 0::3], table[..., 1::3], table[..., 2::3]
    both = (said > 0) & (wanted > 0)
    orders = np.maximum(both.sum(axis=-1), 1)
    precision = np.where(both, match / np.maximum(said, 1), 0.0).sum(axis=-1) / orders
    recall = np.where(both, match / np.maximum(wanted, 1), 0.0).sum(axis=-1) / orders
    below = _BETA**2 * precision + recall
    return np.where(below > 0, 100 * (1 + _BETA**2) * precision * recall / np.where(below > 0, below, 1), 0.0)
