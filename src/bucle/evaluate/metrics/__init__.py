"""Metrics: one registry of them all (`metric`, `metrics`, `measure`); `bucle.evaluate.scoring` measures a task by
them. Each is a value by row where it has one, and a sum of statistics by row where its score is
the corpus's, so that every one of them has an interval and a paired difference (`bucle.evaluate.resample`)."""

from bucle.evaluate.metrics.numbers import brier_score, calibration_error, pass_at_k, perplexity
from bucle.evaluate.metrics.registry import measure, metric, metrics, own_metric
from bucle.evaluate.metrics.samples import Measured, Metric, Sample, Statistics
from bucle.evaluate.metrics.words import exact_match, normalise, token_f1

__all__ = [
    "Measured",
    "Metric",
    "Sample",
    "Statistics",
    "brier_score",
    "calibration_error",
    "exact_match",
    "measure",
    "metric",
    "metrics",
    "normalise",
    "own_metric",
    "pass_at_k",
    "perplexity",
    "token_f1",
]
