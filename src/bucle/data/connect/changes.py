"""What differs between two listings of a source, seen by content."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bucle.data.connect.files import SourceFile

__all__ = ["Changes", "changes"]


@dataclass(frozen=True)
class Changes:
    """Paths by what became of them, each list sorted; `renamed` holds (old, new) pairs of one content."""

    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    renamed: list[tuple[str, str]] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    unchanged: int = 0

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.renamed or self.deleted)


def changes(before: Sequence[SourceFile | Mapping[str, Any]], after: Sequence[SourceFile]) -> Changes:
    """How `before` became `after`. A path that is gone and a new one with the same bytes are a renaming; files over
    the size limit have no digest and are compared by size. A change of access labels counts as a change."""
    old = {path: (content, access) for path, content, access in map(_parts, before)}
    new = {path: (content, access) for path, content, access in map(_parts, after)}
    gone: dict[str, list[str]] = defaultdict(list)
    for path in sorted(old.keys() - new.keys()):
        gone[old[path][0]].append(path)
    added, renamed = [], []
    for path in sorted(new.keys() - old.keys()):
        content = new[path][0]
        if gone[content] and len(content) == 64:
            renamed.append((gone[content].pop(0), path))
        else:
            added.append(path)
    both = sorted(old.keys() & new.keys())
    changed = [path for path in both if old[path] != new[path]]
    deleted = sorted(path for paths in gone.values() for path in paths)
    return Changes(added, changed, sorted(renamed), deleted, len(both) - len(changed))


def _parts(file: SourceFile | Mapping[str, Any]) -> tuple[str, str, tuple[str, ...]]:
    if isinstance(file, SourceFile):
        return file.path, file.sha256 or f"size {file.size}", file.access
    return str(file["path"]), str(file.get("sha256") or f"size {file.get('size')}"), tuple(file.get("access") or ())
