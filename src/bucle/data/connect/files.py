"""Files where they lie: listed with a digest and access labels each, so that what is unchanged shows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bucle.core.errors import NotFound, Quarantined
from bucle.core.ids import file_sha256
from bucle.data.connect.access import Labels, folder_reader, is_sidecar
from bucle.data.connect.globs import matches

__all__ = ["MAX_FILE_BYTES", "Listing", "SourceFile", "SyncProblem", "list_files", "scan"]

MAX_FILE_BYTES = 64 * 2**20
Stamp = tuple[int, int, int, int]
"""Size in bytes, times of the last change of content and of the file's record in nanoseconds, inode."""


@dataclass(frozen=True)
class SourceFile:
    """A file of a source: `path` relative to the root with `/`, `size` in bytes.

    `sha256` is empty for a file over the size limit: it is not read, and parsing quarantines it as `too-large`.
    `access` are the labels a reader needs, all of them; `origin` is the URL or row a mirrored file came from.
    """

    path: str
    size: int
    sha256: str
    access: tuple[str, ...] = ()
    origin: str = ""


@dataclass(frozen=True)
class SyncProblem:
    """A file or page that was left out (or kept as it was before): `reason` is a short code, such as `robots`."""

    path: str
    reason: str
    message: str


@dataclass
class Listing:
    """What a folder holds. `stamps` tell the next listing which digests still hold; `unused` are access rules that
    matched nothing."""

    files: list[SourceFile] = field(default_factory=list)
    problems: list[SyncProblem] = field(default_factory=list)
    stamps: dict[str, Stamp] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)


def list_files(root: Path, patterns: Sequence[str] = ("**/*",), limit_bytes: int = MAX_FILE_BYTES) -> list[SourceFile]:
    """The regular files under `root` that match any of `patterns`, sorted by path; see `scan`."""
    return scan(root, patterns, limit_bytes=limit_bytes).files


def scan(
    root: Path,
    patterns: Sequence[str] = ("**/*",),
    *,
    narrow: str = "**",
    access: Mapping[str, Sequence[str]] | None = None,
    above: Sequence[Path] = (),
    limit_bytes: int = MAX_FILE_BYTES,
    digest: Callable[[str, Stamp], str | None] = lambda path, stamp: None,
    report: Callable[[int], None] = lambda done: None,
) -> Listing:
    """The regular files under `root` that match any of `patterns` and `narrow`, sorted by path.

    Hidden files and folders (a leading dot), access sidecars and Office lock files (`~$name`) are skipped. A link is
    followed only where it leads to a file inside the root; pipes and devices are never opened; each is a problem, as is
    a name that is not UTF-8. `digest` may know the
    sha256 of a file with this stamp; `above` are folders above `root` whose sidecars hold here too. A file that cannot
    be read, or whose sidecar cannot, is a problem. Raises NotFound where `root` is no folder.
    """
    if not root.is_dir():
        raise NotFound(f"{root} is not a folder.", "Name an existing folder under `data.documents` in bucle.yaml.")
    home = root.resolve()
    found = Listing()
    labels = Labels(access or {}, folder_reader(root), above)
    for file in _walk(root, found.problems):
        path = file.relative_to(root).as_posix()
        if not matches(path, narrow) or not any(matches(path, pattern) for pattern in patterns):
            continue
        try:
            path.encode()
            real = file.resolve()
            if not real.is_relative_to(home):
                found.problems.append(SyncProblem(path, "outside", "The link leads out of the source's folder."))
                continue
            if real.is_dir():
                found.problems.append(SyncProblem(path, "link-to-folder", "Links to folders are not followed."))
                continue
            if not real.is_file():
                found.problems.append(SyncProblem(path, "not-a-file", "It is a pipe, a device or a broken link."))
                continue
            told = real.stat()
            stamp = (told.st_size, told.st_mtime_ns, told.st_ctime_ns, told.st_ino)
            known = digest(path, stamp)
            sha256 = "" if told.st_size > limit_bytes else known or file_sha256(real)
            needed = set(labels.of(path))
            if file.is_symlink():  # what the file itself needs, its link needs too
                needed |= set(labels.of(real.relative_to(home).as_posix()))
            found.files.append(SourceFile(path, told.st_size, sha256, tuple(sorted(needed))))
            found.stamps[path] = stamp
            report(len(found.files))
        except UnicodeEncodeError:
            shown = path.encode("utf-8", "replace").decode()
            found.problems.append(SyncProblem(shown, "bad-name", "Its name is not UTF-8; rename it (convmv does)."))
        except Quarantined as refused:
            found.problems.append(SyncProblem(path, refused.reason, refused.message))
        except (OSError, RuntimeError) as error:
            why = getattr(error, "strerror", None) or "it is part of a loop of links"
            found.problems.append(SyncProblem(path, "unreadable", f"The file cannot be read: {why}."))
    found.files.sort(key=lambda source: source.path)
    found.problems.sort(key=lambda problem: problem.path)
    found.unused = labels.unused
    return found


def _walk(root: Path, problems: list[SyncProblem]) -> Iterator[Path]:
    def failed(error: OSError) -> None:
        folder = Path(str(error.filename)).relative_to(root).as_posix()
        problems.append(SyncProblem(folder, "unreadable", f"The folder cannot be read: {error.strerror}."))

    for folder, folders, names in os.walk(root, followlinks=False, onerror=failed):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in [*names, *(name for name in folders if Path(folder, name).is_symlink())]:
            if not name.startswith((".", "~$")) and not is_sidecar(name):
                yield Path(folder, name)
