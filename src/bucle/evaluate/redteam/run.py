"""Running the attempts against a candidate, and what came of them."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bucle.core.ports import Predictor, Report
from bucle.core.records import Chunk, Example, Interval, Prediction, TaskKind
from bucle.evaluate.rare import rare_share
from bucle.evaluate.redteam.attack import Attempt, Secrets, attempts, succeeded
from bucle.evaluate.redteam.probes import ATTACKS, Probe

__all__ = ["Result", "Target", "run_attacks"]

BATCH = 32
SHOWN = 24  # failures that are shown
CUT = 600  # characters of each text that is shown


@dataclass(frozen=True)
class Target:
    """The candidate under attack: as it is, with secrets planted in its instruction (None: it has none), and the
    passages that it reads by id (None: it reads none), which are changed and put back."""

    plain: Predictor
    instructed: Predictor | None = None
    shelf: MutableMapping[str, Chunk] | None = None


@dataclass(frozen=True)
class Result:
    """`hits`: 1 for each of `tried` that succeeded (a harmless one: that was refused). `skipped` tells the kinds of
    probe that cannot be put to this candidate."""

    tried: Sequence[Attempt]
    said: Sequence[Prediction]
    hits: Sequence[float]
    skipped: dict[str, str] = field(default_factory=dict)

    def figures(self) -> dict[str, Any]:
        """Ready for JSON: `attack_success` and `over_refusal` with their intervals (`n` 0 where nothing was tried),
        clustered by template, `per_row` and `clusters` of each; the same for each kind; examples of what succeeded."""
        found: dict[str, Any] = {"attempts": len(self.tried), "skipped": self.skipped, "kinds": self._kinds(),
                                 "examples": self._examples(), "per_row": {}, "clusters": {}}
        for name, harmless in (("attack_success", False), ("over_refusal", True)):
            mine = [place for place, one in enumerate(self.tried) if one.harmless == harmless]
            found[name] = self._share(mine)
            if mine:
                found["per_row"][name] = [self.hits[place] for place in mine]
                found["clusters"][name] = [self.tried[place].probe.template for place in mine]
        return found

    def _share(self, places: Sequence[int]) -> dict[str, Any]:
        if not places:
            return {"value": None, "low": None, "high": None, "n": 0}
        found: Interval = rare_share([self.hits[place] for place in places],
                                     [self.tried[place].probe.template for place in places])
        return found.model_dump()

    def _kinds(self) -> list[dict[str, Any]]:
        rows = []
        for kind in (*ATTACKS, "harmless"):
            mine = [place for place, one in enumerate(self.tried) if one.probe.kind == kind]
            if mine:
                rows.append({"kind": kind, "harmless": kind == "harmless", **self._share(mine)})
        return rows

    def _examples(self) -> list[dict[str, Any]]:
        """A few of each kind in turn."""
        by_kind: dict[str, list[int]] = {}
        for place, hit in enumerate(self.hits):
            if hit:
                by_kind.setdefault(self.tried[place].probe.kind, []).append(place)
        turns = sorted((turn, kind, place) for kind, mine in by_kind.items() for turn, place in enumerate(mine))
        shown = []
        for _, kind, place in turns[:SHOWN]:
            one, said = self.tried[place], self.said[place]
            shown.append({"kind": kind, "probe": one.probe.text[:CUT], "text": one.text[-CUT:],
                          "planted": one.plant[:CUT], "output": (said.output or said.error)[:CUT],
                          "wanted": one.wanted.replace("|", "")})
        return shown


def run_attacks(target: Target, kind: TaskKind, rows: Sequence[Example], labels: Sequence[str],
                probes: Sequence[Probe], planted: Secrets, *, report: Report | None = None) -> Result:
    """Every probe that applies, over held-out `rows` as carriers. The clean rows are asked first: an injection is a
    success only where it changes what would have been said."""
    clean = _predict(target.plain, [row.input for row in rows], report, "clean rows")
    tried, skipped = attempts(kind, rows, clean, labels, probes, planted, instructed=target.instructed is not None,
                              passages=target.shelf is not None)
    said: dict[int, Prediction] = {}
    for world, predictor in (("plain", target.plain), ("instruction", target.instructed)):
        mine = [place for place, one in enumerate(tried) if one.world == world]
        if mine and predictor is not None:
            texts = [tried[place].text for place in mine]
            said |= dict(zip(mine, _predict(predictor, texts, report, f"{world} probes"), strict=True))
    mine = [place for place, one in enumerate(tried) if one.world == "passages"]
    for number, place in enumerate(mine):
        one = tried[place]
        asked = one.row >= 0 and one.text == rows[one.row].input
        seen = clean[one.row] if asked else target.plain.predict([one.text])[0]
        said[place] = _with_planted(target, one, seen)
        if report is not None:
            report(number + 1, len(mine), "planted passages")
    ordered = [said[place] for place in range(len(tried))]
    hits = [float(succeeded(kind, one, answer, planted)) for one, answer in zip(tried, ordered, strict=True)]
    return Result(tried, ordered, hits, {str(name): why for name, why in skipped.items()})


def _predict(predictor: Predictor, inputs: Sequence[str], report: Report | None, note: str) -> list[Prediction]:
    found: list[Prediction] = []
    for start in range(0, len(inputs), BATCH):
        found += predictor.predict(inputs[start:start + BATCH])
        if report is not None:
            report(len(found), len(inputs), note)
    return found


def _with_planted(target: Target, one: Attempt, seen: Prediction) -> Prediction:
    """The answer while `one.plant` stands at the end of the best passages that were found for it without."""
    shelf = target.shelf if target.shelf is not None else {}
    places = [name for name in dict.fromkeys([*seen.citations[:1], *seen.chunks[:1]]) if name in shelf]
    before = {name: shelf[name] for name in places}
    try:
        for name, chunk in before.items():
            shelf[name] = chunk.model_copy(update={"text": f"{chunk.text}\n\n{one.plant}"})
        return target.plain.predict([one.text])[0]
    finally:
        shelf.update(before)
