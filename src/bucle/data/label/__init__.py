"""Labelling: what to ask next, who said what, how far they agree, and what holds; exchange with other tools."""

from bucle.data.label.agreement import agreement, alpha_interval, krippendorff_alpha
from bucle.data.label.effective import Label, answers, apply_labels, disagreements, effective, labels_digest
from bucle.data.label.queue import Pick, Ranker, random_sample

__all__ = [
    "Label",
    "Pick",
    "Ranker",
    "agreement",
    "alpha_interval",
    "answers",
    "apply_labels",
    "disagreements",
    "effective",
    "krippendorff_alpha",
    "labels_digest",
    "random_sample",
]
