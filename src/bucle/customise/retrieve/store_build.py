"""Putting an index's passages into a vector store of another library's: what is new first, what is gone last."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bucle.core.errors import BadInput, Infrastructure
from bucle.core.ids import sha256_hex
from bucle.core.ports import Report
from bucle.core.records import Chunk
from bucle.customise.own import own_file
from bucle.customise.retrieve.index_build import identity_of
from bucle.customise.retrieve.store_entries import (
    BATCH,
    ENTRY,
    asking,
    audience_of,
    embeddings,
    entry_of,
    made,
    metadata_of,
    present,
    searchable_of,
    vectors_of,
)

__all__ = ["SETTINGS", "build_store", "refill_store", "store_key"]

SETTINGS = "store.json"
HELD = "store-held.json"
SAMPLE = 256  # entries that are looked up when a version is opened


def store_key(store: str, folder: Path) -> str:
    """Changes when the factory's file does. Raises ConfigError where it is not there."""
    return sha256_hex(own_file(store, folder, "retrieval.store").read_bytes()) if store else ""


def build_store(
    chunks: Sequence[Chunk],
    out: Path,
    *,
    encoder: Path,
    factory: str,
    project: Path,
    trusted: bool,
    report: Report,
    previous: Path | None = None,
    keep: Sequence[Path] = (),
) -> dict[str, Any]:
    """Put the passages of the index in `out` (which `build_index` has just made) into the store that `factory` makes.

    `previous` is the folder of the index before, `keep` those of versions that something still answers from: what they
    need stays in the store. What a killed build had added is not added again. Writes `store.json` last; returns
    `{"store": {factory, passages, added, removed, held}}`. Raises ConfigError (factory), Infrastructure (the store
    failed, or does not keep what it is given).
    """
    from bucle.models.encoder import shared_encoder

    identity = identity_of(shared_encoder(encoder))
    entries = {entry_of(chunk, identity): chunk for chunk in chunks}
    source = store_key(factory, project)
    before, held = _held_by(previous, factory, source)
    store, added = _filled(entries, out, encoder, factory, project, trusted, report, before)
    held = (before | held) - set(entries)
    needed = {entry for folder in keep for entry in _entries_of(folder)}
    gone = sorted(held - needed)
    with asking(factory):
        for at in range(0, len(gone), BATCH):
            store.delete(gone[at : at + BATCH])
    ordered = sorted(entries)
    step = max(1, len(ordered) // SAMPLE)
    settings = {
        "factory": factory,
        "source": source,
        "count": len(ordered),
        "ids": _hash(ordered),
        "encoder": identity,
        "audiences": {audience_of(labels): list(labels) for labels in sorted({c.access for c in chunks})},
        "sample": ordered[::step][:SAMPLE],
    }
    _write(out / HELD, sorted(held & needed))
    _write(out / SETTINGS, settings)
    return {"store": {"factory": factory, "passages": len(ordered), "added": added, "removed": len(gone),
                      "held": len(held & needed)}}


def refill_store(folder: Path, *, encoder: Path, project: Path, trusted: bool, report: Report) -> int:
    """Put back what the store of the index in `folder` has lost (it was emptied, or is a new one); how many passages
    that were. Raises as build_store, and BadInput where the folder is not what was built."""
    settings = json.loads((folder / SETTINGS).read_text("utf-8"))
    entries = {entry_of(chunk, str(settings["encoder"])): chunk for chunk in _chunks(folder)}
    if _hash(sorted(entries)) != settings["ids"]:
        raise BadInput("The index beside the vector store is not the one that was built.", "bucle doctor")
    return _filled(entries, folder, encoder, str(settings["factory"]), project, trusted, report, set())[1]


def _filled(
    entries: Mapping[str, Chunk], folder: Path, encoder: Path, factory: str, project: Path, trusted: bool,
    report: Report, before: set[str]
) -> tuple[Any, int]:
    """The store with all of `entries` in it, and how many had to be added. One that cannot be asked by id is taken to
    hold those of `before`."""
    texts: dict[str, Any] = {}
    store = made(factory, project, trusted, embeddings(encoder, texts))
    there = present(store, list(entries))
    missing = [entry for entry in entries if entry not in (before if there is None else there)]
    if missing:
        known = vectors_of(folder, [entries[entry].id for entry in missing])
        texts |= {searchable_of(entries[e]): known[entries[e].id] for e in missing if entries[e].id in known}
    with asking(factory):
        for at in range(0, len(missing), BATCH):
            report(at, len(missing), "vector store")
            some = missing[at : at + BATCH]
            store.add_texts([searchable_of(entries[e]) for e in some],
                            metadatas=[metadata_of(e, entries[e]) for e in some], ids=some)
    _check_kept(store, entries, encoder, factory)
    return store, len(missing)


def _check_kept(store: Any, entries: Mapping[str, Chunk], encoder: Path, factory: str) -> None:
    """That what was added can be found, with its metadata. Raises Infrastructure."""
    there = present(store, list(entries))
    if there is None:
        some = [next(iter(entries)), next(reversed(list(entries)))] if entries else []
        asked = embeddings(encoder).embed_documents([searchable_of(entries[e]) for e in some])
        with asking(factory):
            there = {str((one.metadata or {}).get(ENTRY)) for vector in asked
                     for one in store.similarity_search_by_vector(vector, k=10)}
        entries = {e: entries[e] for e in some}
    if lacking := [e for e in entries if e not in there]:
        raise Infrastructure(
            f"The vector store {factory} does not give back {len(lacking)} of {len(entries)} passages with their "
            "metadata after they were added.", "See that it keeps ids and metadata, and has no limit on their number.")


def _held_by(folder: Path | None, factory: str, source: str) -> tuple[set[str], set[str]]:
    """The entries of the version in `folder`, and those of older ones that were left in its store; none where that is
    not the store of this `factory`."""
    if folder is None or not (folder / SETTINGS).exists():
        return set(), set()
    settings = json.loads((folder / SETTINGS).read_text("utf-8"))
    if (settings["factory"], settings["source"]) != (factory, source):
        return set(), set()
    return _entries_of(folder), set(json.loads((folder / HELD).read_text("utf-8")))


def _entries_of(folder: Path) -> set[str]:
    """The entries of a version, from its own passages; none of a version without a store."""
    if not (folder / SETTINGS).exists():
        return set()
    identity = str(json.loads((folder / SETTINGS).read_text("utf-8"))["encoder"])
    return {entry_of(chunk, identity) for chunk in _chunks(folder)}


def _chunks(folder: Path) -> list[Chunk]:
    return [Chunk.model_validate_json(line) for line in (folder / "chunks.jsonl").read_bytes().splitlines()]


def _hash(entries: Sequence[str]) -> str:
    return sha256_hex("\n".join(entries))


def _write(path: Path, value: Any) -> None:
    made = path.with_suffix(".tmp")
    made.write_text(json.dumps(value, ensure_ascii=False), "utf-8")
    made.replace(path)
