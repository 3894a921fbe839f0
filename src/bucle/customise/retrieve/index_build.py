"""Writing an index: all of it, or what changed since the one before, in a folder of its own.

A folder never changes once it is written: the ledger names it by its content, and whoever has an older one open goes on
reading it. An update begins as hard links to the folder before and only adds and removes files (LanceDB never writes
into one), so that what did not change takes neither time nor room.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

from bucle.core.errors import BadInput
from bucle.core.ports import Report
from bucle.core.records import Chunk
from bucle.customise.retrieve import index_rows as layout
from bucle.customise.retrieve.index_lexicon import Lexicon
from bucle.customise.retrieve.index_words import Words
from bucle.data.sentences import sentences

__all__ = ["FORMAT", "TABLE", "VECTOR_INDEX_FROM", "build_index", "identity_of", "table_in", "write_index"]

FORMAT = 3
TABLE = "chunks"
VECTOR_INDEX_FROM = 20_000
"""Passages from which vectors are indexed; fewer are compared one by one, which is exact and fast enough."""
_WRITTEN = 4096  # rows written at once
_LOOKED_UP = 1000  # ids in one condition
_MAX_LATER = 0.1  # share of the passages written, or deleted, since all were written; with more, all are written again
_MAX_UNINDEXED = 50  # rows searched one by one: each makes a search by words 0.04 to 0.09 ms slower
_MAX_PIECES = 24  # updates after which all is written again: deleted rows and small files pile up


class _Encodes(Protocol):
    name: str

    def embed_array(self, texts: Sequence[str]) -> Any: ...


class _Keeping:
    """An encoder whose vectors are kept in a file as they are made."""

    def __init__(self, encoder: Any, cache: Path) -> None:
        self.name, self.identity = str(encoder.name), identity_of(encoder)
        self._encoder, self._cache = encoder, cache

    def embed_array(self, texts: Sequence[str]) -> Any:
        return self._encoder.embed_kept(texts, self._cache)


def build_index(
    chunks: Sequence[Chunk],
    out: Path,
    *,
    encoder: Path,
    language: str,
    report: Report,
    previous: Path | None = None,
    vectors: Path | None = None,
) -> dict[str, Any]:
    """Write an index of `chunks` into the empty folder `out`; returns what index.json says: `chunks`, `dimensions`,
    `language`, `languages`, `encoder` (name and identity), and against `previous` how many passages were `added`,
    `removed` and `kept`, and how many had to be `embedded`.

    `previous` is the folder of an earlier index, which is not touched: its unchanged passages are neither embedded nor
    written again where it has the same encoder. `vectors` is a file that keeps vectors as they are made: after a
    failure or a kill the next call goes on from there. Raises BadInput when there is nothing to index.
    """
    from bucle.models.encoder import shared_encoder

    if not chunks:
        raise BadInput(
            "There is no passage to index: no document could be read.", "bucle data quarantine lists the reasons."
        )
    if not any(c.isalnum() for chunk in chunks for c in chunk.text):
        raise BadInput(
            f"None of the {len(chunks)} passages holds a word or a number.", "bucle data quarantine lists the reasons."
        )
    opened: _Encodes = shared_encoder(encoder)
    if vectors is not None:
        opened = _Keeping(opened, vectors)
    return write_index(chunks, out, opened, language=language, report=report, previous=previous)


def write_index(
    chunks: Sequence[Chunk], out: Path, encoder: _Encodes, *, language: str, report: Report, previous: Path | None
) -> dict[str, Any]:
    """As build_index, with the encoder already open."""
    chunks = list({chunk.id: chunk for chunk in chunks}.values())
    identity = {"name": encoder.name, "identity": identity_of(encoder)}
    spaceless = any(layout.unspaced(c.text) or layout.unspaced(c.heading) for c in chunks)
    columns = layout.columns_for([c.language for c in chunks], language, spaceless=spaceless)
    old = _Old.open(previous, identity)
    digests = {c.id: layout.digest_of(c) for c in chunks}
    before = old.digests if old else {}
    kept = {node for node, digest in digests.items() if before.get(node) == digest}
    fresh = [c for c in chunks if c.id not in kept]
    gone = [node for node in before if node not in kept]
    update = old is not None and old.can_grow(columns, len(chunks), len(fresh), gone)
    report(0, 3, "embedding")
    made = _Vectors(encoder, old, fresh if update else chunks)
    report(1, 3, "indexing")
    table: Any
    if old is not None and update:
        columns = old.meta["columns"]
        audiences = _numbered(chunks, old.audiences)
        linked = _linked(old.folder / "lance", out / "lance")
        table = table_in(linked)
        lexicon, words, less = old.lexicon(), old.words(), old.texts(gone)
        again = old.again(len(fresh), set(gone))
        for some in _parts([*gone, *again]):
            table.delete(f"id IN ({_listed(some)})")
        if fresh or again:
            table.add(_chained(_batches(fresh, made, columns, audiences), old.passages(again)))
        pieces, whole, files = old.meta["pieces"] + 1, old.meta["whole"], old.meta["files"]
    else:
        audiences = _numbered(chunks, [])
        table = table_in(out / "lance", _batches(chunks, made, columns, audiences))
        lexicon, words, less = Lexicon.empty(), None, {}
        pieces, whole, files = 0, len(chunks), len(list((out / "lance" / f"{TABLE}.lance" / "data").iterdir()))
    report(2, 3, "indexing")
    number = {tuple(labels): i for i, labels in enumerate(audiences)}
    more: dict[int, list[str]] = {}
    for c in fresh if update else chunks:
        more.setdefault(number[_labels(c)], []).append(layout.searchable(c.heading, c.text))
    with ThreadPoolExecutor(1) as beside:  # LanceDB leaves the interpreter to others while it indexes
        counted = beside.submit(lexicon.changed, more, less)
        indexed = _indexed(table, columns, len(chunks))
        counted.result().save(out)
    Words.of(chunks, list(digests.values()), columns, _rows_of(table, chunks), words).save(out)
    with (out / "chunks.jsonl").open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(c.model_dump_json() + "\n" for c in chunks)
    (out / "audiences.json").write_text(json.dumps(audiences, ensure_ascii=False), encoding="utf-8")
    meta = {
        "format": FORMAT,
        "chunks": len(chunks),
        "dimensions": made.dimensions,
        "language": language,
        "languages": sorted({c.language or language for c in chunks}),
        "columns": columns,
        "vectors": "ivf" if indexed else "flat",
        "encoder": identity,
        "added": len(fresh),
        "removed": len(gone),
        "kept": len(kept),
        "embedded": made.embedded,
        "pieces": pieces,
        "whole": whole,
        "files": files,
    }
    (out / "index.json").write_text(json.dumps(meta))
    return meta


def identity_of(encoder: Any) -> str:
    """The hash of the encoder's weights; empty where it does not say."""
    return str(getattr(encoder, "identity", "") or "")


@dataclass
class _Old:
    """The index before, as far as an update needs it."""

    folder: Path
    meta: dict[str, Any]
    table: Any
    audiences: list[list[str]]
    digests: dict[str, bytes]
    contents: dict[bytes, int]
    """What is embedded of a passage -> a row of the table that holds it."""
    later: list[str]
    """The passages written since all were written."""

    @classmethod
    def open(cls, folder: Path | None, identity: dict[str, str]) -> _Old | None:
        """None where it cannot be used: no folder, another format, another encoder, files missing."""
        if folder is None:
            return None
        try:
            meta = json.loads((folder / "index.json").read_text())
            audiences = json.loads((folder / "audiences.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        same = identity["identity"] and meta.get("encoder", {}).get("identity") == identity["identity"]
        if meta.get("format") != FORMAT or not same:
            return None
        table = table_in(folder / "lance")
        rows = table.search().select(["id", "digest", "content"]).with_row_id(True).to_arrow()
        ids, digests, contents, numbers = (rows[name].to_pylist() for name in ("id", "digest", "content", "_rowid"))
        return cls(
            folder,
            meta,
            table,
            audiences,
            dict(zip(ids, digests, strict=True)),
            dict(zip(contents, numbers, strict=True)),
            # the upper half of a row's number is its file's
            [node for node, number in zip(ids, numbers, strict=True) if number >> 32 >= meta.get("files", 0)],
        )

    def can_grow(self, columns: Sequence[str], passages: int, fresh: int, gone: Sequence[str]) -> bool:
        later = set(self.later)
        whole = self.meta.get("whole", 0)
        first = len(self.digests) - len(later) - sum(node not in later for node in gone)
        written = len(later) + fresh - sum(node in later for node in gone)
        return (
            set(columns) <= set(self.meta["columns"])
            and columns[0] == self.meta["columns"][0]
            and self.meta["pieces"] < _MAX_PIECES
            and (self.meta["vectors"] == "ivf") == (passages >= VECTOR_INDEX_FROM)
            and max(whole - first, written) <= _MAX_LATER * whole
        )

    def again(self, fresh: int, gone: set[str]) -> list[str]:
        """The passages that are written again with `fresh` new ones. LanceDB joins files when it brings its indexes up
        to date, but never one that is in them with one that is not: where all that came later stands in one new file,
        it leaves the first ones alone. None where too few rows are new to touch the indexes."""
        stats = [self.table.index_stats(index.name) for index in self.table.list_indices()]
        waiting = max((one.num_unindexed_rows for one in stats if one is not None), default=0)
        return [] if waiting + fresh <= _MAX_UNINDEXED else [node for node in self.later if node not in gone]

    def passages(self, ids: Sequence[str]) -> Iterator[Any]:
        """Whole rows, some at a time."""
        for some in _parts(ids):
            yield from self.table.search().where(f"id IN ({_listed(some)})").to_arrow().to_batches()

    def lexicon(self) -> Lexicon:
        return Lexicon.load(self.folder)

    def words(self) -> Words:
        return Words.load(self.folder)

    def texts(self, ids: Sequence[str]) -> dict[int, list[str]]:
        """What is searched of these passages, by audience."""
        found: dict[int, list[str]] = {}
        for some in _parts(ids):
            query = self.table.search().where(f"id IN ({_listed(some)})")
            for row in query.select(["heading", "text", "audience"]).to_arrow().to_pylist():
                found.setdefault(row["audience"], []).append(layout.searchable(row["heading"], row["text"]))
        return found

    def rows(self, numbers: Sequence[int]) -> Iterator[tuple[bytes, Any, bytes]]:
        """Content, vector and sentences' vectors of rows, in no order."""
        for at in range(0, len(numbers), _WRITTEN):
            some = list(numbers[at : at + _WRITTEN])
            found = self.table.take_row_ids(some).select(["content", "vector", "meanings"]).to_arrow()
            vectors = found["vector"].combine_chunks().flatten().to_numpy().reshape(len(found), -1)
            yield from zip(found["content"].to_pylist(), vectors, found["meanings"].to_pylist(), strict=True)


class _Vectors:
    """Vectors of passages and of their sentences: from the index before where it holds the same text, else made."""

    def __init__(self, encoder: _Encodes, old: _Old | None, chunks: Sequence[Chunk]) -> None:
        import numpy as np

        self.contents = {c.id: layout.content_of(c) for c in chunks}
        self.passages: dict[bytes, Any] = {}
        self.sentences: dict[bytes, bytes] = {}
        known = old.contents if old else {}
        again = {known[content] for content in self.contents.values() if content in known}
        for content, vector, meanings in old.rows(sorted(again)) if old else ():
            self.passages[content], self.sentences[content] = vector, meanings
        new: dict[bytes, Chunk] = {}
        for chunk in chunks:
            if self.contents[chunk.id] not in self.passages:
                new.setdefault(self.contents[chunk.id], chunk)
        self.embedded = len(new)
        whole = {content: layout.searchable(c.heading, c.text) for content, c in new.items()}
        cut = {content: sentences(c.text) for content, c in new.items()}
        texts = dict.fromkeys([*whole.values(), *(span for own in cut.values() for span in own)])
        row = {text: i for i, text in enumerate(texts)}
        vectors = encoder.embed_array(list(texts))
        for content, own in cut.items():
            self.passages[content] = vectors[row[whole[content]]]
            self.sentences[content] = vectors[[row[span] for span in own]].astype(np.float16).tobytes()
        self.dimensions = (
            len(next(iter(self.passages.values()))) if self.passages else int(old.meta["dimensions"]) if (old) else 0
        )


def _batches(chunks: Sequence[Chunk], made: _Vectors, columns: Sequence[str], audiences: list[list[str]]) -> Any:
    """The table's rows, some at a time."""
    import pyarrow as pa

    schema = pa.schema(
        [
            *((name, pa.string()) for name in ("id", "document", "path", "text", "heading", "place", "language")),
            ("access", pa.list_(pa.string())),
            ("audience", pa.int32()),
            *((f"words_{column}", pa.string()) for column in columns),
            ("digest", pa.binary()),
            ("content", pa.binary()),
            ("vector", pa.list_(pa.float32(), made.dimensions)),
            ("spans", pa.list_(pa.string())),
            ("meanings", pa.large_binary()),
        ]
    )
    number = {tuple(labels): i for i, labels in enumerate(audiences)}

    def some_rows(some: Sequence[Chunk]) -> Any:
        import numpy as np

        words = zip(*(layout.texts(c, columns) for c in some), strict=True)
        vectors = np.stack([made.passages[made.contents[c.id]] for c in some]).astype(np.float32)
        return pa.RecordBatch.from_arrays(
            [
                pa.array([c.id for c in some], pa.string()),
                pa.array([c.document_id for c in some], pa.string()),
                pa.array([c.path for c in some], pa.string()),
                pa.array([c.text for c in some], pa.string()),
                pa.array([c.heading for c in some], pa.string()),
                pa.array([c.place for c in some], pa.string()),
                pa.array([c.language for c in some], pa.string()),
                pa.array([list(c.access) for c in some], pa.list_(pa.string())),
                pa.array([number[_labels(c)] for c in some], pa.int32()),
                *(pa.array(column, pa.string()) for column in words),
                pa.array([layout.digest_of(c) for c in some], pa.binary()),
                pa.array([made.contents[c.id] for c in some], pa.binary()),
                pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), made.dimensions),
                pa.array([sentences(c.text) for c in some], pa.list_(pa.string())),
                pa.array([made.sentences[made.contents[c.id]] for c in some], pa.large_binary()),
            ],
            schema=schema,
        )

    pieces = (some_rows(chunks[at : at + _WRITTEN]) for at in range(0, len(chunks), _WRITTEN))
    return pa.RecordBatchReader.from_batches(schema, pieces)


def _labels(chunk: Chunk) -> tuple[str, ...]:
    return tuple(sorted(set(chunk.access)))


def _numbered(chunks: Sequence[Chunk], before: Sequence[Sequence[str]]) -> list[list[str]]:
    """The distinct sets of access labels; a set's number is its place. Numbers given before stay."""
    known = dict.fromkeys([(), *(tuple(labels) for labels in before)])
    known.update(dict.fromkeys(sorted({_labels(c) for c in chunks})))
    return [list(labels) for labels in known]


def _indexed(table: Any, columns: Sequence[str], passages: int) -> bool:
    """Make the indexes, or bring them up to date where too many rows are in none; whether vectors have one."""
    vectors = passages >= VECTOR_INDEX_FROM
    if names := [index.name for index in table.list_indices()]:
        stats = [table.index_stats(name) for name in names]
        if any(one is None or one.num_unindexed_rows > _MAX_UNINDEXED for one in stats):
            # Nobody else has this folder open yet, so earlier versions and their files can go at once.
            table.optimize(cleanup_older_than=timedelta(milliseconds=1), delete_unverified=True)
        return vectors
    for column in columns:
        table.create_index(f"words_{column}", config=layout.full_text(column))
    if vectors:
        from lancedb.index import IvfSq

        # As a size, not as a number: bringing the index up to date joins partitions that are far below it.
        size = round(passages**0.5)
        config = IvfSq(distance_type="cosine", target_partition_size=size, max_iterations=10, sample_rate=64)
        table.create_index("vector", config=config)
    return vectors


def _rows_of(table: Any, chunks: Sequence[Chunk]) -> list[int]:
    """Each passage's row number."""
    rows = table.search().select(["id"]).with_row_id(True).to_arrow()
    number = dict(zip(rows["id"].to_pylist(), rows["_rowid"].to_pylist(), strict=True))
    return [number[c.id] for c in chunks]


def _chained(rows: Any, more: Iterator[Any]) -> Any:
    """The table's rows, and after them more of the same columns."""
    import pyarrow as pa

    return pa.RecordBatchReader.from_batches(
        rows.schema, (batch.select(rows.schema.names).cast(rows.schema) for batch in itertools.chain(rows, more))
    )


def table_in(folder: Path, rows: Any = None) -> Any:
    """The table in `folder`, opened, or made of `rows`."""
    os.environ.setdefault("LANCEDB_LOG", "error")  # it warns of empty partitions, which harm nothing
    import lancedb

    database = lancedb.connect(str(folder))
    return database.open_table(TABLE) if rows is None else database.create_table(TABLE, rows)


def _linked(source: Path, target: Path) -> Path:
    """`target` with the files of `source`: hard links, copies where the disk has none."""
    for path in sorted(source.rglob("*")):
        into = target / path.relative_to(source)
        if path.is_dir():
            into.mkdir(parents=True, exist_ok=True)
            continue
        into.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, into)
        except OSError:
            shutil.copyfile(path, into)
    return target


def _parts(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for at in range(0, len(ids), _LOOKED_UP):
        yield ids[at : at + _LOOKED_UP]


def _listed(ids: Sequence[str]) -> str:
    return ", ".join("'" + node.replace("'", "''") + "'" for node in ids)
