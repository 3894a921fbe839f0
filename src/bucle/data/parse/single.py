"""One file into one document, in this process."""

from __future__ import annotations

from pathlib import Path

from bucle.core.errors import Quarantined
from bucle.core.ids import content_id, sha256_hex
from bucle.core.records import Document
from bucle.data.connect import MAX_FILE_BYTES
from bucle.data.parse.formats import media_type, read_any
from bucle.data.parse.source import Raw

__all__ = ["parse_file"]


def parse_file(path: Path, rel: str, *, password: str = "", limit_bytes: int = MAX_FILE_BYTES) -> Document:
    """The file at `path` as a document named `rel` (relative to its source's root, with `/`).

    `language` is left empty: parse_all fills it in. Raises Quarantined with a reason: `encrypted`, `corrupt`,
    `empty`, `unknown-format`, `too-large`, `out-of-memory` or `zip-bomb` (`timeout` comes from parse_all
    only).
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit_bytes + 1)
    except OSError as error:
        raise Quarantined("corrupt", f"The file cannot be opened: {error.strerror}.") from error
    if len(data) > limit_bytes:
        raise Quarantined("too-large", f"The file has over {limit_bytes:,} bytes.")
    sha256 = sha256_hex(data)
    title, blocks = read_any(Raw(data, rel.rsplit("/", 1)[-1], password))
    title = title[:200] or next((block.text[:200] for block in blocks if block.kind == "heading"), "")
    return Document(
        id=content_id("document", {"path": rel, "sha256": sha256}),
        path=rel,
        sha256=sha256,
        media_type=media_type(rel),
        title=title or rel.rsplit("/", 1)[-1],
        language="",
        blocks=tuple(blocks),
    )
