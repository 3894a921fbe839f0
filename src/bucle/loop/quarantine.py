"""One file of the quarantine read again: with its password, or because the machine has more room now."""

from __future__ import annotations

from bucle.core.errors import NotFound
from bucle.core.records import Document
from bucle.loop.workspace import Workspace

__all__ = ["retry"]


def retry(ws: Workspace, path: str, *, password: str = "") -> Document:
    """The document that the file at `path` (as `bucle data quarantine` lists it) turns out to be.

    It is kept, so that the next run includes it without the password, which is kept nowhere. Raises NotFound for a
    path that no source has, and Quarantined where it still cannot be read: `encrypted` for a wrong password or none.
    """
    from bucle.core.errors import Quarantined
    from bucle.data.parse import retry_file
    from bucle.loop.sync import sync_all

    for source in sync_all(ws):
        for file in source.files:
            if source.prefix + file.path == path:
                cache = ws.root / ".bucle" / "parsed"
                found = retry_file(file, source.root, cache=cache, password=password, parsers=ws.config.data.parsers)
                if found.document is None:
                    raise Quarantined(found.reason, found.message)
                return found.document
    raise NotFound(f"No source of this project has a file {path!r}.", "List what was left out: bucle data quarantine")
