"""A source brought up to date: a folder is listed where it lies, everything else is mirrored on this disk."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bucle.core.errors import BadInput, Infrastructure, Quarantined
from bucle.core.ids import canonical_json, sha256_hex
from bucle.core.ports import Report
from bucle.core.sources import FolderSource, HuggingFaceSource, RowSource, Source, SqlSource
from bucle.data.connect.access import Labels, is_sidecar
from bucle.data.connect.changes import Changes, changes
from bucle.data.connect.files import SourceFile, Stamp, SyncProblem, scan
from bucle.data.connect.globs import cut, is_glob
from bucle.data.connect.mirror import Mirror, write_json
from bucle.data.connect.safe import public_url

__all__ = ["Synced", "fetch_rows", "sync"]

_TABLES = (".csv", ".tsv", ".tab", ".txt", ".jsonl", ".ndjson", ".json", ".parquet")
_NOT_CONTENT = {"name", "access", "refresh_hours", "delay_s", "timeout_s", "passwords_env", "allow_private"}
"""Fields of a source that say how it is read, not what: changing one fetches nothing again."""
ONE_RUN_S = 600.0
_ASKED: dict[Path, float] = {}
"""When this process last brought each mirror up to date."""


@dataclass
class Synced:
    """A source as it is now. `root` is the folder under which the files' paths lie; `note` tells what a person should
    know (a mirror that could not be brought up to date); `changes` is what differs from the sync before. `name` is the
    source's, and `prefix` what goes before its paths where a project has several sources (empty for one)."""

    root: Path
    files: list[SourceFile]
    problems: list[SyncProblem]
    note: str
    passwords_env: str
    changes: Changes = field(default_factory=Changes)
    name: str = ""
    prefix: str = ""


def sync(
    source: Source, project: Path, mirrors: Path, *, force: bool = False, report: Report | None = None
) -> Synced:
    """Bring a source up to date and list its files.

    Within `refresh_hours` of the last sync nothing is asked of the network, unless `force`. Only what changed is
    fetched; what is gone leaves the mirror. Where a source cannot be reached, its mirror is used and `note` says so.
    Raises NotFound for a folder that is not there, ConfigError and BadInput for what bucle.yaml says wrongly, and
    Infrastructure for a source that cannot be reached and has no mirror.
    """
    told = report or _silent
    if source.kind == "folder":
        return _folder(source, project, mirrors, told)
    mirror = Mirror(mirrors / _digest("documents", source))
    note = _update(source, mirror, project, force, told, _pull)
    files, refused, unused = _mirrored(source, mirror)
    found = Synced(mirror.files, files, [*mirror.problems, *refused], note, "")
    return _compared(found, mirror.folder, {}, unused)


def fetch_rows(
    source: RowSource, project: Path, mirrors: Path, *, force: bool = False, report: Report | None = None
) -> Path:
    """A task's rows as a file of this disk that data/tables.py reads: `rows.jsonl` for a query or dataset, the file
    itself for a URL. Fetched as `sync` does; a note goes to `report`. Raises as `sync` does."""
    told = report or _silent
    mirror = Mirror(mirrors / _digest("rows", source))
    note = _update(source, mirror, project, force, told, _pull_rows)
    entry = next(iter(mirror.entries.values()), None)
    if entry is None:
        raise Infrastructure(f"{_place(source)} gave no rows.", "bucle data sync")
    path = mirror.files / entry.path
    if path.suffix.lower() not in _TABLES:
        raise BadInput(
            f"{_place(source)} is no table: what came is {path.suffix or 'of no known type'}.",
            "Give the URL of a CSV, TSV, JSONL or Parquet file.",
        )
    if note:
        told(1, 1, note)
    return path


def _silent(done: int, total: int, note: str = "") -> None:
    return


def _digest(use: str, source: Source) -> str:
    config = source.model_dump(mode="json", exclude=_NOT_CONTENT)
    if source.kind == "sql" and source.url_env:
        import os

        config["place"] = public_url(os.environ.get(source.url_env, ""))
    return sha256_hex(canonical_json([use, config]))[:16]


def _folder(source: FolderSource, project: Path, mirrors: Path, report: Report) -> Synced:
    """Digests of files whose stamp (size, times, inode) has not changed since the last listing are not taken again."""
    whole = project / source.path
    if whole.is_file():
        root, narrow = whole.parent, "".join(f"[{c}]" if c in "*?" else c for c in whole.name)
    elif is_glob(source.path) and not whole.is_dir():
        base, narrow = cut(source.path)
        root = project / base if base or not source.path.startswith("/") else Path("/")
    else:
        root, narrow = whole, "**"
    kept = mirrors / _digest("documents", source)
    known = {row["path"]: row for row in _last(kept)}

    def digest(path: str, stamp: Stamp) -> str | None:
        row = known.get(path, {})
        return row["sha256"] if row.get("stamp") == list(stamp) and row.get("settled") else None

    found = scan(
        root,
        source.patterns,
        narrow=narrow,
        access=source.access,
        above=[f for f in root.resolve().parents if f.is_relative_to(project.resolve())],
        digest=digest,
        report=lambda done: report(done, 0, f"{done:,} files") if done % 200 == 0 else None,
    )
    made = Synced(root, found.files, found.problems, "", source.passwords_env)
    return _compared(made, kept, found.stamps, found.unused)


def _compared(found: Synced, folder: Path, stamps: dict[str, Stamp], unused: list[str]) -> Synced:
    """`found` with what differs from the listing in `folder`, which it replaces."""
    before = _last(folder)
    found.changes = changes(before, found.files)
    # A file written within the last seconds may be written again with the same times: take its digest next time too.
    recent = time.time_ns() - 3_000_000_000
    rows = []
    for file in found.files:
        row: dict[str, Any] = {**asdict(file), "access": list(file.access)}
        if stamp := stamps.get(file.path):
            row |= {"stamp": list(stamp), "settled": max(stamp[1], stamp[2]) < recent}
        rows.append(row)
    if rows != before:
        try:
            write_json(folder / "listing.json", rows)
        except OSError as error:
            raise Infrastructure(f"{folder} cannot be written: {error.strerror}.", "Make room there.") from error
    rules = [f"the access rule `{pattern}` matches no file" for pattern in unused]
    found.note = "; ".join(part for part in (found.note, *rules) if part)
    return found


def _last(folder: Path) -> list[dict[str, Any]]:
    try:
        rows = json.loads((folder / "listing.json").read_bytes())
        return [row for row in rows if isinstance(row, dict) and isinstance(row.get("path"), str)]
    except (OSError, ValueError, TypeError):
        return []


def _update(
    source: Source,
    mirror: Mirror,
    project: Path,
    force: bool,
    report: Report,
    pull: Callable[[Source, Mirror, Path, Report], list[SyncProblem]],
) -> str:
    """Bring the mirror up to the source where it is due; a note where that failed."""
    from bucle.data.connect.http import NotFetched, Unreachable

    hours = 0 if source.kind == "folder" else source.refresh_hours
    # Whoever reads a source twice in one run must find the same twice, also where it is asked at every run.
    if mirror.folder in _ASKED:
        hours = max(hours, (time.monotonic() - _ASKED[mirror.folder] < ONE_RUN_S) * ONE_RUN_S / 3600)
    if not force and mirror.fresh(hours):
        return mirror.note
    was_whole = bool(mirror.asked_at)
    try:
        with mirror.round():
            mirror.problems = pull(source, mirror, project, report)
            mirror.note = ""
        _ASKED[mirror.folder] = time.monotonic()
    except NotFetched as refused:
        raise BadInput(f"{_place(source)}: {refused.message}", _hint(refused.reason)) from None
    except Unreachable as error:
        if was_whole and mirror.entries:
            return f"{_place(source)} cannot be reached ({error}); its copy is {mirror.age}"
        raise Infrastructure(
            f"{_place(source)} cannot be reached: {error}.",
            "Check its address and the network, then: bucle data sync" + ("  (goes on)" if mirror.entries else ""),
        ) from None
    return mirror.note


def _hint(reason: str) -> str:
    return {
        "private-address": "Set `allow_private: true` under the source if it is one of your own machines.",
        "robots": "Ask the site's owner for the documents, or for leave in its robots.txt.",
    }.get(reason, "Correct `url` in bucle.yaml, then: bucle data sync")


def _place(source: Source) -> str:
    if source.kind == "folder" or source.kind == "huggingface":
        return source.path
    if source.kind == "sql":
        return public_url(source.url) if source.url else f"The database of {source.url_env}"
    return public_url(source.url)


def _pull(source: Source, mirror: Mirror, project: Path, report: Report) -> list[SyncProblem]:
    if source.kind == "web":
        from bucle.data.connect import web

        return web.pull(source, mirror, project, report)
    if source.kind == "store":
        from bucle.data.connect import store

        return store.pull(source, mirror, project, report)
    from bucle.data.connect.rows import write_documents

    with _rows(source, project) as (rows, origin):
        return write_documents(source, rows, origin, mirror, report)  # type: ignore[arg-type]


def _pull_rows(source: Source, mirror: Mirror, project: Path, report: Report) -> list[SyncProblem]:
    if source.kind == "web":
        from bucle.data.connect import web

        return web.fetch_table(source, mirror, project, report)
    if source.kind == "store":
        from bucle.data.connect import store

        return store.fetch_table(source, mirror, project, report)
    from bucle.data.connect.rows import write_lines

    with _rows(source, project) as (rows, _):
        return write_lines(source, rows, mirror, report)  # type: ignore[arg-type]


@contextmanager
def _rows(source: Source, project: Path) -> Iterator[tuple[Iterator[Any], str]]:
    """The rows of a query or dataset, and what they are called; the connection ends with the block."""
    rows: Any
    if isinstance(source, SqlSource):
        from bucle.data.connect import sql

        rows, origin = sql.read(source, project), sql.origin_of(source)
    else:
        from bucle.data.connect import hub

        assert isinstance(source, HuggingFaceSource)  # noqa: S101 - what the union leaves
        rows, origin = hub.read(source, project), hub.origin_of(source, project)
    try:
        yield rows, origin
    finally:
        rows.close()


def _mirrored(source: Source, mirror: Mirror) -> tuple[list[SourceFile], list[SyncProblem], list[str]]:
    """The mirror's files with their labels; files whose sidecar cannot be understood are problems."""
    sidecars = {key: entry for key, entry in mirror.entries.items() if is_sidecar(key)}
    failed = {problem.path for problem in mirror.problems if is_sidecar(problem.path)}

    def read(path: str) -> bytes | None:
        if path in failed or (path in sidecars and not sidecars[path].sha256):
            raise Quarantined("access", f"{path} could not be fetched; what it protects is left out.")
        return (mirror.files / sidecars[path].path).read_bytes() if path in sidecars else None

    labels = Labels(source.access, read if source.kind == "store" else lambda path: None)
    files, problems = [], []
    for key, entry in mirror.entries.items():
        if is_sidecar(key) and source.kind == "store":
            continue
        try:
            needed = labels.of(key, entry.path) if source.kind == "store" else labels.of(entry.path, _at(key))
            files.append(SourceFile(entry.path, entry.size, entry.sha256, needed, entry.origin))
        except Quarantined as refused:
            problems.append(SyncProblem(entry.path, refused.reason, refused.message))
    return sorted(files, key=lambda file: file.path), problems, labels.unused


def _at(key: str) -> str:
    """The path of a page's URL, for rules that name it so; a row's key as it is."""
    from urllib.parse import unquote, urlsplit

    return unquote(urlsplit(key).path).lstrip("/") or "index" if "://" in key else key
