"""Indexes as Bucle wrote them in earlier formats: read once, and written again beside them with their vectors."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bucle.core.errors import Infrastructure
from bucle.core.records import Chunk
from bucle.customise.retrieve.index_build import FORMAT, table_in, write_index
from bucle.customise.retrieve.index_rows import searchable

__all__ = ["upgraded"]


class _Kept:
    """An encoder that remembers instead of computing."""

    def __init__(self, name: str, identity: str, vectors: Mapping[str, Any], dimensions: int) -> None:
        self.name, self.identity, self._vectors, self._dimensions = name, identity, vectors, dimensions

    def embed_array(self, texts: Sequence[str]) -> Any:
        import numpy as np

        nothing = np.zeros(self._dimensions, dtype=np.float32)
        rows = [self._vectors.get(text, nothing) for text in texts]
        return np.stack(rows) if rows else np.zeros((0, self._dimensions), dtype=np.float32)


def upgraded(folder: Path, meta: Mapping[str, Any]) -> Path:
    """A folder in today's format with the passages and vectors of `folder`, made once, beside it (or, where nothing may
    be written there, among the system's temporary files). Raises Infrastructure where the old one is not whole."""
    target = folder.with_name(f"{folder.name}-format{FORMAT}")
    if (target / "index.json").exists():
        return target
    parent = folder.parent if os.access(folder.parent, os.W_OK) else None
    scratch = Path(tempfile.mkdtemp(prefix=".index-", dir=parent))
    try:
        _write(folder, meta, scratch)
        if parent is None:
            return scratch
        try:
            scratch.rename(target)
        except OSError:
            if not (target / "index.json").exists():
                raise
        return target
    except (OSError, ValueError, KeyError) as error:
        raise Infrastructure(
            f"The index in {folder} cannot be read: {str(error).splitlines()[0][:200]}.", "bucle run indexes again."
        ) from error
    finally:
        if parent is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def _write(folder: Path, meta: Mapping[str, Any], out: Path) -> None:
    chunks = [Chunk.model_validate_json(line) for line in (folder / "chunks.jsonl").read_bytes().splitlines()]
    dimensions = int(meta["dimensions"])
    second = meta.get("format") == 2
    held = ["id", "vector", "spans", "meanings"] if second else ["id", "vector"]
    rows = table_in(folder / "lance").search().select(held).to_arrow()
    arrays = rows["vector"].combine_chunks().flatten().to_numpy().reshape(-1, dimensions)
    by_id = dict(zip(rows["id"].to_pylist(), arrays, strict=True))
    vectors = dict(_sentences_in(rows, dimensions) if second else _sentences_beside(folder))
    vectors |= {searchable(c.heading, c.text): by_id[c.id] for c in chunks}
    told = meta.get("encoder") or {}
    kept = _Kept(str(told.get("name", "")), str(told.get("identity", "")), vectors, dimensions)
    write_index(chunks, out, kept, language=str(meta.get("language", "")), report=lambda *_, **__: None, previous=None)


def _sentences_in(rows: Any, dimensions: int) -> Iterator[tuple[str, Any]]:
    import numpy as np

    for spans, meanings in zip(rows["spans"].to_pylist(), rows["meanings"].to_pylist(), strict=True):
        own = np.frombuffer(meanings or b"", dtype=np.float16).reshape(-1, dimensions)
        yield from zip(spans or (), own.astype(np.float32), strict=False)


def _sentences_beside(folder: Path) -> Iterator[tuple[str, Any]]:
    from bucle.customise.classic.features import load_arrays

    spans = json.loads((folder / "sentences.json").read_text(encoding="utf-8"))["spans"]
    yield from zip(spans, load_arrays(folder / "sentences.safetensors")["vectors"], strict=True)
