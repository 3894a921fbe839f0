"""The command line as a user runs it: a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BUCLE = (sys.executable, "-m", "bucle")


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The caller's, without what would change Bucle's answers, and without a network."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("BUCLE_", "OPENAI_"))}
    return kept | {"HF_HUB_OFFLINE": "1", "COLUMNS": "160", "PYTHONWARNINGS": "default"} | dict(extra or {})


def bucle(*args: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None,
          timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """`bucle ARGS`, finished, with its two outputs as text."""
    return subprocess.run([*BUCLE, *map(str, args)], capture_output=True, text=True, env=environment(env), cwd=cwd,
                          timeout=timeout)


def answer(*args: str | Path, code: int = 0, **options: Any) -> Any:
    """What `bucle ARGS --json` says: the one JSON object that is all of its standard output."""
    done = bucle(*args, "--json", **options)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.count("\n") == 1, done.stdout
    value = json.loads(done.stdout)
    assert isinstance(value, dict)
    return value


def told(*args: str | Path, **options: Any) -> str:
    """What `bucle ARGS` says to a person."""
    done = bucle(*args, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


class Running:
    """A `bucle` process in a group of its own, whose lines can be waited for; `with` ends it in any case."""

    def __init__(self, *args: str | Path, log: Path, env: Mapping[str, str] | None = None) -> None:
        self._log = log
        with log.open("w") as out:
            self.process = subprocess.Popen([*BUCLE, *map(str, args)], stdout=out, stderr=out, env=environment(env),
                                            start_new_session=True)

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.kill()

    @property
    def text(self) -> str:
        return self._log.read_text("utf-8", errors="replace")

    def wait_for(self, text: str, seconds: float = 280) -> str:
        """All that was said, once `text` is among it."""
        end = time.monotonic() + seconds
        while text not in (said := self.text):
            assert self.process.poll() is None, f"ended with {self.process.returncode} before {text!r}:\n{said}"
            assert time.monotonic() < end, f"no {text!r} within {seconds} s:\n{said}"
            time.sleep(0.01)
        return said

    def kill(self) -> None:
        """SIGKILL to the whole group."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)

    def terminate(self, seconds: float = 60) -> int:
        """SIGTERM; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)
