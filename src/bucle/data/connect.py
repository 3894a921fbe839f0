"""Where a team's documents are: a folder, listed with a digest of each, so that what is unchanged shows."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bucle.core.errors import NotFound
from bucle.core.ids import file_sha256

__all__ = ["MAX_FILE_BYTES", "SourceFile", "list_files"]

MAX_FILE_BYTES = 64 * 2**20


@dataclass(frozen=True)
class SourceFile:
    """A file of the source: `path` relative to the root with `/`, `size` in bytes.

    `sha256` is empty for a file over the size limit: it is not read, and parsing quarantines it as
    `too-large`.
    """

    path: str
    size: int
    sha256: str


def list_files(root: Path, patterns: Sequence[str] = ("**/*",), limit_bytes: int = MAX_FILE_BYTES) -> list[SourceFile]:
    """The regular files under `root` that match any of `patterns`, sorted by path.

    Hidden files and folders (a leading dot) and Office lock files (`~$name`) are skipped. A link is followed
    only where it leads to a file inside the root; pipes and devices are never opened. Raises NotFound where
    `root` is no folder.
    """
    if not root.is_dir():
        raise NotFound(f"{root} is not a folder.", "Name an existing folder under `data.documents` in bucle.yaml.")
    home = root.resolve()
    found = []
    for file in _walk(root):
        path = file.relative_to(root).as_posix()
        if not any(_regex(pattern).fullmatch(path) for pattern in patterns):
            continue
        real = file.resolve()
        if not real.is_relative_to(home) or not real.is_file():
            continue
        size = real.stat().st_size
        found.append(SourceFile(path, size, file_sha256(real) if size <= limit_bytes else ""))
    return sorted(found, key=lambda source: source.path)


def _walk(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if not name.startswith((".", "~$")):
                yield Path(folder, name)


@functools.cache
def _regex(pattern: str) -> re.Pattern[str]:
    """A glob as an expression: `**/` is any folders or none, `*` and `?` stay inside one name."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    meaning = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(meaning.get(part, re.escape(part)) for part in parts))
