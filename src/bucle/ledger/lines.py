"""Traces as a file of JSON lines."""

from __future__ import annotations

import gzip
import os
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from bucle.core.errors import BadInput
from bucle.core.records import Trace
from bucle.ledger.blobs import disk_error

__all__ = ["write_traces"]


def write_traces(traces: Iterable[Trace], file: str, *, force: bool = False) -> int:
    """Write one JSON object a line to `file` (`-`: standard output; `.gz`: compressed) and return how many. The file is
    there whole or not at all, and readable by its owner only. Raises BadInput where it exists (unless `force`)."""
    if file == "-":
        return sum(1 for one in traces if sys.stdout.write(one.model_dump_json() + "\n"))
    path = Path(file)
    if path.exists() and not force:
        raise BadInput(f"{path} exists.", "--force writes over it.")
    if not path.parent.is_dir():
        raise BadInput(f"There is no folder {path.parent}.", "Make it first.")
    count = 0
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        os.close(handle)
        try:
            with gzip.open(name, "wb") if path.suffix == ".gz" else open(name, "wb") as out:
                for one in traces:
                    out.write(one.model_dump_json().encode() + b"\n")
                    count += 1
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise disk_error(error, path.parent) from error
    return count
