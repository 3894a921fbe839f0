"""What `bucle evaluate --stage retrieval` found as one self-contained HTML page, in Spanish and English."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment

import bucle
from bucle.core.errors import BadInput
from bucle.loop.report.formats import LANGUAGES, LOCALES, Both, translator
from bucle.loop.report.render import environment, inlined

__all__ = ["figure_says", "render_retrieval", "save_retrieval"]

LISTED = 200
"""Failed questions on the page; the rest are counted."""
_LOCALES = LOCALES / "retrieval"


@cache
def _environment() -> Environment:
    env = environment(locales=[_LOCALES])
    env.filters.update(says=figure_says, both=lambda one, key: Both(one[f"{key}_es"], one[key]))
    return env


@cache
def _texts() -> Any:
    return translator(_LOCALES)


def figure_says(name: str) -> Both:
    """What a figure of a retrieval is (`recall@5`), in both languages."""
    head, _, k = name.partition("@")
    both: Both = _texts()(f"retrieval.of.{head}", k=k) if k else _texts()(f"retrieval.of.{head}")
    return both


def render_retrieval(found: Mapping[str, Any], *, language: str = "es") -> str:
    """`found` (see `bucle.loop.retrieval_stage`) as one HTML page in both languages, `language` shown first. It loads
    nothing, and its content security policy forbids it to. Raises BadInput for another language."""
    if language not in LANGUAGES:
        raise BadInput(f"no report in language {language!r}", f"use one of: {', '.join(LANGUAGES)}")
    return _environment().get_template("retrieval.html").render(
        found=found, lost=found["lost"][:LISTED], language=language, version=bucle.__version__,
        **inlined(("tokens.css", "report.css", "retrieval.css"), ("page.js",)),
    )


def save_retrieval(found: Mapping[str, Any], path: str | Path, language: str) -> Path:
    """Write the page to `path`; returns it. Raises BadInput where its folder does not exist."""
    path = Path(path)
    if not path.parent.is_dir():
        raise BadInput(f"The folder {path.parent} does not exist.", f"mkdir -p {path.parent}")
    scratch = path.with_name(path.name + ".new")
    scratch.write_text(render_retrieval(found, language=language), encoding="utf-8", errors="replace")
    scratch.replace(path)
    return path
