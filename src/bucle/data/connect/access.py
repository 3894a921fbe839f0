"""Who may see a document: labels from rules in bucle.yaml and from sidecar files, all of which a reader needs.

`NAME.EXT.access` beside a file is for that file, `.access` in a folder for everything below it. A sidecar that
cannot be read or understood fails closed: what it speaks of is left out.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bucle.core.errors import Quarantined
from bucle.data.connect.globs import below

__all__ = ["SIDECAR", "Labels", "access_of", "is_sidecar"]

SIDECAR = ".access"
MAX_BYTES = 65_536
_LABEL = re.compile(r"[\w][\w .:@/+-]{0,99}")


def is_sidecar(path: str) -> bool:
    return path.endswith(SIDECAR)


def access_of(path: str, rules: Mapping[str, Sequence[str]], root: Path) -> tuple[str, ...]:
    """The labels, sorted, that a reader of `path` (relative to `root`, with `/`) needs; empty: everyone may read it.

    A rule's glob is matched against the path and the folders it stands in. Raises Quarantined (reason `access`) for
    a sidecar that is unreadable, empty or malformed.
    """
    return Labels(rules, folder_reader(root)).of(path)


class Labels:
    """`read(path)` is the content of the sidecar at a path, None where there is none; it raises Quarantined.
    `above` are folders whose own sidecars speak of everything here."""

    def __init__(
        self, rules: Mapping[str, Sequence[str]], read: Callable[[str], bytes | None], above: Sequence[Path] = ()
    ) -> None:
        self._rules, self._read, self._above = rules, read, above
        self._folders: dict[str, frozenset[str] | Quarantined] = {}
        self.used: set[str] = set()

    def of(self, path: str, *also: str) -> tuple[str, ...]:
        """The labels of `path`; rules may match any of `also` too (its name at the source)."""
        found = set(self._folder(path.rpartition("/")[0])) | self._sidecar(path + SIDECAR)
        for pattern, labels in self._rules.items():
            if any(below(name, pattern) for name in (path, *also)):
                self.used.add(pattern)
                found.update(labels)
        return tuple(sorted(found))

    @property
    def unused(self) -> list[str]:
        """Rules that matched nothing so far: most likely misspelt."""
        return [pattern for pattern in self._rules if pattern not in self.used]

    def _folder(self, folder: str) -> frozenset[str]:
        """The labels of everything below `folder`; what was found of it before is not looked up again."""
        if folder not in self._folders:
            try:
                upper = self._folder(folder.rpartition("/")[0]) if folder else self._outer()
                self._folders[folder] = upper | self._sidecar(f"{folder}/{SIDECAR}" if folder else SIDECAR)
            except Quarantined as refused:
                self._folders[folder] = refused
        known = self._folders[folder]
        if isinstance(known, Quarantined):
            raise Quarantined(known.reason, known.message)
        return known

    def _outer(self) -> frozenset[str]:
        found: set[str] = set()
        for folder in self._above:
            if (content := folder_reader(folder)(SIDECAR)) is not None:
                found |= parse(content, str(folder / SIDECAR))
        return frozenset(found)

    def _sidecar(self, path: str) -> frozenset[str]:
        content = self._read(path)
        return frozenset() if content is None else parse(content, path)


def parse(content: bytes, path: str) -> frozenset[str]:
    """The labels in a sidecar: one a line or comma-separated, `#` begins a comment line."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Quarantined("access", f"{path} is not UTF-8; what it protects is left out.") from None
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    labels = [part.strip() for line in lines for part in line.split(",") if part.strip()]
    if not labels:
        raise Quarantined("access", f"{path} names no label; what it protects is left out.")
    if not all(_LABEL.fullmatch(label) for label in labels):
        raise Quarantined("access", f"{path} holds something that is no label; what it protects is left out.")
    return frozenset(labels)


def folder_reader(root: Path) -> Callable[[str], bytes | None]:
    """Reads sidecars below `root`; links that lead out of it, pipes and devices are refused."""
    home = root.resolve()

    def read(path: str) -> bytes | None:
        file = root / path
        if not os.path.lexists(file):
            return None
        try:
            real = file.resolve()
            if not real.is_relative_to(home) or not stat.S_ISREG(real.stat().st_mode):
                raise Quarantined("access", f"{path} is no regular file of the source; what it protects is left out.")
            with real.open("rb") as opened:
                content = opened.read(MAX_BYTES + 1)
        except (OSError, RuntimeError) as error:
            why = getattr(error, "strerror", None) or "a loop of links"
            raise Quarantined("access", f"{path}: {why}; what it protects is left out.") from None
        if len(content) > MAX_BYTES:
            raise Quarantined("access", f"{path} is too large for a list of labels; what it protects is left out.")
        return content

    return read
