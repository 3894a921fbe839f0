"""Reading other people's files: JSON and zip members with limits on size, depth and number. Nothing is extracted."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bucle.core.errors import BadInput

__all__ = ["MAX_JSON", "Archive", "json_file", "json_lines", "parse"]

MAX_JSON = 512 * 2**20
MAX_MEMBER = 64 * 2**20
MAX_INFLATED = 4 * 2**30
MAX_MEMBERS = 200_000
MAX_LINE = 32 * 2**20
_ZSTD = 93  # Inspect's; zipfile knows it from Python 3.14 on


def parse(data: bytes, where: str) -> Any:
    """JSON in UTF-8. Raises BadInput, saying where."""
    try:
        return json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise BadInput(f"{where} is not UTF-8: {error.reason} at byte {error.start}.", "Export it again.") from error
    except (ValueError, RecursionError) as error:  # nested too deep, or a number of too many digits
        told = "it is nested too deep" if isinstance(error, RecursionError) else str(error)[:200]
        raise BadInput(f"{where} is not JSON: {told}.", "Export it again.") from error


def json_file(path: Path) -> Any:
    """The JSON in a file of at most MAX_JSON bytes. Raises BadInput."""
    if path.stat().st_size > MAX_JSON:
        raise BadInput(f"{path} has over {MAX_JSON:,} bytes.", "Import the .eval form, or a run of fewer samples.")
    return parse(_read(path), str(path))


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of each line. Raises BadInput for a line that is no JSON object or too long."""
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE + 1):
                number += 1
                if len(line) > MAX_LINE:
                    raise BadInput(f"{path}:{number}: the line has over {MAX_LINE:,} bytes.", "Export it again.")
                if line.strip():
                    value = parse(line, f"{path}:{number}")
                    if not isinstance(value, dict):
                        raise BadInput(f"{path}:{number}: not a JSON object.", "Export it again.")
                    yield number, value
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}.", "Check its permissions.") from error


class Archive:
    """A zip whose members are read into memory, one at a time, within the limits. `with` closes it."""

    def __init__(self, path: Path) -> None:
        self.path, self._inflated = path, 0
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise BadInput(f"{path} is not a readable zip: {error}.", "Copy it again.") from error
        self._members = {info.filename: info for info in self._zip.infolist()[: MAX_MEMBERS + 1]}
        if len(self._zip.infolist()) > MAX_MEMBERS:
            self._zip.close()
            raise BadInput(f"{path} has over {MAX_MEMBERS:,} members.", "Import a run of fewer samples.")

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *exc: object) -> None:
        self._zip.close()

    @property
    def names(self) -> list[str]:
        """Members' names, as the zip says: never used as paths."""
        return list(self._members)

    def json(self, name: str) -> Any:
        """The JSON of one member. Raises BadInput."""
        return parse(self._bytes(name), f"{self.path}, {name[:100]}")

    def _bytes(self, name: str) -> bytes:
        info = self._members[name]
        where = f"{self.path}, {name[:100]}"
        if info.flag_bits & 1:
            raise BadInput(f"{where} is encrypted.", "Import a log without a password.")
        try:
            if info.compress_type == _ZSTD:
                data = self._zstd(info)
            else:
                with self._zip.open(info) as member:
                    data = member.read(MAX_MEMBER + 1)
        except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
            raise BadInput(f"{where} cannot be read: {error}.", "Copy it again from where it was made.") from error
        except Exception as error:  # zlib.error and its kin share no base class
            raise BadInput(f"{where} is damaged: {error}.", "Copy it again from where it was made.") from error
        self._inflated += len(data)
        if len(data) > MAX_MEMBER or self._inflated > MAX_INFLATED:
            raise BadInput(f"{where}: unpacked it passes {MAX_MEMBER:,} bytes.", "This is no usual log.")
        return data

    def _zstd(self, info: zipfile.ZipInfo) -> bytes:
        """A zstd member, unpacked as a stream so that a bomb stops at the limit."""
        import zlib

        import pyarrow as pa

        with self.path.open("rb") as file:
            file.seek(info.header_offset)
            head = file.read(30)
            if len(head) < 30 or head[:4] != b"PK\x03\x04":
                raise zipfile.BadZipFile("its header is damaged")
            file.seek(int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little"), 1)
            packed = file.read(min(info.compress_size, MAX_MEMBER + 1))
        with pa.CompressedInputStream(pa.BufferReader(packed), "zstd") as stream:
            data = bytes(stream.read(MAX_MEMBER + 1))
        if len(data) <= MAX_MEMBER and zlib.crc32(data) != info.CRC:
            raise zipfile.BadZipFile("its checksum does not hold")
        return data


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}.", "Check its permissions.") from error
