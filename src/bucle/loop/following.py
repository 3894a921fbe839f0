"""A running server keeps up with the ledger: another release in production, a target of a route restored by hand."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from bucle.core.errors import BucleError, NotFound
from bucle.core.records import Node
from bucle.loop.aliases import rollbacks
from bucle.loop.workspace import Workspace
from bucle.release import PRODUCTION

if TYPE_CHECKING:
    from fastapi import FastAPI

    from bucle.serve.routes import Route

__all__ = ["follow"]

log = logging.getLogger("bucle.serve")

LOOK_S = 0.5
"""How often the ledger is asked; two indexed look-ups."""


def follow(app: FastAPI, ws: Workspace, release: Node | None, routes_of: Callable[[Node], dict[str, Route]],
           *, production: bool) -> None:
    """While `app` serves: start its engines' processes at once, and where it serves `production`, serve what that
    alias points to within a second of its moving. `routes_of(release)` gives the routes that a release changes; what is
    at work finishes on the old ones."""
    inner = app.router.lifespan_context
    follower = _Follower(app, ws, release, routes_of, production)

    @asynccontextmanager
    async def lifespan(served: Any) -> AsyncIterator[Any]:
        async with inner(served) as state:
            starting = [asyncio.create_task(_started(route)) for route in app.state.gateway.routes.values()
                        if hasattr(route.engine, "start")]
            follower.start()
            try:
                yield state
            finally:
                await asyncio.to_thread(follower.stop)
                for task in starting:
                    task.cancel()

    app.router.lifespan_context = lifespan


async def _started(route: Route) -> None:
    """Load the model behind `route` now, and not at its first request."""
    engine: Any = route.engine
    with contextlib.suppress(asyncio.CancelledError):
        try:
            facts = await engine.start()
            note = f": {facts['note']}" if facts.get("note") else ""
            log.info("%s is ready (%s, %s)%s", route.name, facts.get("engine"), facts.get("precision"), note)
        except BucleError as error:
            log.error("%s cannot be started: %s (%s)", route.name, error.message, error.hint)


class _Follower:
    def __init__(self, app: FastAPI, ws: Workspace, release: Node | None,
                 routes_of: Callable[[Node], dict[str, Route]], production: bool) -> None:
        self._gateway, self._ws, self._routes_of = app.state.gateway, ws, routes_of
        self._served, self._production = release.id if release else "", production
        self._rollbacks = -1
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bucle-follow", daemon=True)

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join(30)

    def _run(self) -> None:
        while not self._over.wait(LOOK_S):
            try:
                if self._production and (found := self._ws.ledger.alias(PRODUCTION)) not in (None, self._served):
                    self._move(self._ws.ledger.get(str(found)))
                self._share()
            except Exception as error:  # a server that cannot look goes on with what it has
                log.warning("the ledger could not be followed (%s)", getattr(error, "message", type(error).__name__))

    def _move(self, release: Node) -> None:
        """Serve `release`. One that cannot be opened is told of once, and the old one stays."""
        self._served = release.id
        try:
            routes = self._routes_of(release)
        except BucleError as error:
            log.error("release %s cannot be served, the one before stays: %s (%s)", release.attrs.get("version", ""),
                      error.message, error.hint)
            return
        self._gateway.release_id = release.id
        for name, route in routes.items():
            self._gateway.swap(name, route)
        log.warning("production is version %s now (%s)", release.attrs.get("version", ""),
                    ", ".join(routes) or "its tasks are as they were")

    def _share(self) -> None:
        """Stop and restore the targets of routes that another server, or a person, stopped and restored."""
        count = int(self._ws.ledger.rows("SELECT count(*) FROM nodes WHERE kind = 'rollback'")[0][0])
        if count == self._rollbacks:
            return
        self._rollbacks = count
        for (route, target), last in rollbacks(self._ws).items():
            alias: Any = self._gateway.routes[route].engine if route in self._gateway.routes else None
            if hasattr(alias, "restore") and self._loop is not None:
                self._loop.call_soon_threadsafe(_set, alias, target, last)


def _set(alias: Any, target: str, last: Mapping[str, Any]) -> None:
    with contextlib.suppress(NotFound):  # it has its share already, or is no target any more
        if last["restored"]:
            alias.restore(target)
        else:
            alias.roll_back(target, str(last["why"]))
