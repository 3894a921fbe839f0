"""One file into one document, in this process."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from bucle.core.errors import Quarantined
from bucle.core.ids import content_id, sha256_hex
from bucle.core.records import Block, Document
from bucle.data.parse.formats import media_type, read_any
from bucle.data.parse.source import MAX_FILE_BYTES, Raw

__all__ = ["beside", "make_document", "parse_file", "read_file"]

MAX_BESIDE = 16 * 2**20


def parse_file(path: Path, rel: str, *, password: str = "", limit_bytes: int = MAX_FILE_BYTES) -> Document:
    """The file at `path` as a document named `rel` (relative to its source's root, with `/`).

    `language` is left empty: parse_all fills it in. Raises Quarantined with a reason: `encrypted`, `corrupt`,
    `empty`, `unknown-format`, `not-a-document`, `too-large`, `out-of-memory`, `missing-package` or
    `zip-bomb` (`timeout` comes from parse_all only).
    """
    sha256, title, blocks = read_file(path, rel, password=password, limit_bytes=limit_bytes)
    return make_document(rel, sha256, title, blocks)


def read_file(
    path: Path, rel: str, *, password: str = "", parser: str = "", limit_bytes: int = MAX_FILE_BYTES
) -> tuple[str, str, list[Block]]:
    """The sha256, own title and blocks of the file at `path`; errors as in parse_file."""
    try:
        with path.open("rb") as file:
            data = file.read(limit_bytes + 1)
    except OSError as error:
        raise Quarantined("corrupt", f"The file cannot be opened: {error.strerror}.") from error
    if len(data) > limit_bytes:
        raise Quarantined("too-large", f"The file has over {limit_bytes:,} bytes.")
    other = beside(path, rel)
    people = b"" if other is None else _read_up_to(other, MAX_BESIDE)
    title, blocks = read_any(Raw(data, rel.rsplit("/", 1)[-1], password, beside=people), parser)
    return sha256_hex(data), title[:200], blocks


def make_document(
    rel: str,
    sha256: str,
    title: str,
    blocks: Sequence[Block],
    *,
    language: str = "",
    access: tuple[str, ...] = (),
    origin: str = "",
) -> Document:
    """The record of a file that was read. Without a title of its own the first heading, or the file's name, is it."""
    title = title or next((block.text[:200] for block in blocks if block.kind == "heading"), "")
    return Document(
        id=content_id("document", {"path": rel, "sha256": sha256}),
        path=rel,
        sha256=sha256,
        media_type=media_type(rel),
        title=title or rel.rsplit("/", 1)[-1],
        language=language,
        blocks=tuple(blocks),
        access=access,
        origin=origin,
    )


def beside(path: Path, rel: str) -> Path | None:
    """The file to read along with this one: a Slack day's `users.json`, where it stands inside the source."""
    if "/" not in rel or not re.fullmatch(r"\d{4}-\d{2}-\d{2}\.json", path.name):
        return None
    found = path.parent.parent / "users.json"
    return found if found.is_file() and not found.is_symlink() else None


def _read_up_to(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError:
        return b""
    return data if len(data) <= limit else b""
