"""A source's copy on this disk: its files, and a manifest of where each came from and how to ask whether it changed.

What is fetched is written down as it comes, in a journal beside the manifest, so that a killed sync goes on where it
stopped; a finished one folds the journal into the manifest, atomically.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bucle.core.errors import Infrastructure
from bucle.core.ids import sha256_hex
from bucle.data.connect.files import SyncProblem
from bucle.data.connect.safe import safe_path

__all__ = ["Entry", "Mirror", "now", "write_json"]

VERSION = 1
ROUND = timedelta(hours=1)
"""A sync that was interrupted within this time goes on; an older one begins anew."""


@dataclass(frozen=True)
class Entry:
    """One file of the mirror. `token` is whatever the source gives to tell versions apart; times are ISO 8601.

    `sha256` is empty for a file over the size limit, which is known but not here."""

    path: str
    size: int
    sha256: str
    origin: str = ""
    etag: str = ""
    modified: str = ""
    token: str = ""
    fetched_at: str = ""


class Mirror:
    """The mirror in `folder`; `entries` by key (the URL, remote path or row that each is)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = folder / "files"
        self.entries: dict[str, Entry] = {}
        self.problems: list[SyncProblem] = []
        self.asked_at = ""
        self.note = ""
        self._round = ""
        self._seen: set[str] = set()
        self._journal: Any = None
        self._load()
        self._owners = {entry.path: key for key, entry in self.entries.items()}
        self._folders = {folder for entry in self.entries.values() for folder in _folders(entry.path)}

    def fresh(self, hours: float) -> bool:
        """Whether the last sync was finished, less than `hours` ago."""
        if not self.asked_at or self._round or not hours:
            return False
        age = datetime.now(UTC) - datetime.fromisoformat(self.asked_at)
        return timedelta(0) <= age < timedelta(hours=hours)

    @property
    def age(self) -> str:
        """How long ago the source was last read to its end, for people."""
        if not self.asked_at:
            return "not finished"
        minutes = int((datetime.now(UTC) - datetime.fromisoformat(self.asked_at)).total_seconds() // 60)
        if minutes < 120:
            return f"{max(minutes, 0)} minutes old"
        return f"{minutes // 60} hours old" if minutes < 48 * 60 else f"{minutes // 1440} days old"

    @contextmanager
    def round(self) -> Iterator[None]:
        """One sync. At its end, what it neither fetched nor found unchanged leaves the mirror; an error ends it
        unfinished. Raises Infrastructure where the disk refuses."""
        try:
            self.files.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(self.folder / "tmp", ignore_errors=True)
            (self.folder / "tmp").mkdir()
            if not self._round or datetime.now(UTC) - datetime.fromisoformat(self._round) > ROUND:
                self._round, self._seen = now(), set()
                (self.folder / "journal.jsonl").unlink(missing_ok=True)
                self._save()  # what an abandoned journal said is in `entries`
            self._journal = (self.folder / "journal.jsonl").open("a", encoding="utf-8")
            self._write({"round": self._round})
            yield
            for key in [key for key in self.entries if key not in self._seen]:
                self.drop(key)
            self.asked_at, self._round = now(), ""
            self._save()
            (self.folder / "journal.jsonl").unlink(missing_ok=True)
        except OSError as error:
            raise Infrastructure(
                f"The mirror in {self.folder} cannot be written: {error.strerror or error}.",
                "Make room, or correct who may write there; then: bucle data sync",
            ) from error
        finally:
            if self._journal:
                self._journal.close()
                self._journal = None

    def done(self, key: str) -> bool:
        """Whether this round, before it was interrupted, settled `key`."""
        return key in self._seen

    def part(self) -> Path:
        """A path for a file that is being fetched, on the mirror's own disk."""
        return self.folder / "tmp" / "part"

    def put(self, key: str, wanted: str, part: Path | bytes, size: int = -1, **about: Any) -> Entry:
        """Keep the file `part` (moved; bytes are written) for `key` at `wanted`, or near it where that is taken.
        `size` with no bytes is a file that is known but too large to be here."""
        old = self.entries.get(key)
        if isinstance(part, bytes):
            sha256, size, data = hashlib.sha256(part).hexdigest() if size < 0 else "", max(size, len(part)), part
            if old and sha256 and old.sha256 == sha256:
                return self._settle(key, replace(old, **about, fetched_at=now()))
            part = self.part()
            part.write_bytes(data)
        else:
            with part.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            size = part.stat().st_size
        path = self._place(wanted, key)
        target = self.files / path
        if old and old.path != path:
            self.drop(key)
        if sha256:
            target.parent.mkdir(parents=True, exist_ok=True)
            part.replace(target)
        else:
            target.unlink(missing_ok=True)
        return self._settle(key, Entry(path, size, sha256, **about, fetched_at=now()))

    def keep(self, key: str) -> None:
        """`key` is unchanged at the source (or could not be asked for): its file stays."""
        if key in self.entries:
            self._settle(key, self.entries[key])

    def drop(self, key: str) -> None:
        """`key` is gone at the source."""
        entry = self.entries.pop(key, None)
        self._seen.discard(key)
        if entry is None:
            return
        self._write({"key": key, "gone": True})
        self._owners.pop(entry.path, None)
        (self.files / entry.path).unlink(missing_ok=True)
        for folder in _folders(entry.path):
            try:
                (self.files / folder).rmdir()
                self._folders.discard(folder)
            except OSError:
                break

    def _settle(self, key: str, entry: Entry) -> Entry:
        self.entries[key] = entry
        self._seen.add(key)
        self._owners[entry.path] = key
        self._folders.update(_folders(entry.path))
        self._write({"key": key, "entry": asdict(entry)})
        return entry

    def _place(self, wanted: str, key: str) -> str:
        """`wanted`, or where it is no safe name, another's, a folder, or below a file: a flat name with a digest."""
        path = safe_path(wanted)
        own = self._owners.get(path, key) == key
        if path and own and path not in self._folders and not any(f in self._owners for f in _folders(path)):
            return path
        flat = "_".join(part for part in wanted.split("/") if part not in ("", ".", "..")).replace("\\", "_")
        stem, dot, suffix = flat[-100:].rpartition(".")
        name = f"{stem if dot else suffix}-{sha256_hex(key)[:12]}{dot}{suffix if dot else ''}"
        return safe_path(name) or f"file-{sha256_hex(key)[:12]}"

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._journal:
            self._journal.write(json.dumps(line, ensure_ascii=False) + "\n")
            self._journal.flush()

    def _save(self) -> None:
        entries = {key: asdict(entry) for key, entry in self.entries.items()}
        problems = [asdict(problem) for problem in self.problems]
        told = {"version": VERSION, "asked_at": self.asked_at, "note": self.note, "problems": problems}
        write_json(self.folder / "manifest.json", told | {"entries": entries})

    def _load(self) -> None:
        """The manifest and what the journal adds. One that is damaged is begun anew: the source has it all."""
        try:
            told = json.loads((self.folder / "manifest.json").read_bytes())
            if told["version"] == VERSION:
                self.entries = {key: Entry(**entry) for key, entry in told["entries"].items()}
                self.problems = [SyncProblem(**problem) for problem in told["problems"]]
                self.asked_at, self.note = told["asked_at"], told["note"]
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError):
            self.entries, self.problems, self.asked_at = {}, [], ""
        try:
            with (self.folder / "journal.jsonl").open("rb") as file:
                for line in file:
                    self._replay(json.loads(line))
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError):
            pass  # the line that was being written when the process died
        for key, entry in list(self.entries.items()):
            if not safe_path(entry.path) or (entry.sha256 and _size(self.files / entry.path) != entry.size):
                del self.entries[key]
                self._seen.discard(key)
                self.asked_at = ""  # someone changed the mirror by hand: it is no longer whole

    def _replay(self, line: Mapping[str, Any]) -> None:
        if "round" in line:
            self._round = str(line["round"])
        elif line.get("gone"):
            self.entries.pop(line["key"], None)
            self._seen.discard(line["key"])
        else:
            self.entries[line["key"]] = Entry(**line["entry"])
            self._seen.add(line["key"])


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_json(path: Path, value: Any) -> None:
    """`value` at `path`, whole or not at all, and on the disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _folders(path: str) -> Iterator[str]:
    """The folders `path` stands in, the innermost first."""
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
