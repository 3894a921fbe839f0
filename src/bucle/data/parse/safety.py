"""Refusing archives and XML made to exhaust the machine, before any parser opens them."""

from __future__ import annotations

import io
import zipfile
import zlib

from bucle.core.errors import Quarantined

__all__ = ["MAX_UNPACKED", "open_zip", "refuse_entities"]

MAX_ENTRIES = 10_000
MAX_UNPACKED = 300 * 2**20
"""Bytes of all entries together, as the archive declares them; zipfile reads no entry past its declared size.
"""
MAX_RATIO = 200
RATIO_FROM = 8 * 2**20
"""Unpacked bytes from which the ratio counts: small, very regular XML compresses honestly by hundreds."""
_XML = (".xml", ".rels", ".xhtml", ".html", ".htm", ".opf", ".ncx", ".svg", ".vml")


def open_zip(data: bytes, password: str = "") -> zipfile.ZipFile:
    """The archive in `data`, once it is known to be small enough, open to read and free of XML entities.

    Raises Quarantined: `encrypted` or `zip-bomb`; and what zipfile raises for what is no archive or damaged.
    """
    archive = zipfile.ZipFile(io.BytesIO(data))
    entries = archive.infolist()
    total = sum(entry.file_size for entry in entries)
    if len(entries) > MAX_ENTRIES or total > MAX_UNPACKED:
        raise Quarantined("zip-bomb", f"The archive unpacks to {len(entries):,} files and {total:,} bytes.")
    for entry in entries:
        if entry.file_size > RATIO_FROM and entry.file_size > MAX_RATIO * max(1, entry.compress_size):
            raise Quarantined(
                "zip-bomb",
                f"{entry.filename[:80]!r} unpacks to {entry.file_size:,} bytes from {entry.compress_size:,}.",
            )
    locked = next((entry for entry in entries if entry.flag_bits & 1), None)
    if locked is not None:
        _unlock(archive, locked, password)
    for entry in entries:
        if entry.filename.lower().endswith(_XML):
            refuse_entities(archive.read(entry))
    return archive


def _unlock(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, password: str) -> None:
    if not password:
        raise Quarantined("encrypted", "The archive is encrypted. It needs a password.")
    archive.setpassword(password.encode())
    try:
        with archive.open(entry) as file:
            while file.read(2**20):
                pass  # a wrong password shows at the first byte or, once in 256, at the checksum
    except NotImplementedError as error:
        raise Quarantined(
            "encrypted", "The archive is encrypted with AES, which is not opened here. Unpack it and give its files."
        ) from error
    except (RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise Quarantined("encrypted", "The archive is encrypted. The password given does not open it.") from error


def refuse_entities(xml: bytes) -> None:
    """Raises Quarantined (`zip-bomb`) where an XML part declares entities: no office file does, an XML bomb
    must.
    """
    for needle in (b"<!ENTITY", "<!ENTITY".encode("utf-16-le"), "<!ENTITY".encode("utf-16-be")):
        if needle in xml:
            raise Quarantined("zip-bomb", "An XML part declares entities, as an XML bomb does; none are expanded.")
