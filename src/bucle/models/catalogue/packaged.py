"""The packaged, dated data: families of models (licence, languages, sizes) and providers (hosts, where they process
prompts). Read once a process; a name that no family fits is unknown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from bucle.core.choosing import ModelFacts

__all__ = ["Provider", "family_of", "licence_class", "provider_at", "provider_named"]

_HERE = Path(__file__).parent
# Hosts that put a prefix of their own before a name: it says nothing about who made the model.
_HOSTS = ("accounts/fireworks/models/", "accounts/fireworks/routers/", "@cf/", "~", "workers-ai/", "hf:", "models/")
_OPEN = frozenset({
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "isc", "mpl-2.0", "unlicense", "cc0-1.0", "cc-by-4.0",
    "cc-by-sa-4.0", "cc-by-3.0", "gpl-2.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "eupl-1.2", "odc-by", "wtfpl", "zlib",
    "afl-3.0", "artistic-2.0", "ecl-2.0", "bsl-1.0", "postgresql", "osl-3.0", "ms-pl",
})
_COMMERCIAL = {
    **dict.fromkeys(("llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4"),
                    "above 700M monthly users a licence of its own"),
    "gemma": "prohibited use policy, passed on to whoever receives the model",
    "openrail": "restrictions on uses", "bigscience-openrail-m": "restrictions on uses",
    "bigcode-openrail-m": "restrictions on uses", "creativeml-openrail-m": "restrictions on uses",
    "openrail++": "restrictions on uses",
    "qwen": "above 100M monthly users a licence of its own",
}


@dataclass(frozen=True)
class Provider:
    """A provider: `prices` is its id in genai-prices; `residency` where prompts are processed (empty: not known);
    `terms` what its API is used under where all models on it are the maker's own."""

    id: str
    hosts: tuple[str, ...]
    prices: str
    residency: tuple[str, ...] = ()
    terms: str = ""
    conditions: str = ""
    source: str = ""
    checked: str = ""


def licence_class(name: str) -> tuple[str, str]:
    """(class, condition in one line) of a licence as a model's folder names it: an SPDX or Hub identifier, or the first
    line of its text. What is not recognised is `unknown`."""
    key = re.sub(r"[\s_]+", "-", name.strip().strip("'\"").lower())
    key = re.sub(r"^(the-)?(apache)-(license|licence)?.*2.*$", "apache-2.0", key)
    key = re.sub(r"^(the-)?mit-licen[sc]e.*$", "mit", key)
    if key in _OPEN:
        return "open", ""
    if key in _COMMERCIAL:
        return "commercial", _COMMERCIAL[key]
    if re.match(r"cc-by-nc", key) or "non-commercial" in key or "research-licen" in key:
        return "research", "no commercial use"
    return "unknown", ""


def family_of(model: str) -> ModelFacts | None:
    """The packaged facts of the family that the name `model` belongs to, or None. Sizes that a name tells (`70b`,
    `a3b`) are taken from it where the family has none."""
    name = model.strip().lower()
    for prefix in _HOSTS:
        name = name.removeprefix(prefix)
    vendor, _, last = name.rpartition("/")
    for makers, pattern, facts in _families():
        if vendor and vendor.rpartition("/")[2] not in makers:
            continue
        if pattern.match(last):
            return facts.model_copy(update=_sizes(last, facts))
    return None


def provider_at(host: str) -> Provider | None:
    """The provider at a host name; one that begins with a dot stands for every host that ends so."""
    host = host.lower()
    for provider in _providers().values():
        if any(host == h or (h.startswith(".") and host.endswith(h)) for h in provider.hosts):
            return provider
    return None


def provider_named(name: str) -> Provider | None:
    return _providers().get(name)


def _sizes(name: str, facts: ModelFacts) -> Mapping[str, int]:
    if facts.parameters or facts.licence_name.endswith("terms"):
        return {}
    found: dict[str, int] = {}
    if whole := re.search(r"(?<![\w.])(\d{1,4}(?:[.]\d{1,2})?)b(?![a-z0-9])", name):
        found["parameters"] = round(float(whole[1]) * 1e9)
        if part := re.search(r"(?<![\w.])a(\d{1,3}(?:[.]\d{1,2})?)b(?![a-z0-9])", name):
            found["active"] = round(float(part[1]) * 1e9)
    return found


@lru_cache(maxsize=1)
def _families() -> list[tuple[frozenset[str], re.Pattern[str], ModelFacts]]:
    found = []
    for entry in _read("families.yaml"):
        makers, pattern = frozenset(entry.pop("makers")), re.compile(entry.pop("match"))
        found.append((makers, pattern, ModelFacts.model_validate({**entry, "checked": str(entry.get("checked", ""))})))
    return found


@lru_cache(maxsize=1)
def _providers() -> dict[str, Provider]:
    found = {}
    for entry in _read("providers.yaml"):
        found[entry["id"]] = Provider(
            entry["id"], tuple(entry["hosts"]), entry.get("prices", entry["id"]), tuple(entry.get("residency", ())),
            entry.get("terms", ""), entry.get("conditions", ""), entry.get("source", ""), str(entry.get("checked", "")))
    return found


def _read(name: str) -> list[dict[str, Any]]:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    value: list[dict[str, Any]] = yaml.load((_HERE / name).read_text("utf-8"), Loader=loader)  # noqa: S506 (a safe one)
    return value
