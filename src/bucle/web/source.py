"""What the studio needs to know, and from whom: the loop's workspace implements this Protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from bucle.core.records import Trace

__all__ = ["StudioSource"]


class StudioSource(Protocol):
    """A project as the studio sees it. Methods are called from worker threads, and may raise BucleError."""

    def story(self) -> Mapping[str, Any]:
        """What the project did so far, in the shape of `bucle.loop.report.model.Story`."""
        ...

    def traces(self, route: str | None = None, user: str | None = None, query: str | None = None,
               limit: int = 50, before: str | None = None) -> Sequence[Trace]:
        """The newest traces first, at most `limit`; `query` is looked for in input and output; `before` is the `at`
        of the last one already seen."""
        ...

    def trace(self, id: str) -> Trace:
        """One trace. Raises NotFound."""
        ...

    def why(self, id: str) -> Sequence[Mapping[str, Any]]:
        """The chain behind one trace: id, kind, title, detail, depth, role (`bucle.loop.report.model.Link`)."""
        ...

    def models(self) -> Sequence[str]:
        """Names that `/v1/chat/completions` serves now."""
        ...
