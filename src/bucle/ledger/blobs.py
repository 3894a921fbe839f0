"""Content-addressed files under `.bucle/blobs`, written and fsynced before any transaction names them."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from pathlib import Path

from bucle.core.errors import BadInput, Infrastructure, NotFound
from bucle.core.ids import file_sha256, sha256_hex

__all__ = ["BlobStore"]


_NO_SPACE = os.strerror(errno.ENOSPC)


class BlobStore:
    """A folder of files named by their sha256. Safe with several writers: a name appears only when complete."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, content: bytes | Path) -> str:
        """Store bytes or a file; returns its sha256. Raises Infrastructure when the disk is full, BadInput when the
        file changes meanwhile."""
        digest = sha256_hex(content) if isinstance(content, bytes) else file_sha256(content)
        target = self.path(digest, must_exist=False)
        if target.exists():
            return digest
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=target.parent, prefix=".new-")
            try:
                with os.fdopen(handle, "wb") as out:
                    if isinstance(content, bytes):
                        out.write(content)
                    else:
                        copied = hashlib.sha256()
                        with content.open("rb") as source:
                            while piece := source.read(1 << 20):
                                copied.update(piece)
                                out.write(piece)
                        if copied.hexdigest() != digest:
                            raise BadInput(f"{content} changed while it was being stored.", "Run again.")
                    out.flush()
                    os.fsync(out.fileno())
                os.chmod(name, 0o444)
                os.replace(name, target)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
            folder = os.open(target.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise disk_error(error, self.root) from error
        return digest

    def verify(self, digest: str) -> Path:
        """The file of `digest`, its content checked. Raises Infrastructure where it changed, NotFound where lost."""
        path = self.path(digest)
        if file_sha256(path) != digest:
            raise Infrastructure(
                f"Blob {digest[:12]} in {self.root} was changed after it was stored.",
                "Restore .bucle/blobs from your backup, or delete .bucle and run again.",
            )
        return path

    def path(self, digest: str, *, must_exist: bool = True) -> Path:
        """The file of `digest`. Raises NotFound when it is not here."""
        path = self.root / digest[:2] / digest
        if must_exist and not path.exists():
            raise NotFound(
                f"Blob {digest[:12]} is not in {self.root}.", "Restore .bucle/blobs from your backup, or run again."
            )
        return path


def is_full(error: BaseException | None) -> bool:
    """Whether a full disk is behind `error`: libraries wrap the system's errors in their own."""
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or _NO_SPACE in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def disk_error(error: Exception, where: Path) -> Infrastructure:
    """An error of the disk told as a fact with the next step; nothing committed is affected by it."""
    if is_full(error):
        return Infrastructure(
            f"The disk under {where} is full.", "Free some space and run the same command; nothing finished is lost."
        )
    if not isinstance(error, OSError):
        return Infrastructure(f"{where}: {error}.", "bucle doctor")
    named = error.filename or where
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return Infrastructure(f"{named} cannot be used: {error.strerror}.", "Check who owns it.")
    if error.errno == errno.EFBIG:
        return Infrastructure(
            f"A file under {where} would be larger than allowed here.", "Raise the limit (ulimit -f), then run again."
        )
    return Infrastructure(f"{named}: {error.strerror or error}.", "bucle doctor")
