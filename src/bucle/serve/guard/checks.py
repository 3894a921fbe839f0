"""Guards of one's own, for `create_app(guards=[…])`: each scores a text and flags it, and refuses nothing.

What masks and blocks are the rules of bucle.yaml (`GuardSet`). What is found here is recorded in the trace and shown to
the client, so a threshold can be judged on real traffic before it refuses anybody.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from bucle.core.ports import Guard, Verdict

__all__ = ["InjectionGuard", "PersonalDataGuard", "ScoreGuard", "inspect", "summary"]

log = logging.getLogger("bucle.serve")


class ScoreGuard:
    """Flags a text whose `scorer(text)`, in [0, 1], reaches `threshold`. `kind` names what it looks for."""

    def __init__(self, scorer: Callable[[str], float], *, name: str = "injection", kind: str = "injection",
                 threshold: float = 0.5) -> None:
        self.name, self._scorer, self._kind, self._threshold = name, scorer, kind, threshold

    def check(self, text: str) -> Verdict:
        started = time.perf_counter()
        score = min(1.0, max(0.0, float(self._scorer(text))))
        flagged = score >= self._threshold
        return Verdict(self.name, flagged, score, (self._kind,) if flagged else (), _ms(started))


class InjectionGuard:
    """Flags a text that reads like an attempt to take the model over, with the kinds of phrasing found.

    `scorer(text)` gives a score in [0, 1] and those kinds; by default `suspicion` of `bucle.monitor.injection`.
    """

    name = "injection"

    def __init__(self, scorer: Callable[[str], tuple[float, Sequence[str]]] | None = None,
                 threshold: float = 0.5) -> None:
        self._scorer, self._threshold = scorer or _suspicion, threshold

    def check(self, text: str) -> Verdict:
        started = time.perf_counter()
        score, kinds = self._scorer(text)
        flagged = score >= self._threshold
        return Verdict(self.name, flagged, score, ("injection", *kinds) if flagged else (), _ms(started))


class PersonalDataGuard:
    """Flags a text with personal data or secrets in it. The kinds are kept, the data are not.

    `find(text)` yields the kinds it finds; by default those of `bucle.data.personal`.
    """

    name = "personal_data"

    def __init__(self, find: Callable[[str], Iterable[str]] | None = None) -> None:
        self._find = find or _personal_kinds

    def check(self, text: str) -> Verdict:
        started = time.perf_counter()
        kinds = tuple(sorted(set(self._find(text))))
        return Verdict(self.name, bool(kinds), 1.0 if kinds else 0.0, kinds, _ms(started))


def inspect(guards: Sequence[Guard], text: str) -> list[Verdict]:
    """What each guard says of `text`. One that fails is reported as `guard_failed`, and flags nothing."""
    verdicts: list[Verdict] = []
    for guard in guards:
        try:
            verdicts.append(guard.check(text))
        except Exception:
            log.exception("guard %s failed", guard.name)
            verdicts.append(Verdict(guard.name, False, 0.0, ("guard_failed",)))
    return verdicts


def summary(before: Sequence[Verdict], after: Sequence[Verdict]) -> dict[str, Any]:
    """What stands in `Trace.guard` and in the reply: flagged, highest score, kinds, and each verdict."""
    both = [("input", v) for v in before] + [("output", v) for v in after]
    if not both:
        return {}
    return {
        "flagged": any(v.flagged for _, v in both),
        "score": round(max(v.score for _, v in both), 4),
        "kinds": sorted({k for _, v in both for k in v.kinds}),
        "verdicts": [{"on": on, "guard": v.guard, "flagged": v.flagged, "score": round(v.score, 4),
                      "kinds": list(v.kinds), "ms": round(v.ms, 3)} for on, v in both],
    }


def _suspicion(text: str) -> tuple[float, Sequence[str]]:
    from bucle.monitor.injection import suspicion

    return suspicion(text)


def _personal_kinds(text: str) -> list[str]:
    from bucle.data.personal import find

    return [finding.kind for finding in find(text)]


def _ms(started: float) -> float:
    return (time.perf_counter() - started) * 1000
