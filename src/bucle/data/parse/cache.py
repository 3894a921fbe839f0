"""What was parsed before: one small JSON file for each content, so that a killed run goes on where it stopped.

An entry is named by the file's content, suffix and parser, not by its path: a renamed file is found again. It holds
no password and nothing made from one; a file that was opened with its password is read from here without it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bucle.core.ids import canonical_json, sha256_hex
from bucle.core.records import Block, Record

__all__ = ["PARSE_VERSION", "Entry", "ParseCache", "entry_of", "retried"]

PARSE_VERSION = 3
"""Raised whenever a parser's output changes, so that nothing read by an older one is reused."""
_LANGUAGE_FROM = 20_000
_LASTING = {"empty", "corrupt", "encrypted", "unknown-format", "too-large", "zip-bomb", "not-a-document"}
"""Verdicts that are the file's own. A timeout or want of memory may be the machine's, and is tried again."""


class Entry(Record):
    """What a file's content came to: `blocks` with the title it gives itself, or a `reason` and `message`.

    `locked` says that something in it is encrypted and was not opened: with a password it is worth reading again.
    """

    title: str = ""
    language: str = ""
    blocks: tuple[Block, ...] = ()
    reason: str = ""
    message: str = ""
    locked: bool = False


class ParseCache:
    """The folder of entries; None for no cache at all: nothing is found and nothing kept."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    @staticmethod
    def key(sha256: str, suffix: str, parser: str, beside: str = "") -> str:
        """The name of an entry. `parser` includes its version; `beside` is the sha256 of a file read along with it."""
        return sha256_hex(canonical_json([PARSE_VERSION, sha256, suffix, parser, beside]))

    def get(self, key: str) -> Entry | None:
        """The entry, or None where there is none that can be read."""
        if self._folder is None:
            return None
        try:
            return Entry.model_validate_json((self._folder / key[:2] / f"{key}.json").read_bytes())
        except (OSError, ValidationError, ValueError):
            return None

    def put(self, key: str, entry: Entry) -> None:
        """Keep `entry`, whole or not at all, unless its verdict may be due to the machine's load."""
        if self._folder is None or (entry.reason and entry.reason not in _LASTING):
            return
        folder = self._folder / key[:2]
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(entry.model_dump_json().encode())
            Path(name).replace(folder / f"{key}.json")
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def mark_retried(self, key: str) -> None:
        """Remember that the entry came of a retry by hand, for `retried`."""
        if self._folder is not None:
            folder = self._folder / "retried"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / key).touch()


def retried(cache: Path) -> str:
    """A digest of the retries that succeeded, which changes with each: a step that parses depends on it."""
    folder = cache / "retried"
    return sha256_hex("\n".join(sorted(os.listdir(folder)))) if folder.is_dir() else ""


def entry_of(reply: Mapping[str, Any]) -> Entry:
    """The entry for a worker's reply (`title` and `blocks`, or `reason` and `message`), its language told."""
    from bucle.data.language import detect

    if "reason" in reply:
        return Entry(reason=str(reply["reason"]), message=str(reply["message"]), locked=reply["reason"] == "encrypted")
    entry = Entry.model_validate({"title": reply["title"], "blocks": reply["blocks"]})
    locked = any(block.kind == "notes" and ": not read, encrypted." in block.text for block in entry.blocks)
    start, size = [], 0
    for block in entry.blocks:
        if block.kind == "notes" and ": not read, " in block.text:
            continue  # ours, not the document's: it says nothing of its language
        start.append(block.text)
        size += len(block.text)
        if size > _LANGUAGE_FROM:
            break
    language = detect("\n\n".join(start)[:_LANGUAGE_FROM])
    return entry.model_copy(update={"language": language, "locked": locked})
