"""Metrics of numbers: calibration, perplexity, pass@k."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bucle.core.errors import BadInput
from bucle.evaluate.metrics.samples import Sample, Statistics

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["brier", "brier_score", "calibration", "calibration_error", "pass_at_k", "perplexities", "perplexity"]

BINS = 10


def calibration_error(correct: Sequence[float], confidence: Sequence[float], *, bins: int = BINS) -> float:
    """Expected calibration error in [0, 1] with equal-width bins (Guo et al. 2017, equation 3)."""
    table = _binned(correct, confidence, bins)
    return float(_gaps(table.sum(axis=0)))


def brier_score(correct: Sequence[float], confidence: Sequence[float]) -> float:
    """Mean squared distance in [0, 1] between the confidence and whether the answer was right (Brier 1950)."""
    import numpy as np

    hits, said = _sure(correct, confidence)
    return float(np.mean((hits - said) ** 2))


def pass_at_k(tries: int, passed: int, k: int) -> float:
    """The probability that one of `k` tries drawn from `tries`, of which `passed` were right, is right: the unbiased
    estimator of Chen et al. 2021 (equation 1). Raises BadInput unless 1 <= k <= tries."""
    import numpy as np

    if not (1 <= k <= tries and 0 <= passed <= tries):
        raise BadInput(f"pass@{k} needs at least {k} tries, not {tries}", f"write the code {max(k, 1)} times or more")
    if tries - passed < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(tries - passed + 1, tries + 1)))


def perplexity(logprobs: Sequence[float]) -> float:
    """exp of minus the mean natural log-probability of the tokens; 1 is certainty."""
    import numpy as np

    return float(np.exp(-np.mean(_logs(logprobs))))


def calibration(samples: Sequence[Sample]) -> Statistics:
    """`calibration_error` with its sums by bin; by row, the distance of the confidence from what happened."""
    table = _binned([one.correct or 0.0 for one in samples], [one.confidence or 0.0 for one in samples], BINS)
    return Statistics(table, _gaps, signature=f"ece|bins:{BINS}|width:equal")


def brier(samples: Sequence[Sample]) -> NDArray[Any]:
    """The squared distance of each row."""
    hits, said = _sure([one.correct or 0.0 for one in samples], [one.confidence or 0.0 for one in samples])
    return (hits - said) ** 2


def perplexities(samples: Sequence[Sample]) -> Statistics:
    """Perplexity of the corpus: every token counts the same, whichever row it stands in."""
    import numpy as np

    table = np.array([(-_logs(one.logprobs).sum(), len(one.logprobs)) for one in samples], dtype=float)
    return Statistics(table, lambda sums: np.exp(sums[..., 0] / sums[..., 1]), signature="perplexity|per:token|log:e")


def _logs(logprobs: Sequence[float]) -> NDArray[Any]:
    import numpy as np

    values = np.asarray(logprobs, dtype=float)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all() or values.max() > 1e-6:
        raise BadInput("perplexity needs a finite natural log-probability, at most 0, for each token",
                       "ask the model for `logprobs`")
    return values


def _sure(correct: Sequence[float], confidence: Sequence[float]) -> tuple[NDArray[Any], NDArray[Any]]:
    import numpy as np

    if not len(correct) or len(correct) != len(confidence):
        raise BadInput("calibration needs one confidence for each row, and at least one row")
    hits, said = np.asarray(correct, dtype=float), np.asarray(confidence, dtype=float)
    if not (np.isfinite(hits).all() and np.isfinite(said).all()):
        raise BadInput("a confidence is not a number")
    return hits, np.clip(said, 0, 1)


def _binned(correct: Sequence[float], confidence: Sequence[float], bins: int) -> NDArray[Any]:
    """`[rows, bins + 1]`: right minus confidence in the row's bin, and a 1 to count it."""
    import numpy as np

    hits, said = _sure(correct, confidence)
    table = np.zeros((len(hits), bins + 1))
    table[np.arange(len(hits)), np.minimum((said * bins).astype(int), bins - 1)] = hits - said
    table[:, bins] = 1
    return table


def _gaps(sums: NDArray[Any]) -> NDArray[Any]:
    import numpy as np

    return np.abs(sums[..., :-1]).sum(axis=-1) / sums[..., -1]
