"""A Python function of the question, or an object with `predict`: anything that another library's chain can stand in.

    # my_answers.py, asked for as `my_answers:answer`
    def answer(question: str, access: frozenset[str] = frozenset()) -> dict[str, object]:
        return {"answer": "...", "sources": [{"metadata": {"path": "tarifas.md"}}]}
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bucle.core.records import Prediction, TaskKind
from bucle.customise.external.answers import read_answer
from bucle.customise.external.rows import Steps

__all__ = ["accepts", "calling", "required", "takes_access"]


def calling(thing: Any, kind: TaskKind, access: frozenset[str], root: Path | None) -> Callable[
        [str, Steps], Prediction]:
    """The call of one question: the function's, which may be a coroutine, or `predict([question])`."""
    many = getattr(thing, "predict", None)
    function = many or thing
    more = {"access": access} if accepts(function, "access") else {}

    def call(question: str, steps: Steps) -> Prediction:
        said = function([question] if many else question, **more)
        if asyncio.iscoroutine(said):
            said = asyncio.run(said)
        if many:
            said = said[0]
        return said if isinstance(said, Prediction) else read_answer(said, kind=kind, root=root)

    return call


def takes_access(thing: Any) -> bool:
    """Whether it takes the asker's labels: the keyword `access`."""
    return accepts(getattr(thing, "predict", None) or thing, "access")


def accepts(function: Any, name: str) -> bool:
    """Whether `name` is a parameter in the function's signature (`**rest` is not: nobody says what becomes of it)."""
    return name in _parameters(function)


def required(function: Any) -> list[str]:
    """The parameters that have no default."""
    return [name for name, p in _parameters(function).items()
            if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _parameters(function: Any) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return {}
