"""Which parser a team chose for a suffix: ours, Docling, Unstructured, or a plug-in of the group `bucle.parsers`."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass

from bucle.core.errors import ConfigError, Quarantined
from bucle.core.ports import Parser

__all__ = ["BUILTIN", "Choice", "choices", "load_parser"]

BUILTIN = "builtin"
_ADAPTERS = {"docling": "docling", "unstructured": "unstructured"}
_SPACY = "en_core_web_sm"
_GROUP = "bucle.parsers"


@dataclass(frozen=True)
class Choice:
    """A parser by name. `version` is its library's; `heavy` says that it wants gigabytes and minutes."""

    name: str = ""
    version: str = ""
    heavy: bool = False

    @property
    def key(self) -> str:
        return f"{self.name or BUILTIN} {self.version}"


def choices(parsers: Mapping[str, str]) -> dict[str, Choice]:
    """The choice for each suffix that names one (`.pdf: docling`), suffixes in lower case with their dot.

    Raises ConfigError for a parser that does not exist, or is not installed, with the command that installs it.
    """
    return {
        "." + suffix.lower().lstrip(".*"): _choice(suffix, name) for suffix, name in parsers.items() if name != BUILTIN
    }


def _choice(suffix: str, name: str) -> Choice:
    if name in _ADAPTERS:
        if importlib.util.find_spec(_ADAPTERS[name]) is None:
            raise ConfigError(
                f"{suffix} files are to be read with {name}, which is not installed.",
                f'pip install "{_pip(name, suffix)}"   (or set `{suffix}: {BUILTIN}` under data.parsers in bucle.yaml)',
            )
        if name == "unstructured" and importlib.util.find_spec("spacy") and not importlib.util.find_spec(_SPACY):
            raise ConfigError(
                f"unstructured needs spaCy's model {_SPACY}, which it would download and install while parsing.",
                f"python -m spacy download {_SPACY}",
            )
        return Choice(name, importlib.metadata.version(_ADAPTERS[name]), heavy=True)
    plugins = importlib.metadata.entry_points(group=_GROUP)
    found = next((entry for entry in plugins if entry.name == name), None)
    if found is None:
        known = [BUILTIN, *_ADAPTERS, *sorted(entry.name for entry in plugins)]
        raise ConfigError(
            f"There is no parser {name!r} for {suffix} files.",
            f"Under data.parsers in bucle.yaml name one of {', '.join(known)}, or install the plug-in that has it.",
        )
    return Choice(name, found.dist.version if found.dist else "", heavy=True)


def _pip(name: str, suffix: str) -> str:
    return f"unstructured[{suffix.lower().lstrip('.*')}]" if name == "unstructured" else name


@functools.cache
def load_parser(name: str) -> Parser:
    """The parser called `name`, made. Raises ImportError where its library is missing, Quarantined where none is."""
    if name == "docling":
        from bucle.data.parse.docling import DoclingParser

        return DoclingParser()
    if name == "unstructured":
        from bucle.data.parse.unstructured import UnstructuredParser

        return UnstructuredParser()
    for entry in importlib.metadata.entry_points(group=_GROUP):
        if entry.name == name:
            made: Parser = entry.load()()
            return made
    raise Quarantined("unknown-format", f"There is no parser {name!r}.")
