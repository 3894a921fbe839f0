"""The whole catalogue under the wishes of a team: what fits, cheapest first, and of the rest why not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from bucle.core.choosing import ModelFacts
from bucle.core.errors import BadInput
from bucle.models.catalogue.facts import hosted, merged
from bucle.models.catalogue.prices import listed, prices_as_of

__all__ = ["Entry", "search"]


@dataclass(frozen=True)
class Entry:
    """A model of a provider. `usd_per_1k` are dollars for a thousand requests of the size asked about (None: no price
    known); `prices_as_of` where prices come from and their date; `ruled_out` why it does not fit (empty: it does)."""

    facts: ModelFacts
    usd_per_1k: float | None
    prices_as_of: str
    ruled_out: tuple[str, ...] = ()


def search(*, text: str = "", task: str = "", languages: Sequence[str] = (), licence: str | None = None,
           residency: Sequence[str] = (), context: int | None = None, max_usd_per_1k: float | None = None,
           modality: str = "", provider: str = "", tokens: tuple[int, int] = (500, 100),
           own: Mapping[str, ModelFacts] | None = None) -> list[Entry]:
    """Every model known, those that fit first, cheapest first, then those ruled out. Without a `task`, models that only
    embed or rank stand after those that may write.

    `text` and `provider` choose what is looked at; all else rules out, with the reason. `tokens` are those of one
    request, prompt and reply; prices in tiers count as their first tier. What a wish is about and nobody says is not
    taken for granted: it rules out as "not known". A provider, language or place that nothing here has raises BadInput,
    with the nearest. `own` is `catalogue:` of bucle.yaml, over the tables field by field.
    """
    words = text.lower().split()
    entries = []
    every = _known(own or {})
    _check("provider", [provider] if provider else [], {found.provider for found, _ in every if found.provider})
    _check("language", languages, {code for found, _ in every for code in found.languages if code != "*"})
    _check("residency", residency, {place for found, _ in every for place in found.residency} | {"local"})
    for found, dated in every:
        if provider and found.provider != provider:
            continue
        told = f"{found.provider} {found.model} {found.licence_name}".lower()
        if not all(word in told for word in words):
            continue
        usd = _usd(found, tokens)
        reasons = _reasons(found, task=task, languages=languages, licence=licence, residency=residency,
                           context=context, modality=modality)
        if max_usd_per_1k is not None and (usd is None or usd > max_usd_per_1k):
            reasons.append("price not known" if usd is None else f"{usd:.4g} dollars a thousand, over "
                           f"{max_usd_per_1k:g}")
        entries.append(Entry(found, usd, dated, tuple(reasons)))
    return sorted(entries, key=lambda e: (bool(e.ruled_out), not task and not _writes(e.facts),
                                          e.usd_per_1k is None, e.usd_per_1k or 0.0, e.facts.provider, e.facts.model))


def _check(wish: str, said: Sequence[str], known: set[str]) -> None:
    for one in said:
        if one not in known:
            near = get_close_matches(one.casefold(), sorted(known), 1, 0.5)
            nearest = f" The nearest is {near[0]}." if near else ""
            raise BadInput(f"No model of the catalogue has the {wish} `{one[:60]}`.{nearest}",
                           f"Known: {', '.join(sorted(known))}.")


def _known(own: Mapping[str, ModelFacts]) -> list[tuple[ModelFacts, str]]:
    dated = prices_as_of()
    by_place = {(e.provider, e.model or key): e for key, e in own.items() if e.provider}
    by_name = {e.model or key: e for key, e in own.items() if not e.provider}
    found, seen = [], set()
    for provider, model, context, usd_in, usd_out in listed():
        base = hosted(model, provider, priced=False).model_copy(update={
            "provider": provider, "context": context, "usd_per_million_in": usd_in, "usd_per_million_out": usd_out})
        mine = [by_name.get(model), by_place.get((provider, model))]
        seen |= {("", model), (provider, model)} if any(mine) else set()
        priced = any(e is not None and e.usd_per_million_in is not None for e in mine)
        found.append((merged(base, *mine), "catalogue: in bucle.yaml" if priced else dated))
    said = {**by_place, **{("", name): entry for name, entry in by_name.items()}}
    rest = [entry.model_copy(update={"model": key[1]}) for key, entry in said.items() if key not in seen]
    return found + [(entry, "catalogue: in bucle.yaml") for entry in rest]


def _writes(found: ModelFacts) -> bool:
    return found.tasks != ("retrieve",)  # what embeds or ranks writes no token


def _usd(found: ModelFacts, tokens: tuple[int, int]) -> float | None:
    asked, written = tokens[0], tokens[1] if _writes(found) else 0
    if found.usd_per_million_in is None or (found.usd_per_million_out is None and written):
        return None
    return (asked * found.usd_per_million_in + written * (found.usd_per_million_out or 0.0)) / 1000


def _reasons(found: ModelFacts, *, task: str, languages: Sequence[str], licence: str | None, residency: Sequence[str],
             context: int | None, modality: str) -> list[str]:
    told: list[str] = []
    if task and task not in found.tasks:
        told.append("not for " + task if found.tasks else "tasks not known")
    if missing := [code for code in languages if code not in found.languages]:
        told.append(f"not said to know {', '.join(missing)}" if found.languages else "languages not known")
    if licence and not (found.licence == licence or (licence == "commercial" and found.licence == "open")):
        known = found.licence not in (None, "unknown")
        told.append(f"licence {found.licence} ({found.licence_name})" if known else "licence not known")
    if residency and "local" not in found.residency and not (
        found.residency and set(found.residency) <= set(residency)
    ):
        told.append(f"processed in {', '.join(found.residency)}" if found.residency else "place not known")
    if context and (found.context is None or found.context < context):
        told.append(f"reads {found.context:,} tokens" if found.context else "context not known")
    if modality and modality not in found.modalities:
        told.append(f"no {modality}" if found.modalities else "modalities not known")
    return told
