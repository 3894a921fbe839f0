"""An evaluation that another tool made: what it was of, its figures as that tool gives them, its scores by sample."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bucle.core.ids import canonical_json, sha256_hex
from bucle.core.records import Usage

__all__ = ["Imported", "ImportedRow", "config_digest", "number", "text_of"]

_LONGEST = 20_000


@dataclass(frozen=True)
class ImportedRow:
    """One sample (one epoch of it). `id` names the sample, the same in every run of the task; `scores` by metric."""

    id: str
    input: str
    target: str
    output: str
    scores: Mapping[str, float]
    usage: Usage = field(default_factory=Usage)
    ms: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class Imported:
    """`metrics` are the tool's own figures and `errors` its standard errors, by metric; `config` what the task was,
    `config_sha256` its hash; `notes` what could not be read as scores."""

    tool: str
    version: str
    model: str
    task: str
    task_version: str
    config: Mapping[str, Any]
    created: str
    metrics: Mapping[str, float]
    errors: Mapping[str, float]
    rows: Sequence[ImportedRow]
    usage: Usage = field(default_factory=Usage)
    status: str = ""
    source_sha256: str = ""
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def config_sha256(self) -> str:
        return config_digest(self.config)


def config_digest(config: Mapping[str, Any]) -> str:
    """The hash of a task's configuration: equal for two runs of the same task as it was then."""
    return sha256_hex(canonical_json(_plain(config)))


def number(value: Any) -> float | None:
    """A finite number as a float, or None."""
    if isinstance(value, (bool, int, float)):
        try:
            found = float(value)
        except OverflowError:
            return None
        return found if math.isfinite(found) else None
    return None


def text_of(value: Any) -> str:
    """A value of any shape as text, cut where it is very long."""
    if isinstance(value, str):
        return value[:_LONGEST]
    return "" if value is None else canonical_json(_plain(value))[:_LONGEST]


def _plain(value: Any) -> Any:
    """`value` without numbers that JSON has none of."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, (str, int, float, bool)) or value is None else str(value)
