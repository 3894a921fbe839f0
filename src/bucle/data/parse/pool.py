"""Parsing many files in worker processes: one that hangs, dies or swells costs its own file only."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import bucle.core.records as records
from bucle.core.ports import Report
from bucle.core.records import Document
from bucle.data.connect import MAX_FILE_BYTES, SourceFile
from bucle.data.parse.source import MAX_TEXT

__all__ = ["ParseResult", "QuarantinedFile", "parse_all"]

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
)
"""All a worker sees of the environment: parsers of strangers' files have no use for a team's keys."""


@dataclass(frozen=True)
class QuarantinedFile:
    """A file left out, and why. `reason` is a short code (`encrypted`, `timeout`…), `message` the fact for
    people.
    """

    path: str
    sha256: str
    reason: str
    message: str


@dataclass(frozen=True)
class ParseResult:
    """Documents and files in quarantine, in the order of the files given; together they are all of them."""

    documents: list[Document]
    quarantined: list[QuarantinedFile]


def parse_all(
    files: Sequence[SourceFile],
    root: Path,
    *,
    passwords: Mapping[str, str] | None = None,
    timeout_s: float = 30,
    memory_mb: int = 1024,
    workers: int = 2,
    report: Report | None = None,
    limit_bytes: int = MAX_FILE_BYTES,
) -> ParseResult:
    """Parses `files` under `root` and tells their languages. Never raises for what a file holds.

    `passwords` maps a file's path to its password; `timeout_s` seconds and `memory_mb` MiB of address space
    are for one file. `report` is called from one thread at a time, once a file.
    """
    from bucle.data.language import detect

    outcomes: dict[int, Document | QuarantinedFile] = {}
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    home = root.resolve()
    order = sorted(range(len(files)), key=lambda index: -files[index].size)  # the longest first, so none is left last
    for index in order:
        waiting.put(index)
    lock = threading.Lock()
    failures: list[BaseException] = []

    def work() -> None:
        worker = _Worker(timeout_s, memory_mb)
        try:
            while not failures:
                try:
                    index = waiting.get_nowait()
                except queue.Empty:
                    break
                file = files[index]
                outcome = _outcome(worker, file, home, (passwords or {}).get(file.path, ""), limit_bytes)
                with lock:
                    if isinstance(outcome, Document):
                        outcome = outcome.model_copy(update={"language": detect(outcome.text[:20_000])})
                    outcomes[index] = outcome
                    if report is not None:
                        report(len(outcomes), len(files), file.path)
        except BaseException as error:
            failures.append(error)
        finally:
            worker.stop()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(max(1, min(workers, len(files))))]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except BaseException as error:  # an interrupt: let the workers end their file, take no other
        failures.append(error)
        raise
    if failures:
        raise failures[0]
    ordered = [outcomes[index] for index in range(len(files))]
    return ParseResult(
        [one for one in ordered if isinstance(one, Document)],
        [one for one in ordered if isinstance(one, QuarantinedFile)],
    )


def _outcome(
    worker: _Worker, file: SourceFile, home: Path, password: str, limit_bytes: int
) -> Document | QuarantinedFile:
    path = (home / file.path).resolve()
    if not path.is_relative_to(home):
        return QuarantinedFile(file.path, file.sha256, "corrupt", "The path leads out of the source's folder.")
    if file.size > limit_bytes:
        return QuarantinedFile(
            file.path,
            file.sha256,
            "too-large",
            f"The file has {file.size:,} bytes; {limit_bytes:,} are read at most.",
        )
    reply = worker.ask({"path": str(path), "rel": file.path, "password": password, "limit_bytes": limit_bytes})
    if "document" in reply:
        return Document.model_validate(reply["document"])
    return QuarantinedFile(file.path, file.sha256, str(reply["reason"]), str(reply["message"]))


class _Worker:
    """A parsing process, started when first asked and again after it died."""

    def __init__(self, timeout_s: float, memory_mb: int) -> None:
        self._timeout_s = timeout_s
        self._memory_mb = memory_mb
        self._process: subprocess.Popen[bytes] | None = None

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        home = str(Path(records.__file__).parents[2])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [home, environment.get("PYTHONPATH", "")]))
        environment.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1", PYTHONIOENCODING="utf-8")
        # -P: a file named like a module in the folder the user stands in must not be imported.
        command = [sys.executable, "-P", "-m", "bucle.data.parse.worker", str(self._memory_mb), str(self._timeout_s)]
        return subprocess.Popen(  # noqa: S603  # a fixed command, no shell
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )

    def ask(self, request: Mapping[str, object]) -> dict[str, object]:
        """The worker's reply, or a refusal that says how it ended."""
        process = self._process = self._process or self._start()
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
            return {
                "reason": "timeout",
                "message": f"Reading the file took over {self._timeout_s:g} seconds.",
            }
        if len(line) >= _MAX_REPLY:
            return {"reason": "too-large", "message": f"The file holds over {MAX_TEXT:,} characters."}
        return _death(process.returncode)

    def stop(self) -> None:
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
