"""Parsing many files in worker processes: one that hangs, dies or swells costs its own file only."""

from __future__ import annotations

import dataclasses
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bucle.core.errors import Quarantined
from bucle.core.ids import file_sha256
from bucle.core.ports import Report
from bucle.core.records import Document
from bucle.data.parse.cache import Entry, ParseCache, entry_of
from bucle.data.parse.choice import Choice, choices
from bucle.data.parse.formats import suffix_of
from bucle.data.parse.process import Worker
from bucle.data.parse.single import beside, make_document
from bucle.data.parse.source import MAX_FILE_BYTES

if TYPE_CHECKING:
    from bucle.data.connect import SourceFile

__all__ = ["ParseResult", "QuarantinedFile", "Retry", "parse_all", "retry_file"]

HEAVY_TIMEOUT_S, HEAVY_MEMORY_MB = 600, 24 * 1024
"""For parsers that load models: torch maps far more address space than it uses."""
RETRY_ROOM = 4
"""A retry by hand gets this many times the seconds and the memory."""


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


@dataclass(frozen=True)
class Retry:
    """What came of a retry: the document, or why there still is none (as in QuarantinedFile)."""

    document: Document | None
    reason: str = ""
    message: str = ""


@dataclass(frozen=True)
class _Job:
    """A file with all that decides what is read from it. `key` is its name in the cache, empty where there is none."""

    file: SourceFile
    path: Path
    choice: Choice
    password: str
    beside: str
    key: str


def parse_all(
    files: Sequence[SourceFile],
    root: Path,
    *,
    cache: Path | None = None,
    parsers: Mapping[str, str] | None = None,
    passwords: Mapping[str, str] | None = None,
    timeout_s: float = 30,
    memory_mb: int = 1024,
    workers: int = 2,
    report: Report | None = None,
    limit_bytes: int = MAX_FILE_BYTES,
) -> ParseResult:
    """Parses `files` under `root` and tells their languages. Never raises for what a file holds.

    `cache` is a folder in which each file is kept as it is finished, so that no content is parsed twice and a killed
    run goes on where it stopped; `parsers` names the parser for a suffix (`.pdf: docling`). `passwords` maps a file's
    path to its password; `timeout_s` seconds and `memory_mb` MiB of address space are for one file. `report` is
    called from one thread at a time, once a file. Raises ConfigError for a parser that is not there.
    """
    chosen, store = choices(parsers or {}), ParseCache(cache)
    outcomes: dict[int, Document | QuarantinedFile] = {}
    lock = threading.Lock()

    def settle(index: int, entry: Entry, sha256: str) -> None:
        with lock:
            outcomes[index] = _result(files[index], entry, sha256)
            if report is not None:
                report(len(outcomes), len(files), files[index].path)

    jobs: dict[int, _Job] = {}
    for index, file in enumerate(files):
        try:
            job = _job(file, root.resolve(), chosen, (passwords or {}).get(file.path, ""), limit_bytes)
        except Quarantined as refused:
            settle(index, Entry(reason=refused.reason, message=refused.message), file.sha256)
            continue
        entry = store.get(job.key) if job.key else None
        if entry is None or (entry.locked and job.password):
            jobs[index] = job
        else:
            settle(index, entry, file.sha256)
    order = sorted(jobs, key=lambda index: -files[index].size)  # the longest first, so that none is left last

    def ask(worker: Worker, index: int) -> None:
        entry, sha256 = _ask(worker, jobs[index], limit_bytes)
        if sha256 and not (entry.reason and jobs[index].password):  # a wrong password is no verdict on the file
            store.put(_key(jobs[index], sha256), entry)
        settle(index, entry, sha256)

    if jobs:  # the language model loads while the workers do
        threading.Thread(target=_load_languages, daemon=True).start()
    # Those that load models have one process at a time, with room for them.
    _work([index for index in order if not jobs[index].choice.heavy], ask, (timeout_s, memory_mb), workers)
    _work(
        [index for index in order if jobs[index].choice.heavy], ask, _room(Choice(heavy=True), timeout_s, memory_mb), 1
    )
    ordered = [outcomes[index] for index in range(len(files))]
    return ParseResult(
        [one for one in ordered if isinstance(one, Document)],
        [one for one in ordered if isinstance(one, QuarantinedFile)],
    )


def retry_file(
    file: SourceFile,
    root: Path,
    *,
    cache: Path,
    password: str = "",
    parsers: Mapping[str, str] | None = None,
    timeout_s: float = 30,
    memory_mb: int = 1024,
    limit_bytes: int = MAX_FILE_BYTES,
) -> Retry:
    """One file parsed again, whatever was known of it, with more room. What can be read is kept in `cache`, so that
    the next parse_all finds it without the password; neither the password nor anything made from it is kept.
    """
    store = ParseCache(cache)
    try:
        job = _job(file, root.resolve(), choices(parsers or {}), password, limit_bytes)
    except Quarantined as refused:
        return Retry(None, refused.reason, refused.message)
    worker = Worker(*_room(job.choice, RETRY_ROOM * timeout_s, RETRY_ROOM * memory_mb))
    try:
        entry, sha256 = _ask(worker, job, limit_bytes)
    finally:
        worker.stop()
    if entry.locked and not entry.reason:
        opened = "The password given does not open" if password else "It needs a password for"
        return Retry(None, "encrypted", f"{opened} a file inside it.")
    outcome = _result(file, entry, sha256)
    if not isinstance(outcome, Document):
        return Retry(None, outcome.reason, outcome.message)
    key = _key(job, sha256)
    store.put(key, entry)
    store.mark_retried(key)
    return Retry(outcome)


def _load_languages() -> None:
    from bucle.data.language import detect

    detect("Una frase cualquiera, para que el modelo se cargue.")


def _work(
    order: Sequence[int],
    ask: Callable[[Worker, int], None],
    room: tuple[float, int],
    workers: int,
) -> None:
    """Calls `ask` for each of `order`, from as many threads as `workers`, each with a process of its own."""
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for index in order:
        waiting.put(index)
    failures: list[BaseException] = []

    def work() -> None:
        worker = Worker(*room)
        try:
            while not failures:
                try:
                    index = waiting.get_nowait()
                except queue.Empty:
                    break
                ask(worker, index)
        except BaseException as error:
            failures.append(error)
        finally:
            worker.stop()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(max(1, workers), len(order)))]
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


def _job(file: SourceFile, home: Path, chosen: Mapping[str, Choice], password: str, limit_bytes: int) -> _Job:
    """Raises Quarantined for a file that no parser may see."""
    path = (home / file.path).resolve()
    if not path.is_relative_to(home):
        raise Quarantined("corrupt", "The path leads out of the source's folder.")
    if file.size > limit_bytes:
        raise Quarantined("too-large", f"The file has {file.size:,} bytes; {limit_bytes:,} are read at most.")
    choice = chosen.get(suffix_of(file.path), Choice())
    other = beside(path, file.path)
    job = _Job(file, path, choice, password, file_sha256(other) if other else "", "")
    return dataclasses.replace(job, key=_key(job, file.sha256)) if file.sha256 else job


def _key(job: _Job, sha256: str) -> str:
    return ParseCache.key(sha256, suffix_of(job.file.path), job.choice.key, job.beside)


def _room(choice: Choice, timeout_s: float, memory_mb: int) -> tuple[float, int]:
    if choice.heavy:
        return max(timeout_s, HEAVY_TIMEOUT_S), max(memory_mb, HEAVY_MEMORY_MB)
    return timeout_s, memory_mb


def _ask(worker: Worker, job: _Job, limit_bytes: int) -> tuple[Entry, str]:
    """What the file came to, and the sha256 of the bytes that were read: it may have changed since it was listed."""
    reply = worker.ask(
        {
            "path": str(job.path),
            "rel": job.file.path,
            "password": job.password,
            "parser": job.choice.name,
            "limit_bytes": limit_bytes,
        }
    )
    return entry_of(reply), str(reply.get("sha256", job.file.sha256))


def _result(file: SourceFile, entry: Entry, sha256: str) -> Document | QuarantinedFile:
    if entry.reason:
        return QuarantinedFile(file.path, sha256, entry.reason, entry.message)
    return make_document(
        file.path,
        sha256,
        entry.title,
        entry.blocks,
        language=entry.language,
        access=getattr(file, "access", ()),
        origin=getattr(file, "origin", ""),
    )
