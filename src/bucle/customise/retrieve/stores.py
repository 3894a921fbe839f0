"""Another library's vector store behind the index: Chroma, Weaviate, Pinecone, pgvector and any that LangChain has.

    # stores.py beside bucle.yaml, asked for as `retrieval: {store: "stores:chroma"}`
    def chroma(embeddings, folder):
        from langchain_chroma import Chroma
        return Chroma("bucle", embedding_function=embeddings, persist_directory=str(folder / "chroma"))

The store finds by meaning. The packaged index stays beside it (the folder that holds `store.json`): it finds by words,
holds the sentences that are quoted, and is what every hit of the store is checked against. A hit counts only where its
metadata name a passage of this very version (id, text, labels and encoder); text, labels and score are the index's own,
never the store's. So whatever the store does with a filter, a passage is seen by holders of its labels only.

What is written is never changed: an entry's id is the hash of what it holds, so versions stand beside each other, and
`build_store` adds all that is new before it deletes what neither it nor a version of `keep` needs.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bucle.core.errors import BadInput, BucleError, ConfigError, Infrastructure, WrongEncoder
from bucle.core.ids import canonical_json, sha256_hex
from bucle.core.ports import Hit, LoadContext, Report
from bucle.core.records import Chunk
from bucle.customise.external.python import accepts
from bucle.customise.external.rows import masked
from bucle.customise.own import own_file, own_object

__all__ = ["StoreIndex", "build_store", "open_store", "store_key"]

SETTINGS = "store.json"
HELD = "store-held.json"
BATCH = 256
SAMPLE = 256  # entries that are looked up when a version is opened
MOST = 20_000  # hits of one search that are looked through for passages that may be seen
GROWTH = 4
ENTRY, PASSAGE, AUDIENCE = "bucle_entry", "bucle_passage", "bucle_audience"
MONGO = frozenset({"Chroma", "PineconeVectorStore", "PGVector"})
"""Stores whose `filter` is known to understand `{"key": {"$in": [...]}}`; others are searched without one."""
WHERE = ("path", "language", "document", "heading")


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

    identity = str(getattr(shared_encoder(encoder), "identity", "")) or shared_encoder(encoder).name
    entries = {_entry(chunk, identity): chunk for chunk in chunks}
    known = _vectors(out, {chunk.id for chunk in chunks})
    vectors = {_searchable(chunk): known[chunk.id] for chunk in chunks if chunk.id in known}
    store = _made(factory, project, trusted, embeddings(encoder, vectors))
    there = _present(store, list(entries))
    if there is None:  # a store that cannot be asked by id: what the version before held is taken to be there
        there = _entries_of(previous) if previous else set()
    missing = [entry for entry in entries if entry not in there]
    with _told(factory):
        for at in range(0, len(missing), BATCH):
            report(at, len(missing), "vector store")
            some = missing[at : at + BATCH]
            store.add_texts([_searchable(entries[e]) for e in some],
                            metadatas=[_metadata(e, entries[e]) for e in some], ids=some)
    _check_kept(store, entries, encoder, factory)
    held = (_entries_of(previous) | _held(previous)) - set(entries) if previous else set()
    needed = {entry for folder in keep for entry in _entries_of(folder)}
    gone = sorted(held - needed)
    with _told(factory):
        for at in range(0, len(gone), BATCH):
            store.delete(gone[at : at + BATCH])
    ordered = sorted(entries)
    step = max(1, len(ordered) // SAMPLE)
    told = {
        "factory": factory,
        "count": len(ordered),
        "ids": sha256_hex("\n".join(ordered)),
        "encoder": identity,
        "audiences": {_audience(labels): list(labels) for labels in sorted({c.access for c in chunks})},
        "sample": ordered[::step][:SAMPLE],
    }
    _write(out / HELD, sorted(held & needed))
    _write(out / SETTINGS, told)
    return {"store": {"factory": factory, "passages": len(ordered), "added": len(missing), "removed": len(gone),
                      "held": len(held & needed)}}


def open_store(folder: Path, ctx: LoadContext) -> StoreIndex:
    """The index in `folder` with the store that it names. Raises ConfigError (no trust, no factory), and BadInput where
    the store does not hold this version (any more): it changes in place, unlike a version of the packaged index."""
    from bucle.customise.retrieve.index import Index

    told = json.loads((folder / SETTINGS).read_text("utf-8"))
    inner = Index(folder, ctx.encoder, labels=ctx.extra.get("labels"))
    if ctx.project is None:
        raise ConfigError(f"The vector store {told['factory']} needs the project's folder.", "Open it in its project.")
    if ctx.encoder is None:
        raise BadInput("A vector store needs its encoder.", "Add an encoder under `models:`.")
    store = _made(str(told["factory"]), ctx.project, ctx.trusted, embeddings(ctx.encoder))
    sample = list(told["sample"])
    there = _present(store, sample)
    lacking = len(sample) - len(there & set(sample)) if there is not None else 0
    if lacking:
        raise BadInput(
            f"The vector store {told['factory']} lacks {lacking} of {len(sample)} passages looked up, of this index's "
            f"{told['count']}: it was emptied, is another one, or has moved on. A store changes in place, so a past "
            "version of it cannot be opened.",
            "bucle run --force index puts today's passages into it; past versions need the packaged index.")
    return StoreIndex(inner, store, told, folder)


class StoreIndex:
    """Implements SearchIndex, and what quoting and generation use of the packaged index besides."""

    def __init__(self, inner: Any, store: Any, told: Mapping[str, Any], folder: Path) -> None:
        self.inner, self.store, self._told, self._folder = inner, store, told, folder

    @property
    def meta(self) -> Any:
        return self.inner.meta

    @property
    def chunks(self) -> Mapping[str, Chunk]:
        return self.inner.chunks

    def search(
        self,
        question: str,
        *,
        k: int,
        weight: float,
        vector: Any = None,
        access: frozenset[str] = frozenset(),
        where: Mapping[str, str] | None = None,
        depth: int = 50,
    ) -> list[Hit]:
        """As the packaged index's search, where the store finds by meaning."""
        _check_where(where)
        depth = max(depth, k)
        words: dict[str, float] = {}
        chunks: dict[str, Chunk] = {}
        if weight < 1:
            for hit in self.inner.search(question, k=depth, weight=0.0, access=access, where=where):
                words[hit.chunk.id], chunks[hit.chunk.id] = hit.words or 0.0, hit.chunk
        meaning: dict[str, float] = {}
        if weight > 0:
            vector = self.embed([question])[0] if vector is None else vector
            near = {chunk.id: chunk for chunk in self._nearest(vector, depth, access, where)}
            meaning = self._cosines(vector, list(near))
            chunks |= near
        fused: dict[str, float] = {}
        for scores, share in ((words, 1 - weight), (meaning, weight)):
            for name, value in _unit_range(scores).items():
                fused[name] = fused.get(name, 0.0) + share * value
        best = sorted(fused.items(), key=lambda one: (-one[1], one[0]))[:k]
        return [Hit(chunks[name], score, words.get(name), meaning.get(name)) for name, score in best]

    def get(self, ids: Sequence[str], access: frozenset[str] = frozenset()) -> dict[str, Chunk]:
        return self.inner.get(ids, access)

    def count(self, access: frozenset[str] = frozenset()) -> int:
        return int(self.inner.count(access))

    def visible(self, chunk_id: str, access: frozenset[str] = frozenset()) -> bool:
        return bool(self.inner.visible(chunk_id, access))

    def embed(self, texts: Sequence[str]) -> Any:
        return self.inner.embed(texts)

    def sentences(self, chunk_id: str, access: frozenset[str] = frozenset()) -> list[str]:
        return list(self.inner.sentences(chunk_id, access))

    def support(self, question: str, spans: Sequence[str], *, weight: float, vector: Any = None) -> Any:
        return self.inner.support(question, spans, weight=weight, vector=vector)

    def _nearest(
        self, vector: Any, depth: int, access: frozenset[str], where: Mapping[str, str] | None
    ) -> list[Chunk]:
        """Up to `depth` passages that may be seen, nearest first: as many hits are asked for as that takes."""
        asked = [float(x) for x in vector]
        narrowed, wanted = self._filter(access), depth
        with _told(str(self._told["factory"])):
            while True:
                found = self.store.similarity_search_by_vector(asked, k=wanted, **narrowed)
                seen = self._checked(found, access, where)
                if len(seen) >= depth or len(found) < wanted or wanted >= MOST:
                    return list(seen.values())[:depth]
                wanted = min(wanted * GROWTH, MOST)

    def _checked(
        self, documents: Sequence[Any], access: frozenset[str], where: Mapping[str, str] | None
    ) -> dict[str, Chunk]:
        """Those of the store's hits that are passages of this version which `access` may see, by id."""
        told = [getattr(one, "metadata", None) or {} for one in documents]
        named = [str(one[PASSAGE]) for one in told if PASSAGE in one and ENTRY in one]
        here = self.inner.get(list(dict.fromkeys(named)), access)
        seen: dict[str, Chunk] = {}
        for one in told:
            chunk = here.get(str(one.get(PASSAGE)))
            if chunk is not None and one.get(ENTRY) == _entry(chunk, str(self._told["encoder"])) and _matches(
                    chunk, where):
                seen.setdefault(chunk.id, chunk)
        return seen

    def _filter(self, access: frozenset[str]) -> dict[str, Any]:
        """What tells the store to leave out passages that may not be seen, where it understands it; only to save hits:
        each is checked again."""
        audiences = self._told["audiences"]
        allowed = [name for name, labels in audiences.items() if set(labels) <= access]
        if len(allowed) == len(audiences):
            return {}
        kind = type(self.store).__name__
        if kind in MONGO:
            return {"filter": {AUDIENCE: {"$in": allowed}}}
        if kind == "InMemoryVectorStore":
            return {"filter": lambda document: document.metadata.get(AUDIENCE) in allowed}
        return {}

    def _cosines(self, vector: Any, ids: list[str]) -> dict[str, float]:
        import numpy as np

        own = _vectors(self._folder, set(ids))
        return {name: float(np.asarray(own[name]) @ np.asarray(vector)) for name in ids if name in own}


def embeddings(encoder: Path, known: Mapping[str, Any] | None = None) -> Any:
    """The project's encoder as LangChain's Embeddings, for a store. `name`, `dimensions` and `identity` are the
    model's: a factory may name its collection by them. `known` texts are not embedded again."""
    try:
        from langchain_core.embeddings import Embeddings
    except ModuleNotFoundError as error:
        raise ConfigError("A vector store needs langchain_core, which is not installed.",
                          "pip install 'bucle[langchain]' (Chroma: 'bucle[chroma]')") from error
    from bucle.models.encoder import shared_encoder

    model, made = shared_encoder(encoder), known or {}

    class Ours(Embeddings):
        name = model.name
        dimensions = model.dimensions
        identity = str(getattr(model, "identity", ""))

        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            new = list(dict.fromkeys(text for text in texts if text not in made))
            fresh = dict(zip(new, model.embed_array(new), strict=True)) if new else {}
            return [[float(x) for x in (made[t] if t in made else fresh[t])] for t in texts]

        def embed_query(self, text: str) -> list[float]:
            return [float(x) for x in model.embed_alone([text])[0]]

    return Ours()


def _made(factory: str, project: Path, trusted: bool, given: Any) -> Any:
    os.environ.setdefault("ANONYMIZED_TELEMETRY", "False")  # Chroma's, on unless told
    function = own_object(factory, project, trusted, what="retrieval.store")
    try:
        store = function(given, folder=project.resolve()) if accepts(function, "folder") else function(given)
    except BucleError:
        raise
    except Exception as error:  # any mistake in the user's own function, or a store that is away
        raise ConfigError(f"The vector store {factory} cannot be opened: {type(error).__name__}: {masked(str(error))}",
                          "See that it runs, and that the function takes the embeddings and returns it.") from error
    lacking = [n for n in ("add_texts", "delete", "similarity_search_by_vector") if not hasattr(store, n)]
    if lacking:
        raise ConfigError(f"{factory} returned a {type(store).__name__}, which is no LangChain vector store.",
                          "Return an object with add_texts, delete and similarity_search_by_vector.")
    return store


class _told:
    """Errors of the store, with its name and what to do."""

    def __init__(self, factory: str) -> None:
        self.factory = factory

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception) and not isinstance(error, BucleError):
            text = masked(str(error))
            if "dimension" in text.lower():
                raise WrongEncoder(f"The vector store {self.factory} holds vectors of another encoder: {text}",
                                   "Name the collection by `embeddings.identity` in the factory, or empty it.")
            raise Infrastructure(f"The vector store {self.factory} failed: {type(error).__name__}: {text}",
                                 "See that it runs; the same command goes on from here.") from error


def _present(store: Any, entries: Sequence[str]) -> set[str] | None:
    """Those of `entries` that the store holds with their metadata; None where it cannot be asked."""
    found: set[str] = set()
    try:
        for at in range(0, len(entries), BATCH):
            for one in store.get_by_ids(list(entries[at : at + BATCH])):
                found.add(str((one.metadata or {}).get(ENTRY)))
    except NotImplementedError:
        return None
    except Exception as error:
        raise Infrastructure(f"The vector store cannot be read: {type(error).__name__}: {masked(str(error))}",
                             "See that it runs and may be asked.") from error
    return found & set(entries)


def _check_kept(store: Any, entries: Mapping[str, Chunk], encoder: Path, factory: str) -> None:
    """That what was added can be found, with its metadata. Raises Infrastructure."""
    there = _present(store, list(entries))
    if there is None:
        some = [next(iter(entries)), next(reversed(list(entries)))] if entries else []
        asked = embeddings(encoder).embed_documents([_searchable(entries[e]) for e in some])
        with _told(factory):
            there = {str((one.metadata or {}).get(ENTRY)) for vector in asked
                     for one in store.similarity_search_by_vector(vector, k=10)}
        entries = {e: entries[e] for e in some}
    if lacking := [e for e in entries if e not in there]:
        raise Infrastructure(
            f"The vector store {factory} does not give back {len(lacking)} of {len(entries)} passages with their "
            "metadata after they were added.", "See that it keeps ids and metadata, and has no limit on their number.")


def _entry(chunk: Chunk, identity: str) -> str:
    """The id of a passage in a store: a UUID (some take nothing else) made of all that its entry holds."""
    held = [chunk.id, _searchable(chunk), _audience(chunk.access), identity]
    return str(uuid.UUID(sha256_hex(canonical_json(held))[:32]))


def _metadata(entry: str, chunk: Chunk) -> dict[str, str]:
    """Labels themselves never leave the project: a store gets a hash of their set."""
    return {ENTRY: entry, PASSAGE: chunk.id, AUDIENCE: _audience(chunk.access), "path": chunk.path,
            "heading": chunk.heading, "place": chunk.place, "language": chunk.language, "document": chunk.document_id}


def _audience(labels: Sequence[str]) -> str:
    return sha256_hex(canonical_json(sorted(labels)))[:16] if labels else "everyone"


def _searchable(chunk: Chunk) -> str:
    headed = chunk.heading and not chunk.text.startswith(chunk.heading)
    return f"{chunk.heading}\n{chunk.text}" if headed else chunk.text


def _vectors(folder: Path, ids: set[str]) -> dict[str, Any]:
    """The vectors of passages, as the packaged index beside the store holds them."""
    import lancedb

    if not ids:
        return {}
    table = lancedb.connect(str(folder / "lance")).open_table("chunks")
    found: dict[str, Any] = {}
    for some in _batches(sorted(ids)):
        quoted = ", ".join("'" + name.replace("'", "''") + "'" for name in some)
        rows = table.search().where(f"id IN ({quoted})").select(["id", "vector"]).limit(len(some)).to_list()
        found |= {row["id"]: row["vector"] for row in rows}
    return found


def _batches(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for at in range(0, len(names), 1000):
        yield names[at : at + 1000]


def _entries_of(folder: Path) -> set[str]:
    """The entries of a version, from its own passages; none of a version without a store."""
    if not (folder / SETTINGS).exists():
        return set()
    identity = str(json.loads((folder / SETTINGS).read_text("utf-8"))["encoder"])
    lines = (folder / "chunks.jsonl").read_bytes().splitlines()
    return {_entry(Chunk.model_validate_json(line), identity) for line in lines}


def _held(folder: Path) -> set[str]:
    path = folder / HELD
    return set(json.loads(path.read_text("utf-8"))) if path.exists() else set()


def _write(path: Path, value: Any) -> None:
    made = path.with_suffix(".tmp")
    made.write_text(json.dumps(value, ensure_ascii=False), "utf-8")
    made.replace(path)


def _check_where(where: Mapping[str, str] | None) -> None:
    if unknown := [key for key in where or {} if key not in WHERE]:
        raise BadInput(f"A search cannot be narrowed by `{unknown[0]}`.", f"Give one of: {', '.join(WHERE)}.")


def _matches(chunk: Chunk, where: Mapping[str, str] | None) -> bool:
    own = {"path": chunk.path, "language": chunk.language, "document": chunk.document_id, "heading": chunk.heading}
    return all(_like(own[key], value) if key == "path" else own[key] == value for key, value in (where or {}).items())


def _like(text: str, pattern: str) -> bool:
    """Whether `text` is `pattern`, in which `*` stands for anything; in time proportional to both."""
    first, *rest = pattern.split("*")
    if not rest:
        return text == pattern
    if not text.startswith(first) or len(text) < len(first) + len(rest[-1]) or not text.endswith(rest[-1]):
        return False
    at, end = len(first), len(text) - len(rest[-1])
    for piece in rest[:-1]:
        at = text.find(piece, at, end)
        if at < 0:
            return False
        at += len(piece)
    return True


def _unit_range(scores: Mapping[str, float]) -> dict[str, float]:
    low, high = min(scores.values(), default=0.0), max(scores.values(), default=0.0)
    return {name: (value - low) / (high - low) if high > low else 1.0 for name, value in scores.items()}
