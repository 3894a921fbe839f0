"""Probes: the packaged attacks and look-alikes, and the team's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

from bucle.core.errors import BadInput
from bucle.core.ids import sha256_hex

__all__ = ["ATTACKS", "Kind", "Probe", "own_probes", "packaged", "probes"]

Kind = Literal["injection", "indirect", "jailbreak", "system_prompt", "personal_data", "harmless"]
ATTACKS: tuple[Kind, ...] = ("injection", "indirect", "jailbreak", "system_prompt", "personal_data")
MOST, LONGEST = 2000, 8000  # probes in a file of the team's own, characters of one
YES = ("1", "true", "yes", "sí", "si", "x")


@dataclass(frozen=True)
class Probe:
    """One template. Of injections `text` is the opening and `label`, `ask` what follows it, by what the candidate
    writes; `alone` probes stand without a held-out row."""

    kind: Kind
    language: str
    text: str
    label: str = ""
    ask: str = ""
    alone: bool = False

    @property
    def id(self) -> str:
        """One template with one order."""
        return f"{self.kind} {sha256_hex(f'{self.text} {self.label} {self.ask}')[:10]}"

    @property
    def template(self) -> str:
        """What intervals cluster by: an opening that works tends to work whatever is ordered behind it."""
        return sha256_hex(self.text)[:10]


@cache
def packaged() -> tuple[Probe, ...]:
    """The packaged probes. Every opening meets every ask; the order is mixed, so that the first few are a fair few."""
    found: list[Probe] = []
    for language, parts in _file()["injection"].items():
        asks = list(zip(parts["label"], parts["text"], strict=True))
        for kind, openings in (("injection", parts["openings"]), ("indirect", parts["hidden"])):
            found += [Probe(kind, language, text, label, ask)  # type: ignore[arg-type]
                      for text, (label, ask) in product(openings, asks)]
    for kind in ("jailbreak", "system_prompt", "personal_data"):
        found += [Probe(kind, language, text)  # type: ignore[arg-type]
                  for language, texts in _file()[kind].items() for text in texts]
    for language, parts in _file()["harmless"].items():
        found += [Probe("harmless", language, text) for text in parts["around"]]
        found += [Probe("harmless", language, text, alone=True) for text in parts["alone"]]
    return tuple(sorted(found, key=lambda one: sha256_hex(one.id)))


def own_probes(path: Path) -> tuple[Probe, ...]:
    """The team's own: columns `text` and `kind` (injection without it), and `harmless` (yes, 1) for look-alikes. An
    attack's text is followed by what tells success: a label to give, or a word to put together. Raises BadInput,
    NotFound."""
    from bucle.data.tables import read_table

    table = read_table(path, ("text", "kind", "harmless"))
    if "text" not in table.columns:
        raise BadInput(f"{path} has no column text.", "The columns of probes are text, kind and harmless.")
    if len(table.rows) > MOST:
        raise BadInput(f"{path} has {len(table.rows):,} probes; {MOST:,} are the most.", "Take a sample of them.")
    found: dict[str, Probe] = {}
    for number, (line, row) in enumerate(zip(table.lines, table.rows, strict=True)):
        cells = dict(zip(table.columns, (cell.strip() for cell in row), strict=True))
        text, kind = cells["text"], cells.get("kind", "") or "injection"
        if cells.get("harmless", "").lower() in YES:
            kind = "harmless"
        if kind not in get_args(Kind):
            raise BadInput(f"{path}:{line}: there is no kind of probe {kind[:40]}.",
                           f"Known: {', '.join(get_args(Kind))}.")
        if not text or len(text) > LONGEST:
            raise BadInput(f"{path}:{line}: the probe is empty or has over {LONGEST:,} characters.", "Shorten it.")
        asks = _file()["injection"]["en"]
        pick = number % len(asks["text"])
        one = Probe(kind, "", text, asks["label"][pick], asks["text"][pick])  # type: ignore[arg-type]
        found[one.kind + one.text] = one
    if not found:
        raise BadInput(f"{path} holds no probe.", "Write one a row, or leave `redteam.probes` out.")
    return tuple(found.values())


def probes(own: Sequence[Probe] = (), limit: int = 0, *, talks: bool = True) -> tuple[Probe, ...]:
    """The team's own, then the packaged ones; of each kind `limit` at most (0: all). `talks`: with look-alikes that
    stand alone, for what converses."""
    kept: list[Probe] = []
    counts: dict[str, int] = {}
    for one in (*own, *packaged()):
        if one.alone and not talks:
            continue
        counts[one.kind] = counts.get(one.kind, 0) + 1
        if not limit or counts[one.kind] <= limit:
            kept.append(one)
    return tuple(kept)


@cache
def _file() -> Any:
    import yaml

    return yaml.safe_load(resources.files("bucle.evaluate.redteam").joinpath("probes.yaml").read_text("utf-8"))
