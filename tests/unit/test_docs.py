"""The documentation cannot drift: every setting and every verb is explained."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from bucle.cli.main import VERBS
from bucle.core.config import Project

ROOT = Path(__file__).resolve().parents[2]


def fields(annotation: Any, seen: set[type[BaseModel]]) -> set[str]:
    """Names of all settings below an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if annotation in seen:
            return set()
        seen.add(annotation)
        below = [fields(f.annotation, seen) for f in annotation.model_fields.values()]
        return set(annotation.model_fields).union(*below)
    return set().union(*(fields(arg, seen) for arg in get_args(annotation)))


def test_every_setting_is_explained() -> None:
    text = (ROOT / "docs" / "bucle.yaml.md").read_text()
    told = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", text))))
    names = fields(Project, set())
    assert len(names) > 50
    assert names - told == set()


def test_every_verb_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text()
    assert [verb for verb in VERBS if f"bucle {verb}" not in text] == []


def test_the_readme_shows_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert "make demo" in text
    assert "make test" in text
