"""One process that answers: started in a private folder with a clean environment, watched, ended without a trace."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bucle.core.errors import ModelUnavailable

if TYPE_CHECKING:
    from aiohttp import ClientSession

    from bucle.core.ports import Report

__all__ = ["CannotServe", "Child", "Launch", "clean_environment", "private_folder", "told"]

LOG = logging.getLogger("bucle.engines")

PASSED = frozenset({
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TZ", "SYSTEMROOT", "VIRTUAL_ENV",
    "PYTHONPATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE", "BUCLE_CACHE",
    "BUCLE_THREADS", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "CUDA_HOME",
    "CUDA_PATH", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES",
})
"""All that an engine's process inherits: where libraries and caches are. No key of a provider or of this server."""

SOCKET_PATH_LIMIT = 100
"""Characters; Linux takes 107 in the path of a socket, macOS 103."""
LOG_LINES, LOG_LINE_CHARS = 60, 500
PROBE_S = 0.05


def clean_environment(**more: str) -> dict[str, str]:
    """The environment of an engine's process: PASSED, and `more`."""
    kept = {name: value for name, value in os.environ.items() if name in PASSED}
    return kept | {"PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
                   "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"} | more


def private_folder() -> Path:
    """A new folder that only this user may enter, its path short enough for a socket in it."""
    folder = tempfile.mkdtemp(prefix="bucle-engine-")
    if len(folder) > SOCKET_PATH_LIMIT - 20:
        os.rmdir(folder)
        folder = tempfile.mkdtemp(prefix="bucle-engine-", dir="/tmp")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # should nobody have come to close its engine
    return Path(folder)


class CannotServe(ModelUnavailable):
    """The process said itself why it cannot serve this model: starting it again changes nothing."""


def told(folder: Path) -> CannotServe | None:
    """The error that a child left in `folder` before it gave up."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        left = json.loads((folder / "error.json").read_text(encoding="utf-8")[:20_000])
        return CannotServe(str(left["message"]), str(left["hint"]))
    return None


@dataclass(frozen=True, slots=True)
class Launch:
    """How a child is started and found. `line` is written to its standard input, which stays open as long as this
    process lives; `uds` is its socket (None: `base_url` is a loopback port); `secret` never stands in its log."""

    argv: tuple[str, ...]
    folder: Path
    env: Mapping[str, str]
    base_url: str
    line: str = ""
    uds: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    secret: str = ""


class Child:
    """A running process. Made and used in one event loop. `busy` counts the requests that were given to it."""

    def __init__(self, name: str, launch: Launch) -> None:
        self.name, self.launch = name, launch
        self.began = time.monotonic()
        self.ready_at = 0.0
        self.facts: Mapping[str, Any] = {}
        self.busy = 0
        self.using: Counter[str] = Counter()
        self.idle = asyncio.Event()
        self.idle.set()
        self.dead = asyncio.Event()
        self.why = ""
        self._log: deque[str] = deque(maxlen=LOG_LINES)
        self._http: ClientSession | None = None
        loop = asyncio.get_running_loop()
        try:
            self.process = subprocess.Popen(  # noqa: S603  (our own command, no shell)
                launch.argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                env=dict(launch.env), cwd=launch.folder, start_new_session=True)
        except OSError as error:
            shutil.rmtree(launch.folder, ignore_errors=True)
            raise ModelUnavailable(f"{name} cannot be started: {launch.argv[0]}: {error.strerror}",
                                   "check that it is installed, and on the PATH of bucle serve") from error
        if (stdin := self.process.stdin) is not None:
            with contextlib.suppress(BrokenPipeError):
                stdin.write(launch.line.encode() + b"\n")
                stdin.flush()
        self._reader = threading.Thread(target=self._read, name=f"{name} log", daemon=True)
        self._reader.start()
        threading.Thread(target=self._wait, args=(loop,), name=f"{name} wait", daemon=True).start()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        """The last lines that it wrote."""
        return "\n".join(self._log)

    def enter(self, adapter: str) -> None:
        """Count a request, for `adapter` where it names one."""
        self.busy += 1
        self.using[adapter] += 1
        self.idle.clear()

    def leave(self, adapter: str) -> None:
        """Count it off."""
        self.busy -= 1
        self.using[adapter] -= 1
        if not self.busy:
            self.idle.set()

    async def ready(self, within_s: float, report: Report | None = None) -> Mapping[str, Any]:
        """What it says about itself, once it can answer. Raises ModelUnavailable where it ended or took too long; an
        error that asking again does not change is raised as it was."""
        while (spent := time.monotonic() - self.began) < within_s:
            if self.dead.is_set():
                raise told(self.launch.folder) or ModelUnavailable(
                    f"{self.name} ended while it started ({self.why})", "its last lines are in the server's log")
            facts = await self.probe(2.0)
            if facts is not None and facts.get("state") != "loading":
                self.facts, self.ready_at = facts, time.monotonic()
                return facts
            if report is not None:
                report(int(spent), 0, f"{self.name} is loading")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.dead.wait(), PROBE_S if spent < 20 else 10 * PROBE_S)
        raise ModelUnavailable(f"{self.name} was not ready within {within_s:.0f} s",
                               "its last lines are in the server's log; a smaller model starts sooner")

    async def probe(self, timeout_s: float) -> Mapping[str, Any] | None:
        """What /health says; None where it does not answer (in time)."""
        import aiohttp

        if self._http is None:
            uds = self.launch.uds
            connector = aiohttp.UnixConnector(path=uds) if uds else aiohttp.TCPConnector()
            self._http = aiohttp.ClientSession(connector=connector, trust_env=False)
        try:
            async with self._http.get(self.launch.base_url.removesuffix("/v1") + "/health",
                                      timeout=aiohttp.ClientTimeout(total=timeout_s)) as response:
                text = (await response.content.read(100_000)).decode(errors="replace")
                if response.status == 503:
                    return {"state": "loading"}
                if response.status != 200:
                    return None
                said = json.loads(text) if text.strip() else {}
                return said if isinstance(said, dict) else {}
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            return None

    async def watch(self, beat_s: float, hang_s: float) -> str:
        """Why it is gone, once it is. One that says nothing for `hang_s`, or whose model did not move for as long with
        work before it, is killed: its requests fail at once instead of never."""
        heard = time.monotonic()
        while not self.dead.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.dead.wait(), beat_s)
                break
            facts = await self.probe(max(0.05, min(hang_s, heard + hang_s - time.monotonic())))
            if facts is not None:
                heard = time.monotonic()
                self.facts = facts or self.facts
            stalled = float((facts or {}).get("stalled_s") or 0.0)
            silent = time.monotonic() - heard
            if max(stalled, silent) >= hang_s and not self.dead.is_set():
                self.why = f"it hung: no sign of life for {max(stalled, silent):.0f} s"
                if self.process.returncode is None:
                    self._signal(signal.SIGKILL)
                await self.dead.wait()
        return self.why

    async def gone(self, within_s: float) -> bool:
        """Whether it has ended, or does within so long."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.dead.wait(), within_s)
        return self.dead.is_set()

    async def stop(self, grace_s: float = 5.0) -> None:
        """End it and all that it started, and remove its folder. Work that it still has is lost: drain before."""
        if self._http is not None:
            await self._http.close()
            self._http = None
        stdin = self.process.stdin
        if stdin is not None:
            with contextlib.suppress(OSError):
                stdin.close()
        try:
            for last in (signal.SIGTERM, signal.SIGKILL):
                if await self.gone(grace_s):
                    break
                if self.process.returncode is None:
                    self._signal(last)
            await self.dead.wait()
        finally:
            if self.process.returncode is None:
                self._signal(signal.SIGKILL)
            shutil.rmtree(self.launch.folder, ignore_errors=True)

    def _signal(self, number: int) -> None:
        """To it and to all that it started, which stand in its process group. Its number is its own until it is waited
        for."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)

    def _read(self) -> None:
        if (stdout := self.process.stdout) is None:
            return
        with contextlib.suppress(OSError, ValueError), stdout:
            while line := stdout.readline(8192):
                text = line.decode(errors="replace").rstrip()
                if self.launch.secret:
                    text = text.replace(self.launch.secret, "[key]")
                if text:
                    self._log.append("".join(c if c.isprintable() else " " for c in text)[:LOG_LINE_CHARS])

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        if hasattr(os, "waitid"):
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
            self._signal(signal.SIGKILL)  # what it started and left behind, while the number is still taken
        code = self.process.wait()
        self._reader.join(0.5)
        said = f"signal {signal.Signals(-code).name}" if code < 0 and -code in _SIGNALS else f"exit status {code}"
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(self._ended, said)

    def _ended(self, said: str) -> None:
        self.why = self.why or said
        self.dead.set()


_SIGNALS = frozenset(int(one) for one in signal.Signals)
