"""The packaged scores of injections and abuse."""

from __future__ import annotations

from bucle.monitor.injection import suspicion
from bucle.serve.guard import classifier

__all__ = ["ABUSE", "abuse", "injection"]

UNSURE = 0.05
"""From this score on the classifier lets a known phrasing decide: alone they flag one in ten hard harmless texts."""
ABUSE = ("harassment", "hate", "violence", "sexual", "self-harm")


def injection(text: str) -> tuple[float, tuple[str, ...]]:
    """How surely `text` tries to turn the model, in [0, 1], and why: the classifier's score, or that of the known
    phrasings where they are surer and the classifier does not call the text harmless."""
    known, kinds = suspicion(text)
    learnt = classifier.scores(text)["injection"]
    return max(known if learnt >= UNSURE else 0.0, learnt), ("injection", *kinds)


def abuse(text: str) -> tuple[float, tuple[str, ...]]:
    """The worst score of the categories of ABUSE, and those that reach 0.5."""
    scored = classifier.scores(text)
    return max(scored[name] for name in ABUSE), tuple(name for name in ABUSE if scored[name] >= 0.5)
