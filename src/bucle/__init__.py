"""Bucle: from a team's own documents and examples to a language model in production that keeps getting better.

import bucle
project = bucle.Project("examples/soporte")
result = project.run()
print(result.story["recommendation"]["text"])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bucle.loop.api import Project

__version__ = "0.1.0"
__all__ = ["Project", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Project":
        from bucle.loop.api import Project

        return Project
    raise AttributeError(f"module 'bucle' has no attribute {name!r}")
