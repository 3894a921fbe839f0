"""A model in a process of its own: started, watched, restarted when it dies, drained, swapped for another."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bucle.core.engine import OFFERS, AskContext, ChatAnswer, ChatAsk, ChatEngine, Delta
from bucle.core.errors import BadInput, BucleError, ModelUnavailable
from bucle.models.endpoint import RateLimited, Refused, TimedOut
from bucle.models.engines.child import CannotServe, Child, Launch, clean_environment, private_folder
from bucle.models.engines.host import HostSpec
from bucle.models.folder import checked_folder

if TYPE_CHECKING:
    from bucle.core.ports import Report

__all__ = ["EngineDied", "EngineProcess", "Supervised", "Watch", "adapter_of"]

LOG = logging.getLogger("bucle.engines")

LONGEST_S = 3600.0
"""What an engine's process may take for one request; who asks has a deadline of its own."""


class EngineDied(ModelUnavailable):
    """The process that was to answer has ended, and another one is being started: ask again. `retry_after` is when, in
    seconds."""

    def __init__(self, message: str, hint: str = "", retry_after: float = 1.0) -> None:
        super().__init__(message, hint)
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Watch:
    """How an engine's process is watched, in seconds. `start_s` it has to get ready; every `beat_s` it is asked whether
    it lives, after `hang_s` of silence it is killed; a request waits `wait_s` for a restart. One that lived less than
    `quick_s` died quickly: the pause before the next start doubles from `pause_s` up to `longest_s`, and after `tries`
    quick deaths in a row nobody starts it again. `drain_s` is what work at hand has to end."""

    start_s: float = 600.0
    beat_s: float = 2.0
    hang_s: float = 120.0
    wait_s: float = 20.0
    quick_s: float = 30.0
    pause_s: float = 0.2
    longest_s: float = 30.0
    tries: int = 5
    drain_s: float = 60.0


def adapter_of(model: str, name: str, adapters: Mapping[str, str]) -> str:
    """Which adapter of the engine `name` is meant by `model`: `NAME:ADAPTER` or the adapter's own name; empty for the
    base model alone. Raises BadInput for an adapter that is not there."""
    base, colon, adapter = model.partition(":")
    if colon and base == name:
        if adapter not in adapters:
            known = ", ".join(f"{name}:{one}" for one in sorted(adapters)) or "none"
            raise BadInput(f"{name} has no adapter {adapter[:100]!r}", f"its adapters: {known}")
        return adapter
    return model if model in adapters else ""


class Supervised:
    """A ChatEngine over one process at a time, which `launch` says how to start. Used from one event loop.

    `state` is `stopped`, `starting`, `ready`, `restarting`, `failed`; `restarts` how often it was started again.
    """

    def __init__(self, name: str, launch: Callable[[], Launch], *, adapters: Mapping[str, str] | None = None,
                 watch: Watch | None = None, report: Report | None = None) -> None:
        self.name = name
        self.adapters: Mapping[str, str] = dict(adapters or {})
        self.settings = watch or Watch()
        self.state = "stopped"
        self.restarts = 0
        self.last_death = ""
        self._launch, self._report = launch, report
        self._child: Child | None = None
        self._failed: BucleError | None = None
        self._news = asyncio.Condition()
        self._work: asyncio.Task[None] | None = None
        self._asked = 0
        self._closing = False
        self._clients: dict[tuple[Child, str], ChatEngine] = {}

    # --- what it says

    @property
    def offers(self) -> frozenset[str]:
        """What the model behind it offers; before its first start everything, and the process refuses by name."""
        said = self._child.facts.get("offers") if self._child else None
        return frozenset(said) & OFFERS if isinstance(said, list) else OFFERS

    @property
    def pid(self) -> int | None:
        """The process that answers now."""
        return self._child.pid if self._child and not self._child.dead.is_set() else None

    def describe(self) -> dict[str, Any]:
        """For /readyz and the log: `state`, `restarts`, `pid`, `busy`, `started_s`, `last_death`, and what the process
        says about itself (`engine`, `precision`, `context`, `note`, `loaded`)."""
        child = self._child
        facts = {k: v for k, v in (child.facts if child else {}).items() if k not in ("state", "offers")}
        return facts | {
            "state": self.state, "restarts": self.restarts, "pid": self.pid, "busy": child.busy if child else 0,
            "started_s": round(child.ready_at - child.began, 3) if child and child.ready_at else None,
            "last_death": self.last_death}

    # --- life

    async def start(self) -> Mapping[str, Any]:
        """Start the process unless it runs, and wait until it answers: what it says about itself. Raises what keeps it
        from starting. One that was given up is tried again."""
        if self._closing:
            raise self._stopping()
        if self._work is None or self._work.done():
            self._failed, self.state = None, "starting"
            self._work = asyncio.create_task(self._live(), name=f"{self.name} watch")
        return (await self._ready(self.settings.start_s)).facts

    async def drain(self, within_s: float | None = None) -> bool:
        """Take no more requests, wait for those at work: whether all of them ended in time."""
        self._closing = True
        child = self._child
        if child is None:
            return True
        try:
            await asyncio.wait_for(child.idle.wait(), self.settings.drain_s if within_s is None else within_s)
        except TimeoutError:
            LOG.warning("%s: %d requests were still at work when the time to end them was over", self.name, child.busy)
            return False
        return True

    async def close(self) -> None:
        """End the process: neither it nor its folder is left. What it was at work on gets EngineDied; `drain` first."""
        self._closing = True
        if self._work is not None:
            self._work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._work
            self._work = None
        child, self._child = self._child, None
        if child is not None:
            await self._end(child)
        self.state = "stopped"
        async with self._news:
            self._news.notify_all()

    async def _swap(self, launch: Callable[[], Launch], adapters: Mapping[str, str]) -> Mapping[str, Any]:
        """Start another process, give it all that comes from now on, let the old one finish, end it. Where the new one
        does not start, the old one goes on as if nothing had been."""
        if self._child is None or self.state != "ready":
            self._launch, self.adapters = launch, dict(adapters)
            return await self.start()
        new = await self._spawn(launch)
        try:
            facts = await new.ready(self.settings.start_s, self._report)
        except BaseException:
            self._tell_log(new)
            await new.stop(0.1)
            raise
        old, self._failed = self._child, None
        self._launch, self.adapters = launch, dict(adapters)
        if self._work is not None:
            self._work.cancel()
        await self._become("ready", new)
        self._work = asyncio.create_task(self._live(new), name=f"{self.name} watch")
        if old is not None:
            try:
                await asyncio.wait_for(old.idle.wait(), self.settings.drain_s)
            except TimeoutError:
                LOG.warning("%s: %d requests were too long for the swap and are ended", self.name, old.busy)
            finally:
                await self._end(old)
        return facts

    async def _live(self, child: Child | None = None) -> None:
        """Start, watch, start again, until it is closed or given up."""
        watch, quick = self.settings, 0
        while True:
            try:
                if child is None:
                    child = await self._begin()
                    await self._become("ready", child)
                self.last_death = await child.watch(watch.beat_s, watch.hang_s)
                LOG.error("%s: its process %d ended (%s)", self.name, child.pid, self.last_death)
            except CannotServe as error:
                self._failed = error
            except (BucleError, OSError) as error:
                self.last_death = getattr(error, "message", str(error))
                LOG.error("%s: %s", self.name, self.last_death)
            self._child = None
            lived = time.monotonic() - child.ready_at if child is not None else 0.0
            if child is not None:
                self._tell_log(child)
                await self._end(child)
                child = None
            quick = quick + 1 if lived < watch.quick_s else 1
            if self._failed is None and quick >= watch.tries:
                self._failed = ModelUnavailable(
                    f"{self.name} ended {quick} times shortly after its start ({self.last_death}) and is not started "
                    "again", "see its last lines in the server's log; when the cause is gone, restart bucle serve")
            if self._failed is not None:
                LOG.error("%s is given up: %s", self.name, self._failed)
                await self._become("failed", None)
                return
            self.restarts += 1
            await self._become("restarting", None)
            pause = min(watch.longest_s, watch.pause_s * 2 ** (quick - 1)) * random.uniform(0.75, 1.0)
            LOG.warning("%s is started again in %.1f s (restart %d)", self.name, pause, self.restarts)
            await asyncio.sleep(pause)

    async def _begin(self) -> Child:
        child = await self._spawn(self._launch)
        try:
            await child.ready(self.settings.start_s, self._report)
        except BaseException:
            self._tell_log(child)
            await child.stop(0.1)
            raise
        LOG.info("%s is ready after %.1f s: process %d", self.name, child.ready_at - child.began, child.pid)
        if note := child.facts.get("note"):
            LOG.warning("%s is served by %s: %s", self.name, child.facts.get("engine"), note)
        return child

    async def _spawn(self, launch: Callable[[], Launch]) -> Child:
        try:
            return Child(self.name, await asyncio.to_thread(launch))
        except ModelUnavailable as error:
            raise CannotServe(error.message, error.hint) from error

    async def _become(self, state: str, child: Child | None) -> None:
        self.state, self._child = state, child
        async with self._news:
            self._news.notify_all()

    async def _end(self, child: Child) -> None:
        for key in [key for key in self._clients if key[0] is child]:
            with contextlib.suppress(Exception):
                await self._clients.pop(key).close()
        await child.stop()

    def _tell_log(self, child: Child) -> None:
        if child.log:
            LOG.error("%s: its last lines:\n%s", self.name, child.log)

    # --- requests

    async def complete(self, ask: ChatAsk, ctx: AskContext) -> ChatAnswer:
        """The whole answer. Raises EngineDied where the process ended over it."""
        async with self._for(ask, ctx) as (client, told):
            return await client.complete(told, ctx)

    async def stream(self, ask: ChatAsk, ctx: AskContext) -> AsyncIterator[Delta | ChatAnswer]:
        """Pieces as they come, then the ChatAnswer."""
        async with self._for(ask, ctx) as (client, told), contextlib.aclosing(_closable(client, told, ctx)) as pieces:
            async for piece in pieces:
                yield piece

    def with_adapter(self, adapter: str) -> ChatEngine:
        """This engine as it answers with `adapter`, for a route of its own (`NAME:ADAPTER`)."""
        if adapter not in self.adapters:
            raise BadInput(f"{self.name} has no adapter {adapter!r}")
        return _WithAdapter(self, adapter)

    @contextlib.asynccontextmanager
    async def _for(self, ask: ChatAsk, ctx: AskContext) -> AsyncIterator[tuple[ChatEngine, ChatAsk]]:
        """The client for one request, whose process counts it as its own meanwhile, and what it is told."""
        if self._closing:
            raise self._stopping()
        adapter = adapter_of(ask.model, self.name, self.adapters)
        if self._work is None and self.state == "stopped":
            self.state = "starting"
            self._work = asyncio.create_task(self._live(), name=f"{self.name} watch")
        began = time.perf_counter()
        first = self.state == "starting"
        try:
            child = await self._ready(min(self.settings.start_s if first else self.settings.wait_s, ctx.left_s))
        except asyncio.CancelledError:
            ctx.unsent()
            raise
        child.enter(adapter)
        try:
            await self._prepare(child, adapter, ctx)
            if time.perf_counter() - began > 0.01:
                ctx.span("engine start", began, engine=self.name)
            yield self._client(child, adapter), self._told(ask)
        except ModelUnavailable as error:
            raise await self._explained(child, error) from error
        finally:
            child.leave(adapter)

    def _told(self, ask: ChatAsk) -> ChatAsk:
        """What the process is asked in the place of `ask`."""
        return ask

    async def _prepare(self, child: Child, adapter: str, ctx: AskContext) -> None:
        """Make sure that `child` has `adapter`, where that is not its own business."""

    async def _ready(self, within_s: float) -> Child:
        if self.state == "ready" and self._child is not None and not self._child.dead.is_set() and not self._closing:
            return self._child
        until = time.monotonic() + within_s
        async with self._news:
            while True:
                if self._failed is not None:
                    raise type(self._failed)(self._failed.message, self._failed.hint)
                if self._closing:
                    raise self._stopping()
                if self.state == "ready" and self._child is not None and not self._child.dead.is_set():
                    return self._child
                left = until - time.monotonic()
                if left <= 0:
                    raise EngineDied(f"{self.name} is being started{' again' if self.restarts else ''}",
                                     "try again in a few seconds", 2.0)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._news.wait(), min(left, 0.25) if self.state == "ready" else left)

    async def _explained(self, child: Child, error: ModelUnavailable) -> ModelUnavailable:
        """EngineDied where the process is gone, or goes within a moment; else what was raised."""
        answered = isinstance(error, (RateLimited, Refused, TimedOut)) or hasattr(error, "status")
        if answered or not await child.gone(0.5):
            return error
        if self._closing:
            return self._stopping()
        return EngineDied(f"{self.name} ended while it was at work ({child.why}) and is being started again",
                          "try again in a few seconds", 1.0)

    def _stopping(self) -> EngineDied:
        return EngineDied(f"{self.name} is being stopped", "try again when the server is back", 5.0)

    def _client(self, child: Child, adapter: str) -> ChatEngine:
        from bucle.models.engines.wire import WireEngine

        key = (child, adapter)
        if key not in self._clients:
            launch = child.launch
            self._clients[key] = WireEngine(
                self.name, launch.base_url, f"{self.name}:{adapter}" if adapter else self.name, api_key_env="",
                timeout_s=LONGEST_S, offers=self.offers, uds=launch.uds, headers=launch.headers)
        return self._clients[key]


async def _closable(client: ChatEngine, ask: ChatAsk, ctx: AskContext) -> AsyncGenerator[Delta | ChatAnswer, None]:
    """What `client` streams; closing it closes that."""
    pieces = client.stream(ask, ctx)
    try:
        async for piece in pieces:
            yield piece
    finally:
        if (close := getattr(pieces, "aclose", None)) is not None:
            await close()


class _WithAdapter:
    """One adapter of an engine, as an engine. Closing it closes nothing: the base model's owner does."""

    def __init__(self, engine: Supervised, adapter: str) -> None:
        self.name, self._engine, self._model = f"{engine.name}:{adapter}", engine, f"{engine.name}:{adapter}"

    @property
    def offers(self) -> frozenset[str]:
        return self._engine.offers

    async def complete(self, ask: ChatAsk, ctx: AskContext) -> ChatAnswer:
        return await self._engine.complete(replace(ask, model=self._model), ctx)

    def stream(self, ask: ChatAsk, ctx: AskContext) -> AsyncIterator[Delta | ChatAnswer]:
        return self._engine.stream(replace(ask, model=self._model), ctx)

    async def close(self) -> None:
        """Nothing: the engine is its owner's."""


class EngineProcess(Supervised):
    """The model of `spec` in a process of its own (bucle.models.engines.worker). `memory_gb` bounds what it may
    allocate (0: no bound): beyond, the process ends and is started again instead of the machine's memory running out.
    `report` hears of its loading."""

    def __init__(self, name: str, spec: HostSpec, *, watch: Watch | None = None, memory_gb: float = 0.0,
                 report: Report | None = None) -> None:
        self.spec, self._memory_gb = replace(spec, name=name), memory_gb
        super().__init__(name, lambda: self._worker(self.spec), adapters=spec.adapters, watch=watch, report=report)

    async def swap(self, spec: HostSpec) -> Mapping[str, Any]:
        """Serve `spec` from now on: the new process is started first, then takes all that comes, while the old one
        finishes what it has. Nothing is dropped; where the new one does not start, its error is raised and the old one
        stays."""
        new = replace(spec, name=self.name)
        facts = await self._swap(lambda: self._worker(new), new.adapters)
        self.spec = new
        return facts

    def _worker(self, spec: HostSpec) -> Launch:
        spec = replace(spec, folder=str(checked_folder(spec.folder).absolute()),
                       adapters={name: str(Path(one).absolute()) for name, one in spec.adapters.items()})
        folder = private_folder()
        return Launch(
            argv=(*_worker_command(), "--memory-gb", str(self._memory_gb)), folder=folder, env=clean_environment(),
            base_url="http://engine/v1", line=spec.to_json(), uds=str(folder / "s"))


def _worker_command() -> tuple[str, ...]:
    """`-P`: a module of the folder that somebody works in is never taken for one of ours."""
    return (sys.executable, "-P", "-m", "bucle.models.engines.worker")
