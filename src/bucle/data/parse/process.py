"""A parsing process as its parent sees it: asked over a pipe, watched by a clock, started again after it died."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import bucle.core.records as records
from bucle.data.parse.source import MAX_TEXT

__all__ = ["Worker"]

_MAX_REPLY = 8 * MAX_TEXT
_ENVIRONMENT = (
    "PATH",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "TEMP",
    "TMP",
    "SYSTEMROOT",
    "PYTHONPATH",
    "HOME",
    "VIRTUAL_ENV",
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "DOCLING_ARTIFACTS_PATH",
    "NLTK_DATA",
)
"""All a worker sees of the environment: parsers of strangers' files have no use for a team's keys."""
_NO_CALLS_HOME = {"DO_NOT_TRACK": "true", "SCARF_NO_ANALYTICS": "true"}


class Worker:
    """A parsing process, started when first asked and again after it died. One request at a time."""

    def __init__(self, timeout_s: float, memory_mb: int) -> None:
        self._timeout_s = timeout_s
        self._memory_mb = memory_mb
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> subprocess.Popen[bytes]:
        """The process, which loads its libraries while its parent does other things."""
        if self._process is not None:
            return self._process
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        home = str(Path(records.__file__).parents[2])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [home, environment.get("PYTHONPATH", "")]))
        environment.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1", PYTHONIOENCODING="utf-8", **_NO_CALLS_HOME)
        # -P: a file named like a module in the folder the user stands in must not be imported.
        command = [sys.executable, "-P", "-m", "bucle.data.parse.worker", str(self._memory_mb), str(self._timeout_s)]
        self._process = subprocess.Popen(  # noqa: S603  # a fixed command, no shell
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        return self._process

    def ask(self, request: Mapping[str, object]) -> dict[str, object]:
        """The worker's reply, or a refusal that says how it ended."""
        process = self.start()
        assert process.stdin is not None  # noqa: S101
        assert process.stdout is not None  # noqa: S101
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            process.kill()

        timer = threading.Timer(self._timeout_s, expire)
        timer.start()
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            line = process.stdout.readline(_MAX_REPLY)
        except OSError:
            line = b""
        finally:
            timer.cancel()
        if line.endswith(b"\n"):
            reply: dict[str, object] = json.loads(line)
            if reply.get("reason") == "out-of-memory":
                self.stop()  # its heap is spent
            return reply
        self.stop()
        if expired.is_set():
            return {"reason": "timeout", "message": f"Reading the file took over {self._timeout_s:g} seconds."}
        if len(line) >= _MAX_REPLY:
            return {"reason": "too-large", "message": f"The file holds over {MAX_TEXT:,} characters."}
        return _death(process.returncode)

    def stop(self) -> None:
        """End the process; what it was reading is lost."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
        try:
            process.wait(0.5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _death(code: int) -> dict[str, object]:
    if code == -signal.SIGTERM or (os.name == "posix" and code == -signal.SIGKILL):
        return {
            "reason": "out-of-memory",
            "message": "The system ended the parser, most often for want of memory.",
        }
    ended = signal.Signals(-code).name if code < 0 else f"status {code}"
    return {"reason": "corrupt", "message": f"The parser died on the file ({ended})."}
