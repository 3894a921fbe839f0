"""The ladder: which candidates a task gets, from the cheapest rung up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from bucle.core.choosing import Choose
from bucle.core.config import REMOTE, Model
from bucle.core.errors import ConfigError
from bucle.core.ports import Technique
from bucle.core.records import TaskKind
from bucle.customise.registry import technique, techniques

__all__ = ["Rung", "ladder"]


MADE = ("chain", "external")
"""The techniques of chains: there is one candidate for each chain that a task names, and none without."""


@dataclass(frozen=True)
class Rung:
    """One candidate to be: a technique with the models it needs, by their names in bucle.yaml. A chain's are `more`,
    and `params` say what it is."""

    name: str
    technique: Technique
    base: str = ""
    encoder: str = ""
    more: tuple[str, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def models(self) -> tuple[str, ...]:
        """Every model that has a part in it, once."""
        return tuple(dict.fromkeys(name for name in (self.base, self.encoder, *self.more) if name))


def ladder(
    kind: TaskKind, models: Mapping[str, Model], choose: Choose, *, has_index: bool, chains: Sequence[Rung] = (),
    others: Sequence[str] = (),
) -> list[Rung]:
    """Candidates for a task of `kind`, cheapest first: every technique with every model that fits its needs, and the
    `chains` that the team made. `others` are names that candidates of other tasks have, such as their chains.

    `choose.candidates` narrows it to names (`tfidf`, `lora/nano`) or techniques (`lora`; `chain` is every chain).
    Baselines always stay, since nothing is recommended without them. Unless named, a technique that asks for a `grown`
    model (one that can reason, or teach) is not tried with one pretrained on the project's own text. Raises ConfigError
    for a name that no candidate has.
    """
    rungs = [
        rung
        for t in techniques().values()
        if kind in t.kinds and t.name not in MADE
        for rung in _with_models(t, models, choose, has_index)
    ]
    rungs = sorted([*rungs, *chains], key=lambda r: r.technique.rung)
    if choose.candidates == "auto":
        return rungs
    wanted = set(choose.candidates)
    # One list serves tasks of both kinds, so a name counts as known if a task of any kind could have it.
    possible = {r.name for t in techniques().values() for r in _with_models(t, models, choose, has_index=True)}
    possible |= {*others, *(r.name for r in chains)}
    if unknown := sorted(wanted - possible - set(techniques())):
        if unknown[0].partition("/")[0] in MADE:
            made = sorted(n for n in possible if n.startswith("chain/"))
            near = get_close_matches(unknown[0], made, n=1)
            raise ConfigError(
                f"choose.candidates names `{unknown[0]}`, which no task has.",
                f"Did you mean `{near[0]}`?" if near else
                f"Name the chain in a task's `chains`. Those there are: {', '.join(made) or 'none'}.",
            )
        technique(unknown[0])  # raises with the nearest name
    return [r for r in rungs if r.technique.baseline or {r.name, r.technique.name, r.name.partition("/")[0]} & wanted]


def _with_models(t: Technique, models: Mapping[str, Model], choose: Choose, has_index: bool) -> Sequence[Rung]:
    if "index" in t.needs and not has_index:
        return []
    usable = {name: m for name, m in models.items() if choose.models is None or name in choose.models}
    if choose.models is not None and (unknown := set(choose.models) - set(models)):
        raise ConfigError(
            f"choose.models names `{sorted(unknown)[0]}`, which is not under `models:`.", f"Known: {', '.join(models)}."
        )
    encoders = [n for n, m in usable.items() if m.kind == "encoder"]
    if "encoder" not in t.needs and ("encoder" not in getattr(t, "uses", ()) or not encoders):
        encoders = [""]
    bases = [""]
    if "base" in t.needs:
        bases = [n for n, m in usable.items() if m.kind in ("pretrain", "local")]
    elif "chat" in t.needs:
        bases = [n for n, m in usable.items() if m.kind in ("pretrain", "local", *REMOTE)]
        if choose.candidates == "auto" and getattr(t, "grown", False):
            bases = [n for n in bases if usable[n].kind != "pretrain"]
    return [
        Rung("/".join(part for part in (t.name, base or encoder) if part), t, base, encoder)
        for base in bases
        for encoder in encoders[: 1 if base else None]
    ]
