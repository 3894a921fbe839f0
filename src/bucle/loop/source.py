"""The project as the studio sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from threading import Lock
from typing import Any

from bucle.core.errors import BadInput, NotFound
from bucle.core.records import Node, Trace
from bucle.loop.chain import chain
from bucle.loop.label import Labelling
from bucle.loop.story import build_story, latest_records
from bucle.loop.workspace import Workspace

__all__ = ["Source"]

_CHANGES = (
    "SELECT (SELECT max(seq) FROM runs WHERE finished_at IS NOT NULL), (SELECT max(seq) FROM aliases), "
    "(SELECT max(seq) FROM traces), (SELECT max(seq) FROM feedback)"
)


class Source:
    """Implements the studio's StudioSource over a workspace and the release that is being served, if any is."""

    def __init__(self, ws: Workspace, release: Node | None) -> None:
        self._ws, self._release = ws, release
        self._lock = Lock()
        self._told: tuple[tuple[Any, ...], Mapping[str, Any]] | None = None
        self._labelling: dict[str, Labelling] = {}

    def story(self) -> Mapping[str, Any]:
        """The story, built again only when a run, the production alias or a trace came since."""
        key = self._ws.ledger.rows(_CHANGES)[0]
        with self._lock:
            if self._told is None or self._told[0] != key:
                self._told = (key, self._build())
            return self._told[1]

    def _build(self) -> Mapping[str, Any]:
        try:
            return build_story(self._ws, latest_records(self._ws.ledger))
        except NotFound:
            return {"project": {"name": self._ws.config.project, "language": self._ws.config.language}}

    def traces(
        self,
        route: str | None = None,
        user: str | None = None,
        query: str | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> Sequence[Trace]:
        return self._ws.traces.traces(
            route=route or "",
            user=user or "",
            query=query or "",
            limit=limit,
            newest_first=True,
            before=_moment(before) if before else 0.0,
        )

    def trace(self, id: str) -> Trace:
        return self._ws.traces.trace(id)

    def why(self, id: str) -> Sequence[Mapping[str, Any]]:
        return chain(self._ws, id)

    def models(self) -> Sequence[str]:
        tasks = list(self._release.attrs["tasks"] if self._release else ())
        return tasks + [n for n, m in self._ws.config.models.items() if m.kind != "encoder" and n not in tasks]

    def labelling(self, task: str) -> Labelling:
        """The labelling of a task; its vectors stay in memory. Raises NotFound."""
        with self._lock:
            if task not in self._labelling:
                self._labelling[task] = Labelling(self._ws, task)
            return self._labelling[task]


def _moment(text: str) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError) as error:
        raise BadInput(f"{text[:40]!r} is no ISO 8601 time.", "Write 2026-11-21T09:30:00+01:00.") from error
